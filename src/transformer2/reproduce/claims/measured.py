"""Sentences of the papers against what a run measured."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd
from scipy.stats import binomtest

from transformer2.config import MODULES
from transformer2.config.names import MAIN_BUDGET
from transformer2.reproduce.budgets import Budgets, are_unequal
from transformer2.reproduce.cells import gain_test, item_verdicts, paired, samples_of
from transformer2.reproduce.claims import (
    Captured,
    Claim,
    Classified,
    Compared,
    Comparisons,
    FirstPass,
    Higher,
    LowestWeight,
    Pair,
    Parameters,
    Side,
    Test,
    Verdict,
    Within,
    by_shapes,
    cells_of,
    compare_passes,
    on_paper,
    pairs,
    summary,
    weigh,
)  # fmt: skip
from transformer2.reproduce.frames import SEARCH, Frames, last_iteration
from transformer2.reproduce.ledger import Entry, Ledger, State
from transformer2.reproduce.spectrum import discussed
from transformer2.reproduce.statistics import LEVEL, holm, mcnemar_exact, wilson

BY_SHAPES = "by the models' shapes: "
"""What stands before a verdict that no run is needed for."""
ON_STANDINS = "on stand-ins: "
"""What stands before the verdict of a run that used a model or data that are not the papers'."""


def judge_claims(ledger: Ledger, claims: Mapping[str, Claim], measured: "Measurements") -> pd.DataFrame:
    """The verdict on every claim, by what the papers print and by what a run measured: one row a claim."""
    rows = []
    for id, claim in claims.items():
        printed, by_paper = on_paper(claim, ledger)
        verdict, evidence = by_run(claim, ledger, measured)
        rows.append({
            "id": id, "document": claim.document, "section": claim.section, "quote": claim.quote,
            "reading": claim.reading, "cells": " ".join(cells_of(claim, ledger)), "printed": printed,
            "printed_evidence": summary(by_paper), "verdict": verdict, "evidence": evidence,
        })  # fmt: skip
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Measurements:
    """What a run measured; decisions, mixing weights and seconds only if it adapted, singular values if it had models
    of its own."""

    scores: pd.DataFrame
    decisions: pd.DataFrame | None = None
    alphas: pd.DataFrame | None = None
    timings: pd.DataFrame | None = None
    spectra: pd.DataFrame | None = None
    budgets: Budgets = field(default_factory=dict)
    """What the run spent on each method."""
    _items: dict[tuple[str, str], pd.DataFrame | None] = field(default_factory=dict)

    @classmethod
    def read(cls, frames: Frames, names: Iterable[str], budgets: Budgets) -> "Measurements":
        """Those of the frames in the folder of a run that belong to it (`inventory.frame_files`): an earlier
        configuration may have left more there."""
        present = {name.split(".")[0] for name in names}
        optional = ("decisions", "alphas", "timings", "spectra")
        of_run = {name: getattr(frames, name) for name in optional if name in present}
        return cls(frames.scores, **of_run, budgets=budgets)

    def items(self, entry: Entry, state: State) -> pd.DataFrame | None:
        """Which items of a cell are right, strictly (`cells.item_verdicts`), in a state of its training; None if it was
        not run."""
        key = (entry.id, state)
        if key not in self._items:
            samples = samples_of(entry, self.scores, state)
            self._items[key] = None if samples.empty else item_verdicts(samples, "strict")
        return self._items[key]

    def state(self, entry: Entry, state: State) -> str:
        """Of the trainings behind a cell, where `state` is asked for: that one, or the only one that there is."""
        samples = samples_of(entry, self.scores, state)
        return "" if samples.empty else str(samples["state"].iloc[0])

    def standin(self, entry: Entry) -> bool:
        return bool(self.scores.loc[self.scores["stands_in_for"] == entry.row.model, "standin"].any())


def by_run(claim: Claim, ledger: Ledger, measured: Measurements) -> tuple[str, str]:
    """The verdict on a claim, and the numbers that it rests on.

    A comparison of scores speaks against the claim if its test (`cells.gain_test`) has p < 0.05 by Holm over all of the
    claim's. It speaks for it likewise, but where a test needs all of its comparisons each of them is held to 0.05 alone
    (an intersection-union test). Else it is open, as is every comparison of methods with unequal budgets. supported:
    so many speak for it as the claim needs. not supported: so many speak against it that it cannot be right.
    inconclusive: neither.
    """
    comparisons = _adjusted([(test, _by_run(test, ledger, measured)) for test in claim.tests])
    every = [one for _, compared in comparisons for one in compared]
    if all(one.side == "not run" for one in every):
        return "not run", ""
    verdicts = {weigh(test, compared) for test, compared in comparisons}
    verdict: Verdict = "not supported" if "not supported" in verdicts else "inconclusive"
    verdict = "supported" if verdicts == {"supported"} else verdict
    if all(isinstance(test, Parameters) for test in claim.tests):
        return BY_SHAPES + verdict, summary(comparisons)
    return (ON_STANDINS if any(one.standin for one in every) else "") + verdict, summary(comparisons)


def _adjusted(comparisons: Comparisons) -> Comparisons:
    """Comparisons whose test does not keep the level are open; NaN is no test."""
    adjusted = iter(holm([one.p_value for _, compared in comparisons for one in compared]))
    kept = []
    for test, compared in comparisons:
        judged = []
        for one in compared:
            by_holm = next(adjusted)
            needs_all = not (isinstance(test, Higher | Within) and test.at_least)
            p_value = one.p_value if one.side == "for" and needs_all else by_holm
            says = one.says if math.isnan(by_holm) else f"{one.says}, p = {one.p_value:.2g}, by Holm {by_holm:.2g}"
            judged.append(one._replace(side="open" if p_value >= 1 - LEVEL else one.side, says=says))
        kept.append((test, judged))
    return kept


def _by_run(test: Test, ledger: Ledger, measured: Measurements) -> list[Compared]:
    if isinstance(test, Higher | Within):
        return [_measured_pair(test, pair, measured) for pair in pairs(test, ledger)]
    if isinstance(test, Parameters):
        return [by_shapes(test, ledger)]
    if isinstance(test, Classified):
        return [_classified(test, row, task, measured.decisions) for row in test.rows for task in test.tasks]
    if isinstance(test, LowestWeight):
        return [_lowest_weight(test, row, measured.alphas) for row in test.rows]
    if isinstance(test, Captured):
        return _captured(test, measured.spectra) or [Compared("singular values", "", "not run", "")]
    return _first_passes(test, measured.timings) or [Compared("seconds", "", "not run", "")]


def _measured_pair(test: Higher | Within, pair: Pair, measured: Measurements) -> Compared:
    """On the items that both cells have."""
    method, other = (measured.items(entry, test.state) for entry in (pair.entry, pair.other))
    if method is None or other is None:
        return Compared(pair.entry.id, pair.against, "not run", "")
    standin = measured.standin(pair.entry)
    if paired(method, other):
        common = method.columns.intersection(other.columns)
        method, other = method[common], other[common]
        if min(len(method), len(other)) > 1:
            seeds = method.index.intersection(other.index)
            method, other = method.loc[seeds], other.loc[seeds]
    if method.empty:  # scores from elsewhere may name their items as they like
        return Compared(pair.entry.id, pair.against, "not run", "")
    known = measured.budgets
    unequal = are_unequal(known, (pair.entry.method, pair.other.method))
    spent = f"; unequal budgets: {known[pair.entry.method]}, {known[pair.other.method]}" if unequal else ""
    side, says, p_value = _side(test, method, other)  # type: ignore[arg-type] # .loc of several rows is a frame
    states = {measured.state(entry, test.state) for entry in pair} - {""}
    of_state = "".join(f", {state} state" for state in sorted(states))
    says = f"{says}, n = {method.shape[1]}{of_state}{spent}"
    seeds = max(len(method), len(other))
    return Compared(pair.entry.id, pair.against, "open" if unequal else side, says, p_value, standin, seeds)


def _side(test: Higher | Within, method: pd.DataFrame, other: pd.DataFrame) -> tuple[Side, str, float]:
    """Which side two measurements are on, their numbers, and p of the test, if it is one of no difference; else the
    interval decides."""
    if isinstance(test, Within):
        gain, _ = gain_test(method, other)
        bound, (value, low, high) = float(test.points), gain.interval
        inside = high <= bound and (test.only_above or -bound <= low)
        outside = low > bound or (high < -bound and not test.only_above)
        says = f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"
        return "for" if inside else "against" if outside else "open", says, math.nan
    factor = float(test.factor)
    gain, p_value = gain_test(method, other, factor)
    value, low, high = gain.interval
    if factor == 1:
        return "for" if value > 0 else "against", f"{value:+.1f} points", p_value
    share, of_other = (float(of.to_numpy().mean()) for of in (method, other))
    if of_other == 0:
        return "open", "the other solves nothing", math.nan
    ratio = share / of_other
    says = f"{ratio:.3f} times the other; {value:+.1f} points ({low:+.1f} to {high:+.1f}) above {factor:g} times it"
    return "for" if low > 0 else "against" if high < 0 else "open", says, math.nan


def _classified(test: Classified, row: str, task: str, decisions: pd.DataFrame | None) -> Compared:
    """The prompts of one task, by the model in the place of one of the paper's."""
    of, against = f"prompts of {task} by {test.classified} ({row})", test.than or f"{test.above}"
    if decisions is None:
        return Compared(of, against, "not run", "")
    part = decisions.loc[(decisions["stands_in_for"] == row) & (decisions["task"] == task)]
    if not {test.classified, test.than or test.classified} <= set(part["strategy"]):
        return Compared(of, against, "not run", "")
    right = part.assign(right=part["class"] == part["domain"]).pivot(index="strategy", columns="item", values="right")
    first, n, standin = right.loc[test.classified], right.shape[1], bool(part["standin"].iloc[0])
    if test.than:
        other = right.loc[test.than]
        says = f"{100 * first.mean():.1f} % right against {100 * other.mean():.1f} %, n = {n}"
        side = "for" if first.mean() > other.mean() else "against"
        return Compared(of, against, side, says, mcnemar_exact(first, other), standin)
    assert test.above is not None
    low, high = wilson(int(first.sum()), n)
    says = f"{100 * first.mean():.1f} % right ({100 * low:.1f} to {100 * high:.1f}), n = {n}"
    side = "for" if first.mean() > test.above else "against"
    p_value = float(binomtest(int(first.sum()), n, float(test.above)).pvalue)
    return Compared(of, against, side, says, p_value, standin)


def _lowest_weight(test: LowestWeight, row: str, alphas: pd.DataFrame | None) -> Compared:
    """The model in the place of one of the paper's: in all configurations of its search with ten shots, or in none,
    else open. A search is run once: chance is not tested."""
    of = f"weight of the {test.lowest_weight} expert on {test.task} ({row})"
    if alphas is None:
        return Compared(of, "", "not run", "")
    part = alphas.loc[
        (alphas["task"] == test.task) & (alphas["budget"] == MAIN_BUDGET) & (alphas["stands_in_for"] == row)
    ]
    if part.empty:
        return Compared(of, "", "not run", "")
    mean = last_iteration(part).pivot_table("best", SEARCH, "expert")  # over layers
    lowest = mean.idxmin(axis=1) == test.lowest_weight
    side = "for" if lowest.all() else "open" if lowest.any() else "against"
    says = f"lowest in {lowest.sum()} of {len(lowest)} configurations"
    return Compared(of, "", side, says, standin=bool(part["standin"].iloc[0]))


def _first_passes(test: FirstPass, timings: pd.DataFrame | None) -> list[Compared]:
    """For every model in the place of one of the paper's whose prompts were classified by prompt, as there; measured
    once each."""
    passes = []
    by_prompt = pd.DataFrame()
    if timings is not None:
        by_prompt = timings.loc[(timings["strategy"] == "prompt") & (timings["stands_in_for"] != "")]
    for model, of_model in () if by_prompt.empty else by_prompt.groupby("model", sort=False):
        seconds = of_model.set_index("task")
        share = (seconds["first_seconds"] / seconds["second_seconds"]).to_dict()
        if {test.first_pass, *test.than} <= set(share):
            standin = bool(of_model["standin"].iloc[0])
            compared = [compare_passes(test, task, share) for task in test.than]
            passes += [one._replace(of=f"{one.of} ({model})", standin=standin) for one in compared]
    return passes


def _captured(test: Captured, spectra: pd.DataFrame | None) -> list[Compared]:
    """For every model in the place of one of the paper's. Singular values are computed, not sampled: the numbers
    themselves decide."""
    if spectra is None:
        return []
    of_models = spectra.loc[
        spectra["stands_in_for"].isin(list(test.models))
        & spectra["module"].isin(list(MODULES[test.modules]))
        & (spectra["r"] == spectra["full_rank"].map(discussed))
    ]
    captured = []
    for model, of_model in of_models.groupby("model", sort=False):
        first, mean = of_model.iloc[0], float(of_model[test.captured].mean())
        by_kind = of_model.groupby("module", sort=False)[test.captured].mean()
        says = (
            f"{mean:.1%} on average over {len(of_model)} matrices; by kind from "
            f"{by_kind.min():.1%} ({by_kind.idxmin()}) to {by_kind.max():.1%} ({by_kind.idxmax()})"
        )
        of = f"top {first['r']} of {first['full_rank']} singular values ({model})"
        side = "for" if mean < test.below else "against"
        captured.append(Compared(of, f"{test.below:.0%}", side, says, standin=bool(first["standin"])))
    return captured
