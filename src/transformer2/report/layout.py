"""A table as text, and the templates in `paper_tables/templates/` that lay it out and escape it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from transformer2.provenance import atomic_write
from transformer2.reproduce.ledger import LedgerTable, SettingsTable, TimeTable

LINES = ("paper", "ours", "95 %", "n", "lenient", "expert", "best", "last", "gain", "paper's", "verdict", "score")
"""The lines of a cell, from top to bottom."""


@dataclass(frozen=True)
class TextCell:
    lines: dict[str, str] = field(default_factory=dict)
    """Of `LINES`, those that the cell has."""
    mark: str = ""
    """Letter of the note on the paper's number, or empty."""


@dataclass(frozen=True)
class TextRow:
    label: str
    cells: list[TextCell]
    remark: str = ""
    """A second line of the label, or empty."""
    mark: str = ""
    """Letter of the note on the row, or empty."""

    @property
    def lines(self) -> list[str]:
        """Of `LINES`, those that any of its cells has."""
        return [line for line in LINES if any(line in cell.lines for cell in self.cells)]


@dataclass(frozen=True)
class TextColumn:
    label: str
    detail: str


@dataclass(frozen=True)
class Group:
    ran: str
    """What its rows have in common, above all the model that ran."""
    rows: list[TextRow]


@dataclass(frozen=True)
class Page:
    """What the templates lay out."""

    table: LedgerTable | SettingsTable | TimeTable
    run: str
    unit: str
    stub: str
    """Heading of the row labels."""
    columns: list[TextColumn]
    groups: list[Group]
    footnotes: list[str]
    items: str = ""
    """How many items the paper's columns have, for the formats whose headings do not say it."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Letter and text."""


def write(page: Page, tidy: pd.DataFrame, templates: Path, out_dir: Path) -> list[Path]:
    """Writes `<out_dir>/<document>/<table>.{md,tex,html,csv}` and returns the four paths."""
    texts = {
        kind: environment(templates, kind).get_template(f"table.{kind}.j2").render(vars(page))
        for kind in ("md", "tex", "html")
    }
    texts["csv"] = tidy.to_csv(index=False, float_format="%.6g")
    paths = {kind: out_dir / page.table.document / f"{page.table.name}.{kind}" for kind in texts}
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
        return jinja2.Environment(**options, finalize=lambda value: escape_markdown(str(value)))
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
    "²": r"\textsuperscript{2}", "³": r"\textsuperscript{3}", "×": r"$\times$", "∞": r"$\infty$", "−": "$-$",
    "σ": r"$\sigma$", "λ": r"$\lambda$", "ᵢ": r"$_i$", "–": "--", "“": "``", "”": "''",
})  # fmt: skip


def escape_markdown(text: str) -> str:
    """The text without what Markdown reads as a cell's end, a tag of HTML, or a character by its HTML name."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text)).replace("|", "\\|")


def escape_latex(text: str) -> str:
    return text.translate(LATEX)


def markdown(frame: pd.DataFrame) -> str:
    """A frame of text as a table of Markdown, without the padding of `DataFrame.to_markdown`, which long cells blow up;
    lines of a cell stay lines."""
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    lines = [" | ".join(escape_markdown(cell).replace("\n", "<br>") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def item_counts(columns: Iterable[tuple[str, int]]) -> str:
    """How many test items each column has, in a sentence; takes (label, n)."""
    return f"Test items in the paper: {', '.join(f'{label} {n}' for label, n in columns)}."
