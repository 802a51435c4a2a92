"""Self-adaptation as pictures: where prompts are sent (Figure 6) and what the search finds (Figure 7)."""

from collections.abc import Iterable
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from transformer2.config.names import MAIN_BUDGET
from transformer2.report.figures.drawing import COLOURS, legend, save
from transformer2.reproduce.frames import last_iteration, of_main_budget
from transformer2.tasks.classify import CLASSES, OTHERS

DOMAINS = tuple(name for name in CLASSES if name != OTHERS)
STRATEGIES = {
    "prompt": "Prompt",
    "cls": "Cls-expert",
    "prompt_labels": "Prompt,\none forward pass",
    "cls_labels": "Cls-expert,\none forward pass",
}
OTHERS_AT = 3.3
"""Where the column of the others stands: apart from the three classes that have an expert."""
CONFIGURATIONS = {
    ("vector", False): "per vector",
    ("vector", True): "per vector, normalised",
    ("layer", False): "per layer",
    ("layer", True): "per layer, normalised",
}


def confusion(decisions: pd.DataFrame, out: Path) -> None:
    """Writes Figure 6: for each model (a row of panels) and strategy, the share of each domain's prompts by class.

    Files as `drawing.save`. Raises ValueError for an unknown domain or class.
    """
    for column, known in (("domain", DOMAINS), ("class", CLASSES)):
        if unknown := sorted(set(decisions[column]) - set(known)):
            raise ValueError(f"the frame of decisions has an unknown {column}: {unknown[0]!r}")
    models = list(dict.fromkeys(decisions["model"]))
    figure = Figure(figsize=(8.6, 1.2 * len(models) + 1.2), layout="constrained")
    axes = figure.subplots(len(models), len(STRATEGIES), sharex=True, sharey=True, squeeze=False)
    shown = {}
    for (model, strategy), axis in zip(product(models, STRATEGIES), axes.flat, strict=True):
        chosen = decisions.loc[(decisions["model"] == model) & (decisions["strategy"] == strategy)]
        shown[model, strategy] = counts(chosen)
        _matrix(axis, shown[model, strategy])
    for axis, label in zip(axes[0], STRATEGIES.values(), strict=True):
        axis.set_title(label, fontsize=9, loc="left")
    for axis, model in zip(axes[:, 0], models, strict=True):
        axis.set_ylabel(_name(decisions, model), fontsize=9)
        axis.set_yticks(range(len(DOMAINS)), DOMAINS, fontsize=8)
    for axis in axes[-1]:
        axis.set_xticks([0, 1, 2, OTHERS_AT], CLASSES, fontsize=8, rotation=45, ha="right", rotation_mode="anchor")
    figure.suptitle(
        f"Figure 6 of the paper, run “{decisions['run'].iloc[0]}”: "
        "percent of each true domain (row) by predicted class",
        fontsize=10,
    )
    data = (
        pd.concat(shown, names=["model", "strategy"])
        .melt(ignore_index=False, var_name="class", value_name="prompts")
        .reset_index()
    )
    save(figure, data, out)


def counts(decisions: pd.DataFrame) -> pd.DataFrame:
    """Prompts by true domain (rows) and predicted class (columns)."""
    table = pd.crosstab(decisions["domain"], decisions["class"])
    return table.reindex(index=list(DOMAINS), columns=list(CLASSES), fill_value=0)


def _matrix(axis: Axes, table: pd.DataFrame) -> None:
    axis.set(xlim=(-0.6, 5.3), ylim=(len(DOMAINS) - 0.4, -0.6), aspect="equal")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if not table.to_numpy().any():
        axis.text(1, 1, "not run", ha="center", va="center", fontsize=9, color="#595959")
        return
    for y, row in enumerate(table.to_numpy()):
        n = row.sum()
        axis.text(OTHERS_AT + 0.6, y, f"n = {n}", va="center", fontsize=6.5, color="#595959")
        for x, name, count in zip((0, 1, 2, OTHERS_AT), CLASSES, row, strict=True):
            share = count / n if n else 0.0
            shade = colormaps["Greys" if name == "others" else "Blues"](0.85 * share)
            axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=shade, edgecolor="#999999", linewidth=0.5))
            ink = "white" if share > 0.6 else "black"
            axis.text(x, y, f"{100 * share:.0f}" if n else "–", ha="center", va="center", fontsize=8.5, color=ink)


def weights(alphas: pd.DataFrame, out: Path) -> None:
    """Writes Figure 7: what share of the best mix each expert has, by model (row of panels), task and configuration.

    Searches with the main budget of shots; files as `drawing.save`. Raises ValueError as `checked`.
    """
    alphas = checked(alphas)
    shared = shares(alphas)
    models, tasks, experts = (list(dict.fromkeys(alphas[column])) for column in ("model", "task", "expert"))
    figure = Figure(figsize=(2.3 * len(tasks) + 1.9, 1.25 * len(models) + 1.3), layout="constrained")
    axes = figure.subplots(len(models), len(tasks), sharex=True, sharey=True, squeeze=False)
    for (model, task), axis in zip(product(models, tasks), axes.flat, strict=True):
        for y, configuration in enumerate(CONFIGURATIONS):
            if (model, task, *configuration) in shared.index:
                _bar(axis, y, shared.loc[(model, task, *configuration)].to_dict(), experts)
            else:
                axis.text(0.5, y, "not run", ha="center", va="center", fontsize=7, color="#595959")
        axis.set(xlim=(0, 1), ylim=(len(CONFIGURATIONS) - 0.5, -0.5))
        axis.set_yticks(range(len(CONFIGURATIONS)), list(CONFIGURATIONS.values()), fontsize=7.5)
        for border in range(1, len(experts)):
            axis.axvline(
                border / len(experts), color="black", linewidth=1, linestyle=":", zorder=0, label="equal weights"
            )
    _head(axes, alphas, models, tasks)
    for axis in axes[-1]:
        axis.set_xlabel("share of α", fontsize=8)
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=7.5)
    legend(figure, axes.flat, ncols=len(experts) + 1)
    figure.suptitle(
        f"Figure 7 of the paper, run “{alphas['run'].iloc[0]}”: weights of the experts, {MAIN_BUDGET} shots",
        fontsize=10,
    )
    save(figure, shared.melt(ignore_index=False, value_name="share").reset_index(), out)


def shares(alphas: pd.DataFrame) -> pd.DataFrame:
    """Alpha of the best candidate of each search, one column an expert, divided by its sum over the experts.

    Each layer is normalised for itself, then the mean is taken over layers.
    """
    best = last_iteration(alphas).pivot(
        index=["model", "task", "granularity", "normalised", "layer"], columns="expert"
    )["best"]
    of_layer = best.div(best.sum(axis=1), axis=0)
    return pd.DataFrame(of_layer.groupby(level=["model", "task", "granularity", "normalised"], sort=False).mean())


def _bar(axis: Axes, y: int, shared: dict[Any, float], experts: list[str]) -> None:
    left = 0.0
    for expert, colour in zip(experts, cycle(COLOURS), strict=False):
        share = shared[expert]
        axis.barh(y, share, left=left, height=0.72, color=colour, edgecolor="white", label=f"{expert} expert")
        if share > 0.12:  # a narrower bar has no room for its number
            ink = "white" if colour == COLOURS[0] else "black"
            axis.text(left + share / 2, y, f"{share:.2f}", ha="center", va="center", fontsize=7, color=ink)
        left += share


def convergence(alphas: pd.DataFrame, out: Path) -> None:
    """Writes how each search went: accuracy of its best candidate on the shots, and the deviation that it draws with.

    Two rows of panels a model, one column a task, one line a configuration; the deviation is the mean over experts and
    layers after each iteration. Searches with the main budget of shots; files as `drawing.save`. Raises ValueError as
    `checked`.
    """
    alphas = checked(alphas)
    traces = alphas.groupby(["model", "task", "granularity", "normalised", "iteration"], sort=False).agg(
        accuracy=("best_accuracy", "first"), std=("std", "mean")
    )
    models, tasks = list(dict.fromkeys(alphas["model"])), list(dict.fromkeys(alphas["task"]))
    figure = Figure(figsize=(2.3 * len(tasks) + 1.4, 2.7 * len(models) + 1.2), layout="constrained")
    axes = figure.subplots(2 * len(models), len(tasks), sharex="col", sharey="row", squeeze=False)
    for (i, model), (j, task) in product(enumerate(models), enumerate(tasks)):
        for number, configuration in enumerate(CONFIGURATIONS):
            if (model, task, *configuration) in traces.index:
                trace = traces.loc[(model, task, *configuration)]
                _line(axes[2 * i, j], trace.index, 100 * trace["accuracy"], number)
                _line(axes[2 * i + 1, j], trace.index, trace["std"], number)
    for axis in axes.flat:
        axis.grid(color="#eeeeee")
        axis.tick_params(labelsize=7.5)
        axis.margins(y=0.12)
    for i, model in enumerate(models):
        axes[2 * i, 0].set_ylabel(f"{_name(alphas, model)}\nright shots in %", fontsize=8)
        axes[2 * i + 1, 0].set_ylabel("standard deviation", fontsize=8)
        axes[2 * i + 1, 0].set_ylim(bottom=0)
    for axis, task in zip(axes[0], tasks, strict=True):
        axis.set_title(task, fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("iteration", fontsize=8)
    legend(figure, axes.flat, ncols=2)
    figure.align_ylabels()
    figure.suptitle(f"Search for the mix of experts, {MAIN_BUDGET} shots, run “{alphas['run'].iloc[0]}”", fontsize=10)
    save(figure, traces.reset_index(), out)


def _line(axis: Axes, iterations: Iterable[int], values: pd.Series, number: int) -> None:
    """Later lines are thinner, so that one below another is still seen; a dot marks where the search stopped."""
    axis.plot(
        list(iterations), values, color=COLOURS[number], linewidth=3.4 - 0.8 * number, marker="o", markersize=5,
        markevery=[len(values) - 1], label=list(CONFIGURATIONS.values())[number],
    )  # fmt: skip


def checked(alphas: pd.DataFrame) -> pd.DataFrame:
    """The searches of one run with the main budget of shots.

    Raises:
        ValueError: there is no such search, or one of an unknown configuration.
    """
    alphas = of_main_budget(alphas)
    if alphas.empty:
        raise ValueError(f"the frame of searches has none with {MAIN_BUDGET} shots")
    if unknown := sorted(set(alphas["granularity"]) - {granularity for granularity, _ in CONFIGURATIONS}):
        raise ValueError(f"the frame of searches has an unknown granularity: {unknown[0]!r}")
    return alphas


def _head(axes: np.ndarray, alphas: pd.DataFrame, models: list[str], tasks: list[str]) -> None:
    for axis, task in zip(axes[0], tasks, strict=True):
        axis.set_title(task, fontsize=9)
    for axis, model in zip(axes[:, 0], models, strict=True):
        axis.set_ylabel(_name(alphas, model), fontsize=8)


def _name(frame: pd.DataFrame, model: str) -> str:
    """The model, and in whose place it ran."""
    row = frame.loc[frame["model"] == model].iloc[0]
    return f"{model}\n(for {row['stands_in_for']})" if row["standin"] else model
