"""The test scores of an expert as the hub shows them: which count, their entries in `.eval_results`, their evidence.

An entry is a score on a benchmark of the hub, so it must be of all test items of that data set, and of this expert. The
evidence is what the manifests of its run say: the expert's training, and for each score the answers and the data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from transformer2 import model_card, paths
from transformer2.checksums import sha256
from transformer2.config.sizes import ITEMS
from transformer2.experts import WEIGHTS, training_of
from transformer2.grid import adapter_folder
from transformer2.model_card import ExpertPlace
from transformer2.provenance import read_json
from transformer2.report import places
from transformer2.reproduce.statistics import wilson
from transformer2.tasks import TASKS
from transformer2.tasks.base import Hub
from transformer2.training.selection import LAST, same_expert

PUBLIC = (
    "step", "key", "task", "split", "seed", "settings", "inputs", "engine", "progress", "repository", "revision",
    "limit", "rows", "answers", "new_tokens", "data_sha256", "answers_sha256", "sha256", "started", "seconds",
    "peak_memory_mb", "peak_gpu_memory_mb", "gpu", "git", "python", "packages", "platform", "cpus",
)  # fmt: skip
"""What is published of a manifest: nothing that could hold a path of this disk."""


@dataclass(frozen=True)
class Measured:
    """Scores of an expert on a task, and the manifests that lead to them."""

    task: str
    file: Path
    record: Mapping[str, Any]
    manifests: Mapping[str, Mapping[str, Any]]
    """Of the scores, the answers and the data."""

    @property
    def items(self) -> list[dict[str, Any]]:
        return self.record["items"]


def place_in_run(expert: Path) -> ExpertPlace:
    """Where an expert lies in its run; ValueError if it lies in none, or is not the one that the run trained."""
    place, training = model_card.place_of(expert), training_of(expert)
    if place is None or training is None:
        raise ValueError(
            f"{expert} is no expert of a run (results/<run>/experts/<model>/<task>/<method>/seed<k>), so nothing says "
            "how it was trained: publish it with `transformer2 export` and `hf upload`"
        )
    point = model_card.made_in(expert)
    manifest = _manifest(point / "manifest.json", "say how it was trained")
    said = {"task": place.task, "seed": place.seed, "settings": training["settings"]}
    for key, value in said.items():
        if manifest.get(key) != value or training.get(key) != value:
            raise ValueError(
                f"{point / 'manifest.json'} is not of the expert in {expert}: its {key} is {manifest.get(key)!r}, and "
                f"that of the expert {value!r}"
            )
    if not same_expert(expert, point / LAST if expert.resolve().name == LAST else point):
        raise ValueError(
            f"{expert} holds another adapter than {point}, which it was chosen from: run the workflow again"
        )
    return place


def measured(expert: Path, place: ExpertPlace) -> Iterator[Measured]:
    """The test scores of an expert in its state, one task after another.

    Raises:
        ValueError: a file of scores is of another expert, or does not belong to its answers or data.
    """
    state = model_card.state_of(expert)
    of_expert = {
        "model": place.model, "method": place.method, "trained_on": place.task, "state": state,
        "seed": place.seed,
    }  # fmt: skip
    for file in model_card.score_files(place, state):
        record = read_json(file)
        if wrong := [key for key, value in of_expert.items() if record.get(key) != value]:
            raise ValueError(
                f"{file} is of another expert: its {wrong[0]} is {record.get(wrong[0])!r}, not {of_expert[wrong[0]]!r}"
            )
        yield _checked(Measured(record["task"], file, record, _manifests(file, place, record["task"], state)))


def _manifests(file: Path, place: ExpertPlace, task: str, state: str) -> dict[str, dict[str, Any]]:
    adapter = adapter_folder(place.method, place.task, state)
    answers = places.find(paths.ANSWERS, place.run, model=place.model, adapter=adapter, task=task, seed=place.seed)
    files = {"scores": file, "answers": answers, "data": places.find(paths.DATA, place.run, task=task, split="test")}
    return {
        name: _manifest(path.with_suffix(".manifest.json"), f"say where the scores in {file} come from")
        for name, path in files.items()
    }


def _manifest(path: Path, use: str) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no {path} to {use}: run the workflow again")
    return read_json(path)


def _checked(one: Measured) -> Measured:
    """The scores, if every link from them to the data holds; ValueError if one does not."""
    scores, answers, data = (one.manifests[name] for name in ("scores", "answers", "data"))
    links = {
        "the scores are not those that their manifest is of": sha256(one.file) == scores["sha256"],
        "they are of other answers than those that are there": scores["answers_sha256"] == answers["sha256"],
        "they were counted on other items than were answered": scores["data_sha256"] == answers["data_sha256"],
        "the items have changed since": data["sha256"] == scores["data_sha256"],
        "not every item has a score": data["rows"] == len(one.items),
    }
    if broken := [what for what, holds in links.items() if not holds]:
        raise ValueError(f"{one.file} does not fit its run: {broken[0]}; run the workflow again")
    return one


def answered_by(expert: Path, one: Measured) -> bool | None:
    """Whether the answers behind scores are those of the adapter in a folder; None if their manifest does not say."""
    answers = one.manifests["answers"]
    if "read" not in answers:
        return None
    return answers["read"].get(f"{answers['expert']}/{WEIGHTS}") == sha256(expert / WEIGHTS)


def left_out(one: Measured) -> str | None:
    """Why scores are none of a data set of the hub; None if they are."""
    data, source = one.manifests["data"], TASKS[one.task].source
    kind = data["source"].partition(":")[0]
    total = ITEMS.get(one.task, {}).get("test")
    if kind not in ("hub", "dir"):
        return f"its items are made up ({kind})"
    if not isinstance(source, Hub):
        return "the data set is not on the hub"
    if data["rows"] < (total or 0) or (total is None and data["limit"] is not None):
        return f"{data['rows']} items are not the whole test set" + (f" of {total}" if total else "")
    return None


def task_of_benchmark(task: str, tasks: Sequence[Mapping[str, Any]]) -> str | None:
    """The id under which a benchmark of the hub counts scores of our task.

    Args:
        task: ours, of a data set on the hub.
        tasks: of the file eval.yaml of that data set: mappings with id, config and split.

    Returns: None if the benchmark has no such task, or cuts our data set into several.
    """
    of = TASKS[task]
    assert isinstance(of.source, Hub)
    configs = {pattern.partition("/")[0] for pattern in of.source.files}
    config = configs.pop() if len(configs) == 1 else None
    wanted = {"config": "default" if config == "data" else config, "split": of.splits["test"].source}
    same = [one["id"] for one in tasks if all(one.get(key, value) == value for key, value in wanted.items())]
    return str(same[0]) if len(same) == 1 else None


def entry(one: Measured, task_id: str, base: str, address: str) -> list[dict[str, Any]]:
    """The content of a file of `.eval_results`: the strict score in percent, with what it means in the notes.

    Args:
        one: scores on all test items of a data set of the hub.
        task_id: of `task_of_benchmark`.
        base: the base model in words.
        address: of the file with the scores of all items.
    """
    source = TASKS[one.task].source
    assert isinstance(source, Hub)
    n, answers, data = len(one.items), one.manifests["answers"], one.manifests["data"]
    strict, lenient = (sum(item[which] for item in one.items) for which in ("strict", "lenient"))
    low, high = wilson(strict, n)
    notes = (
        f"adapter on {base}; zero-shot, greedy, at most {answers['arguments']['max_new_tokens']} new tokens; n = {n}, "
        f"95 % interval {100 * low:.2f} to {100 * high:.2f} (Wilson); strict scorer by the rules of the released code "
        f"of arXiv:2501.06252, lenient scorer {100 * lenient / n:.2f}"
    )
    return eval_result_entries_to_yaml([
        EvalResultEntry(
            dataset_id=source.repository, task_id=task_id, value=round(100 * strict / n, 2),
            dataset_revision=data.get("revision"), date=answers["started"], source_url=address,
            source_name="scores of all items, by transformer2", notes=notes,
        )
    ])  # fmt: skip


def evidence(expert: Path, scores: list[Measured]) -> dict[str, Any]:
    """The manifest of a published expert: from each score to its answers, their data, the adapter and its training."""
    of_training = read_json(model_card.made_in(expert) / "manifest.json")
    return {
        "adapter_sha256": sha256(expert / WEIGHTS),
        "selection": read_json(expert / "selection.json"),
        "training": _public(of_training),
        "scores": {one.task: {name: _public(facts) for name, facts in one.manifests.items()} for one in scores},
    }


def _public(manifest: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: manifest[key] for key in PUBLIC if key in manifest}
    return kept | ({"source": manifest["source"].partition(":")[0]} if "source" in manifest else {})
