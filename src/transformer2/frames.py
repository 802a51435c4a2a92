"""Tidy frames of everything that a run measured: scores, decisions, seconds, mixing weights, learning curves."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from transformer2.provenance import atomic_write, read_json, read_jsonl
from transformer2.training.selection import LAST

IDENTITY = ("run", "model", "stands_in_for", "standin", "method", "trained_on", "state", "task", "seed")
"""What a file of scores says of itself: columns of the tidy frame. `state` is that of the trainings behind it, best (on
validation) or last; empty where no training is, or where several are mixed or dispatched to."""
COLUMNS = (*IDENTITY, "item", "strict", "lenient", "new_tokens", "finish_reason")


def collect(files: Sequence[Path], out: Path) -> int:
    """Writes the scores of many files as one frame (gzipped CSV, one row a sample); returns its length."""
    parts = []
    for file in files:
        record = read_json(file)
        items = pd.DataFrame(record["items"])
        parts.append(items.assign(**{key: record[key] for key in IDENTITY}))
    frame = pd.concat(parts, ignore_index=True).reindex(columns=list(COLUMNS))
    for verdict in ("strict", "lenient"):
        if any(isinstance(value, float) for value in frame[verdict]):  # one task scored by shares makes numbers of all
            frame[verdict] = frame[verdict].astype(float)
    write_frame(frame, out)
    return len(frame)


def experts(selections: Sequence[Path], out: Path) -> None:
    """Writes what is known of every expert of a training task as CSV, one row a state (best, last) of an expert, by
    `experts/<model>/<task>/<method>/seed<seed>/selection.json` and `last/selection.json` beside it."""
    rows = []
    for file in selections:
        model, task, method, seed = file.parent.parts[-4:]
        choices = {choice["state"]: choice for choice in map(read_json, (file, last_selection(file)))}
        for state, choice in choices.items():
            training = choice["training"]
            rows.append({
                "model": model, "method": method, "trained_on": task, "seed": int(seed.removeprefix("seed")),
                "state": state, "chosen": choice["chosen"], "validation": training[f"{state}_validation"],
                "kept_step": training["best_step" if state == "best" else "step"], "steps": training["step"],
                "parameters": training["trained_parameters"], "stopped": training["stopped"],
                "collapsed_at": "" if training["collapsed_at"] is None else training["collapsed_at"],
            })  # fmt: skip
    write_frame(pd.DataFrame(rows), out)


def last_selection(file: Path) -> Path:
    """The choice among the last states of trainings, beside the choice of an expert."""
    return file.parent / LAST / file.name


def gather(decisions: Sequence[Path], mixes: Sequence[Path], out: Path) -> None:
    """Writes three frames to the folder `out`: decisions.csv.gz (one row a dispatched prompt), timings.csv (one row a
    dispatched task), alphas.csv.gz (one row an iteration, layer and expert of each search)."""
    who = ["run", "model", "stands_in_for", "standin", "task"]
    made, timed, found = [], [], []
    for record in map(read_json, decisions):
        same = {key: record[key] for key in who} | {"strategy": record["method"]}
        made += [same | {"domain": record["domain"], "item": i["item"], "class": i["class"]} for i in record["items"]]
        seconds = {key: record[key] for key in ("first_seconds", "second_seconds")}
        timed.append(same | {"items": len(record["items"])} | seconds)
    for record in map(read_json, mixes):
        same = {key: record[key] for key in (*who, "budget", "granularity", "normalised")}
        for step in record["history"]:
            of_step = {key: step[key] for key in ("iteration", "best_accuracy", "best_loglik", "evaluated")}
            for k, expert in enumerate(record["experts"]):
                for layer, (mean, std, best) in enumerate(
                    zip(step["mean"][k], step["std"][k], step["best"][k], strict=True)
                ):
                    where = {"expert": expert, "layer": -1 if record["granularity"] == "vector" else layer}
                    found.append(same | of_step | where | {"mean": mean, "std": std, "best": best})
    write_frame(pd.DataFrame(made), out / "decisions.csv.gz")
    write_frame(pd.DataFrame(timed), out / "timings.csv")
    write_frame(pd.DataFrame(found), out / "alphas.csv.gz")


def curves(selections: Sequence[Path], whose: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """How every expert, and the points of the sweep that it was chosen from, got better: one row an evaluation on the
    validation half (split: validation), and where the policy answered one row a step (train).

    Args:
        selections: results/<run>/experts/<model>/<task>/<method>/seed<k>/selection.json.
        whose: what the frame says of each model: run, stands_in_for, standin.

    Columns: run, model, stands_in_for, standin, method, task, seed, point (of the sweep), chosen (is the expert),
    chosen_last (its last state is the one that is scored), best_step and last_step (after which the two states were
    kept), selected (which of them is the expert), learning_rate, scored (which score is the accuracy), split, step
    (updates so far), accuracy (0..1), n.
    """
    rows = []
    for file in selections:
        model, task, method, seed = file.parts[-5:-1]
        sweep = file.parents[5] / "sweeps" / Path(*file.parts[-5:-1])
        selection, of_last = read_json(file), read_json(last_selection(file))
        for point in selection["validation"]:
            training = read_json(sweep / point / "training.json")
            settings = training["settings"]
            same = {key: whose[model][key] for key in ("run", "stands_in_for", "standin")} | {
                "model": model, "method": method, "task": task, "seed": int(seed.removeprefix("seed")), "point": point,
                "chosen": point == selection["chosen"], "chosen_last": point == of_last["chosen"],
                "best_step": training["best_step"], "last_step": training["step"], "selected": settings["select"],
                "learning_rate": settings["learning_rate"], "scored": settings["reward"],
            }  # fmt: skip
            evaluated = read_jsonl(sweep / point / "validation.jsonl")
            rows += [
                same | {"split": "validation", **{k: line[k] for k in ("step", "accuracy", "n")}} for line in evaluated
            ]
            answered = [line for line in read_jsonl(sweep / point / "metrics.jsonl") if "accuracy" in line]
            rows += [
                same | {"split": "train", "step": line["step"], "accuracy": line["accuracy"], "n": line["samples"]}
                for line in answered
            ]
    return pd.DataFrame(rows)


def write_frame(frame: pd.DataFrame, out: Path) -> None:
    """Writes a frame as CSV, gzipped if the name ends so; the same frame gives the same bytes."""
    held = io.BytesIO()  # gzip would write the name of a file, a temporary one
    gzipped = {"method": "gzip", "mtime": 0} if out.suffix == ".gz" else None
    frame.to_csv(held, index=False, compression=gzipped)
    atomic_write(out, held.getvalue())
