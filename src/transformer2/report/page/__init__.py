"""One page that says which of the papers' numbers and claims a run reproduces, which it does not, and how sure that is.

Everything on it is read from the files of the run; the template lays it out and escapes it.
"""

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from transformer2.provenance import atomic_write
from transformer2.report import summary
from transformer2.report.contents import GAINS, Contents, Figure
from transformer2.report.layout import environment
from transformer2.report.page.answer import answer
from transformer2.report.page.coverage import coverage
from transformer2.report.page.marks import CELL_VERDICTS, CLAIM_VERDICTS, PRINTED, SEVERITY_MARKS, Count, count
from transformer2.report.page.records import AUDIT_COLUMNS, CLAIM_COLUMNS, Record, read, read_cells, standins
from transformer2.report.page.rows import address, cell_row
from transformer2.reproduce.verdicts import BASE

SETUP = "python3 -m venv .venv && source .venv/bin/activate && pip install -c constraints.txt -e ."


@dataclass(frozen=True)
class PaperTable:
    """One table in the paper's own layout."""

    id: str
    title: Markup
    html: Markup
    counts: list[Count]


@dataclass(frozen=True)
class Picture:
    id: str
    title: str
    alt: str
    data: str
    links: list[tuple[str, str]]
    """Relative address and format of the same figure in other files."""


@dataclass(frozen=True)
class Forest:
    """The forest plot of a table, and the verdicts on its cells."""

    picture: Picture
    counts: list[Count]


@dataclass(frozen=True)
class TextTable:
    title: str
    about: str
    columns: list[str]
    rows: list[list[str]]


def render(run: Path, contents: Contents, templates: Path, command: str, gpu_hours: float, out: Path) -> None:
    """Writes the page of the run in `results/<run>` to `out`; `command` is how the run is made, `gpu_hours` what
    config/paper.yaml takes by the plan.

    `templates` holds report.html.j2 and what it includes.

    Raises:
        ValueError: a file lacks a column, names a verdict or severity that there is not, or compares a stand-in's
            number with the papers'; one line that names the file.
    """
    records = read_cells(_in_order(run / file for file in contents.table_files("csv")))
    claims = read(run / "claims.csv", CLAIM_COLUMNS, {"verdict": CLAIM_VERDICTS, "printed": PRINTED})
    findings = read(run / "audit.csv", AUDIT_COLUMNS, {"severity": SEVERITY_MARKS})
    cells = [cell_row(record, run, out.parent, command) for record in records]
    tables = paper_tables(_in_order(run / file for file in contents.table_files("html")), records)
    jobs, manifests = summary.jobs(run), summary.manifests(run, contents)
    began, ended = summary.span(manifests)
    page = {
        "run": records[0]["run"],
        "date": f"{ended:%Y-%m-%d}",
        "answer": answer(records, claims, findings),
        "standins": standins(records),
        "numbers": Counter(record["verdict"] for record in records),
        "marks": [mark for mark in CELL_VERDICTS.values() if mark.name != BASE],
        "verdicts": list(dict.fromkeys(record["verdict"] for record in records)),
        "claim_counts": count(CLAIM_VERDICTS, [claim["verdict"] for claim in claims]),
        "audit_counts": count(SEVERITY_MARKS, [finding["severity"] for finding in findings]),
        "coverage": coverage(run / "coverage.csv", gpu_hours),
        "claims": claims,
        "claim_marks": CLAIM_VERDICTS,
        "ranks": {name: rank for marks in (CLAIM_VERDICTS, SEVERITY_MARKS) for rank, name in enumerate(marks)},
        "known": {record["cell"] for record in records},
        "cells": cells,
        "tables": tables,
        "forests": _forests(run, contents.figures, tables, out.parent),
        "power": _of_kind(run, contents.figures, out.parent, "power"),
        "pictures": pictures(run, [one for one in contents.figures if one.kind not in ON_TOP], out.parent),
        "half_gain": _text_table(summary.half_gain(run)) if "half_gain.csv" in contents.frames else None,
        "audit_page": address(run / "audit.md", out.parent),
        "findings": findings,
        "severities": SEVERITY_MARKS,
        "machine": summary.machine(manifests),
        "began": f"{began:%Y-%m-%d %H:%M}",
        "ended": f"{ended:%Y-%m-%d %H:%M}",
        "minutes": f"{jobs['s'].sum() / 60:.0f}",
        "memory": f"{jobs['max_rss'].max():.0f}",
        "facts": [_text_table(summary.cost(jobs))]
        + [_text_table(section) for section in summary.sections(run, contents)],
        "command": command,
        "setup": SETUP,
    }
    atomic_write(out, environment(templates, "html").get_template("report.html.j2").render(page))


def paper_tables(files: Sequence[Path], cells: Sequence[Record]) -> list[PaperTable]:
    """Every rendered table; raises ValueError if one has no <main> or heading."""
    tables = []
    for path in files:
        id = f"{path.parent.name}/{path.stem}"
        text = path.read_text(encoding="utf-8")
        main, title = (
            re.search(pattern, text, re.S) for pattern in ("<main>(.*)</main>", "<caption><strong>(.*?)</strong>")
        )
        if not main or not title:
            raise ValueError(f"{path}: no rendered table; delete the file to make it again")
        own = id.replace("/", "-")  # notes have the same letters in every table
        html = main[1].replace('id="note-', f'id="{own}-note-').replace('href="#note-', f'href="#{own}-note-')
        of_table = [cell["verdict"] for cell in cells if f"{cell['document']}/{cell['table']}" == id]
        verdicts = [verdict for verdict in of_table if verdict != BASE]
        # The template that made it has escaped what it prints.
        name = Markup(title[1].removesuffix(": paper and ours"))
        tables.append(PaperTable(id, name, Markup(html), count(CELL_VERDICTS, verdicts)))
    return tables


ON_TOP = ("gains", "power")
"""Kinds of figures that have a place of their own on the page."""


def _forests(run: Path, figures: Sequence[Figure], tables: Sequence[PaperTable], page: Path) -> list[Forest]:
    """In the order of the papers' tables."""
    drawn = {picture.id: picture for picture in _of_kind(run, figures, page, "gains")}
    return [Forest(drawn[f"{of.id}{GAINS}"], of.counts) for of in tables if f"{of.id}{GAINS}" in drawn]


def _of_kind(run: Path, figures: Sequence[Figure], page: Path, kind: str) -> list[Picture]:
    return pictures(run, [figure for figure in figures if figure.kind == kind], page)


def pictures(run: Path, figures: Sequence[Figure], page: Path) -> list[Picture]:
    """Every figure of the run, the SVG inside the page and the other files linked relative to the folder `page`."""
    by_file = {run / "figures" / f"{figure.name}.svg": figure for figure in figures}
    return [_picture(by_file[path], path, page) for path in _in_order(by_file)]


def _picture(figure: Figure, path: Path, page: Path) -> Picture:
    alt = figure.about.shows
    if figure.kind == "table":
        alt = (
            f"Dot plot of {figure.title}: one panel for each column, one line for each row; hollow diamonds are the "
            "paper's numbers, dots with 95 % intervals this run's. The table of all cells has the same numbers."
        )
    files = [path.with_suffix(f".{kind}") for kind in ("svg", "png", "pdf", "csv")]
    links = [(address(file, page), file.suffix[1:].upper()) for file in files if file.exists()]
    data = f"data:image/svg+xml;base64,{b64encode(path.read_bytes()).decode()}"
    return Picture(figure.name, figure.title, alt, data, links)


def _text_table(section: summary.Section) -> TextTable:
    rows = section.table.astype(object).where(section.table.notna(), "–").astype(str).to_numpy().tolist()
    return TextTable(section.title, section.about, [str(name) for name in section.table.columns], rows)


def _in_order(paths: Iterable[Path]) -> list[Path]:
    """Documents before what is of none, tables before what else they have, Table 10 after Table 9."""

    def key(path: Path) -> list[int | str]:
        parts = re.split(r"(\d+)", str(path))
        numbered = [int(part) if part.isdigit() else part for part in parts]
        return [-len(path.parts), str(path.parent), not path.name.startswith("table"), *numbered]

    return sorted(paths, key=key)  # pyright: ignore[reportArgumentType]
