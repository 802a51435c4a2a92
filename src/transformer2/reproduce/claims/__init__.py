"""Sentences of the papers against the cells: by the numbers that the papers print, and by what a run measured."""

import math
from collections import Counter
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from transformer2.config import explain, read_yaml
from transformer2.reproduce.ledger import Entry, Ledger, State, entries, parameters, rows_by_id
from transformer2.reproduce.statistics import LEVEL, Contrast, independent

Printed = Literal["holds", "does not hold", "no number printed"]
Side = Literal["for", "against", "open", "not run"]
Verdict = Literal["supported", "not supported", "inconclusive", "not run"]


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
    state: State = "best"
    """Of the trainings on both sides; a sentence about harm is judged by the last one."""


class Within(_Entry):
    within: str
    """Pattern of cell ids."""
    of: str
    points: Decimal
    only_above: bool = False
    """Whether a cell may be as far below as it likes."""
    at_least: int | None = None
    state: State = "best"


class Parameters(_Entry):
    parameters: str
    """A row of the ledger: <document>/<table>/<model>/<method>."""
    than: str | None = None
    """Another method of the same table and model."""
    below: Decimal | None = None
    """Share of the other's parameters that it must be below."""
    about: int | None = None
    """The number that it is, within a tenth."""


class Classified(_Entry):
    classified: Literal["prompt", "cls"]
    than: Literal["prompt", "cls"] | None = None
    """The strategy that it must classify better than."""
    above: Decimal | None = None
    """The share of prompts of each task that must be given the class of its domain."""
    rows: tuple[str, ...] = Field(min_length=1)
    """Slugs of the paper's models that the sentence is about."""
    tasks: tuple[str, ...] = Field(min_length=1)


class LowestWeight(_Entry):
    lowest_weight: str
    """Training task whose expert has the lowest weight,"""
    task: str
    """in the mixes for this unseen task."""
    rows: tuple[str, ...] = Field(min_length=1)
    """As in `Classified`."""


class FirstPass(_Entry):
    first_pass: str
    """Task whose first pass takes a larger share of the second than it does for"""
    than: tuple[str, ...] = Field(min_length=1)


class Captured(_Entry):
    captured: Literal["ratio", "variance_ratio"]
    """What the top singular values hold (`transformer2.reproduce.spectrum`), on average over the matrices"""
    modules: Literal["mlp", "attention", "all"]
    """of these kinds (`config.MODULES`) in all layers; at r = 256 of 4096, or the same share of a stand-in's ranks."""
    models: tuple[str, ...] = Field(min_length=1)
    """Slugs of the paper's models."""
    below: Decimal


Test = Higher | Within | Parameters | Classified | LowestWeight | FirstPass | Captured


class Claim(_Entry):
    document: Literal["arxiv", "workshop"]
    section: str
    quote: str
    """The paper's words; … leaves some out."""
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
    side: Side
    says: str
    """The numbers, in a few words."""
    p_value: float = math.nan
    """Of the test behind `side`, not adjusted; NaN if there is none."""
    standin: bool = False
    seeds: int = 0
    """That it rests on; 0 where no training or search is behind it."""


Comparisons = list[tuple[Test, list[Compared]]]
"""The comparisons of every test of a claim."""


def read_claims(path: Path) -> dict[str, Claim]:
    """`paper_tables/claims.yaml`, by id.

    Raises:
        ValueError: a key is unknown or missing or a value does not fit; one line with file, claim and reason.
    """
    claims = {}
    for id, entry in read_yaml(path).items():
        try:
            claims[id] = Claim(**entry)
        except ValidationError as error:
            raise ValueError(f"{path}: {id}: {explain(error, Claim)}") from None
    return claims


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

    Of the cells that the pattern matches, those of which the paper prints both numbers; all, if it prints none.

    Raises:
        ValueError: no cell of the ledger is meant.
    """
    known = {entry.id: entry for table in ledger.scores for entry in entries(table)}
    pattern, others = (test.higher, test.than) if isinstance(test, Higher) else (test.within, (test.of,))
    matching = [
        Pair(entry, _known(other if "/" in other else f"{_table_and_model(id)}/{other}/{entry.column.name}", known))
        for id, entry in known.items()
        if fnmatchcase(id, pattern)
        for other in others
    ]
    if not matching:
        raise ValueError(f"no cell of the ledger is {pattern}")
    return [pair for pair in matching if all(as_printed(entry, known) for entry in pair)] or matching


def _known(id: str, known: dict[str, Entry]) -> Entry:
    if id not in known:
        raise ValueError(f"no cell of the ledger is {id}")
    return known[id]


def _table_and_model(id: str) -> str:
    return id.rsplit("/", 2)[0]


def as_printed(entry: Entry, known: dict[str, Entry]) -> Entry | None:
    """The cell with the number that the paper prints: itself, or for an honest choice (few_shot_10, lora_on_shots)
    the one that is selected on the test set (few_shot_10_on_test, lora_on_test); None if there is no number."""
    on_test = f"{entry.method.removesuffix('_on_shots')}_on_test"
    twin = known.get(f"{_table_and_model(entry.id)}/{on_test}/{entry.column.name}", entry)
    return next((one for one in (entry, twin) if one.reported.value is not None), None)


# ---- what comparisons say together


def weigh(test: Test, compared: list[Compared]) -> Verdict:
    """By the cells: one is for the claim if all of its comparisons are, and against it if any is."""
    sides: dict[str, set[str]] = {}
    for one in compared:
        sides.setdefault(one.of, set()).add(one.side)
    needed = isinstance(test, Higher | Within) and test.at_least or len(sides)
    if sum(side == {"for"} for side in sides.values()) >= needed:
        return "supported"
    against = sum("against" in side for side in sides.values())
    return "not supported" if len(sides) - against < needed else "inconclusive"


def summary(comparisons: Comparisons) -> str:
    """A line on how many comparisons speak for and against, and one on each, those against first."""
    every = [one for _, compared in comparisons for one in compared]
    if not every:
        return ""
    order = ("against", "open", "for", "not run")
    sides = Counter(one.side for one in every)
    counts = f"{sides['for']} of {len(every)} comparisons support it"
    counts += "".join(f"; {side}: {sides[side]}" for side in order if side != "for" and sides[side])
    if seeds := {one.seeds for one in every if one.seeds}:
        counts += "; one seed" if seeds == {1} else f"; {' or '.join(map(str, sorted(seeds)))} seeds"
    ran = sorted((one for one in every if one.side != "not run"), key=lambda one: order.index(one.side))
    lines = [f"{one.side}: {one.of}{f' against {one.against}' * bool(one.against)}: {one.says}" for one in ran]
    return "\n".join([counts, *lines])


# ---- by what the papers print


def only_by_chance(comparisons: Comparisons) -> bool:
    """Whether everything in the papers' numbers that speaks against a claim lies within sampling error."""
    against = [one for _, compared in comparisons for one in compared if one.side == "against"]
    return bool(against) and all(one.p_value >= 1 - LEVEL for one in against)  # NaN is no test


def on_paper(claim: Claim, ledger: Ledger) -> tuple[Printed, Comparisons]:
    """Whether the papers' own numbers, taken as they are, agree with a claim, and the comparisons that say so."""
    comparisons = [(test, _on_paper(test, ledger)) for test in claim.tests]
    if any(not compared for _, compared in comparisons):
        return "no number printed", []
    holds = all(weigh(test, compared) == "supported" for test, compared in comparisons)
    return "holds" if holds else "does not hold", comparisons


def _on_paper(test: Test, ledger: Ledger) -> list[Compared]:
    """Empty if the papers print no number."""
    if isinstance(test, Higher | Within):
        known = {entry.id: entry for table in ledger.scores for entry in entries(table)}
        compared = []
        for pair in pairs(test, ledger):
            entry, other = as_printed(pair.entry, known), as_printed(pair.other, known)
            if entry is None or other is None:
                return []
            value, than = entry.reported.value or Decimal(0), other.reported.value or Decimal(0)
            side, p_value = "for" if _holds(test, value, than) else "against", printed_contrast(entry, other).p_value
            clear = "" if p_value < 1 - LEVEL else ", within sampling error"
            compared.append(Compared(pair.entry.id, pair.against, side, f"{value} against {than}{clear}", p_value))
        return compared
    if isinstance(test, Parameters):
        rows = rows_by_id(ledger)
        row, other = rows[test.parameters], rows[_beside(test)] if test.than else None
        if row.parameters is None or (other is not None and other.parameters is None):
            return [by_shapes(test, ledger)]
        assert other is not None and test.below is not None and other.parameters is not None
        share = row.parameters / other.parameters
        says = f"{row.parameters}M of {other.parameters}M, {share:.1%}"
        return [Compared(test.parameters, test.than or "", "for" if share < test.below else "against", says)]
    if isinstance(test, FirstPass):
        share = {row.task: float(row.first / row.second) for table in ledger.times for row in table.rows}
        return [compare_passes(test, task, share) for task in test.than]
    return []


def printed_contrast(entry: Entry, other: Entry) -> Contrast:
    """The difference of two printed scores, each k of its own number of items, as two independent samples."""

    def sample(one: Entry) -> tuple[float, int]:
        n = one.column.n - one.row.shots
        return float(one.reported.value or 0) / 100 * n, n

    return independent(*sample(entry), *sample(other), "difference")


def _holds(test: Higher | Within, value: Decimal, than: Decimal) -> bool:
    """By two printed scores, in percent."""
    if isinstance(test, Within):
        return (value - than if test.only_above else abs(value - than)) <= test.points
    return value > test.factor * than


def _beside(test: Parameters) -> str:
    return f"{test.parameters.rsplit('/', 1)[0]}/{test.than}"


def by_shapes(test: Parameters, ledger: Ledger) -> Compared:
    """By the shapes of the paper's model."""
    rows = rows_by_id(ledger)

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


def compare_passes(test: FirstPass, task: str, share: dict[str, float]) -> Compared:
    larger = share[test.first_pass] > share[task]
    says = f"{share[test.first_pass]:.0%} against {share[task]:.0%}"
    return Compared(f"first pass on {test.first_pass}", task, "for" if larger else "against", says)
