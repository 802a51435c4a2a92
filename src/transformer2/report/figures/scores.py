"""A table of the ledger as a picture: what the paper reports beside what a run measured."""

from itertools import pairwise
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transformer2.report.figures.drawing import COLOURS, legend, save
from transformer2.report.text import paper
from transformer2.reproduce.cells import Cell, cells
from transformer2.reproduce.ledger import LedgerTable, Row


def draw(table: LedgerTable, scores: pd.DataFrame, out: Path) -> None:
    """Writes a dot plot of one table of accuracies: files as `drawing.save`.

    One panel a column, one line a row of the table: filled dots with 95 % intervals are this run's, hollow diamonds the
    paper's. Rows and values are those of the rendered table (strict scores).
    """
    drawn = cells(table, scores, "strict")
    figure = Figure(figsize=(3.2 * len(table.columns) + 1.6, 0.34 * len(table.rows) + 1.7), layout="constrained")
    axes = figure.subplots(1, len(table.columns), sharey=True, squeeze=False)
    for axis, column in zip(axes[0], table.columns, strict=True):
        _panel(axis, table, [cell for cell in drawn if cell.column == column])
        n = {cell.ours.items for cell in drawn if cell.column == column and cell.ours}
        axis.set_title(f"{column.label} (ours: n = {', '.join(map(str, sorted(n))) or '–'})", fontsize=10)
        axis.set_xlabel(f"{column.metric} in %")
    axes[0][0].set_yticks(range(len(table.rows)), [_row_name(row, drawn) for row in table.rows], fontsize=9)
    axes[0][0].set_ylim(len(table.rows) - 0.4, -0.6)
    legend(figure, axes[0], ncols=2)
    run = scores["run"].iloc[0]
    figure.suptitle(f"{table.number} of {paper(table.document)}, run “{run}”", fontsize=11)
    save(figure, _drawn(drawn), out)


def _drawn(cells: list[Cell]) -> pd.DataFrame:
    """What is drawn, in percent: one row a cell."""
    columns = ["cell", "model", "method", "task", "reported", "ours", "low", "high", "n"]
    rows = []
    for cell in cells:
        ours = (*cell.ours.score, cell.ours.items) if cell.ours else (None,) * 4
        rows.append((cell.id, cell.row.model, cell.entry.method, cell.column.task, cell.reported.value, *ours))
    return pd.DataFrame(rows, columns=columns).astype({"n": "Int64"})


def _panel(axis: Axes, table: LedgerTable, of_column: list[Cell]) -> None:
    heights = {(row.model, row.method): y for y, row in enumerate(table.rows)}
    families = list(dict.fromkeys(_family(row) for row in table.rows))
    for cell in of_column:
        y = heights[cell.row.model, cell.row.method]
        if cell.reported.value is not None:
            axis.plot(
                float(cell.reported.value), y, "D", color="#777777", markerfacecolor="white", markersize=5,
                label="reported by the paper",
            )  # fmt: skip
        if cell.ours is None:
            continue
        value, low, high = cell.ours.score
        colour = COLOURS[families.index(_family(cell.row)) % len(COLOURS)]
        axis.errorbar(
            value, y, xerr=[[value - low], [high - value]], fmt="o", color=colour, capsize=2.5, markersize=5.5,
            label="measured here, 95 % interval (Wilson)",
        )  # fmt: skip
    if not any(cell.ours or cell.reported.value is not None for cell in of_column):
        axis.text(50, (len(table.rows) - 1) / 2, "not run", ha="center", va="center", fontsize=10, color="#595959")
    for y, (above, below) in enumerate(pairwise(table.rows)):
        if above.model != below.model:
            axis.axhline(y + 0.5, color="#dddddd", linewidth=0.8)
    axis.set_xlim(-2, 102)
    axis.grid(axis="x", color="#eeeeee")
    axis.set_axisbelow(True)


def _family(row: Row) -> str:
    """Rows that share a colour: the bases, and the variants of a method, which share its label."""
    return row.method if row.method == "base" else row.label


def _row_name(row: Row, drawn: list[Cell]) -> str:
    """Label and remark, and in the first row of each model what ran in the place of the paper's model."""
    of_model = [cell for cell in drawn if cell.row.model == row.model]
    ran = next((cell.ours.model for cell in of_model if cell.ours), "nothing")
    place = "(ours alone)" if row.own else f"({ran} here)"
    return "\n".join(filter(None, (row.label, row.remark, place if of_model[0].row == row else "")))
