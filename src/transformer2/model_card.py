"""The model card of an exported expert: made from the files of its run, for the hub.

Numbers are formatted here; the template lays them out. Cards hold no paths of a disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml

from transformer2 import paths
from transformer2.experts import kind_of, training_of
from transformer2.grid import adapter_folder
from transformer2.models import is_vision_model
from transformer2.provenance import atomic_write, read_json, read_jsonl
from transformer2.report import places, text
from transformer2.report.layout import environment
from transformer2.report.tables.settings import unused_settings
from transformer2.reproduce.statistics import wilson
from transformer2.training.selection import LAST

TEMPLATE = "model_card.md.j2"
LIBRARY = {"adapter": ("peft", "adapter"), "lora": ("peft", "adapter"), "merged": ("transformers", "finetune")}
"""Form -> (library that loads it, relation to its base model), as the hub names them."""


@dataclass(frozen=True)
class Base:
    """The base model of an expert: its id on the hub, if it has one, and its source in words."""

    hub_id: str | None
    said: str
    standin: bool
    pictures: bool
    sums: Mapping[str, str]
    """sha256 of its files of weights."""
    dtype: str

    @classmethod
    def read(cls, model: Path, hub_id: str | None, dtype: str) -> "Base":
        facts = _read(model / "manifest.json") or {}
        name, _ = hub_name(model, hub_id)
        kind, _, rest = facts.get("source", f"dir:{model.name}").partition(":")
        size = f"{facts.get('parameters', 0):,} parameters"
        said = {
            "pocket": f"a stand-in that the workflow pretrains itself ({rest}, {size})",
            "wheel": f"`{facts.get('gguf', rest)}` of the Python package `{rest}`, dequantised",
        }.get(kind, f"a local folder `{Path(rest).name}`")
        sums = {file: value for file, value in facts.get("sha256", {}).items() if file.endswith(".safetensors")}
        if name:  # weights from another source may differ from the hub's, whatever the user calls them
            said = f"[{name}](https://huggingface.co/{name})" + ("" if kind == "hub" else f" ({said})")
        return cls(name, said, kind == "pocket", is_vision_model(model), sums, dtype)


class ExpertPlace(NamedTuple):
    """An expert in the files of its run."""

    run: Path
    """Folder of the run."""
    model: str
    task: str
    method: str
    seed: int


def hub_name(model: Path, hub_id: str | None) -> tuple[str | None, str | None]:
    """(id, revision) on the hub of the base model in a folder; `hub_id` is the id that the user gives."""
    facts = _read(model / "manifest.json") or {}
    kind, _, name = facts.get("source", "").partition(":")
    return (name, facts.get("revision")) if kind == "hub" else (hub_id, None)


def template(folder: Path) -> jinja2.Template:
    """The template of a card; ValueError if the folder has none."""
    if not (folder / TEMPLATE).is_file():
        raise ValueError(f"{folder} holds no {TEMPLATE}: give --templates, the project's folder paper_tables/templates")
    return environment(folder, "md").get_template(TEMPLATE)


def state_of(expert: Path) -> str:
    """Which state of its training an expert is, best or last; best where no training is on record."""
    training = training_of(expert)
    if expert.resolve().name == LAST:
        return "last"
    return training["settings"]["select"] if training else "best"


def write(expert: Path, base: Base, form: str, facts: Mapping[str, Any], card: jinja2.Template, out: Path) -> None:
    """Writes the card of the expert in a folder.

    Args:
        expert: folder of the expert, `results/<run>/experts/<model>/<task>/<method>/seed<k>` for one with scores.
        form: what the expert was exported as.
        facts: `export.lora_facts`; empty unless it was made a LoRA.
        card: `template`.
    """
    training, kind = training_of(expert), kind_of(expert)
    manifest = _read(made_in(expert) / "manifest.json")
    page = {
        "front": front(kind, base, form, training),
        "title": f"{kind} expert" + (f" for {training['task']}" if training else ""),
        "kind": kind,
        "form": form,
        "base": base,
        "training": training,
        "settings": settings(training["settings"]) if training else {},
        "validation": validation(expert),
        "state": state_of(expert),
        "untrained": bool(training) and state_of(expert) == "best" and training["best_step"] == 0,
        "scores": scores(expert),
        "manifest": manifest,
        "loader": "AutoModelForImageTextToText" if base.pictures else "AutoModelForCausalLM",
        "hardware": hardware(manifest) if manifest else None,
        "kinds": {name: percent(error) for name, error in facts.get("kinds", {}).items()},
        "rank": facts.get("rank"),
        "error": percent(facts["error"]) if facts else None,
    }
    atomic_write(out, card.render(page))


def front(kind: str, base: Base, form: str, training: Mapping[str, Any] | None) -> str:
    """The YAML in front of a card. It names no licence, as the base model's applies."""
    library, relation = LIBRARY[form]
    task = [training["task"]] if training else []
    tags = dict.fromkeys(["transformer2", kind.replace("³", "3").lower(), *(["lora"] if form == "lora" else []), *task])
    named = {"base_model": base.hub_id, "base_model_relation": relation} if base.hub_id else {}
    pipeline = "image-text-to-text" if base.pictures else "text-generation"
    data = named | {"library_name": library, "pipeline_tag": pipeline, "tags": list(tags)}
    return yaml.safe_dump(data, sort_keys=False).strip()


def settings(of_training: Mapping[str, Any]) -> dict[str, str]:
    """The settings that had an effect in a training, in words."""
    unused = unused_settings(of_training["adapter"], of_training["objective"])
    return {
        key.replace("_", " "): text.setting(value)
        for key, value in of_training.items()
        if key not in unused and value is not None
    }


def validation(expert: Path) -> dict[str, str] | None:
    """Accuracy of the expert on the validation half that it was chosen on; None if it is not on record."""
    training, log = training_of(expert), made_in(expert) / "validation.jsonl"
    if training is None or not log.is_file():
        return None
    evaluated = read_jsonl(log)
    line = evaluated[-1] if state_of(expert) == "last" else _best(evaluated)
    return {"score": training["settings"]["reward"], "step": str(line["step"])} | _share(line["accuracy"], line["n"])


def _best(evaluated: list[dict[str, Any]]) -> dict[str, Any]:
    return max(evaluated, key=lambda line: line["accuracy"])  # the first of equals


def scores(expert: Path) -> list[dict[str, str]]:
    """Test scores of both states of an expert in its run, its own first, one row a state and task, each beside its base
    model's on the same items."""
    if (place := place_of(expert)) is None:
        return []
    run, model, *_ = place
    rows = []
    states = sorted(("best", "last"), key=lambda state: state != state_of(expert))
    for state, file in ((one, file) for one in states for file in score_files(place, one)):
        record = read_json(file)
        items = record["items"]
        row = {"task": record["task"], "state": state, "data": _data(run, record["task"])}
        row |= _share(sum(item["strict"] for item in items) / len(items), len(items))
        row |= {"lenient": percent(sum(item["lenient"] for item in items) / len(items)), "base": "–"}
        for other in _score_files(run, model, "base", record["task"], "*")[:1]:
            same = {item["item"]: item["strict"] for item in read_json(other)["items"]}
            if same.keys() == {item["item"] for item in items}:
                row["base"] = percent(sum(same.values()) / len(same))
        rows.append(row)
    return rows


def score_files(place: ExpertPlace, state: str) -> list[Path]:
    """Files with the test scores of a state of an expert, one a task."""
    run, model, task, method, seed = place
    return _score_files(run, model, adapter_folder(method, task, state), "*", seed)


def _score_files(run: Path, model: str, adapter: str, task: str, seed: int | str) -> list[Path]:
    """Files of scores in the folder of a run; `*` stands for any task or seed."""
    file = places.find(paths.SCORES, run, model=model, adapter=adapter, task=task, seed=seed)
    return sorted(run.glob(str(file.relative_to(run))))


def hardware(manifest: Mapping[str, Any]) -> str:
    """What a job ran on."""
    gpu = f", {manifest['gpu']}" if manifest.get("gpu") else ", no GPU"
    return f"{manifest['platform']}, {manifest['cpus']} CPU cores{gpu}"


def percent(share: float) -> str:
    """A share in percent with two decimals; in powers of ten where these would be zero."""
    value = 100 * share
    return f"{value:.2f} %" if value == 0 or value >= 0.01 else f"{value:.1e} %"


def _share(value: float, n: int) -> dict[str, str]:
    low, high = wilson(value * n, n)
    return {"n": f"{n:,}", "value": percent(value), "interval": f"{100 * low:.2f} to {100 * high:.2f}"}


def _data(run: Path, task: str) -> str:
    """Where the test items of a task came from."""
    facts = _read(run / "data" / task / "test.manifest.json") or {}
    source: str = facts.get("source", "not on record")
    names = {"pocket": "pocket: made up, in the real columns", "hub": "hub", "dir": "files of the data set"}
    return names.get(source.partition(":")[0], source)


def place_of(expert: Path) -> ExpertPlace | None:
    """Where an expert, or its last state, lies in the run that chose it; None for another one."""
    folder = expert.resolve().parent if expert.resolve().name == LAST else expert.resolve()
    try:
        run = folder.parents[4]
        where = places.read(paths.EXPERT, folder, run)
        place = ExpertPlace(run, where["model"], where["task"], where["method"], int(where["seed"]))
    except (IndexError, ValueError):  # it does not lie where a run has its experts
        return None
    return place if (expert / "selection.json").is_file() else None


def made_in(expert: Path) -> Path:
    """Folder of the sweep's point that an expert was chosen from; of an expert without a choice its own."""
    if (place := place_of(expert)) is None:
        return expert
    chosen = read_json(expert / "selection.json")["chosen"]
    return places.find(paths.SWEEP, place.run, **place._asdict(), point=chosen)


def _read(path: Path) -> Any:
    return read_json(path) if path.is_file() else None
