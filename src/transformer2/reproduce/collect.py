"""From the files that the stages of a run leave behind to its tidy frames."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from transformer2 import paths
from transformer2.checksums import sha256
from transformer2.config import Run
from transformer2.grid import IDENTITY, Grid
from transformer2.provenance import manifest, read_json, read_jsonl
from transformer2.reproduce import imported_scores
from transformer2.reproduce.frames import COLUMNS, write_frame
from transformer2.reproduce.half_gain import half_gains
from transformer2.reproduce.inventory import adaptation_files, expert_folders, frame_files
from transformer2.reproduce.spectrum import spectra
from transformer2.training.selection import LAST

MODEL = ("run", "model", "stands_in_for", "standin")
"""What every frame says of the model that a row is about."""


def write_frames(run: Run, folder: Path, ledger: Path) -> list[Path]:
    """Writes every frame of a run to its folder, `results/<run>`; returns their paths.

    `ledger` is the folder of the ledger, which scores that were measured elsewhere are checked against.
    """
    if run.scores is not None:
        import_scores(Path(run.scores), run.run, folder / "scores.csv.gz", ledger)
        return [folder / "scores.csv.gz"]
    names, grid, root = frame_files(run), Grid(run), folder.parents[1]
    for name in names:
        write_frame(FRAMES[name](grid, root), folder / name)
    return [folder / name for name in names]


def import_scores(file: Path, run: str, out: Path, ledger: Path) -> int:
    """Writes scores that were measured elsewhere (docs/own-scores.md) as the frame of a run, and the manifest that says
    so; returns how many answers were scored."""
    with manifest(out.with_name(imported_scores.MANIFEST), file=str(file), sha256=sha256(file)) as facts:
        frame = imported_scores.read(file, run, ledger)
        write_frame(frame, out)
        facts["rows"] = len(frame)
    return len(frame)


def model_identity(run: Run, model: str, standin: bool) -> dict[str, Any]:
    """What a frame says of a model; `standin`: of its scores (`Run.standin`), or of its weights (`Model.standin`)."""
    return {"run": run.run, "model": model, "stands_in_for": run.models[model].row or "", "standin": standin}


def scores(files: Iterable[Path]) -> pd.DataFrame:
    """The scores of many files as one frame, one row a sample."""
    parts = []
    for file in files:
        record = read_json(file)
        items = pd.DataFrame(record["items"])
        items["read"] = items["answer"].notna()
        parts.append(items.assign(**{key: record[key] for key in IDENTITY}))
    frame = pd.concat(parts, ignore_index=True).reindex(columns=list(COLUMNS))
    for verdict in ("strict", "lenient"):
        if any(isinstance(value, float) for value in frame[verdict]):  # one task scored by shares makes numbers of all
            frame[verdict] = frame[verdict].astype(float)
    return frame


def experts(grid: Grid, root: Path) -> pd.DataFrame:
    """What is known of every expert of a training task, one row a state (best, last) of an expert."""
    rows = []
    for expert, seed, folder in expert_folders(grid):
        choices = {choice["state"]: choice for choice in selections(root / folder)}
        for state, choice in choices.items():
            training = choice["training"]
            rows.append({
                "model": expert["model"], "method": expert["method"], "trained_on": expert["task"], "seed": seed,
                "state": state, "chosen": choice["chosen"], "validation": training[f"{state}_validation"],
                "kept_step": training["best_step" if state == "best" else "step"], "steps": training["step"],
                "parameters": training["trained_parameters"], "stopped": training["stopped"],
                "collapsed_at": "" if training["collapsed_at"] is None else training["collapsed_at"],
            })  # fmt: skip
    return pd.DataFrame(rows)


def selections(folder: Path) -> tuple[Any, Any]:
    """The choice of an expert, and the choice among the last states of its sweep."""
    return read_json(folder / "selection.json"), read_json(folder / LAST / "selection.json")


def decisions(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The class that each prompt was given, one row a prompt and way of dispatch."""
    return pd.DataFrame([
        _origin(record) | {"strategy": record["method"], "domain": record["domain"]}
        | {"item": item["item"], "class": item["class"]}
        for record in records
        for item in record["items"]
    ])  # fmt: skip


def timings(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The seconds of both passes, one row a task and way of dispatch."""
    return pd.DataFrame([
        _origin(record) | {"strategy": record["method"], "items": len(record["items"])}
        | {key: record[key] for key in ("first_seconds", "second_seconds")}
        for record in records
    ])  # fmt: skip


def alphas(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """How every few-shot search went, one row an iteration, layer and expert."""
    rows = []
    for record in records:
        search = _origin(record) | {key: record[key] for key in ("budget", "granularity", "normalised")}
        for step in record["history"]:
            of_step = {key: step[key] for key in ("iteration", "best_accuracy", "best_loglik", "evaluated")}
            for k, expert in enumerate(record["experts"]):
                for layer, (mean, std, best) in enumerate(
                    zip(step["mean"][k], step["std"][k], step["best"][k], strict=True)
                ):
                    place = {"expert": expert, "layer": -1 if record["granularity"] == "vector" else layer}
                    rows.append(search | of_step | place | {"mean": mean, "std": std, "best": best})
    return pd.DataFrame(rows)


def _origin(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in (*MODEL, "task")}


def curves(grid: Grid, root: Path) -> pd.DataFrame:
    """How every expert, and the points of the sweep that it was chosen from, got better: one row an evaluation on the
    validation half (split: validation), and where the policy answered one row a step (train).

    Columns: run, model, stands_in_for, standin, method, task, seed, point (of the sweep), chosen (is the expert),
    chosen_last (its last state is the one that is scored), best_step and last_step (after which the two states were
    kept), selected (which of them is the expert), learning_rate, scored (which score is the accuracy), split, step
    (updates so far), accuracy (0..1), n.
    """
    rows, run = [], grid.run
    for expert, seed, folder in expert_folders(grid):
        selection, of_last = selections(root / folder)
        model = model_identity(run, expert["model"], run.standin(expert["model"]))
        for point in selection["validation"]:
            sweep = root / paths.SWEEP.of(run=run.run, seed=seed, point=point, **expert)
            training = read_json(sweep / "training.json")
            settings = training["settings"]
            point_facts = {key: model[key] for key in ("run", "stands_in_for", "standin")} | {
                **{key: expert[key] for key in ("model", "method", "task")}, "seed": seed, "point": point,
                "chosen": point == selection["chosen"], "chosen_last": point == of_last["chosen"],
                "best_step": training["best_step"], "last_step": training["step"], "selected": settings["select"],
                "learning_rate": settings["learning_rate"], "scored": settings["reward"],
            }  # fmt: skip
            rows += [
                point_facts | {"split": "validation", **{key: line[key] for key in ("step", "accuracy", "n")}}
                for line in read_jsonl(sweep / "validation.jsonl")
            ]
            rows += [
                point_facts
                | {"split": "train", "step": line["step"], "accuracy": line["accuracy"], "n": line["samples"]}
                for line in read_jsonl(sweep / "metrics.jsonl")
                if "accuracy" in line
            ]
    return pd.DataFrame(rows)


def _records(files: Iterable[str], root: Path) -> Iterable[Any]:
    return (read_json(root / file) for file in files)


def _spectra(grid: Grid, root: Path) -> pd.DataFrame:
    models = grid.run.models
    bases = {name: root / paths.BASIS.of(model=name) for name in models}
    return spectra(bases, {name: model_identity(grid.run, name, models[name].standin) for name in models})


FRAMES: dict[str, Callable[[Grid, Path], pd.DataFrame]] = {
    "scores.csv.gz": lambda grid, root: scores(root / file for file in grid.score_files(grid.cells)),
    "experts.csv": experts,
    "curves.csv.gz": curves,
    "half_gain.csv": lambda grid, root: half_gains(curves(grid, root), grid.run),
    "decisions.csv.gz": lambda grid, root: decisions(_records(grid.decision_files(), root)),
    "timings.csv": lambda grid, root: timings(_records(grid.decision_files(), root)),
    "alphas.csv.gz": lambda grid, root: alphas(_records(adaptation_files(grid), root)),
    "spectra.csv": _spectra,
}
"""Name of a frame's file -> the function that makes it, of the grid and the folder in which `results/` lies."""
