"""From a file of scores back to the experts and the base model, by the manifests that lie beside each file."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer2 import paths
from transformer2.config import STRATEGIES
from transformer2.paths import Place
from transformer2.provenance import read_json, read_jsonl
from transformer2.report import places
from transformer2.report.text import checksum
from transformer2.report.trace.lines import INDENT, UNREADABLE, checked, describe_file, fault, indented
from transformer2.tasks import RIGHT, TASKS
from transformer2.training.selection import LAST

SHOWN = 240
"""Characters of a prompt or an answer that are shown."""


def chain(scores: Path, results: Path, task: str) -> list[str]:
    """From one file of scores to the experts that answered, as lines."""
    lines = [f"scores   {scores}"]
    lines += indented(describe_file(scores, _scored))
    answers, followed = _answers(scores, results)
    lines += followed
    lines += [
        f"answers  {answers}",
        *indented(describe_file(_manifest(answers), lambda record: _generated(record, answers))),
    ]
    lines += indented(describe_file(_manifest(answers), lambda record: _same_data(record, results, task)))
    cell = places.read(paths.ANSWERS, answers, results)
    if cell["adapter"] in STRATEGIES:
        decisions = places.find(paths.DECISIONS, results, **cell)
        lines += [f"dispatch {decisions}", *indented(describe_file(decisions, _dispatched))]
    return lines + describe_file(_manifest(answers), lambda record: list(_weights(record, results)))


def _answers(scores: Path, results: Path) -> tuple[Path, list[str]]:
    """The file of answers behind a file of scores; of a choice among several, that of the chosen one."""
    cell, lines = places.read(paths.SCORES, scores, results), []
    try:
        record = read_json(scores)
        if chosen := record.get("chosen"):
            cell["adapter"] = chosen
            source = places.find(paths.SCORES, results, **cell)
            lines = [f"chosen   {chosen} by: {record['by']}; {'from' if source.is_file() else 'missing:'} {source}"]
    except UNREADABLE:
        pass  # the line on the scores has said it
    return places.find(paths.ANSWERS, results, **cell), lines


def _manifest(file: Path) -> Path:
    return file.with_suffix(".manifest.json")


def _scored(record: Any) -> list[str]:
    items, version = record["items"], record["task_version"]
    now = TASKS[record["task"]].version
    stale = "" if now == version else f" (version {now} scores now: score again)"
    right = {which: round(sum(item[which] for item in items), 6) for which in ("strict", "lenient")}
    return [
        f"{right['strict']} of {len(items)} right, leniently {right['lenient']}; "
        f"task {record['task']}, version {version}{stale}"
    ]


def _generated(record: Any, answers: Path) -> list[str]:
    return [
        f"{record['answers']} answers, {record['started']}, commit {record['git'] or 'unknown'}, "
        + ", ".join(f"{name} {record['packages'][name] or 'unknown'}" for name in ("torch", "transformers")),
        f"sha256 {checksum(record['sha256'])}: {checked(answers, record['sha256'])}",
        *([f"those of {record['answers_of']}, the same state"] if record.get("answers_of") else []),
    ]


def _same_data(record: Any, results: Path, task: str) -> list[str]:
    if "data_sha256" not in record:  # of two passes by an older version
        return []
    data = places.find(paths.DATA, results, task=task, split="test")
    return [f"to {data}, sha256 {checksum(record['data_sha256'])}: {checked(data, record['data_sha256'])}"]


def _dispatched(record: Any) -> list[str]:
    classes = Counter(item["class"] for item in record["items"])
    sent = ", ".join(f"{n} to {name}" for name, n in classes.most_common())
    return [
        f"{len(record['items'])} prompts of domain {record['domain']}: {sent}",
        f"first pass {record['first_seconds']:.2f} s, second {record['second_seconds']:.2f} s",
    ]


def _weights(manifest: Any, results: Path) -> Iterator[str]:
    """The experts that answered, as the manifest of the answers names them."""
    if "experts" in manifest:
        for name, folder in manifest["experts"].items():
            yield from _expert(folder, results, f"of {name}")
        if manifest["classifier"]:
            yield from _expert(manifest["classifier"], results, "of classification")
    elif manifest["expert"] is None:
        yield "expert   none: the base model answered"
    elif _located(manifest["expert"], results)[0] in (paths.MIX, paths.UNIFORM_MIX):
        yield from _mix(manifest["expert"], results)
    else:
        yield from _expert(manifest["expert"], results)


def _located(folder: str, results: Path) -> tuple[Place, Path]:
    """The place of the folder of an expert or a mix, and where it lies now: manifests name it from where the run was
    made.

    Raises:
        ValueError: it is the folder of something else.
    """
    path = Path(folder)
    last = path.name == LAST
    for place in (paths.EXPERT, paths.TRANSFER, paths.MIX, paths.UNIFORM_MIX):
        try:
            fields = place.read(path.parent if last else path)
        except ValueError:
            continue
        return place, places.find(place, results, **fields) / (LAST if last else "")
    raise ValueError(f"{folder} is no folder of an expert or a mix")


def _expert(named: str, results: Path, of: str = "") -> list[str]:
    place, folder = _located(named, results)
    head = " ".join(part for part in ("expert  ", of, str(folder)) if part)
    if place is not paths.TRANSFER:
        return [head, *indented(describe_file(folder / "selection.json", _selected))]
    return [head, *indented(describe_file(folder / "manifest.json", lambda manifest: _transferred(manifest, results)))]


def _transferred(manifest: Any, results: Path) -> list[str]:
    order = "ordered" if manifest["shuffle"] is None else f"shuffled with seed {manifest['shuffle']}"
    mapping = f", {manifest['mapping']}" if manifest["mapping"] else ""
    size = f"{manifest['parameters']:,} z of {manifest['matrices']} matrices"
    return [f"z of another model, {order}{mapping}: {size}", *_expert(manifest["expert"], results)]


def _selected(record: Any) -> list[str]:
    training = record["training"]
    points = ", ".join(f"{name} {value:.3f}" for name, value in record["validation"].items())
    weights = training["inputs"]["model"].get("model.safetensors")
    state = {
        "best": f"best at step {training['best_step']} of {training['step']}",
        "last": f"the last state, after {training['step']} steps",
    }[record["state"]]
    if record["state"] == "best" and training["best_step"] == 0:
        state += ", the start: the expert is untrained"
    if training["collapsed_at"] is not None:
        state += f", collapsed at step {training['collapsed_at']}"
    return [
        f"chosen {record['chosen']} on validation of the {record['state']} states: {points}",
        f"{state}; {training['stopped'] or 'all steps'}; "
        f"{training['trained_parameters']:,} parameters; adapter {training['settings']['adapter']}",
        *([f"trained on base weights with sha256 {checksum(weights)}"] if weights else []),
    ]


def _mix(named: str, results: Path) -> list[str]:
    place, folder = _located(named, results)
    searched = describe_file(folder / "adaptation.json", _adapted) if place is paths.MIX else None
    lines = [f"mix      {folder}", *indented(searched or ["equal weights, not searched"])]

    def mixed(manifest: Any) -> list[str]:
        experts = manifest["experts"].items()
        return [line for name, expert in experts for line in _expert(expert, results, f"of {name}")]

    return lines + describe_file(folder / "manifest.json", mixed)


def _adapted(record: Any) -> list[str]:
    alpha = [sum(layers) / len(layers) for layers in record["alpha"]]
    mixed = ", ".join(f"{name} {value:.3f}" for name, value in zip(record["experts"], alpha, strict=True))
    of_layers = " (mean over layers)" if record["granularity"] == "layer" else ""
    return [
        f"alpha {mixed}{of_layers}; {'normalised' if record['normalised'] else 'not normalised'}",
        f"{round(record['accuracy'] * record['shots'])} of {record['shots']} shots right; {record['stopped']}; "
        f"{record['history'][-1]['evaluated']} candidates",
    ]


def base_model(record: Any) -> list[str]:
    weights = [f"{name} sha256 {checksum(value)}" for name, value in record["sha256"].items() if "safetensors" in name]
    return [
        f"source {record['source']}, revision {record.get('revision') or 'none'}, {record['started']}",
        *(weights or [f"{len(record['sha256'])} files, none of them safetensors"]),
    ]


def samples(scores: Path, results: Path) -> list[str]:
    """The first right answer and the first wrong one, scored strictly."""
    answers, _ = _answers(scores, results)
    path = scores
    try:
        items = read_json(scores)["items"]
        path = answers
        texts = {row["item"]: row for row in read_jsonl(answers)}
        lines = []
        for name, right in (("right", True), ("wrong", False)):
            item = next((item for item in items if (item["strict"] >= RIGHT) is right), None)
            if item is None:
                lines.append(f"{name}: none of {len(items)}")
                continue
            row = texts[item["item"]]
            lines += [f"{name}: {item['item']}, read as {item['answer']!r}, {item['finish_reason']}"]
            lines += [
                f"{INDENT}prompt  {_shortened(row['prompt'])}",
                f"{INDENT}answer  {_shortened(row['completion'])}",
            ]
        return lines
    except UNREADABLE as error:
        return [fault(path, error)]


def _shortened(text: str) -> str:
    """In one line; the end of a prompt is the question, so the middle is left out."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN // 3]} … {line[-(SHOWN - SHOWN // 3) :]}"
