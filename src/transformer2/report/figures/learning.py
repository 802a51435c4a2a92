"""How experts were learnt, as pictures: Figure 4 (SVF) and Figure 9 (LoRA with policy gradient; the workshop's 6).

What training records is accuracy on the validation half of the training data, by which the expert is chosen. The
papers' curves may be of the test split, as their dashed line is; ours is too, and says so.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from transformer2.report.figures.drawing import COLOURS, legend, save
from transformer2.reproduce.statistics import wilson

DRAWN = "llama3-8b"
"""The paper's model that its figures show."""
SVF, BASE, OTHER = COLOURS[0], "#555555", "#bbbbbb"
KEPT = {"best": ("D", COLOURS[1]), "last": ("s", COLOURS[3])}
"""State of a training -> its marker and colour."""


def learning(curves: pd.DataFrame, scores: pd.DataFrame, model: str, method: str, out: Path) -> None:
    """Writes Figure 4: a panel a task, with the curve of the expert, both states that were kept, the other points of
    its sweep, and the base model on the test split.

    Files as `drawing.save`. Raises ValueError if nothing was learnt by that model and method.
    """
    curves, bases = _of(curves, scores, model, method)
    figure, axes = _panels(curves, bases)
    for axis, (_, of_task) in zip(axes, curves.groupby("task", sort=False), strict=True):
        for _, line in of_task.groupby(["seed", "point"], sort=False):
            chosen, validation = bool(line["chosen"].iloc[0]), line.loc[line["split"] == "validation"]
            _mark_kept(axis, line, validation)
            if chosen:
                _chosen(axis, line, validation)
            else:
                name = "other points of the sweep, validation"
                axis.plot(
                    validation["step"], 100 * validation["accuracy"], color=OTHER, linewidth=3.4, zorder=1.5, label=name
                )
    figure.suptitle(_title("Figure 4", curves, f"experts of {method}"), fontsize=10)
    legend(figure, axes, ncols=2)
    save(figure, curves, out)


def _chosen(axis: Axes, line: pd.DataFrame, validation: pd.DataFrame) -> None:
    """Draws the curve of one expert, with its interval and its own answers in training."""
    train = line.loc[line["split"] == "train"]
    axis.plot(
        train["step"], 100 * train["accuracy"], color=COLOURS[4], linewidth=1.1, label="sampled answers in training"
    )
    value = 100 * validation["accuracy"].to_numpy()
    bounds = [wilson(round(a * n, 6), n) for a, n in zip(validation["accuracy"], validation["n"], strict=True)]
    low, high = 100 * np.array(bounds).T
    axis.errorbar(
        validation["step"], value, yerr=[(value - low).clip(0), (high - value).clip(0)], color=SVF, linewidth=1.8,
        elinewidth=0.9, capsize=2.5, marker="o", markersize=3.5, label="validation, greedy, 95 % interval (Wilson)",
    )  # fmt: skip


def _mark_kept(axis: Axes, line: pd.DataFrame, validation: pd.DataFrame) -> None:
    """Marks the states of one training that are scored: its best one, its last one, both or none."""
    first = line.iloc[0]
    for state, chosen in (("best", first["chosen"]), ("last", first["chosen_last"])):
        if not chosen or (state == "best" and first["selected"] == "last"):
            continue
        kept = validation.loc[validation["step"] == first[f"{state}_step"]]
        marker, colour = KEPT[state]
        axis.plot(
            kept["step"], 100 * kept["accuracy"], marker, color=colour, markeredgecolor="black", zorder=4,
            markersize=7.5 if state == "best" else 5, linestyle="none",
            label=f"{state} state" + ", the expert" * (state == first["selected"]),
        )  # fmt: skip


def sweep(curves: pd.DataFrame, scores: pd.DataFrame, model: str, method: str, out: Path) -> None:
    """Writes Figure 9: a panel a task, one line on the validation half for every point of the sweep, from the smallest
    learning rate to the largest, both states that were kept, and the base model on the test split.

    Files and errors as `learning`.
    """
    curves, bases = _of(curves, scores, model, method)
    rates = sorted(curves["learning_rate"].unique())
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(rates)))
    widths = np.linspace(5, 1.5, len(rates))  # a line under another of the same values shows on both of its sides
    figure, axes = _panels(curves, bases)
    for axis, (_, of_task) in zip(axes, curves.groupby("task", sort=False), strict=True):
        for rate, colour, width in zip(rates, colours, widths, strict=True):
            of_rate = of_task.loc[(of_task["learning_rate"] == rate) & (of_task["split"] == "validation")]
            for _, line in of_rate.groupby(["seed", "point"], sort=False):
                axis.plot(
                    line["step"], 100 * line["accuracy"], color=colour, linewidth=width, marker="o",
                    markersize=width + 1.5, label=f"learning rate {rate:g}",
                )  # fmt: skip
                _mark_kept(axis, line, line)
    figure.suptitle(_title("Figure 9", curves, f"{method} by learning rate"), fontsize=10)
    legend(figure, axes, ncols=3)
    save(figure, curves.loc[curves["split"] == "validation"], out)


def _of(curves: pd.DataFrame, scores: pd.DataFrame, model: str, method: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The curves of one model and method, and whether its base is right on each test item of those tasks (columns task,
    right), by the score that the training went by."""
    curves = curves.loc[(curves["model"] == model) & (curves["method"] == method)]
    if curves.empty:
        raise ValueError(f"the frame of curves has none of {model} by {method}")
    base = scores.loc[(scores["model"] == model) & (scores["method"] == "base")]
    return curves, pd.DataFrame({"task": base["task"], "right": base[curves["scored"].iloc[0]]})


def _panels(curves: pd.DataFrame, bases: pd.DataFrame) -> tuple[Figure, list[Axes]]:
    """One panel a task, with the base model as a dashed line."""
    tasks = list(dict.fromkeys(curves["task"]))
    figure = Figure(figsize=(max(6.4, 2.6 * len(tasks) + 0.8), 3.8), layout="constrained")
    axes = list(figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0])
    for axis, task in zip(axes, tasks, strict=True):
        of_task, base = curves.loc[curves["task"] == task], bases.loc[bases["task"] == task, "right"]
        if len(base):
            axis.axhline(100 * base.mean(), color=BASE, linestyle="--", linewidth=1.3, label="base model, test split")
        n = of_task.loc[of_task["split"] == "validation", "n"].iloc[0]
        axis.set_title(f"{task}\nn = {n} (validation), {len(base)} (test)", fontsize=9)
        axis.set_xlabel("updates", fontsize=9)
        axis.set_ylim(-4, 106)
        axis.grid(color="#eeeeee")
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes[0].set_ylabel(f"accuracy in % ({curves['scored'].iloc[0]})", fontsize=9)
    return figure, axes


def _title(number: str, curves: pd.DataFrame, what: str) -> str:
    first, seeds = curves.iloc[0], sorted(curves["seed"].unique())
    ran = f"{first['model']} in place of {first['stands_in_for']}" if first["standin"] else first["model"]
    like = "" if first["stands_in_for"] == DRAWN else "As "
    return (
        f"{like}{number} of the paper, run “{first['run']}”: {ran}\n{what}: accuracy on validation, not on "
        f"test; seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    )
