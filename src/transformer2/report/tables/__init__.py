"""The tables of a run, rendered in one process."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from transformer2.config import Run
from transformer2.report.contents import Table, chosen, tables_of
from transformer2.report.layout import Page, write
from transformer2.report.tables import scores, settings, times
from transformer2.reproduce.budgets import budgets
from transformer2.reproduce.frames import Frames
from transformer2.reproduce.ledger import Kind, Ledger
from transformer2.reproduce.own_models import with_scored


def write_tables(run: Run, folder: Path, ledger: Ledger, templates: Path, only: Sequence[str] = ()) -> list[str]:
    """Writes the tables of the run in `folder` to `<folder>/paper_tables/`, in all formats; returns their names.

    `only` names those that are wanted; all without it. Raises ValueError for an unknown name.
    """
    frames, tables = Frames(folder), chosen("table", tables_of(run, ledger), only)
    if any(table.kind == "scores" for table in tables):
        ledger = with_scored(ledger, frames.scores)
    for table in tables:
        page, numbers = _made(table, run, frames, ledger)
        write(page, numbers, templates, folder / "paper_tables")
    return [table.name for table in tables]


def _made(table: Table, run: Run, frames: Frames, ledger: Ledger) -> tuple[Page, pd.DataFrame]:
    if table.kind == "times":
        return times.table(_named(ledger.times, table.name), frames.timings)
    if table.kind == "settings":
        return settings.table(_named(ledger.settings, table.name), run.run, run.methods)
    experts = frames.experts if "experts" in table.frames else None
    of_ledger = _named(ledger.scores, table.name)
    return scores.table(of_ledger, ledger, frames.scores, experts, run.scores is None, budgets(run))


def _named(tables: Sequence[Kind], name: str) -> Kind:
    return next(table for table in tables if table.id == name)
