"""A table of the ledger as a picture: what the paper reports beside what a run measured."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transformer2.paper import ledger
from transformer2.paper.cells import Cell, cells, read_scores
from transformer2.provenance import whole_file

STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "transformer2"}
"""Text stays text, and the same picture is the same file."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
"""Of the methods in the order of the table; told apart in all common kinds of colour blindness (Okabe and Ito 2008)."""


def draw(ledger_file: Path, scores_file: Path, out: Path) -> None:
    """Writes a dot plot of one ledger table to `out` (format by its suffix).

    One panel a task, one line a row of the table: filled dots with 95 % intervals are this run's, hollow diamonds the
    paper's. Rows and values are those of the rendered table (strict scores).
    """
    table = ledger.read(ledger_file)
    scores = read_scores(scores_file)
    drawn = cells(table, scores, "strict")
    figure = Figure(figsize=(3.2 * len(table.columns) + 1.6, 0.34 * len(table.rows) + 1.7), layout="constrained")
    axes = figure.subplots(1, len(table.columns), sharey=True, squeeze=False)
    for axis, column in zip(axes[0], table.columns, strict=True):
        _panel(axis, [cell for cell in drawn if cell.column == column])
        n = {cell.ours.items for cell in drawn if cell.column == column and cell.ours}
        axis.set_title(f"{column.label} (ours: n = {', '.join(map(str, sorted(n))) or '–'})", fontsize=10)
        axis.set_xlabel(f"{column.metric} in %")
    axes[0][0].set_yticks(range(len(table.rows)), _row_names(drawn, len(table.columns)))
    axes[0][0].invert_yaxis()
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    run = scores["run"].iloc[0]
    figure.suptitle(f"{table.number} of the {table.document} document, run “{run}”", fontsize=11)
    with whole_file(out) as temporary, rc_context(STYLE):
        figure.savefig(
            temporary,
            format=out.suffix.removeprefix("."),
            dpi=160,
            metadata={"Date": None} if out.suffix == ".svg" else {},
        )


def _panel(axis: Axes, of_column: list[Cell]) -> None:
    methods = list(dict.fromkeys(cell.row.method for cell in of_column))
    for y, cell in enumerate(of_column):
        reported = float(cell.reported.value)
        axis.plot(
            reported, y, "D", color="#777777", markerfacecolor="white", markersize=5,
            label="reported by the paper" if y == 0 else None,
        )  # fmt: skip
        if cell.ours is None:
            continue
        value, low, high = cell.ours.score
        colour = COLOURS[methods.index(cell.row.method) % len(COLOURS)]
        axis.errorbar(
            value, y, xerr=[[value - low], [high - value]], fmt="o", color=colour, capsize=2.5, markersize=5.5,
            label="measured here, 95 % interval (Wilson)" if y == 0 else None,
        )  # fmt: skip
    for y in range(len(methods), len(of_column), len(methods)):
        axis.axhline(y - 0.5, color="#dddddd", linewidth=0.8)
    axis.set_xlim(-2, 102)
    axis.grid(axis="x", color="#eeeeee")
    axis.set_axisbelow(True)


def _row_names(drawn: list[Cell], columns: int) -> list[str]:
    """The method, and in the first row of each model what ran in the place of the paper's model."""
    names = []
    for first in drawn[::columns]:
        ran = first.ours.model if first.ours else "nothing"
        names.append(f"{first.row.label}\n({ran} here)" if first.row.method == "base" else first.row.label)
    return names
