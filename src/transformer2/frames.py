"""Tidy frames of everything that a run measured: scores, decisions, seconds, mixing weights."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from transformer2.provenance import read_json, whole_file

IDENTITY = ("run", "model", "stands_in_for", "standin", "method", "trained_on", "task", "seed")
"""What a file of scores says of itself: columns of the tidy frame."""
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


def write_frame(frame: pd.DataFrame, out: Path) -> None:
    """Writes a frame as CSV, gzipped if the name ends so; the same frame gives the same bytes."""
    with whole_file(out) as temporary:
        frame.to_csv(
            temporary, index=False, compression={"method": "gzip", "mtime": 0} if out.suffix == ".gz" else None
        )
