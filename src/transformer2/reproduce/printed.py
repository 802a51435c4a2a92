"""The gains that the paper prints, one row a cell, with what is known of their sampling error."""

from pathlib import Path
from typing import Any

import pandas as pd

from transformer2.reproduce.gains import independent_discordant, independent_error, paired_error
from transformer2.reproduce.ledger import Entry, Ledger, LedgerTable, entries, read_all

OWN = ("svf", "prompt", "cls", "few_shot", "uniform_mix")
"""How the names of SVF's and Transformer²'s methods begin; the others are what the paper compares them with."""


def read_printed(folder: Path) -> pd.DataFrame:
    """The gains that the tables under `paper_tables/` print (`printed_gains`); ValueError as `ledger.read_all`."""
    return printed_gains(read_all(folder))


def printed_gains(ledger: Ledger) -> pd.DataFrame:
    """Every cell with a method of the tables of scores. Scores, gains and standard errors are in percentage points.

    cell, document, table, model, method, label, task: which cell it is; own: whether the method is the paper's own.
    base, score, gain: as printed, and their difference; NaN where the paper prints no number. A table without a base
      has that of the same model and task in another table of the same paper.
    n: items of the test set, less those that the method was given; k and base_k follow from the percentages.
    se, se_paired: standard error of the gain, if base and method are independent, and if their pairing is maximal.
    discordant, discordant_paired: share of items on which the two then differ.
    repeats: the earlier cell of the same paper with the same number, or nothing.
    """
    rows = [row for table in ledger.scores for row in _rows(table, _bases(ledger, table.document))]
    frame = pd.DataFrame(rows)
    k, base_k = frame["score"] / 100 * frame["n"], frame["base"] / 100 * frame["base_n"]
    shares = frame["score"] / 100, frame["base"] / 100
    one_sided = (frame["gain"] / 100 * frame["n"]).abs()
    frame["se"] = independent_error(k, frame["n"], base_k, frame["base_n"])
    frame["se_paired"] = paired_error(one_sided, 0, frame["n"])
    frame["discordant"] = independent_discordant(*shares)
    frame["discordant_paired"] = frame["gain"].abs() / 100
    same = ["document", "model", "method", "trained_on", "task", "score"]
    first = frame.groupby(same, dropna=False)["cell"].transform("first")
    frame["repeats"] = first.where((first != frame["cell"]) & frame["score"].notna(), "")
    return frame.drop(columns=["base_n", "trained_on"])


Bases = dict[tuple[str, str], Entry]


def _bases(ledger: Ledger, document: str) -> Bases:
    """By model and task; that of the first table counts."""
    bases: Bases = {}
    for table in ledger.scores:
        for entry in entries(table) if table.document == document else ():
            if entry.row.method == "base" and entry.reported.value is not None:
                bases.setdefault((entry.row.model, entry.column.task), entry)
    return bases


def _rows(table: LedgerTable, elsewhere: Bases) -> list[dict[str, Any]]:
    own = {(e.row.model, e.column.name): e for e in entries(table) if e.row.method == "base"}
    rows = []
    for entry in entries(table):
        if entry.row.method == "base":
            continue
        base = own.get((entry.row.model, entry.column.name)) or elsewhere.get((entry.row.model, entry.column.task))
        score, of_base = entry.reported.value, base.reported.value if base else None
        rows.append({
            "cell": entry.id, "document": table.document, "table": table.name, "model": entry.row.model,
            "method": entry.method, "trained_on": entry.trained_on,
            "label": entry.row.label.removeprefix("+ ").removesuffix(" (Ours)"),
            "task": entry.column.task, "own": entry.method.startswith(OWN),
            "base": _number(of_base), "score": _number(score),
            "gain": _number(None if score is None or of_base is None else score - of_base),
            "n": entry.column.n - entry.row.shots, "base_n": entry.column.n,
        })  # fmt: skip
    return rows


def _number(printed: Any) -> float:
    return float("nan") if printed is None else float(printed)
