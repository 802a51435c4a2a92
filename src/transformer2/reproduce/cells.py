"""From the scores of a run to the cells of a paper's table: what was reported beside what was measured."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from transformer2.grid import adapter_folder
from transformer2.reproduce.frames import UNPAIRED
from transformer2.reproduce.gains import Gain, counted_gain, paired_gain
from transformer2.reproduce.ledger import Column, Entry, LedgerTable, Reported, Row, State, entries
from transformer2.reproduce.statistics import (
    UNDEFINED,
    Estimate,
    detectable_gain,
    independent,
    mcnemar_exact,
    paired_bootstrap,
    wilson,
)

Scoring = Literal["strict", "lenient"]


@dataclass(frozen=True)
class Measured:
    """What a run measured for one cell. Scores are percentages, normalised scores factors of our own base."""

    model: str
    state: str
    """Of the trainings behind it: best or last; empty where there is none, or where it is not known."""
    standin: bool
    seeds: tuple[int, ...]
    files: tuple[str, ...]
    """The files of scores that it is counted from, one a seed, in the folder of the run."""
    correct: float
    """Right answers over all seeds; the sum of the verdicts where these are shares."""
    items: int
    score: Estimate
    """Mean over seeds, with the Wilson interval of that mean on `items` items."""
    gain: Gain | None
    """Over our base on the same items; None for the base itself, and where our base was not run."""
    p_value: float
    """Of the test that the gain is none (`gain_test`); NaN without a base."""
    detectable: float
    """Gain over our base, in percentage points, that so many items show with a power of 80 %; NaN without a base."""
    paired: bool
    """Whether it is known which items were right, not only how many."""
    verdicts: pd.DataFrame = field(repr=False, compare=False)
    """`item_verdicts`."""
    base: pd.DataFrame | None = field(repr=False, compare=False)
    """Those of our base; None where it was not run."""

    @cached_property
    def normalised(self) -> Estimate:
        """Ours over our base on the same items, with its bootstrap interval; undefined if no base solves any."""
        if self.base is None:
            return UNDEFINED
        if self.base is self.verdicts:
            return Estimate(1.0, 1.0, 1.0) if self.base.any(axis=None) else UNDEFINED
        if not paired(self.verdicts, self.base):
            return independent(*counted(self.verdicts), *counted(self.base), "ratio").estimate
        return paired_bootstrap(*same_items(self.verdicts, self.base), "ratio")


@dataclass(frozen=True)
class Cell:
    """One number of the paper, and ours; `ours` is None if the run holds no score for it."""

    entry: Entry
    ours: Measured | None
    other: Measured | None = None
    """The same of the other state of the trainings, where both are scored."""

    @property
    def id(self) -> str:
        return self.entry.id

    @property
    def row(self) -> Row:
        return self.entry.row

    @property
    def column(self) -> Column:
        return self.entry.column

    @property
    def reported(self) -> Reported:
        return self.entry.reported


def cells(table: LedgerTable, scores: pd.DataFrame, which: Scoring) -> list[Cell]:
    """Every cell of the table where something can stand, row by row, scored strictly or leniently."""
    return [
        Cell(entry, *(_measure(entry, samples, scores, which) for samples in _both_states(entry, scores)))
        for entry in entries(table)
    ]


def samples_of(entry: Entry, scores: pd.DataFrame, state: State | None = None) -> pd.DataFrame:
    """The scored samples that belong to a cell, of one state of the trainings (None: the one that its row is about).

    Where no training has two states, or which one was scored is not known, those that there are.
    """
    samples = _select(_of_row(scores, entry.row), entry.method, entry.trained_on, entry.column.task)
    for name in (state or entry.row.state, "", "best", "last"):
        of_state = samples.loc[samples["state"] == name]
        if len(of_state):
            return of_state
    return samples


def main_states(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores without those of last states that have a best one beside them."""
    place = ["model", "method", "trained_on", "task"]
    best = scores.loc[scores["state"] == "best", place].drop_duplicates()
    beside = scores[place].merge(best, how="left", indicator=True)["_merge"].to_numpy() == "both"
    return scores.loc[~(beside & (scores["state"] == "last"))]


def _both_states(entry: Entry, scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The samples of a cell, and those of the other state of its trainings; none where there are not two."""
    shown = samples_of(entry, scores)
    other: State = "best" if entry.row.state == "last" else "last"
    beside = samples_of(entry, scores, other)
    return shown, beside if set(shown["state"]) != set(beside["state"]) else beside.iloc[:0]


def _of_row(scores: pd.DataFrame, row: Row) -> pd.DataFrame:
    """The scores of the model that ran in the row."""
    return scores.loc[scores["model" if row.own else "stands_in_for"] == row.model]


def _measure(entry: Entry, samples: pd.DataFrame, scores: pd.DataFrame, which: Scoring) -> Measured | None:
    task = entry.column.task
    if samples.empty:
        return None
    verdicts = item_verdicts(samples, which)
    (model, state), (seeds, items) = samples[["model", "state"]].iloc[0], verdicts.shape
    correct = round(verdicts.to_numpy().sum().item(), 6)
    low, high = wilson(correct / seeds, items)
    base_samples = _select(_of_row(scores, entry.row), "base", "", task)
    base = verdicts if entry.method == "base" else None if base_samples.empty else item_verdicts(base_samples, which)
    gain, p_value, detectable = _against_base(verdicts, base)
    folder = f"scores/{model}/{adapter_folder(entry.method, entry.trained_on, state)}/{task}"
    return Measured(
        model=model,
        state=state,
        standin=bool(samples["standin"].iloc[0]),
        seeds=tuple(int(seed) for seed in verdicts.index),
        files=tuple(f"{folder}/seed{seed}.json" for seed in verdicts.index),
        correct=correct,
        items=items,
        score=Estimate(100 * correct / (seeds * items), 100 * low, 100 * high),
        gain=gain,
        p_value=p_value,
        detectable=100 * detectable,
        paired=paired(verdicts, verdicts),
        verdicts=verdicts,
        base=base,
    )


def _against_base(verdicts: pd.DataFrame, base: pd.DataFrame | None) -> tuple[Gain | None, float, float]:
    """Gain, p of its test, and the gain (share of 1) that would have been seen."""
    nan = float("nan")
    if base is None or base is verdicts:
        return None, nan, nan
    gain, p_value = gain_test(verdicts, base)
    if not paired(verdicts, base):
        return gain, p_value, nan
    ours, theirs = same_items(verdicts, base)
    return gain, p_value, detectable_gain(ours.shape[1], float((ours != theirs).mean()))


class GainTest(NamedTuple):
    """A gain, and p of the test that it is none."""

    gain: Gain
    p_value: float


def gain_test(method: pd.DataFrame, other: pd.DataFrame, factor: float = 1.0) -> GainTest:
    """How much a method is above another, or above so many times another, on the items of the method.

    One seed: exact McNemar test; with a factor, by the interval of the gain. Several seeds: t test of the mixed model
    with crossed random effects of seeds and items (`gains`), which asks whether a further training would gain as well.
    Where only counts are known: score test of independent samples.
    """
    if not paired(method, other):
        samples = *counted(method), *counted(other)
        gain = counted_gain(*samples, factor)
        return GainTest(gain, independent(*samples, "difference").p_value if factor == 1 else gain.p_value)
    ours, theirs = same_items(method, other)
    gain = paired_gain(ours, factor * theirs)
    if len(ours) == 1 and factor == 1:
        return GainTest(gain, mcnemar_exact(ours[0], theirs[0]))
    return GainTest(gain, gain.p_value)


def name_of_test(seeds: int, paired: bool) -> str:
    """What the test of `gain_test` is called, of a method with so many seeds and no factor."""
    if not paired:
        return "independent samples"
    return "mixed model" if seeds > 1 else "exact McNemar"


def counted(verdicts: pd.DataFrame) -> tuple[float, int]:
    """How many items are right, as a mean over seeds, and how many there are."""
    return float(verdicts.to_numpy().sum()) / len(verdicts), verdicts.shape[1]


def paired(method: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether both know which item is which."""
    return not any(UNPAIRED in str(item) for of in (method, other) for item in of.columns[:1])


def _select(scores: pd.DataFrame, method: str, trained_on: str, task: str) -> pd.DataFrame:
    of_expert = (scores["method"] == method) & (scores["trained_on"] == trained_on)
    return scores.loc[of_expert & (scores["task"] == task)]


def item_verdicts(samples: pd.DataFrame, which: Scoring | Literal["read"]) -> pd.DataFrame:
    """Which items of one cell are right, one row a seed, one column an item: booleans, or shares from 0 to 1."""
    verdicts = samples.pivot(index="seed", columns="item", values=which)
    if verdicts.isna().any(axis=None):
        model, method, task = samples[["model", "method", "task"]].iloc[0]
        raise ValueError(f"{model} {method}: seeds scored on different items of {task}; score them again")
    return verdicts.astype(bool if verdicts.isin((0, 1)).all(axis=None) else float)


def same_items(method: pd.DataFrame, other: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Both as (seeds, items) on the method's items; one seed of either serves all of the other's.

    Raises:
        ValueError: the other (its base, as a rule) was not scored on these items or seeds.
    """
    absent = method.columns.difference(other.columns)
    if len(absent):
        raise ValueError(f"the base was not scored on {len(absent)} items of its method, such as {absent[0]}")
    if min(len(method), len(other)) > 1 and not other.index.equals(method.index):
        raise ValueError(f"the other has seeds {list(other.index)}, its method {list(method.index)}")
    ours, theirs = np.broadcast_arrays(method.to_numpy(), other[method.columns].to_numpy())
    return ours, theirs
