"""Renders one table of the ledger, paper beside ours, as Markdown, LaTeX, HTML and CSV.

Numbers become text here, once; the templates in `paper_tables/templates/` only lay them out and escape them.
"""

import math
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import jinja2
import pandas as pd

from transformer2.paper import ledger
from transformer2.paper.cells import Cell, Measured, Scoring, cells, read_scores
from transformer2.paper.ledger import LedgerTable
from transformer2.provenance import atomic_write
from transformer2.statistics import N_RESAMPLES, Estimate

LINES = ("paper", "ours", "95 %", "n", "lenient")
"""The lines of a cell, from top to bottom; a cell without a measurement has the first two."""

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
STANDINS = (
    "A stand-in is another model than the paper's: its absolute numbers are not compared with the paper's, "
    "only what a method adds to its own base; nor need its test items be the paper's."
)


@dataclass(frozen=True)
class _TextCell:
    lines: dict[str, str]
    """Of `LINES`, those that the cell has."""
    mark: str
    """Letter of the note on the paper's number, or empty."""


@dataclass(frozen=True)
class _TextRow:
    label: str
    cells: list[_TextCell]
    lines: list[str]
    """Of `LINES`, those that any of its cells has."""


@dataclass(frozen=True)
class _Group:
    ran: str
    """The model that ran, and the paper's model whose rows these are."""
    rows: list[_TextRow]


def render(ledger_file: Path, scores_file: Path, out_dir: Path) -> list[Path]:
    """Writes `<out_dir>/<document>/<table>.{md,tex,html,csv}` and returns the four paths.

    `ledger_file` is `paper_tables/<document>/<table>.yaml`, with the templates in `paper_tables/templates/`;
    `scores_file` is the frame of scores of one run (see `cells.read_scores`).
    """
    table = ledger.read(ledger_file)
    scores = read_scores(scores_file)
    run = str(scores["run"].iloc[0])
    strict, lenient = cells(table, scores, "strict"), cells(table, scores, "lenient")
    context = _context(table, run, strict, lenient)
    templates = ledger_file.parents[1] / "templates"
    texts = {
        kind: environment(templates, kind).get_template(f"table.{kind}.j2").render(context)
        for kind in ("md", "tex", "html")
    }
    texts["csv"] = tidy(table, run, strict, lenient).to_csv(index=False, float_format="%.6g")
    paths = {kind: out_dir / table.document / f"{table.name}.{kind}" for kind in texts}
    for kind, path in paths.items():
        atomic_write(path, texts[kind])
    return list(paths.values())


def environment(templates: Path, kind: str) -> jinja2.Environment:
    """Jinja2 for md, tex or html; every value that a template prints is escaped for that format."""
    options: dict[str, Any] = {
        "loader": jinja2.FileSystemLoader(templates),
        "undefined": jinja2.StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
        "keep_trailing_newline": True,
    }
    if kind == "html":
        return jinja2.Environment(**options, autoescape=True)
    if kind == "md":
        return jinja2.Environment(**options, finalize=lambda value: str(value).replace("|", "\\|"))
    return jinja2.Environment(
        **options,
        finalize=lambda value: escape_latex(str(value)),
        block_start_string="<%", block_end_string="%>", variable_start_string="<<", variable_end_string=">>",
        comment_start_string="<#", comment_end_string="#>",
    )  # fmt: skip


LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
    "²": r"\textsuperscript{2}", "×": r"$\times$", "∞": r"$\infty$", "–": "--", "“": "``", "”": "''",
})  # fmt: skip


def escape_latex(text: str) -> str:
    return text.translate(LATEX)


def tidy(table: LedgerTable, run: str, strict: list[Cell], lenient: list[Cell]) -> pd.DataFrame:
    """One row a cell with all its numbers; those of ours are missing where nothing was run."""
    records = [
        {
            "cell": cell.id, "document": table.document, "table": table.name, "model": cell.row.model,
            "method": cell.row.method, "task": cell.column.task, "metric": cell.column.metric,
            "reported": str(cell.reported.value), "reported_normalised": str(cell.reported.normalised),
            "reported_n": cell.column.n, "note": cell.reported.note, "run": run,
            **_origin(cell.ours), **_numbers(cell.ours, "strict"), **_numbers(loose.ours, "lenient"),
        }
        for cell, loose in zip(strict, lenient, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(records).astype({"n": "Int64", "strict_correct": "Int64", "lenient_correct": "Int64"})


def _origin(ours: Measured | None) -> dict[str, Any]:
    if ours is None:
        return {"status": "not run", "model_run": None, "standin": None, "seeds": None, "n": None}
    return {
        "status": "run",
        "model_run": ours.model,
        "standin": ours.standin,
        "seeds": " ".join(map(str, ours.seeds)),
        "n": ours.items,
    }


def _numbers(ours: Measured | None, scoring: Scoring) -> dict[str, Any]:
    names = ("correct", "score", "low", "high", "normalised", "normalised_low", "normalised_high", "p")
    numbers = (ours.correct, *ours.score, *ours.normalised, ours.p_value) if ours else (None,) * len(names)
    return {f"{scoring}_{name}": number for name, number in zip(names, numbers, strict=True)}


def _context(table: LedgerTable, run: str, strict: list[Cell], lenient: list[Cell]) -> dict[str, Any]:
    """What the templates see."""
    noted = [cell for cell in strict if cell.reported.note]
    marks = {cell.id: letter for cell, letter in zip(noted, ascii_lowercase, strict=False)}
    leniently = {cell.id: cell.ours for cell in lenient}
    texts = {cell.id: _TextCell(_lines(cell, leniently[cell.id]), marks.get(cell.id, "")) for cell in strict}
    groups = [
        _group(table.models[model], list(of_model), texts)
        for model, of_model in groupby(strict, key=lambda cell: cell.row.model)
    ]
    notes = [(marks[cell.id], cell.reported.note) for cell in noted]
    footnotes = _footnotes(run, strict)
    return {"table": table, "run": run, "groups": groups, "notes": notes, "footnotes": footnotes}


def _group(name: str, of_model: list[Cell], texts: dict[str, _TextCell]) -> _Group:
    """The rows of one of the paper's models, headed by the model that ran."""
    ours = next((cell.ours for cell in of_model if cell.ours), None)
    ran = f"{name} (not run)" if ours is None else name
    if ours and ours.standin:
        ran = f"{ours.model} in place of {name}"
    rows = []
    for _, of_row in groupby(of_model, key=lambda cell: cell.row.method):
        of_row = list(of_row)
        in_row = [texts[cell.id] for cell in of_row]
        present = [line for line in LINES if any(line in text.lines for text in in_row)]
        rows.append(_TextRow(of_row[0].row.label, in_row, present))
    return _Group(ran, rows)


def _lines(cell: Cell, lenient: Measured | None) -> dict[str, str]:
    """The lines of a cell; `lenient` is our measurement of the same cell, scored leniently."""
    lines = {"paper": f"{cell.reported.value} ({cell.reported.normalised})"}
    ours = cell.ours
    if ours is None or lenient is None:
        return lines | {"ours": "not run"}
    normalised_span = "" if cell.row.method == "base" else f" ({_span(ours.normalised)})"
    seeds = f"{len(ours.seeds)} × " if len(ours.seeds) > 1 else ""
    return lines | {
        "ours": _score(ours),
        "95 %": _span(ours.score) + normalised_span,
        "n": f"{seeds}{ours.items}{_p(ours.p_value)}",
        "lenient": _score(lenient),
    }


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
    measured = [(cell.row.method, cell.ours) for cell in strict if cell.ours]
    seeds: dict[str, set[int]] = {}
    for method, ours in measured:
        seeds.setdefault(method, set()).update(ours.seeds)
    by_method = "; ".join(f"{method} {', '.join(map(str, sorted(used)))}" for method, used in seeds.items())
    standins = [STANDINS] if any(ours.standin for _, ours in measured) else []
    origin = f"Run: {run}. Seeds: {by_method or 'none'}. n: test items, or seeds × test items."
    return [origin, SCORING, INTERVALS, *standins]
