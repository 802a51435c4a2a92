"""From the scores of a run to the cells of a paper's table: what was reported beside what was measured."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from transformer2.paper.ledger import Column, LedgerTable, Reported, Row
from transformer2.statistics import UNDEFINED, Estimate, mcnemar_exact, paired_bootstrap, wilson

Scoring = Literal["strict", "lenient"]

COLUMNS: dict[Hashable, Any] = {
    "run": str, "model": str, "stands_in_for": str, "standin": bool, "method": str, "trained_on": str,
    "task": str, "seed": int, "item": str, "strict": bool, "lenient": bool,
}  # fmt: skip
"""The columns of the frame of scores that a table needs; one row is one scored sample."""

SAMPLE = ["model", "method", "trained_on", "task", "seed", "item"]


@dataclass(frozen=True)
class Measured:
    """What a run measured for one cell. Scores are percentages, normalised scores factors of our own base."""

    model: str
    standin: bool
    seeds: tuple[int, ...]
    files: tuple[str, ...]
    """The files of scores that it is counted from, one a seed, in the folder of the run."""
    correct: int
    """Over all seeds."""
    items: int
    score: Estimate
    """Mean over seeds, with the Wilson interval of that mean on `items` items."""
    normalised: Estimate
    """Ours over our base on the same items, with its bootstrap interval; undefined if no base solves any."""
    p_value: float
    """Exact McNemar test against our base on the same items, the largest over seeds; NaN without a base."""


@dataclass(frozen=True)
class Cell:
    """One number of the paper, and ours; `ours` is None if the run holds no score for it."""

    id: str
    """<document>/<table>/<model>/<method>/<column>"""
    row: Row
    column: Column
    reported: Reported
    ours: Measured | None

    @property
    def method(self) -> str:
        """Whose scores of ours belong here."""
        return _method(self.row, self.reported)

    @property
    def trained_on(self) -> str:
        """The task that the expert learnt whose scores belong here; empty for those of no single task."""
        return (self.column.trained_on or self.column.task) if self.row.trained_on == "column task" else ""


def read_scores(path: Path) -> pd.DataFrame:
    """The frame of scores of one run, columns of `COLUMNS`.

    Raises:
        ValueError: as `read_frame`, or the file holds a sample twice or has several models in the place of one of
            the paper's.
    """
    scores = read_frame(path, COLUMNS, SAMPLE)
    for slug, of_slug in scores.loc[scores["stands_in_for"] != ""].groupby("stands_in_for"):
        models = sorted(set(of_slug["model"]))
        if len(models) > 1:
            raise ValueError(f"{path}: several models in place of {slug}: {', '.join(models)}")
    return scores


def read_frame(path: Path, columns: Mapping[Hashable, Any], once: list[str]) -> pd.DataFrame:
    """What a run measured (CSV, gzipped or not): these columns with these types; one row for each value of `once`.

    Raises:
        ValueError: a column is missing, the file has no rows, holds several runs or two rows with the same `once`.
    """
    present = pd.read_csv(path, nrows=0).columns
    missing = [str(column) for column in columns if column not in present]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}")
    frame = pd.read_csv(path, usecols=list(columns), dtype=dict(columns), keep_default_na=False)
    runs = frame["run"].unique()
    if len(runs) != 1:
        raise ValueError(f"{path}: expected one run, found {', '.join(runs) or 'no rows'}")
    twice = frame.loc[frame.duplicated(once), once]
    if len(twice):
        raise ValueError(f"{path}: measured twice: {' '.join(map(str, twice.iloc[0]))}")
    return frame


def cells(table: LedgerTable, scores: pd.DataFrame, which: Scoring) -> list[Cell]:
    """Every cell of the table where something can stand, row by row, scored strictly or leniently."""
    found = []
    for row, column in product(table.rows, table.columns):
        reported = row.cells[column.name]
        if reported is None:
            continue
        method, of_model = _method(row, reported), scores.loc[scores["stands_in_for"] == row.model]
        trained_on = (column.trained_on or column.task) if row.trained_on == "column task" else ""
        id = f"{table.document}/{table.name}/{row.model}/{method}/{column.name}"
        found.append(Cell(id, row, column, reported, _measure(of_model, method, trained_on, column.task, which)))
    return found


def adapter(method: str, trained_on: str) -> str:
    """Folder of what a method measured: an expert's name says what it was trained on."""
    return f"{method}-{trained_on}" if trained_on else method


def _method(row: Row, reported: Reported) -> str:
    return reported.method or row.method


def _measure(scores: pd.DataFrame, method: str, trained_on: str, task: str, which: Scoring) -> Measured | None:
    """`scores` are those of the model that ran in the row."""
    samples = _select(scores, method, trained_on, task)
    if samples.empty:
        return None
    verdicts = _verdicts(samples, which)
    seeds, items = verdicts.shape
    correct = int(verdicts.to_numpy().sum())
    low, high = wilson(correct / seeds, items)
    normalised, p_value = _against_base(verdicts, _select(scores, "base", "", task), method, which)
    return Measured(
        model=samples["model"].iloc[0],
        standin=bool(samples["standin"].iloc[0]),
        seeds=tuple(int(seed) for seed in verdicts.index),
        files=tuple(
            f"scores/{samples['model'].iloc[0]}/{adapter(method, trained_on)}/{task}/seed{seed}.json"
            for seed in verdicts.index
        ),
        correct=correct,
        items=items,
        score=Estimate(100 * correct / (seeds * items), 100 * low, 100 * high),
        normalised=normalised,
        p_value=p_value,
    )


def _against_base(
    verdicts: pd.DataFrame, base_samples: pd.DataFrame, method: str, which: Scoring
) -> tuple[Estimate, float]:
    """Normalised score and p of McNemar's test."""
    if base_samples.empty:
        return UNDEFINED, float("nan")
    ours, base = verdicts.to_numpy(), _same_items(_verdicts(base_samples, which), verdicts)
    if method == "base":
        return (Estimate(1.0, 1.0, 1.0) if base.any() else UNDEFINED), float("nan")
    p_values = [mcnemar_exact(*pair) for pair in zip(ours, base, strict=True)]
    return paired_bootstrap(ours, base, "ratio"), max(p_values)


def _select(scores: pd.DataFrame, method: str, trained_on: str, task: str) -> pd.DataFrame:
    of_expert = (scores["method"] == method) & (scores["trained_on"] == trained_on)
    return scores.loc[of_expert & (scores["task"] == task)]


def _verdicts(samples: pd.DataFrame, which: Scoring) -> pd.DataFrame:
    """Booleans, one row a seed, one column an item."""
    verdicts = samples.pivot(index="seed", columns="item", values=which)
    if verdicts.isna().any(axis=None):
        model, method, task = samples[["model", "method", "task"]].iloc[0]
        raise ValueError(f"{model} {method}: seeds scored on different items of {task}; score them again")
    return verdicts.astype(bool)


def _same_items(base: pd.DataFrame, method: pd.DataFrame) -> np.ndarray:
    """The base's verdicts (seeds, items) on the method's items and seeds; one seed of the base serves all."""
    absent = method.columns.difference(base.columns)
    if len(absent):
        raise ValueError(f"the base was not scored on {len(absent)} items of its method, such as {absent[0]}")
    if len(base) > 1 and not base.index.equals(method.index):
        raise ValueError(f"the base has seeds {list(base.index)}, its method {list(method.index)}")
    return np.broadcast_to(base[method.columns].to_numpy(), method.shape)
