"""The papers against themselves: rules that need no run, over everything that the ledger holds.

No finding is listed by hand. A rule says what must hold (a normalised score is the score over its base), and every
place where the printed digits cannot come from any numbers that obey it is a finding.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from transformer2.config import MODULES
from transformer2.reproduce.claims import Claim, on_paper, only_by_chance, read_claims, summary
from transformer2.reproduce.ledger import Entry, Ledger, LedgerTable, Trained, entries, parameters, read_all
from transformer2.reproduce.power import power_table
from transformer2.reproduce.printed import printed_gains
from transformer2.reproduce.statistics import LEVEL

Severity = Literal["error", "doubt", "rounding", "note"]
SEVERITIES: dict[Severity, str] = {
    "error": "cannot be as printed",
    "doubt": "does not follow from what the paper states, or two places do not agree",
    "rounding": "right but for its last digit, which was not rounded as usual",
    "note": "nothing wrong; worth knowing",
}
HALF = Decimal("0.005")
"""Half of the last printed digit of scores and normalised scores."""


@dataclass(frozen=True)
class Finding:
    rule: str
    severity: Severity
    places: tuple[str, ...]
    """Ids of cells, tables (<document>/<table>) or claims."""
    finding: str
    evidence: str

    @property
    def document(self) -> str:
        return ", ".join(dict.fromkeys(place.partition("/")[0] for place in self.places))


def audit(ledger_folder: Path) -> pd.DataFrame:
    """All findings, the gravest first: one row a finding."""
    return pd.DataFrame(
        [
            (
                finding.rule,
                finding.severity,
                finding.document,
                " ".join(finding.places),
                finding.finding,
                finding.evidence,
            )
            for finding in findings(read_all(ledger_folder), read_claims(ledger_folder / "claims.yaml"))
        ],
        columns=["rule", "severity", "document", "place", "finding", "evidence"],
    )


def findings(ledger: Ledger, claims: dict[str, Claim]) -> list[Finding]:
    """Everything that the rules find, the gravest first."""
    of_tables = [finding for table in ledger.scores for finding in counts(table, ledger)]
    every = [
        *of_cells(ledger),
        *of_tables,
        *sampling_error(ledger),
        *percentages(ledger),
        *settings(ledger),
        *prose(ledger, claims),
    ]
    order, merged = list(SEVERITIES), {}
    for finding in every:  # the same number in several tables is one finding
        same = finding.rule, finding.severity, finding.finding, finding.evidence
        merged[same] = replace(finding, places=merged[same].places + finding.places) if same in merged else finding
    return sorted(merged.values(), key=lambda finding: order.index(finding.severity))


def of_cells(ledger: Ledger) -> list[Finding]:
    """What the rules find about single scores."""
    of_tables = [(*normalised(table), *grid(table, ledger), *repeated_columns(table)) for table in ledger.scores]
    return [*chain.from_iterable(of_tables), *twins(ledger)]


def normalised(table: LedgerTable) -> Iterator[Finding]:
    """A normalised score is the score over that of its base, in two digits."""
    base = {(e.row.model, e.column.name): e.reported.value for e in entries(table) if e.row.method == "base"}
    for entry in entries(table):
        value, printed = entry.reported.value, entry.reported.normalised
        of_base = base.get((entry.row.model, entry.column.name))
        if value is None or printed is None or of_base is None:
            continue
        low, high = (value - HALF) / (of_base + HALF), (value + HALF) / (of_base - HALF)
        if low <= printed + HALF and printed - HALF <= high:
            continue
        cut = low < printed + 2 * HALF and printed <= high
        yield Finding(
            "normalised score",
            "rounding" if cut else "error",
            (entry.id,),
            f"{value} ({printed}): the normalised score is {value / of_base:.2f}",
            f"{value} / {of_base} = {value / of_base:.4f}",
        )


def decode(value: Decimal, n: int) -> list[int]:
    """Every k for which 100 k / n, rounded to two digits in either way, prints as `value`."""
    low, high = math.ceil((value - HALF) * n / 100), math.floor((value + HALF) * n / 100)
    return list(range(max(low, 0), min(high, n) + 1))


def grid(table: LedgerTable, ledger: Ledger) -> Iterator[Finding]:
    """A score is k of the items of its test set, less the shots that its method was given."""
    sizes = {column.task: column.n for other in ledger.scores for column in other.columns}
    small = {task: size for task, size in sizes.items() if size < 2000}  # larger ones fit almost any number
    for entry in entries(table):
        value, n, shots = entry.reported.value, entry.column.n, entry.row.shots
        if value is None or decode(value, n - shots):
            continue
        of = f"{n - shots} items" + (f" ({n} less {shots} shots)" if shots else "")
        below = int(value * (n - shots) / 100)
        shares = {k: Decimal(100 * k) / (n - shots) for k in (below, below + 1)}
        evidence = ", ".join(f"{k}/{n - shots} = {share:.4f}" for k, share in shares.items())
        if shots and (all_items := decode(value, n)):
            finding = f"{value} is {all_items[0]}/{n}, of all items, though {shots} of them were given as shots"
            yield Finding("k of N", "doubt", (entry.id,), finding, evidence)
        elif near := [k for k, share in shares.items() if abs(share - value) < 2 * HALF]:
            finding = f"{value} is {near[0]} of {of}, which rounds to {shares[near[0]]:.2f}"
            yield Finding("k of N", "rounding", (entry.id,), finding, evidence)
        else:
            fits = [f"{k[0]}/{size} ({task})" for task, size in small.items() if (k := decode(value, size))]
            other_sizes = f"; it is {', '.join(fits)}" if fits else ""
            finding = f"{value} is no k of {of}, though a mean over several runs could be{other_sizes}"
            yield Finding("k of N", "doubt", (entry.id,), finding, evidence)


def repeated_columns(table: LedgerTable) -> Iterator[Finding]:
    """Different tasks do not have the same scores in several rows of one model."""
    values = {(e.row.model, e.row.method, e.column.name): e for e in entries(table) if e.reported.value is not None}
    for model in table.models:
        for one, other in combinations(table.columns, 2):
            if one.task == other.task:
                continue
            pairs = [
                (values[model, row.method, one.name], values[model, row.method, other.name])
                for row in table.rows
                if row.model == model
                and (model, row.method, one.name) in values
                and (model, row.method, other.name) in values
            ]
            same = [pair for pair in pairs if pair[0].reported.value == pair[1].reported.value]
            if len(same) > 1:
                yield Finding(
                    "repeated column",
                    "doubt",
                    tuple(entry.id for pair in same for entry in pair),
                    f"{table.models[model]} has the same {len(same)} numbers for {one.label} and {other.label}",
                    ", ".join(str(pair[0].reported.value) for pair in same),
                )


def counts(table: LedgerTable, ledger: Ledger) -> Iterator[Finding]:
    """A printed number of trained parameters follows from the shapes of the model's matrices."""
    for row in table.rows:
        if not row.parameters or not row.trains:
            continue
        shape, printed, trains = ledger.shapes[row.model], row.parameters, row.trains

        def fits(modules: tuple[str, ...], trains=trains, shape=shape, printed=printed) -> bool:
            trained = Trained(adapter=trains.adapter, modules=modules, rank=trains.rank)
            return abs(Decimal(parameters(trained, shape)) / 10**6 - printed) <= HALF

        if fits(trains.modules):
            continue
        sets = [subset for n in range(1, 8) for subset in combinations(MODULES["all"], n) if fits(subset)]
        named = "; ".join(" + ".join(subset) for subset in sets[:3])
        yield Finding(
            "parameters",
            "error",
            (f"{table.id}/{row.model}/{row.method}",),
            f"{printed}M is not what {row.label.split(' ', 1)[1]} trains: {parameters(trains, shape) / 1e6:.2f}M by "
            f"the shapes ({' + '.join(trains.modules)})",
            f"{printed}M: {named or 'no set of the seven projections'}",
        )


def sampling_error(ledger: Ledger) -> Iterator[Finding]:
    """How many of the printed gains over the base are larger than chance alone allows (`power.power_table`)."""
    of_tables: Any = power_table(printed_gains(ledger)).groupby(["document", "table"], sort=False)
    for (document, table), gains in of_tables:
        beyond = gains["beyond"].value_counts()
        yield Finding(
            "sampling error",
            "note",
            (f"{document}/{table}",),
            f"{beyond.get('yes', 0)} of {len(gains)} printed gains over the base are beyond sampling error, "
            f"{beyond.get('if paired', 0)} more if base and method are paired closely",
            f"{LEVEL:.0%} interval of two independent samples, or with maximal pairing; not corrected for their number",
        )


def percentages(ledger: Ledger) -> Iterator[Finding]:
    """The ratio of the two passes is the first one's seconds in percent of the second's."""
    for table in ledger.times:
        for row in table.rows:
            percent = 100 * row.first / row.second
            if abs(percent - row.ratio) > Decimal("0.5"):
                place = f"{table.id}/{row.task}"
                yield Finding(
                    "percentage", "error", (place,), f"{row.ratio}% is {percent:.1f}%", f"{row.first} / {row.second}"
                )


def twins(ledger: Ledger) -> Iterator[Finding]:
    """The same number in several places is the same number."""
    places: dict[tuple[str, str, str, str], list[Entry]] = defaultdict(list)
    for entry in chain.from_iterable(map(entries, ledger.scores)):
        if entry.reported.value is not None:
            places[entry.row.model, entry.method, entry.column.task, entry.trained_on].append(entry)
    for same in places.values():
        values = {entry.id: entry.reported.value for entry in same}
        ratios = {entry.id: entry.reported.normalised for entry in same if entry.reported.normalised is not None}
        if len(set(values.values())) > 1:
            yield _twin("The score", values)
        elif len(set(ratios.values())) > 1:  # of different scores they would differ anyway
            yield _twin(f"The normalised score of {same[0].reported.value}", ratios)


def _twin(what: str, printed: Mapping[str, Decimal | None]) -> Finding:
    """An error within one paper; between the two it may be a correction."""
    by_document: dict[str, set[Decimal | None]] = defaultdict(set)
    for id, number in printed.items():
        by_document[id.partition("/")[0]].add(number)
    return Finding(
        "same number twice",
        "error" if any(len(numbers) > 1 for numbers in by_document.values()) else "doubt",
        tuple(printed),
        f"{what} is {' or '.join(map(str, dict.fromkeys(printed.values())))}",
        "; ".join(f"{number} in {id.rsplit('/', 3)[0]}" for id, number in printed.items()),
    )


def settings(ledger: Ledger) -> Iterator[Finding]:
    """Both papers report the same hyper-parameters."""
    printed: dict[tuple[str, str], dict[str, tuple[Decimal, ...]]] = defaultdict(dict)
    for table in ledger.settings:
        for row in table.rows:
            printed[row.method, row.label][table.id] = row.values
    for (method, label), of_place in printed.items():
        if len(set(of_place.values())) > 1:
            evidence = "; ".join(f"{', '.join(map(str, values))} in {place}" for place, values in of_place.items())
            yield Finding("same setting twice", "doubt", tuple(of_place), f"{label} of {method} differs", evidence)


def prose(ledger: Ledger, claims: dict[str, Claim]) -> Iterator[Finding]:
    """A sentence agrees with the numbers that its own paper prints."""
    for id, claim in claims.items():
        printed, comparisons = on_paper(claim, ledger)
        place, evidence = (f"{claim.document}/claims/{id}",), summary(comparisons)
        if printed == "does not hold" and only_by_chance(comparisons):
            finding = f"“{claim.quote}” fails only by differences within sampling error, read as: {claim.reading}"
            yield Finding("prose", "note", place, finding, evidence)
        elif printed == "does not hold":
            yield Finding("prose", "doubt", place, f"“{claim.quote}”, read as: {claim.reading}", evidence)
        elif printed == "no number printed":
            yield Finding(
                "prose", "note", place, f"“{claim.quote}”: the paper prints no number to check it by", evidence
            )
