"""Sentences of the documents against the cells: by the numbers that the documents print, and by what a run measured."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.stats import binomtest

from transformer2.config import MODULES
from transformer2.paper.cells import contrast, item_verdicts, paired, samples_of
from transformer2.paper.layout import markdown
from transformer2.paper.ledger import Entry, Ledger, entries, first_fault, parameters, read_all
from transformer2.paper.measured import SEARCH, read_alphas, read_decisions, read_scores, read_spectra, read_timings
from transformer2.provenance import atomic_write
from transformer2.spectrum import discussed
from transformer2.statistics import LEVEL, Contrast, holm, independent, mcnemar_exact, wilson

Printed = Literal["holds", "does not hold", "no number printed"]
Verdict = Literal["supported", "not supported", "inconclusive", "not run"]
BY_SHAPES = "by the models' shapes: "
"""What stands before a verdict that no run is needed for."""
ON_STANDINS = "on stand-ins: "
"""What stands before the verdict of a run that used a model or data that are not the documents'."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Higher(_Entry):
    higher: str
    """Pattern of cell ids."""
    than: tuple[str, ...] = Field(min_length=1)
    """Methods in the same table, model and column, or ids of cells; a cell must be above all of them."""
    factor: Decimal = Decimal(1)
    at_least: int | None = None
    """In how many of the cells; all, if not said."""


class Within(_Entry):
    within: str
    """Pattern of cell ids."""
    of: str
    points: Decimal
    only_above: bool = False
    """Whether a cell may be as far below as it likes."""
    at_least: int | None = None


class Parameters(_Entry):
    parameters: str
    """A row of the ledger: <document>/<table>/<model>/<method>."""
    than: str | None = None
    """Another method of the same table and model."""
    below: Decimal | None = None
    """Share of the other's parameters that it must be below."""
    about: int | None = None
    """The number that it is, within a tenth."""
    at_least: None = None


class Classified(_Entry):
    classified: Literal["prompt", "cls"]
    than: Literal["prompt", "cls"] | None = None
    """The strategy that it must classify better than."""
    above: Decimal | None = None
    """The share of prompts of each task that must be given the class of its domain."""
    rows: tuple[str, ...] = Field(min_length=1)
    """Slugs of the document's models that the sentence is about."""
    tasks: tuple[str, ...] = Field(min_length=1)
    at_least: None = None


class LowestWeight(_Entry):
    lowest_weight: str
    """Training task whose expert has the lowest weight,"""
    task: str
    """in the mixes for this unseen task."""
    rows: tuple[str, ...] = Field(min_length=1)
    """As in `Classified`."""
    at_least: None = None


class FirstPass(_Entry):
    first_pass: str
    """Task whose first pass takes a larger share of the second than it does for"""
    than: tuple[str, ...] = Field(min_length=1)
    at_least: None = None


class Captured(_Entry):
    captured: Literal["ratio", "variance_ratio"]
    """What the top singular values hold (`transformer2.spectrum`), on average over the matrices"""
    modules: Literal["mlp", "attention", "all"]
    """of these kinds (`config.MODULES`) in all layers; at r = 256 of 4096, or the same share of a stand-in's ranks."""
    models: tuple[str, ...] = Field(min_length=1)
    """Slugs of the document's models."""
    below: Decimal
    at_least: None = None


Test = Higher | Within | Parameters | Classified | LowestWeight | FirstPass | Captured


class Claim(_Entry):
    document: Literal["arxiv", "workshop"]
    section: str
    quote: str
    """The document's words; … leaves some out."""
    scan: str | None = None
    """What the text file shows instead, where the scan slipped."""
    reading: str
    """What the cells must show for the sentence to hold."""
    tests: tuple[Test, ...] = Field(min_length=1)
    """All must hold."""


class Compared(NamedTuple):
    """One comparison that a test asks for."""

    of: str
    """Id of the cell, or what else is compared; the comparisons of one cell count as one, which needs all of them."""
    against: str
    side: Literal["for", "against", "open", "not run"]
    says: str
    """The numbers, in a few words."""
    p_value: float = math.nan
    """Of the test behind `side`, not adjusted; NaN if there is none."""
    standin: bool = False


Found = list[tuple[Test, list[Compared]]]
"""The comparisons of every test of a claim."""


def read_claims(path: Path) -> dict[str, Claim]:
    """`paper_tables/claims.yaml`, by id.

    Raises:
        ValueError: a key is unknown or missing or a value does not fit; one line with file, claim and reason.
    """
    claims = {}
    for id, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        try:
            claims[id] = Claim(**entry)
        except ValidationError as error:
            raise ValueError(f"{path}: {id}: {first_fault(error)}") from None
    return claims


def judge(ledger_folder: Path, frames: Sequence[Path], out: Path) -> int:
    """Writes the verdict on every claim by the frames of a run (see `Measurements.read`) to `<out>.csv` and `<out>.md`;
    returns their number."""
    ledger, claims = read_all(ledger_folder), read_claims(ledger_folder / "claims.yaml")
    measured = Measurements.read(frames)
    rows = []
    for id, claim in claims.items():
        printed, printed_evidence = on_paper(claim, ledger)
        verdict, evidence = by_run(claim, ledger, measured)
        rows.append({
            "id": id, "document": claim.document, "section": claim.section, "quote": claim.quote,
            "reading": claim.reading, "cells": " ".join(cells_of(claim, ledger)), "printed": printed,
            "printed_evidence": printed_evidence, "verdict": verdict, "evidence": evidence,
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    atomic_write(out.with_suffix(".csv"), frame.to_csv(index=False))
    title = f"# The documents' sentences, run “{measured.scores['run'].iloc[0]}”"
    shown = frame.loc[:, ["quote", "reading", "printed", "printed_evidence", "verdict", "evidence"]]
    atomic_write(out.with_suffix(".md"), f"{title}\n\n{markdown(shown)}\n")
    return len(frame)


# ---- which cells a test compares


class Pair(NamedTuple):
    entry: Entry
    other: Entry

    @property
    def against(self) -> str:
        """The other's method, or its whole id if more than the method differs."""
        same = _table_and_model(self.entry.id) == _table_and_model(self.other.id)
        return self.other.method if same else self.other.id


def cells_of(claim: Claim, ledger: Ledger) -> list[str]:
    """Ids of all cells, or rows, that a claim is tied to."""
    ids: list[str] = []
    for test in claim.tests:
        if isinstance(test, Higher | Within):
            ids += [entry.id for pair in pairs(test, ledger) for entry in pair]
        elif isinstance(test, Parameters):
            ids += [test.parameters, *([_beside(test)] if test.than else [])]
    return list(dict.fromkeys(ids))


def pairs(test: Higher | Within, ledger: Ledger) -> list[Pair]:
    """Every cell that a test is about with each one that it is compared with.

    Of the cells that the pattern matches, those of which the document prints both numbers; all, if it prints none.

    Raises:
        ValueError: no cell of the ledger is meant.
    """
    known = {entry.id: entry for table in ledger.scores for entry in entries(table)}
    pattern, others = (test.higher, test.than) if isinstance(test, Higher) else (test.within, (test.of,))
    found = [
        Pair(entry, _known(other if "/" in other else f"{_table_and_model(id)}/{other}/{entry.column.name}", known))
        for id, entry in known.items()
        if fnmatchcase(id, pattern)
        for other in others
    ]
    if not found:
        raise ValueError(f"no cell of the ledger is {pattern}")
    return [pair for pair in found if all(as_printed(entry, known) for entry in pair)] or found


def _known(id: str, known: dict[str, Entry]) -> Entry:
    if id not in known:
        raise ValueError(f"no cell of the ledger is {id}")
    return known[id]


def _table_and_model(id: str) -> str:
    return id.rsplit("/", 2)[0]


def as_printed(entry: Entry, known: dict[str, Entry]) -> Entry | None:
    """The cell with the number that the document prints: itself, or for an honest choice (few_shot_10, lora_on_shots)
    the one that is selected on the test set (few_shot_10_on_test, lora_on_test); None if there is no number."""
    on_test = f"{entry.method.removesuffix('_on_shots')}_on_test"
    twin = known.get(f"{_table_and_model(entry.id)}/{on_test}/{entry.column.name}", entry)
    return next((one for one in (entry, twin) if one.reported.value is not None), None)


# ---- by what the documents print


CHANCE = "within sampling error"


def only_by_chance(evidence: str) -> bool:
    """Whether everything that speaks against a claim, by `on_paper`, lies within sampling error."""
    against = [line for line in evidence.split("\n") if line.startswith("against: ")]
    return bool(against) and all(line.endswith(CHANCE) for line in against)


def on_paper(claim: Claim, ledger: Ledger) -> tuple[Printed, str]:
    """Whether the documents' own numbers, taken as they are, agree with a claim, and what they say."""
    found = [(test, _on_paper(test, ledger)) for test in claim.tests]
    if any(not compared for _, compared in found):
        return "no number printed", ""
    holds = all(_verdict(test, compared) == "supported" for test, compared in found)
    return "holds" if holds else "does not hold", _summary(found)


def _on_paper(test: Test, ledger: Ledger) -> list[Compared]:
    """Empty if the documents print no number."""
    if isinstance(test, Higher | Within):
        known = {entry.id: entry for table in ledger.scores for entry in entries(table)}
        found = []
        for pair in pairs(test, ledger):
            entry, other = as_printed(pair.entry, known), as_printed(pair.other, known)
            if entry is None or other is None:
                return []
            value, than = float(entry.reported.value or 0), float(other.reported.value or 0)
            holds = _holds(test, value / than, (value - than) / 100)
            p_value = printed_contrast(entry, other).p_value
            clear = "" if p_value < 1 - LEVEL else f", {CHANCE}"
            found.append(
                Compared(
                    pair.entry.id, pair.against, "for" if holds else "against", f"{value:.2f} against {than:.2f}{clear}"
                )
            )
        return found
    if isinstance(test, Parameters):
        rows = {f"{table.document}/{table.name}/{r.model}/{r.method}": r for table in ledger.scores for r in table.rows}
        row, other = rows[test.parameters], rows[_beside(test)] if test.than else None
        if row.parameters is None or (other is not None and other.parameters is None):
            return [_parameters(test, ledger)]
        assert other is not None and test.below is not None and other.parameters is not None
        share = row.parameters / other.parameters
        says = f"{row.parameters}M of {other.parameters}M, {share:.1%}"
        return [Compared(test.parameters, test.than or "", "for" if share < test.below else "against", says)]
    if isinstance(test, FirstPass):
        share = {row.task: float(row.first / row.second) for table in ledger.times for row in table.rows}
        return [_first_pass(test, task, share) for task in test.than]
    return []


def printed_contrast(entry: Entry, other: Entry) -> Contrast:
    """The difference of two printed scores, each k of its own number of items, as two independent samples."""

    def sample(one: Entry) -> tuple[float, int]:
        n = one.column.n - one.row.shots
        return float(one.reported.value or 0) / 100 * n, n

    return independent(*sample(entry), *sample(other), "difference")


def _holds(test: Higher | Within, ratio: float, difference: float) -> bool:
    if isinstance(test, Within):
        return (difference if test.only_above else abs(difference)) <= float(test.points) / 100
    return ratio > float(test.factor)


def _beside(test: Parameters) -> str:
    return f"{test.parameters.rsplit('/', 1)[0]}/{test.than}"


def _parameters(test: Parameters, ledger: Ledger) -> Compared:
    """By the shapes of the document's model."""
    rows = {f"{table.document}/{table.name}/{r.model}/{r.method}": r for table in ledger.scores for r in table.rows}

    def count(id: str) -> int:
        trained = rows[id].trains
        assert trained, f"{id} does not say what it trains"
        return parameters(trained, ledger.shapes[rows[id].model])

    ours = count(test.parameters)
    if test.about is not None:
        near = abs(ours - test.about) <= test.about / 10
        return Compared(test.parameters, test.than or "", "for" if near else "against", f"the shapes give {ours:,}")
    assert test.below is not None
    other = count(_beside(test))
    says = f"the shapes give {ours:,} of {other:,}, {ours / other:.1%}"
    return Compared(test.parameters, test.than or "", "for" if ours < test.below * other else "against", says)


def _first_pass(test: FirstPass, task: str, share: dict[str, float]) -> Compared:
    larger = share[test.first_pass] > share[task]
    says = f"{share[test.first_pass]:.0%} against {share[task]:.0%}"
    return Compared(f"first pass on {test.first_pass}", task, "for" if larger else "against", says)


# ---- by what a run measured


@dataclass(frozen=True)
class Measurements:
    """What a run measured; decisions, mixing weights and seconds only if it adapted, singular values if it had models
    of its own."""

    scores: pd.DataFrame
    decisions: pd.DataFrame | None = None
    alphas: pd.DataFrame | None = None
    timings: pd.DataFrame | None = None
    spectra: pd.DataFrame | None = None
    _items: dict[str, pd.DataFrame | None] = field(default_factory=dict)

    @classmethod
    def read(cls, frames: Sequence[Path]) -> "Measurements":
        """From files that are named as a run names them; scores.csv.gz must be among them, of the others those that
        belong to this run (an earlier configuration may have left more in its folder).

        Raises:
            ValueError: a file has another name, or there are no scores.
        """
        readers: dict[str, Callable[[Path], pd.DataFrame]] = {
            "scores": read_scores,
            "decisions": read_decisions,
            "alphas": read_alphas,
            "timings": read_timings,
            "spectra": read_spectra,
        }
        found = {}
        for path in frames:
            if (name := path.name.split(".")[0]) not in readers:
                raise ValueError(f"{path} is no frame of a run: they are named {', '.join(readers)}")
            found[name] = readers[name](path)
        if "scores" not in found:
            raise ValueError("claims are judged by scores: give scores.csv.gz of a run")
        return cls(**found)

    def items(self, entry: Entry) -> pd.DataFrame | None:
        """Which items of a cell are right, strictly (`cells.item_verdicts`); None if it was not run."""
        if entry.id not in self._items:
            samples = samples_of(entry, self.scores)
            self._items[entry.id] = None if samples.empty else item_verdicts(samples, "strict")
        return self._items[entry.id]

    def standin(self, entry: Entry) -> bool:
        return bool(self.scores.loc[self.scores["stands_in_for"] == entry.row.model, "standin"].any())


def by_run(claim: Claim, ledger: Ledger, measured: Measurements) -> tuple[str, str]:
    """The verdict on a claim, and the numbers that it rests on.

    A comparison of scores speaks against the claim if its test (exact McNemar, or of independent samples where only
    counts are known) has p < 0.05 by Holm over all of the claim's. It speaks for it likewise, but where a test needs
    all of its comparisons each of them is held to 0.05 alone (an intersection-union test). Else it is open. supported:
    so many speak for it as the claim needs. not supported: so many speak against it that it cannot be right.
    inconclusive: neither.
    """
    found = _adjusted([(test, _by_run(test, ledger, measured)) for test in claim.tests])
    every = [one for _, compared in found for one in compared]
    if all(one.side == "not run" for one in every):
        return "not run", ""
    verdicts = {_verdict(test, compared) for test, compared in found}
    verdict: Verdict = "not supported" if "not supported" in verdicts else "inconclusive"
    verdict = "supported" if verdicts == {"supported"} else verdict
    if all(isinstance(test, Parameters) for test in claim.tests):
        return BY_SHAPES + verdict, _summary(found)
    return (ON_STANDINS if any(one.standin for one in every) else "") + verdict, _summary(found)


def _adjusted(found: Found) -> Found:
    """Comparisons whose test does not keep the level are open; NaN is no test."""
    adjusted = iter(holm([one.p_value for _, compared in found for one in compared]))
    kept = []
    for test, compared in found:
        judged = []
        for one in compared:
            by_holm = next(adjusted)
            needs_all = test.at_least is None
            p_value = one.p_value if one.side == "for" and needs_all else by_holm
            says = one.says if math.isnan(by_holm) else f"{one.says}, p = {one.p_value:.2g}, by Holm {by_holm:.2g}"
            judged.append(one._replace(side="open" if p_value >= 1 - LEVEL else one.side, says=says))
        kept.append((test, judged))
    return kept


def _verdict(test: Test, compared: list[Compared]) -> Verdict:
    """By the cells: one is for the claim if all of its comparisons are, and against it if any is."""
    sides: dict[str, set[str]] = {}
    for one in compared:
        sides.setdefault(one.of, set()).add(one.side)
    needed = test.at_least or len(sides)
    if sum(side == {"for"} for side in sides.values()) >= needed:
        return "supported"
    against = sum("against" in side for side in sides.values())
    return "not supported" if len(sides) - against < needed else "inconclusive"


def _summary(found: Found) -> str:
    """A line on how many comparisons speak for and against, and one on each, those against first."""
    every = [one for _, compared in found for one in compared]
    order = ("against", "open", "for", "not run")
    counts = ", ".join(f"{n} {side}" for side in order if (n := sum(one.side == side for one in every)))
    ran = sorted((one for one in every if one.side != "not run"), key=lambda one: order.index(one.side))
    lines = [f"{one.side}: {one.of}{f' against {one.against}' * bool(one.against)}: {one.says}" for one in ran]
    return "\n".join([f"{counts} of {len(every)}", *lines])


def _by_run(test: Test, ledger: Ledger, measured: Measurements) -> list[Compared]:
    if isinstance(test, Higher | Within):
        return [_measured_pair(test, pair, measured) for pair in pairs(test, ledger)]
    if isinstance(test, Parameters):
        return [_parameters(test, ledger)]
    if isinstance(test, Classified):
        return [_classified(test, row, task, measured.decisions) for row in test.rows for task in test.tasks]
    if isinstance(test, LowestWeight):
        return [_lowest_weight(test, row, measured.alphas) for row in test.rows]
    if isinstance(test, Captured):
        return _captured(test, measured.spectra) or [Compared("singular values", "", "not run", "")]
    return _first_passes(test, measured.timings) or [Compared("seconds", "", "not run", "")]


def _measured_pair(test: Higher | Within, pair: Pair, measured: Measurements) -> Compared:
    """On the items that both cells have."""
    method, other = measured.items(pair.entry), measured.items(pair.other)
    if method is None or other is None:
        return Compared(pair.entry.id, pair.against, "not run", "")
    standin = measured.standin(pair.entry)
    if paired(method, other):
        method = method.loc[:, method.columns.intersection(other.columns)]
    if method.empty:  # scores from elsewhere may name their items as they like
        return Compared(pair.entry.id, pair.against, "not run", "")
    if isinstance(test, Higher) and test.factor == 1:
        found = contrast(method, other, "difference")
        side = "for" if found.estimate.value > 0 else "against"
        says = f"{100 * found.estimate.value:+.1f} points, n = {method.shape[1]}"
        return Compared(pair.entry.id, pair.against, side, says, found.p_value, standin)
    statistic = "ratio" if isinstance(test, Higher) else "difference"
    value, low, high = contrast(method, other, statistic).estimate
    if isinstance(test, Higher):
        factor = float(test.factor)  # a ratio to a base that solves nothing is NaN, which no Decimal takes
        inside, outside = low > factor, high < factor
    else:
        bound = float(test.points) / 100
        below = -math.inf if test.only_above else -bound
        inside, outside = below <= low and high <= bound, high < below or low > bound
    side = "for" if inside else "against" if outside else "open"
    says = f"{statistic} {value:.3f} ({low:.3f} to {high:.3f}), n = {method.shape[1]}"
    return Compared(pair.entry.id, pair.against, side, says, standin=standin)


def _classified(test: Classified, row: str, task: str, decisions: pd.DataFrame | None) -> Compared:
    """The prompts of one task, by the model in the place of one of the document's."""
    of, against = f"prompts of {task} by {test.classified} ({row})", test.than or f"{test.above}"
    ways = [test.classified] + ([test.than] if test.than else [])
    part = (
        pd.DataFrame(columns=["strategy"])
        if decisions is None
        else decisions.loc[(decisions["stands_in_for"] == row) & (decisions["task"] == task)]
    )
    if not set(ways) <= set(part["strategy"]):
        return Compared(of, against, "not run", "")
    right = (part["class"] == part["domain"]).groupby([part["strategy"], part["item"]]).first().unstack("item")
    first, n, standin = right.loc[test.classified], right.shape[1], bool(part["standin"].iloc[0])
    if test.than:
        other = right.loc[test.than]
        says = f"{100 * first.mean():.1f} % right against {100 * other.mean():.1f} %, n = {n}"
        side = "for" if first.mean() > other.mean() else "against"
        return Compared(of, against, side, says, mcnemar_exact(first, other), standin)
    assert test.above is not None
    low, high = wilson(int(first.sum()), n)
    says = f"{100 * first.mean():.1f} % right ({100 * low:.1f} to {100 * high:.1f}), n = {n}"
    side, p_value = (
        ("for" if first.mean() > test.above else "against"),
        binomtest(int(first.sum()), n, float(test.above)),
    )
    return Compared(of, against, side, says, float(p_value.pvalue), standin)


def _lowest_weight(test: LowestWeight, row: str, alphas: pd.DataFrame | None) -> Compared:
    """The model in the place of one of the document's: in all configurations of its search with ten shots, or in none,
    else open. A search is run once: chance is not tested."""
    of = f"weight of the {test.lowest_weight} expert on {test.task} ({row})"
    if alphas is None:
        return Compared(of, "", "not run", "")
    part = alphas.loc[(alphas["task"] == test.task) & (alphas["budget"] == "10") & (alphas["stands_in_for"] == row)]
    if part.empty:
        return Compared(of, "", "not run", "")
    last = part.loc[part["iteration"] == part.groupby(SEARCH)["iteration"].transform("max")]
    mean = last.groupby([*SEARCH, "expert"])["best"].mean().unstack("expert")
    lowest = mean.idxmin(axis=1) == test.lowest_weight
    side = "for" if lowest.all() else "open" if lowest.any() else "against"
    says = f"lowest in {lowest.sum()} of {len(lowest)} configurations"
    return Compared(of, "", side, says, standin=bool(part["standin"].iloc[0]))


def _first_passes(test: FirstPass, timings: pd.DataFrame | None) -> list[Compared]:
    """For every model whose prompts were classified by prompt, as in the document; measured once each."""
    found = []
    by_prompt = pd.DataFrame() if timings is None else timings.loc[timings["strategy"] == "prompt"]
    for model, of_model in () if by_prompt.empty else by_prompt.groupby("model", sort=False):
        seconds = of_model.set_index("task")
        share = (seconds["first_seconds"] / seconds["second_seconds"]).to_dict()
        if {test.first_pass, *test.than} <= set(share):
            standin = bool(of_model["standin"].iloc[0])
            compared = [_first_pass(test, task, share) for task in test.than]
            found += [one._replace(of=f"{one.of} ({model})", standin=standin) for one in compared]
    return found


def _captured(test: Captured, spectra: pd.DataFrame | None) -> list[Compared]:
    """For every model in the place of one of the document's. Singular values are computed, not sampled: the numbers
    themselves decide."""
    if spectra is None:
        return []
    of_models = spectra.loc[
        spectra["stands_in_for"].isin(list(test.models))
        & spectra["module"].isin(list(MODULES[test.modules]))
        & (spectra["r"] == spectra["full_rank"].map(discussed))
    ]
    found = []
    for model, of_model in of_models.groupby("model", sort=False):
        first, mean = of_model.iloc[0], float(of_model[test.captured].mean())
        by_kind = of_model.groupby("module", sort=False)[test.captured].mean()
        says = (
            f"{mean:.1%} on average over {len(of_model)} matrices; by kind from "
            f"{by_kind.min():.1%} ({by_kind.idxmin()}) to {by_kind.max():.1%} ({by_kind.idxmax()})"
        )
        of = f"top {first['r']} of {first['full_rank']} singular values ({model})"
        side = "for" if mean < test.below else "against"
        found.append(Compared(of, f"{test.below:.0%}", side, says, standin=bool(first["standin"])))
    return found
