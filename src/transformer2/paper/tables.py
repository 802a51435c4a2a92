"""Renders one table of the ledger, paper beside ours, as Markdown, LaTeX, HTML and CSV.

Numbers become text here, once; the templates only lay them out and escape them (`layout`).
"""

import math
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pandas as pd

from transformer2.paper import ledger
from transformer2.paper.cells import Cell, Measured, Scoring, cells, read_scores
from transformer2.paper.layout import Group, Page, TextCell, TextColumn, TextRow, items, write
from transformer2.paper.ledger import LedgerTable, Reported, Row
from transformer2.statistics import N_RESAMPLES, Estimate

SCORING = (
    "“ours” is scored strictly, as the released code does and so the paper; "
    "“lenient” also accepts right answers in another notation."
)
INTERVALS = (
    "95 % intervals: Wilson for scores; for normalised scores, in parentheses, a paired percentile bootstrap "
    f"over items, and over seeds where there are several ({N_RESAMPLES:,} resamples). "
    "A normalised score is undefined where our base solved nothing or was not run. "
    "p: exact McNemar test against our base on the same items, not corrected for the number of tests; "
    "with several seeds the largest."
)
REMAINDERS = (
    "Where n is below that of our base, the prompts that the method adapted or chose on are left out of its score; "
    "its normalised score and p compare it with the base on the same items."
)
STANDINS = (
    "A stand-in is another model than the paper's: its absolute numbers are not compared with the paper's, "
    "only what a method adds to its own base; nor need its test items be the paper's."
)


def render(ledger_file: Path, scores_file: Path, out_dir: Path) -> list[Path]:
    """Writes `<out_dir>/<document>/<table>.{md,tex,html,csv}` and returns the four paths.

    `ledger_file` is `paper_tables/<document>/<table>.yaml`, with the templates in `paper_tables/templates/`;
    `scores_file` is the frame of scores of one run (see `cells.read_scores`).
    """
    table = ledger.read(ledger_file)
    scores = read_scores(scores_file)
    run = str(scores["run"].iloc[0])
    strict, lenient = cells(table, scores, "strict"), cells(table, scores, "lenient")
    page, frame = _page(table, run, strict, lenient), tidy(table, run, strict, lenient)
    return write(page, frame, ledger_file.parents[1] / "templates", out_dir)


def tidy(table: LedgerTable, run: str, strict: list[Cell], lenient: list[Cell]) -> pd.DataFrame:
    """One row a cell with all its numbers; those of ours are missing where nothing was run."""
    records = [
        {
            "cell": cell.id, "document": table.document, "table": table.name, "model": cell.row.model,
            "method": cell.method, "task": cell.column.task, "metric": cell.column.metric,
            "reported": _printed(cell.reported.value), "reported_normalised": _printed(cell.reported.normalised),
            "reported_n": cell.column.n, "note": cell.reported.note, "run": run,
            **_origin(cell.ours), **_numbers(cell.ours, "strict"), **_numbers(loose.ours, "lenient"),
        }
        for cell, loose in zip(strict, lenient, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(records).astype({"n": "Int64", "strict_correct": "Int64", "lenient_correct": "Int64"})


def _printed(number: Decimal | None) -> str | None:
    return None if number is None else str(number)


def _origin(ours: Measured | None) -> dict[str, Any]:
    if ours is None:
        return {"status": "not run", "model_run": None, "standin": None, "seeds": None, "files": None, "n": None}
    return {
        "status": "run",
        "model_run": ours.model,
        "standin": ours.standin,
        "seeds": " ".join(map(str, ours.seeds)),
        "files": " ".join(ours.files),
        "n": ours.items,
    }


def _numbers(ours: Measured | None, scoring: Scoring) -> dict[str, Any]:
    names = ("correct", "score", "low", "high", "normalised", "normalised_low", "normalised_high", "p")
    numbers = (ours.correct, *ours.score, *ours.normalised, ours.p_value) if ours else (None,) * len(names)
    return {f"{scoring}_{name}": number for name, number in zip(names, numbers, strict=True)}


def _page(table: LedgerTable, run: str, strict: list[Cell], lenient: list[Cell]) -> Page:
    marks = _marks(strict)
    leniently = {cell.id: cell.ours for cell in lenient}
    texts = {cell.id: TextCell(_lines(cell, leniently[cell.id]), marks[cell.reported.note]) for cell in strict}
    return Page(
        table=table,
        run=run,
        unit="Percent",
        stub="Method",
        columns=[TextColumn(column.label, f"{column.metric}, paper n = {column.n}") for column in table.columns],
        groups=[
            _group(table, list(of_model), texts, marks)
            for _, of_model in groupby(strict, key=lambda cell: cell.row.model)
        ],
        footnotes=_footnotes(run, strict),
        items=items((column.label, column.n) for column in table.columns),
        notes=[(mark, note) for note, mark in marks.items() if note],
    )


def _marks(strict: list[Cell]) -> dict[str | None, str]:
    """The letter of each note on a row or a cell, in their order; the same words share one, and no note has none."""
    notes = [note for cell in strict for note in (cell.row.note, cell.reported.note) if note]
    return {None: ""} | dict(zip(dict.fromkeys(notes), ascii_lowercase, strict=False))


def _group(table: LedgerTable, of_model: list[Cell], texts: dict[str, TextCell], marks: dict[str | None, str]) -> Group:
    """The rows of one of the paper's models, headed by the model that ran."""
    name = table.models[of_model[0].row.model]
    ours = next((cell.ours for cell in of_model if cell.ours), None)
    ran = f"{name} (not run)" if ours is None else name
    if ours and ours.standin:
        ran = f"{ours.model} in place of {name}"
    rows = []
    for _, of_row in groupby(of_model, key=lambda cell: cell.row.method):
        in_column = {cell.column.name: cell for cell in of_row}
        row = next(iter(in_column.values())).row
        in_row = [
            texts[in_column[column.name].id] if column.name in in_column else TextCell() for column in table.columns
        ]
        rows.append(TextRow(row.label, in_row, _remark(row), marks[row.note]))
    return Group(ran, rows)


def _remark(row: Row) -> str:
    """The row's remark, and how many parameters the document says are trained."""
    counted = f"paper: {row.parameters}M parameters" if row.parameters else ""
    return "; ".join(part for part in (row.remark, counted) if part)


def _lines(cell: Cell, lenient: Measured | None) -> dict[str, str]:
    """The lines of a cell; `lenient` is our measurement of the same cell, scored leniently."""
    lines, ours = {"paper": _reported(cell.reported)}, cell.ours
    if ours is None or lenient is None:
        return lines | {"ours": "not run"}
    normalised_span = "" if cell.method == "base" else f" ({_span(ours.normalised)})"
    seeds = f"{len(ours.seeds)} × " if len(ours.seeds) > 1 else ""
    return lines | {
        "ours": _score(ours),
        "95 %": _span(ours.score) + normalised_span,
        "n": f"{seeds}{ours.items}{_p(ours.p_value)}",
        "lenient": _score(lenient),
    }


def _reported(reported: Reported) -> str:
    if reported.value is None:
        return "–"
    return str(reported.value) if reported.normalised is None else f"{reported.value} ({reported.normalised})"


def _score(ours: Measured) -> str:
    return f"{ours.score.value:.2f} ({_number(ours.normalised.value)})"


def _span(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "undefined"
    return f"{_number(estimate.low)}–{_number(estimate.high)}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "undefined"
    return "∞" if math.isinf(value) else f"{value:.2f}"


def _p(p_value: float) -> str:
    if math.isnan(p_value):
        return ""
    return ", p < 0.001" if p_value < 0.001 else f", p = {p_value:.3f}"


def _footnotes(run: str, strict: list[Cell]) -> list[str]:
    measured = [(cell.method, cell.ours) for cell in strict if cell.ours]
    seeds: dict[str, set[int]] = {}
    for method, ours in measured:
        seeds.setdefault(method, set()).update(ours.seeds)
    by_method = "; ".join(f"{method} {', '.join(map(str, sorted(used)))}" for method, used in seeds.items())
    standins = [STANDINS] if any(ours.standin for _, ours in measured) else []
    origin = f"Run: {run}. Seeds: {by_method or 'none'}. n: test items, or seeds × test items."
    remainders = [REMAINDERS] if any(len(sizes) > 1 for sizes in _sizes(strict).values()) else []
    return [origin, SCORING, INTERVALS, *remainders, *standins]


def _sizes(strict: list[Cell]) -> dict[tuple[str, str], set[int]]:
    """How many items our measurements have, for each model and column."""
    sizes: dict[tuple[str, str], set[int]] = {}
    for cell in strict:
        if cell.ours:
            sizes.setdefault((cell.row.model, cell.column.name), set()).add(cell.ours.items)
    return sizes
