"""Gains over the base: a forest plot for each table, and what the papers' own gains can show."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transformer2.report import text
from transformer2.report.figures.drawing import legend, save
from transformer2.report.figures.forest import forest
from transformer2.reproduce.pooled import pool_methods
from transformer2.reproduce.power import detectable
from transformer2.reproduce.verdicts import JudgedTable

WORTH = {"yes": ("#0072B2", "o"), "if paired": ("#E69F00", "s"), "no": ("#777777", "x")}
"""Whether the paper's n items show the printed gain with a power of 80 % -> colour and mark."""
MEANT = {
    "yes": "seen with 80 % power in any case",
    "if paired": "seen only if base and method are paired closely",
    "no": "not seen even with maximal pairing",
}


def draw(judged: JudgedTable, run: str, out: Path) -> None:
    """Writes the forest plot of a table: files as `drawing.save`, the data with all answers."""
    seeds: pd.Series = judged.gains["seeds"].dropna()  # type: ignore[assignment]
    of_run = f"run “{run}”" + (f", {text.seeds(int(seeds.max()))}" if len(seeds) else "")
    title = f"{judged.table.number} of {text.paper(judged.table.document)}: gains over the base, {of_run}"
    shown = _named(judged)
    save(forest(shown, judged.margin, title, pool_methods(shown)), judged.gains, out)


def _named(judged: JudgedTable) -> pd.DataFrame:
    """The judged gains as they are shown: models and tasks by the names of the paper, and what ran in their place."""
    ran = {cell.row.model: cell.ours.model for cell in judged.cells if cell.ours and cell.ours.standin}
    named = judged.table.models.items()
    models = {slug: f"{name}\n({ran[slug]} here)" if slug in ran else name for slug, name in named}
    models |= {row.model: f"{row.model}\n(ours alone)" for row in judged.table.rows if row.own}
    columns = {cell.id: cell.column.label for cell in judged.cells}
    verdict = judged.gains["verdict"].replace({"not comparable (stand-in)": "stand-in"})
    unequal = judged.gains["unequal_budgets"].map(lambda unequal: ", unequal budgets" if unequal else "")
    return judged.gains.assign(
        model=judged.gains["model"].map(models.get),
        task=judged.gains["cell"].map(columns.get),
        verdict=verdict + unequal,
    )


def draw_power(power: pd.DataFrame, out: Path) -> None:
    """Writes what the printed gains (`power.power_table`) can show: files as `drawing.save`.

    One row for each test set; a number that several tables print is drawn once. In the inner band no gain is seen with
    a power of 80 % on so many items, even if all discordant items favour one side; in the outer one none if base and
    method are independent.
    """
    once = power.drop_duplicates(["model", "method", "task", "score"])
    largest: pd.Series = once.groupby("task")["n"].max()  # type: ignore[assignment]
    tasks = largest.sort_values().index
    figure = Figure(figsize=(8.2, 0.5 * len(tasks) + 1.9), layout="constrained")
    axis = figure.subplots()
    for y, task in enumerate(tasks):
        _strip(axis, y, once.loc[once["task"] == task])
    axis.axvline(0, color="#444444", linewidth=0.8, zorder=1)
    axis.set_yticks(range(len(tasks)), [f"{task}, n = {once.loc[once['task'] == task, 'n'].max()}" for task in tasks])
    axis.set_ylim(len(tasks) - 0.4, -0.6)
    axis.set_xlabel("printed gain over the base, percentage points")
    axis.grid(axis="x", color="#eeeeee")
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    legend(figure, [axis], ncols=2)
    figure.suptitle("Which of the gains that the papers print their own test sets can show", fontsize=11)
    save(figure, power, out)


def _strip(axis: Axes, y: int, of_task: pd.DataFrame) -> None:
    n = of_task["n"].max()
    independent = 100 * float(detectable(n, of_task["discordant"].median()))
    at_best = 100 * float(detectable(n, 0.0))
    for width, colour, label in (
        (independent, "#f1f1f1", "not seen if base and method are independent"),
        (at_best, "#d9d9d9", "not seen however they are paired"),
    ):
        axis.barh(y, 2 * width, left=-width, height=0.72, color=colour, zorder=0, label=label)
    spread = np.linspace(-0.26, 0.26, len(of_task)) if len(of_task) > 1 else np.zeros(1)
    for worth, (colour, mark) in WORTH.items():
        chosen = (of_task["worth"] == worth).to_numpy()
        gains = of_task["gain"].to_numpy()[chosen]
        axis.plot(gains, y + spread[chosen], mark, color=colour, markersize=4.5, label=MEANT[worth])
