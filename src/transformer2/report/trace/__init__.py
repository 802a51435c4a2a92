"""Where one cell of a table comes from: from the printed number back to the answers that ours is counted from."""

import math
import zlib
from pathlib import Path
from typing import Any

from transformer2 import config as configuration
from transformer2 import paths
from transformer2.provenance import read_json
from transformer2.report import text
from transformer2.report.text import checksum
from transformer2.report.trace.chain import base_model, chain, samples
from transformer2.report.trace.lines import INDENT, UNREADABLE, checked, describe_file, fault, indented
from transformer2.report.trace.missing import command, configuration_of, not_run
from transformer2.reproduce import ledger
from transformer2.reproduce.cells import Cell, cells, name_of_test
from transformer2.reproduce.frames import Frames
from transformer2.reproduce.imported_scores import MANIFEST
from transformer2.reproduce.ledger import LedgerTable, entries
from transformer2.reproduce.own_models import own_models, with_rows


def explain(cell_id: str, results: Path, folder: Path) -> str:
    """The chain from a cell to the answers that it is counted from, as text.

    Args:
        cell_id: <document>/<table>/<model>/<method>/<column>.
        results: of the run, `results/<run>`.
        folder: of the ledger, `paper_tables`.

    A missing or corrupt link of the chain is named in its place. Raises ValueError for a cell that no table has.
    """
    run_file, run = configuration_of(results.name)
    table = _table_of(cell_id, folder, results, run)
    cell = next(Cell(entry, None) for entry in entries(table) if entry.id == cell_id)
    parts = [[cell_id], ["The paper", *indented(_printed(table, cell))]]
    try:
        strict, lenient = _measured(table, cell, results)
    except (*UNREADABLE, EOFError, zlib.error) as error:
        frame = results / "scores.csv.gz"
        parts.append([f"This run, {results}", f"{INDENT}{fault(frame, error)}"])
        if isinstance(error, FileNotFoundError):
            parts.append(not_run(cell, results, run_file, run))
        else:
            parts.append(["Made again by", f"{INDENT}{command([frame], results, run_file)}"])
        return _text(parts)
    if strict.ours is None or lenient.ours is None:
        parts.append(not_run(cell, results, run_file, run))
        return _text(parts)
    parts.append([f"This run, {results}", *indented(_run(table, strict, lenient))])
    if (imported := results / MANIFEST).is_file():
        parts.append(["The scores were measured elsewhere", *indented(describe_file(imported, _imported))])
        return _text(parts)
    files = [results / file for file in strict.ours.files]
    parts[-1] += indented(_collected(files, strict.ours.correct))
    for seed, file in zip(strict.ours.seeds, files, strict=True):
        parts.append([f"Seed {seed}", *indented(chain(file, results, cell.column.task))])
    base = results.parents[1] / paths.BASE.of(model=strict.ours.model) / "manifest.json"
    parts.append([f"Base model {strict.ours.model}", *indented(describe_file(base, base_model))])
    parts.append(["Two answers", *indented(samples(files[0], results))])
    parts.append(["Scored again by", f"{INDENT}{command(files, results, run_file)}"])
    return _text(parts)


def _text(parts: list[list[str]]) -> str:
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _table_of(cell_id: str, folder: Path, results: Path, run: configuration.Run | None) -> LedgerTable:
    """The table that has the cell, with rows for models of the run that have none in the paper; tables of seconds and
    of hyper-parameters have no cells.

    Raises:
        ValueError: no table has it; names the nearest cell.
    """
    if not any(folder.glob("*/*.yaml")):
        raise ValueError(f"there is no table in {folder}: name the folder of the ledger with --ledger")
    beside = with_rows(ledger.read_all(folder), _own_models(results, run))
    tables = {entry.id: table for table in beside.scores for entry in entries(table)}
    if cell_id not in tables:
        line = configuration.unknown("cell", cell_id, tables)
        if "did you mean" not in line:  # some hundred cells are no help
            line = f"unknown cell {cell_id!r}; a cell is <document>/<table>/<model>/<method>/<column>: {min(tables)}"
        raise ValueError(line)
    return tables[cell_id]


def _own_models(results: Path, run: configuration.Run | None) -> list[str]:
    """The models of a run that stand for no row of the paper, by its configuration and its scores."""
    configured = [name for name, model in run.models.items() if model.row is None] if run else []
    try:
        measured = own_models(Frames(results).scores)
    except (*UNREADABLE, EOFError, zlib.error):  # the trace says what is wrong with them
        measured = []
    return list(dict.fromkeys([*configured, *measured]))


def _measured(table: LedgerTable, cell: Cell, results: Path) -> tuple[Cell, Cell]:
    """The cell with what the run measured, scored strictly and leniently; its row alone is counted."""
    one_cell = table.model_copy(update={"rows": (cell.row,), "columns": (cell.column,)})
    scores = Frames(results).scores
    ((strict,), (lenient,)) = cells(one_cell, scores, "strict"), cells(one_cell, scores, "lenient")
    return strict, lenient


# ---- the paper, and what the run measured


def _printed(table: LedgerTable, cell: Cell) -> list[str]:
    reported, (first, last) = cell.reported, table.source.lines
    if reported.value is None:
        printed = "nothing: only this project has the row"
    else:
        printed = str(reported.value) + (f", normalised {reported.normalised}" if reported.normalised else "")
    lines = [
        f"prints  {printed}",
        f"in      {table.number} of {text.paper(table.document)}, section {table.source.section}; "
        f"{table.source.file}, lines {first} to {last}",
        f"row     {table.models[cell.row.model]}: {cell.row.label}",
        f"column  {cell.column.label}, {cell.column.metric}, n = {cell.column.n}",
    ]
    notes = (reported.scan and f"the text file shows {reported.scan}", cell.row.remark, cell.row.note)
    return lines + [f"note    {note}" for note in notes if note]


def _run(table: LedgerTable, strict: Cell, lenient: Cell) -> list[str]:
    ours, loose = strict.ours, lenient.ours
    assert ours is not None and loose is not None
    place = table.models[strict.row.model]
    model = f"{ours.model}, a stand-in for {place}" if ours.standin else f"{ours.model}, which is {place}"
    if strict.row.own:
        model = f"{ours.model}, ours alone: the paper has no row for it"
    of = f"{ours.items} items" + (f" with each of {len(ours.seeds)} seeds" if len(ours.seeds) > 1 else "")
    lines = [
        f"model       {model}",
        *([f"state       {ours.state} of each training"] if ours.state else []),
        f"score       {text.with_interval(ours.score)} %; {ours.correct} right of {of}",
        f"lenient     {text.with_interval(loose.score)} %; {loose.correct} right",
        f"seeds       {', '.join(map(str, ours.seeds))}",
    ]
    if strict.entry.method != "base":
        p_value = (
            "not tested against the base"
            if math.isnan(ours.p_value)
            else f"p = {ours.p_value:.2g} ({name_of_test(len(ours.seeds), ours.paired)}, this cell alone)"
        )
        lines.insert(-1, f"normalised  {text.with_interval(ours.normalised)}; {p_value}")
    return lines


def _collected(files: list[Path], correct: float) -> list[str]:
    """A line if the files of scores have changed since they were put into the frame."""
    try:
        right = round(sum(item["strict"] for file in files for item in read_json(file)["items"]), 6)
    except UNREADABLE:
        return []  # the chain of each seed says what is wrong
    if right == correct:
        return []
    return [f"DIFFERS     {right} right in the files of scores, {correct} in scores.csv.gz: collect them again"]


def _imported(record: Any) -> list[str]:
    return [
        f"in {record['file']}, sha256 {checksum(record['sha256'])}, read {record['started']}; {_now(record)}",
        "no model was run here: the chain ends at that file",
    ]


def _now(record: Any) -> str:
    return checked(Path(record["file"]), record["sha256"])
