"""Rows for models of a run that stand for no row of the paper: below those of each table, without a reported number.

Such a model is ours alone. What it scored is shown where a model of the paper has the same cells, and is compared with
its own base.
"""

from collections.abc import Iterable
from dataclasses import replace

import pandas as pd

from transformer2.reproduce.ledger import Entry, Ledger, LedgerTable, Reported, Row, entries


def own_models(scores: pd.DataFrame) -> list[str]:
    """The models of a frame of scores that stand for no row of the paper, in its order."""
    return scores.loc[scores["stands_in_for"] == "", "model"].unique().tolist()


def with_scored(ledger: Ledger, scores: pd.DataFrame) -> Ledger:
    """The ledger with a row for every method of a table that such a model has a score for, below the paper's rows.

    Its base has a row above those of its methods, and by itself only where the run tried no method on the model.
    """
    alone = scores.loc[scores["stands_in_for"] == ""]
    scored = set(alone[["model", "method", "trained_on", "task"]].drop_duplicates().itertuples(index=False, name=None))
    if not scored:
        return ledger
    with_method = {model for model, method, *_ in scored if method != "base"}
    tables = []
    for printed, table in zip(ledger.scores, with_rows(ledger, own_models(scores)).scores, strict=True):
        filled = {(entry.row.model, entry.row.method) for entry in entries(table) if _place(entry) in scored}
        shown = {model for model, method in filled if method != "base" or model not in with_method}
        rows = [row for row in table.rows if not row.own or (row.model in shown and (row.model, row.method) in filled)]
        tables.append(_of_rows(printed, rows))
    return replace(ledger, scores=tuple(tables))


def _place(entry: Entry) -> tuple[str, str, str, str]:
    """Which scores of an own model fill a cell."""
    return entry.row.model, entry.method, entry.trained_on, entry.column.task


def with_rows(ledger: Ledger, models: Iterable[str]) -> Ledger:
    """The ledger with a row for each of these models and every method of each table, below the paper's rows."""
    names = list(models)
    tables = [_of_rows(table, [*table.rows, *_rows(table, names)]) for table in ledger.scores]
    return replace(ledger, scores=tuple(tables))


def _of_rows(table: LedgerTable, rows: list[Row]) -> LedgerTable:
    """The table with these rows, and the names of the own models among them."""
    own = {row.model: row.model for row in rows if row.own}
    return table.model_copy(update={"rows": tuple(rows), "models": table.models | own})


def _rows(table: LedgerTable, models: Iterable[str]) -> list[Row]:
    """A row a model and method; like the paper's first one, with all cells that any row of the method has."""
    of_method: dict[str, list[Row]] = {}
    for row in table.rows:
        of_method.setdefault(row.method, []).append(row)
    return [
        rows[0].model_copy(
            update={
                "model": model,
                "own": True,
                "label": model if method == "base" else rows[0].label,
                "parameters": None,
                "cells": {column.name: _cell(column.name, rows) for column in table.columns},
            }
        )
        for model in models
        for method, rows in of_method.items()
    ]


def _cell(column: str, rows: list[Row]) -> Reported | None:
    """A cell without a number of the paper, if any of the rows has one there."""
    first = next((cell for row in rows if (cell := row.cells[column]) is not None), None)
    return None if first is None else Reported(method=first.method)
