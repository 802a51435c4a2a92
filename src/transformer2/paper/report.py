"""One page that says which of the documents' numbers and claims a run bears out, which not, and how sure that is.

All is read from the files of the run. Numbers become text here, once; the template lays them out and escapes them.
"""

import math
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os.path import relpath
from pathlib import Path
from shlex import join
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from transformer2.paper import account
from transformer2.paper.audit import SEVERITIES
from transformer2.paper.evidence import BY_SHAPES, ON_STANDINS
from transformer2.paper.layout import environment
from transformer2.paper.verdicts import MEANING
from transformer2.provenance import atomic_write, read_json
from transformer2.seals import intact

Record = dict[str, str]
"""One row of a CSV file, as text."""


@dataclass(frozen=True)
class Kind:
    """A verdict, or how grave a finding is: told by name and sign, so that no reader needs its colour."""

    name: str
    sign: str
    tone: str
    """good, bad, doubtful, other or none: its colour."""
    meaning: str = ""


def _kinds(*kinds: Kind) -> dict[str, Kind]:
    return {kind.name: kind for kind in kinds}


CELL_VERDICTS = _kinds(
    Kind("reproduced", "✓", "good", MEANING["reproduced"]),
    Kind("higher", "▲", "bad", MEANING["higher"]),
    Kind("lower", "▼", "bad", MEANING["lower"]),
    Kind("inconclusive", "≈", "doubtful", MEANING["inconclusive"]),
    Kind("not comparable (stand-in)", "≠", "other", MEANING["not comparable (stand-in)"]),
    Kind("not run", "○", "none", MEANING["not run"]),
    Kind("ours alone", "+", "none", MEANING["ours alone"]),
)
CLAIM_VERDICTS = _kinds(
    Kind(f"{BY_SHAPES}supported", "✓", "good", "follows from the shapes of the documents' models"),
    Kind(f"{BY_SHAPES}not supported", "✗", "bad", "contradicted by the shapes of the documents' models"),
    Kind("supported", "✓", "good", "this run's numbers bear the sentence out"),
    Kind("not supported", "✗", "bad", "this run's numbers speak against the sentence"),
    Kind("inconclusive", "≈", "doubtful", "this run's numbers allow both"),
    Kind(f"{ON_STANDINS}supported", "✓", "good", "borne out by other models than the documents'"),
    Kind(f"{ON_STANDINS}not supported", "✗", "bad", "contradicted by other models than the documents'"),
    Kind(f"{ON_STANDINS}inconclusive", "≈", "doubtful", "other models than the documents' allow both"),
    Kind("not run", "○", "none", "this run did not try it"),
)
SEVERITY_KINDS = _kinds(
    Kind("error", "✗", "bad", SEVERITIES["error"]),
    Kind("doubt", "?", "doubtful", SEVERITIES["doubt"]),
    Kind("rounding", "≈", "other", SEVERITIES["rounding"]),
    Kind("note", "i", "none", SEVERITIES["note"]),
)
COMPARED = ("reproduced", "higher", "lower", "inconclusive")
"""Verdicts on absolute numbers, which only the documents' own models can get."""
PRINTED = ("holds", "does not hold", "no number printed")

CELL_COLUMNS = (
    "cell", "document", "table", "model", "reported", "reported_normalised", "run", "status", "model_run", "standin",
    "seeds", "files", "n", "strict_score", "strict_low", "strict_high", "strict_normalised", "strict_normalised_low",
    "strict_normalised_high", "strict_p", "lenient_score", "verdict", "difference", "difference_low",
    "difference_high", "detectable", "method", "paired", "state", "kept_steps", "other_state", "other_strict_score",
)  # fmt: skip
CLAIM_COLUMNS = (
    "id", "document", "section", "quote", "reading", "cells", "printed", "printed_evidence", "verdict", "evidence",
)  # fmt: skip
AUDIT_COLUMNS = ("rule", "severity", "document", "place", "finding", "evidence")

SPECTRUM = "Lines over layers, one panel for each type of matrix: the share that its top r singular values hold."
LEARNING = (
    "Lines over updates, one panel for each task: accuracy on validation, and which states were kept, best and last."
)
PICTURES = {
    "arxiv/figure6": (
        "Figure 6 (arxiv)",
        "Matrices of shares: to which class the prompts of each domain were sent, one for each model and strategy.",
    ),
    "arxiv/figure7": (
        "Figure 7 (arxiv)",
        "Stacked bars: the share of each expert in the best mix, for each model, task and configuration of the search.",
    ),
    "study": (
        "Methods compared",
        "Dot plot: the difference of every method from the reference, with 95 % intervals, one colour for each task.",
    ),
    "convergence": (
        "Convergence of the search",
        "Lines over iterations: accuracy of the best mix on the shots, and the deviation that the search draws with.",
    ),
    "arxiv/figure1": (
        "Figure 1 (arxiv)",
        "Schema: experts are trained once for each task, then each prompt is answered in two passes.",
    ),
    "arxiv/figure2": ("Figure 2 (arxiv)", "Schema: training by reinforcement learning, and three ways to adapt."),
    "arxiv/figure3": (
        "Figure 3 (arxiv)",
        "Text: the prompt that asks a model for the class of a prompt, as it is sent.",
    ),
    "arxiv/figure8": ("Figure 8 (arxiv)", "Text: a sample of next-token training, with its solution in blue."),
    "arxiv/figure4": ("Figure 4 (arxiv)", LEARNING),
    "arxiv/figure9": ("Figure 9 (arxiv)", "Lines over updates: accuracy on validation, by learning rate of the sweep."),
    "learning-*": ("Learning curves, as Figure 4", LEARNING),
    "arxiv/figure10": ("Figure 10 (arxiv)", SPECTRUM),
    "arxiv/figure11": ("Figure 11 (arxiv)", SPECTRUM),
    "spectrum-*": ("Singular values, as Figure 10", SPECTRUM),
}
"""Figure that is no table's (* is the name of a model) -> (title, what it shows)."""

REDO = "--forcerun generate dispatch --"
"""Makes answers anew, and by that their scores; `--` ends the list, which would take the files for rules."""
SETUP = "python3 -m venv .venv && source .venv/bin/activate && pip install -c constraints.txt -e ."


@dataclass(frozen=True)
class Number:
    """A number as text, and what a column of it is sorted by; without a key it comes last."""

    text: str
    key: str = ""
    below: str = ""
    """A second, smaller line: its interval, or what it means."""


@dataclass(frozen=True)
class CellRow:
    id: str
    table: str
    """<document>/<table>"""
    ran: str
    kind: Kind
    rank: int
    paper: Number
    ours: Number
    span: Number
    n: Number
    difference: Number
    detectable: Number
    more: str
    """What else was measured, in a sentence."""
    command: str
    """Empty if nothing was run."""
    links: list[tuple[str, str]]
    """Relative address and file: scores, and the answers that they are of."""


@dataclass(frozen=True)
class Count:
    kind: Kind
    number: int
    share: str
    bar: str
    """Length of its bar, in percent of the longest."""


@dataclass(frozen=True)
class PaperTable:
    """One table in the documents' own layout."""

    id: str
    title: Markup
    html: Markup
    counts: list[Count]


@dataclass(frozen=True)
class Picture:
    id: str
    title: str | Markup
    alt: str
    data: str
    links: list[tuple[str, str]]
    """Relative address and format of the same figure in other files."""


@dataclass(frozen=True)
class TextTable:
    title: str
    about: str
    columns: list[str]
    rows: list[list[str]]


def render(run: Path, files: Sequence[Path], templates: Path, command: str, out: Path) -> None:
    """Writes the page of the run in `results/<run>` to `out`; `command` is how the run is made.

    `files` are the tables (csv, html), figures (svg) and frames that the run has now: its folder may hold more, of an
    earlier configuration. `templates` holds report.html.j2 and what it includes.

    Raises:
        ValueError: a file lacks a column, names a verdict or severity that there is not, or compares a stand-in's
            number with the documents'; one line that names the file.
    """
    records = read_cells(_of(files, "paper_tables", ".csv"))
    claims = read(run / "claims.csv", CLAIM_COLUMNS, {"verdict": CLAIM_VERDICTS, "printed": PRINTED})
    findings = read(run / "audit.csv", AUDIT_COLUMNS, {"severity": SEVERITY_KINDS})
    cells = [cell_row(record, run, out.parent, command) for record in records]
    tables = paper_tables(_of(files, "paper_tables", ".html"), records)
    jobs, manifests = account.jobs(run), account.manifests(run)
    began, ended = account.span(manifests)
    page = {
        "run": records[0]["run"],
        "date": f"{ended:%Y-%m-%d}",
        "answer": answer(records, claims, findings),
        "standins": standins(records),
        "cell_counts": count(CELL_VERDICTS, [record["verdict"] for record in records]),
        "claim_counts": count(CLAIM_VERDICTS, [claim["verdict"] for claim in claims]),
        "audit_counts": count(SEVERITY_KINDS, [finding["severity"] for finding in findings]),
        "claims": claims,
        "claim_kinds": CLAIM_VERDICTS,
        "ranks": {name: rank for kinds in (CLAIM_VERDICTS, SEVERITY_KINDS) for rank, name in enumerate(kinds)},
        "known": {record["cell"] for record in records},
        "cells": cells,
        "tables": tables,
        "pictures": pictures(run, _of(files, "figures", ".svg"), out.parent, tables),
        "findings": findings,
        "severities": SEVERITY_KINDS,
        "machine": account.machine(manifests),
        "began": f"{began:%Y-%m-%d %H:%M}",
        "ended": f"{ended:%Y-%m-%d %H:%M}",
        "minutes": f"{jobs['s'].sum() / 60:.0f}",
        "memory": f"{jobs['max_rss'].max():.0f}",
        "facts": [_text_table(account.cost(jobs))] + [_text_table(section) for section in account.sections(run, files)],
        "command": command,
        "setup": SETUP,
        "redo": f"{command} {REDO}",
    }
    atomic_write(out, environment(templates, "html").get_template("report.html.j2").render(page))


def read(path: Path, columns: Sequence[str], known: Mapping[str, Iterable[str]]) -> list[Record]:
    """The rows of a CSV file as text; `known` names the values that a column may have.

    Raises:
        ValueError: a column is missing, or has another value.
    """
    frame = pd.read_csv(intact(path), dtype=str, keep_default_na=False)
    if missing := [column for column in columns if column not in frame]:
        raise ValueError(f"{path}: no column {', '.join(missing)}")
    for column, values in known.items():
        if strange := sorted(set(frame[column]) - set(values)):
            raise ValueError(f"{path}: unknown {column} {strange[0]!r}")
    return [{str(name): text for name, text in row.items()} for row in frame.to_dict("records")]


def read_cells(files: Sequence[Path]) -> list[Record]:
    """The cells of all tables of accuracies of a run, in the order of the documents.

    Raises:
        ValueError: as `read`, or there is no cell, or a stand-in's number is compared with the documents'.
    """
    found = []
    for path in files:
        if "cell" in pd.read_csv(path, nrows=0):  # a table of seconds has none
            found += read(path, CELL_COLUMNS, {"verdict": CELL_VERDICTS})
    if not found:
        raise ValueError("no table of accuracies is among the files of the page")
    for record in found:
        if _standin(record) and record["verdict"] in COMPARED:
            raise ValueError(f"{record['cell']} is of a stand-in, and yet it is called {record['verdict']}")
    return found


def answer(cells: Sequence[Record], claims: Sequence[Record], findings: Sequence[Record]) -> dict[str, str]:
    """The page in a few sentences, each below what it is about."""
    verdicts = Counter(cell["verdict"] for cell in cells)
    said = {"Numbers": _answer_numbers(verdicts)}
    if claims:
        said["Claims"] = _answer_claims(Counter(claim["verdict"] for claim in claims))
    if gains := [float(cell["detectable"]) for cell in cells if cell["detectable"] not in ("", "inf")]:
        said["How sure"] = (
            "Every number of ours has a 95 % interval. Depending on the cell, its test set would have shown, with 80 % "
            f"power, a gain over the base of {min(gains):.1f} to {max(gains):.1f} percentage points; a smaller one may "
            "go unnoticed."
        )
    if findings:
        graded = Counter(finding["severity"] for finding in findings)
        names = dict.fromkeys(SEVERITY_KINDS) | {"rounding": "rounding slip"}
        left = [_plural(graded[name], word or name) for name, word in names.items() if graded[name]]
        said["The documents"] = f"Checked against themselves and against each other, they leave {_listed(left)}."
    return said


def _answer_numbers(verdicts: Mapping[str, int]) -> str:
    printed = sum(verdicts.values()) - verdicts["ours alone"]
    sentences = []
    if compared := sum(verdicts[name] for name in COMPARED):
        sentences.append(
            f"The documents' tables print {printed} numbers. {compared} of them were measured here with the documents' "
            f"own models: {verdicts['reproduced']} came out again, {verdicts['higher']} are higher here, "
            f"{verdicts['lower']} lower, and for {verdicts['inconclusive']} this run is too small to tell."
        )
    else:
        sentences.append(
            f"None of the {printed} numbers that the documents' tables print was put to the test: none of "
            "their models was measured on them."
        )
    if beside := verdicts["not comparable (stand-in)"]:
        sentences.append(
            f"{beside} have a stand-in's number beside them, which shows that the cell can be computed and what a "
            "method adds to its own base, but not whether the document's number is right."
        )
    if absent := verdicts["not run"]:
        sentences.append(f"{absent} {_were(absent)} not run.")
    return " ".join(sentences)


def _answer_claims(verdicts: Mapping[str, int]) -> str:
    parts = []
    for prefix, where in (
        ("", "with the documents' own models"),
        (ON_STANDINS, "on stand-ins"),
        (BY_SHAPES, "by the shapes of the documents' models"),
    ):
        names = [name for name in ("supported", "not supported", "inconclusive") if verdicts[prefix + name]]
        if names:
            parts.append(f"{_listed(f'{verdicts[prefix + name]} {name}' for name in names)} {where}")
    if absent := verdicts["not run"]:
        parts.append(f"{absent} not run")
    return f"{_plural(sum(verdicts.values()), 'claim')} of the documents' text: {'; '.join(parts)}."


def standins(cells: Sequence[Record]) -> list[str]:
    """Which model stood in for which of the documents', in the order of the tables."""
    return list(dict.fromkeys(f"{cell['model_run']} for {cell['model']}" for cell in cells if _standin(cell)))


def count(kinds: Mapping[str, Kind], names: Sequence[str]) -> list[Count]:
    """How many of each kind there are, those that there are, in the order of `kinds`."""
    numbers = Counter(names)
    most = max(numbers.values(), default=1)
    return [
        Count(kind, numbers[name], f"{100 * numbers[name] / len(names):.0f} %", f"{100 * numbers[name] / most:.1f}")
        for name, kind in kinds.items()
        if name in numbers
    ]


def cell_row(cell: Record, run: Path, page: Path, command: str) -> CellRow:
    """One row of the table of all cells; links are relative to the folder `page`."""
    files = [run / name for name in cell["files"].split()]
    links = []
    for path in files:
        links.append((_address(path, page), f"scores, {path.stem}"))
        if answers := _answers(run, path):
            links.append((_address(answers, page), f"answers, {path.stem}"))
    method = cell["method"] != "base"
    return CellRow(
        id=cell["cell"],
        table=f"{cell['document']}/{cell['table']}",
        ran=f"{cell['model_run']}, a stand-in" if _standin(cell) else cell["model_run"] or "not run",
        kind=CELL_VERDICTS[cell["verdict"]],
        rank=list(CELL_VERDICTS).index(cell["verdict"]),
        paper=_number(cell["reported"], below=_factor(cell["reported_normalised"]), exact=True),
        ours=_number(cell["strict_score"], below=_factor(cell["strict_normalised"])),
        span=Number(
            _span(cell["strict_low"], cell["strict_high"]),
            key=cell["strict_low"],
            below=_span(cell["strict_normalised_low"], cell["strict_normalised_high"], "× ") if method else "",
        ),
        n=Number(cell["n"] or "–", key=cell["n"]),
        difference=Number(
            _signed(cell["difference"]),
            key=cell["difference"],
            below=" to ".join(map(_signed, (cell["difference_low"], cell["difference_high"])))
            if cell["difference_low"]
            else "",
        ),
        detectable=Number(_points(cell["detectable"], 1) if cell["detectable"] else "–", key=cell["detectable"]),
        more=_more(cell),
        command=f"{command} {REDO} {join(_target(run, path) for path in files)}" if files else "",
        links=links,
    )


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
        verdicts = [cell["verdict"] for cell in cells if f"{cell['document']}/{cell['table']}" == id]
        # The template that made it has escaped what it prints.
        name = Markup(title[1].removesuffix(": paper and ours"))
        tables.append(PaperTable(id, name, Markup(html), count(CELL_VERDICTS, verdicts)))
    return tables


def pictures(run: Path, files: Sequence[Path], page: Path, tables: Sequence[PaperTable]) -> list[Picture]:
    """Every figure of the run, the SVG inside the page and the other files linked relative to the folder `page`."""
    titles = {table.id: table.title for table in tables}
    found = []
    for path in files:
        id = str(path.relative_to(run / "figures").with_suffix(""))
        title, alt = _picture(id)
        if id in titles:
            title = titles[id]
            alt = (
                f"Dot plot of {title.unescape()}: one panel for each column, one line for each row; hollow diamonds "
                "are the document's numbers, dots with 95 % intervals this run's. The table of all cells has the same "
                "numbers."
            )
        others = [path.with_suffix(f".{kind}") for kind in ("svg", "png", "pdf", "csv")]
        links = [(_address(other, page), other.suffix[1:].upper()) for other in others if other.exists()]
        data = f"data:image/svg+xml;base64,{b64encode(path.read_bytes()).decode()}"
        found.append(Picture(id, title, alt, data, links))
    return found


def _picture(id: str) -> tuple[str, str]:
    """Title of a figure that is no table's, with the model that it is of, and what it shows."""
    for pattern, (title, alt) in PICTURES.items():
        if fnmatchcase(id, pattern):
            return title + (f": {id.removeprefix(pattern[:-1])}" if pattern.endswith("*") else ""), alt
    return id, f"Figure {id}."


def _answers(run: Path, scores: Path) -> Path | None:
    """The file of answers that a file of scores is of; that of the chosen expert if it was a choice of one."""
    if not scores.exists():
        return None
    _, model, adapter, task, seed = scores.relative_to(run).with_suffix(".jsonl").parts
    own = run / "generations" / model / adapter / task / seed
    if own.exists():
        return own
    chosen = run / "generations" / model / str(read_json(scores).get("chosen")) / task / seed
    return chosen if chosen.exists() else None


def _target(run: Path, path: Path) -> str:
    """The file as the workflow names it: results/<run>/..."""
    return str(Path("results", run.name, path.relative_to(run)))


def _more(cell: Record) -> str:
    if not cell["n"]:
        return ""
    seeds = cell["seeds"].split()
    parts = [
        f"Seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}",
        f"leniently scored {_points(cell['lenient_score'])}",
    ]
    if cell["state"]:
        steps = f", kept after {', '.join(cell['kept_steps'].split())} steps" if cell["kept_steps"] else ""
        untrained = " (0: untrained)" if "0" in cell["kept_steps"].split() else ""
        parts.append(f"{cell['state']} state of each training{steps}{untrained}")
    if cell["other_state"]:
        parts.append(f"its {cell['other_state']} state scores {_points(cell['other_strict_score'])}")
    if cell["strict_p"]:
        p = float(cell["strict_p"])
        test = "exact McNemar" if cell["paired"] == "True" else "independent samples"
        parts.append(f"against our base p {'< 0.001' if p < 0.001 else f'= {p:.3f}'} ({test}, by Holm over the table)")
    return "; ".join(parts) + "."


def _text_table(section: account.Section) -> TextTable:
    rows = section.table.astype(object).where(section.table.notna(), "–").astype(str).to_numpy().tolist()
    return TextTable(section.title, section.about, [str(name) for name in section.table.columns], rows)


def _standin(cell: Record) -> bool:
    return cell["standin"] == "True"


def _of(files: Sequence[Path], folder: str, suffix: str) -> list[Path]:
    """The files of one kind, in order."""
    return _in_order(path for path in files if folder in path.parts and path.suffix == suffix)


def _in_order(paths: Iterable[Path]) -> list[Path]:
    """Documents before what is of none, tables before what else they have, Table 10 after Table 9."""

    def key(path: Path) -> list[int | str]:
        parts = re.split(r"(\d+)", str(path))
        numbered = [int(part) if part.isdigit() else part for part in parts]
        return [-len(path.parts), str(path.parent), not path.name.startswith("table"), *numbered]

    return sorted(paths, key=key)  # pyright: ignore[reportArgumentType]


def _address(path: Path, page: Path) -> str:
    return quote(Path(relpath(path, page)).as_posix())


def _number(text: str, below: str, exact: bool = False) -> Number:
    return Number(text if exact else _points(text), text, below) if text else Number("–")


def _points(text: str, digits: int = 2) -> str:
    return "∞" if math.isinf(float(text)) else f"{float(text):.{digits}f}"


def _factor(text: str) -> str:
    """A normalised score: how many times our base, or the document's."""
    return f"× {_points(text)}" if text else ""


def _span(low: str, high: str, unit: str = "") -> str:
    if not low or not high:
        return "" if unit else "–"
    return f"{unit}{_points(low)}–{_points(high)}"


def _signed(text: str) -> str:
    """Percentage points with their sign, a true minus."""
    return f"{float(text):+.1f}".replace("-", "−") if text else "–"


def _listed(parts: Iterable[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _plural(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
