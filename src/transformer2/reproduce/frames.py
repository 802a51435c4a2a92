"""The tidy frames of a run: their columns, and how they are written, read back and checked."""

import io
from collections.abc import Hashable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from transformer2.checksums import verified
from transformer2.config.names import MAIN_BUDGET
from transformer2.grid import IDENTITY
from transformer2.provenance import atomic_write, read_json

COLUMNS = (*IDENTITY, "item", "strict", "lenient", "read", "new_tokens", "finish_reason")
"""Of the frame of scores."""
UNPAIRED = "/unpaired/"
"""Part of the name of an item of which only the count is known: it is the same item as no other."""
ORIGIN: dict[Hashable, Any] = {"run": str, "model": str, "stands_in_for": str, "standin": bool, "task": str}
SCORES: dict[Hashable, Any] = ORIGIN | {
    "method": str, "trained_on": str, "state": str, "seed": int, "item": str, "strict": None, "lenient": None,
    "read": None,
}  # fmt: skip
"""One row is one scored sample. Verdicts are booleans or, in a run with a task that is scored by shares, numbers.
`read` says whether an answer was read from the completion; it is empty for scores that were measured elsewhere."""
DECISIONS: dict[Hashable, Any] = ORIGIN | {"strategy": str, "domain": str, "item": str, "class": str}
"""One row is one prompt of one strategy."""
TIMINGS: dict[Hashable, Any] = ORIGIN | {
    "strategy": str, "items": int, "first_seconds": float, "second_seconds": float,
}  # fmt: skip
"""One row is one task's whole problem set, answered once."""
ALPHAS: dict[Hashable, Any] = ORIGIN | {
    "budget": str, "granularity": str, "normalised": bool, "iteration": int, "layer": int, "expert": str,
    "std": float, "best": float, "best_accuracy": float,
}  # fmt: skip
"""One row is one iteration, expert and layer of a search (layer -1: all layers share one weight)."""
SPECTRA: dict[Hashable, Any] = {
    "run": str, "model": str, "stands_in_for": str, "standin": bool, "module": str, "layer": int, "rank": int,
    "full_rank": int, "r": int, "ratio": float, "variance_ratio": float,
}  # fmt: skip
"""One row is one matrix and r."""
CURVES: dict[Hashable, Any] = ORIGIN | {
    "method": str, "seed": int, "point": str, "chosen": bool, "chosen_last": bool, "best_step": int, "last_step": int,
    "selected": str, "learning_rate": float, "scored": str,
    "split": str, "step": int, "accuracy": float, "n": int,
}  # fmt: skip
"""One row is one evaluation, or one step of training."""
SEARCH = ["model", "task", "budget", "granularity", "normalised"]
"""Columns that identify a search of a run."""


class Frames:
    """The frames in the folder of a run, each read when it is first asked for. All but `experts` and `half_gain` are
    checked (`_read`)."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def scores(self) -> pd.DataFrame:
        return read_scores(self.folder / "scores.csv.gz")

    @cached_property
    def experts(self) -> pd.DataFrame:
        return read_experts(self.folder / "experts.csv")

    @cached_property
    def decisions(self) -> pd.DataFrame:
        return read_decisions(self.folder / "decisions.csv.gz")

    @cached_property
    def timings(self) -> pd.DataFrame:
        return read_timings(self.folder / "timings.csv")

    @cached_property
    def alphas(self) -> pd.DataFrame:
        return read_alphas(self.folder / "alphas.csv.gz")

    @cached_property
    def curves(self) -> pd.DataFrame:
        return read_curves(self.folder / "curves.csv.gz")

    @cached_property
    def half_gain(self) -> pd.DataFrame:
        return read_half_gain(self.folder / "half_gain.csv")

    @cached_property
    def spectra(self) -> pd.DataFrame:
        return read_spectra(self.folder / "spectra.csv")

    @cached_property
    def illustration(self) -> Any:
        """What the schematic figures show (`reproduce.illustration`)."""
        return read_json(self.folder / "illustration.json")


def read_scores(path: Path) -> pd.DataFrame:
    """The frame of scores of one run.

    Raises:
        ValueError: as `_read`, a verdict is no boolean and no number from 0 to 1, or the file has several models in
            the place of one of the paper's.
    """
    scores = _read(path, SCORES, ["model", "method", "trained_on", "state", "task", "seed", "item"])
    for verdict in ("strict", "lenient"):
        if not (is_numeric_dtype(scores[verdict]) and scores[verdict].between(0, 1).all()):
            raise ValueError(f"{path}: the column {verdict} holds other values than True, False and shares from 0 to 1")
    for slug, of_slug in scores.loc[scores["stands_in_for"] != ""].groupby("stands_in_for"):
        models = sorted(set(of_slug["model"]))
        if len(models) > 1:
            raise ValueError(f"{path}: several models in place of {slug}: {', '.join(models)}")
    return scores


def read_decisions(path: Path) -> pd.DataFrame:
    """The frame of decisions of one run; ValueError as `_read`."""
    return _read(path, DECISIONS, ["model", "strategy", "task", "item"])


def read_timings(path: Path) -> pd.DataFrame:
    """The frame of seconds of one run; ValueError as `_read`."""
    return _read(path, TIMINGS, ["model", "strategy", "task"])


def read_alphas(path: Path) -> pd.DataFrame:
    """The frame of searches of one run; ValueError as `_read`."""
    return _read(path, ALPHAS, [*SEARCH, "iteration", "layer", "expert"])


def read_spectra(path: Path) -> pd.DataFrame:
    """The frame of singular values of one run; ValueError as `_read`."""
    return _read(path, SPECTRA, ["model", "module", "layer", "r"])


def read_curves(path: Path) -> pd.DataFrame:
    """The frame of learning curves of one run; ValueError as `_read`."""
    return _read(path, CURVES, ["model", "method", "task", "seed", "point", "split", "step"])


def read_half_gain(path: Path) -> pd.DataFrame:
    """The frame of updates to half of the gain of one run (`half_gain.half_gains`)."""
    return pd.read_csv(verified(path), dtype={"updates": "Int64", "samples": "Int64"})


def last_iteration(alphas: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last iteration of each search."""
    return alphas.loc[alphas["iteration"] == alphas.groupby(SEARCH)["iteration"].transform("max")]


def read_experts(path: Path) -> pd.DataFrame:
    """The frame of experts of one run (`collect.experts`)."""
    return pd.read_csv(verified(path))


def of_main_budget(alphas: pd.DataFrame) -> pd.DataFrame:
    """The searches with the main budget of shots: that of Table 2 and Figure 7."""
    return alphas.loc[alphas["budget"] == MAIN_BUDGET]


def write_frame(frame: pd.DataFrame, out: Path) -> None:
    """Writes a frame as CSV, gzipped if the name ends so; the same frame gives the same bytes."""
    buffer = io.BytesIO()  # gzip would write the name of a file, a temporary one
    gzipped = {"method": "gzip", "mtime": 0} if out.suffix == ".gz" else None
    frame.to_csv(buffer, index=False, compression=gzipped)
    atomic_write(out, buffer.getvalue())


def _read(path: Path, columns: Mapping[Hashable, Any], once: list[str]) -> pd.DataFrame:
    """A frame (CSV, gzipped or not): these columns with these types (None: as found); one row a value of `once`.

    Raises:
        ValueError: a column is missing, the file has no rows, holds several runs or two rows with the same `once`.
    """
    present = pd.read_csv(verified(path), nrows=0).columns
    missing = [str(column) for column in columns if column not in present]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}")
    types = {column: kind for column, kind in columns.items() if kind is not None}
    frame = pd.read_csv(path, usecols=list(columns), dtype=types, keep_default_na=False)
    runs = frame["run"].unique()
    if len(runs) != 1:
        raise ValueError(f"{path}: expected one run, found {', '.join(runs) or 'no rows'}")
    twice = frame.loc[frame.duplicated(once), once]
    if len(twice):
        raise ValueError(f"{path}: measured twice: {' '.join(map(str, twice.iloc[0]))}")
    return frame
