"""Every method of a run beside a reference method: what a choice does to the accuracy, with seeds as a level."""

from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from transformer2.provenance import atomic_write
from transformer2.report import text
from transformer2.report.figures.drawing import COLOURS, legend, save
from transformer2.report.layout import markdown
from transformer2.reproduce.cells import item_verdicts, main_states
from transformer2.reproduce.statistics import Estimate, paired_bootstrap

POOLED = "all tasks"
LINEAR = 5
"""Percentage points up to which the axis is linear: one choice may cost a hundred times as much as another."""


class Effect(NamedTuple):
    """One method on one task, or on all of them together. Percent, and percentage points."""

    model: str
    method: str
    task: str
    accuracy: float
    """Mean over seeds and items."""
    difference: Estimate
    """From the reference on the same items with the same seeds; 95 % interval over seeds and items."""
    seeds: int
    items: int


def draw(scores: pd.DataFrame, reference: str, out: Path) -> None:
    """Writes the comparison of all trained methods of a run with the method `reference`: `<out>.md`, and a figure with
    its data (`drawing.save`).

    Raises:
        ValueError: as `effects`.
    """
    compared = effects(scores, reference)
    run = str(scores["run"].iloc[0])
    atomic_write(out.with_name(f"{out.name}.md"), _page(compared, reference, run))
    save(_figure(compared, reference, run), _frame(compared), out)


def effects(scores: pd.DataFrame, reference: str) -> list[Effect]:
    """The effect of every method that was trained on the task that it is scored on, reference first, task by task; on
    all tasks together for methods that were trained on all that the reference was.

    Raises:
        ValueError: the reference was not run, or not with the seeds and on the items of another method.
    """
    own = main_states(scores.loc[scores["trained_on"] == scores["task"]])
    own = own.loc[own["task"] != "classify"]
    if reference not in set(own["method"]):
        raise ValueError(
            f"the reference {reference!r} was not run; trained methods are {', '.join(own['method'].unique())}"
        )
    every = []
    for model, of_model in own.groupby("model", sort=False):
        verdicts = {key: item_verdicts(of, "strict") for key, of in of_model.groupby(["method", "task"])}
        tasks = [task for task in of_model["task"].unique() if (reference, task) in verdicts]
        methods = sorted(of_model["method"].unique(), key=lambda name: name != reference)  # stable: the run's order
        for method in methods:
            compared = {
                task: (verdicts[method, task], verdicts[reference, task])
                for task in tasks
                if (method, task) in verdicts
            }
            for task, pair in compared.items():
                every.append(_effect(str(model), method, task, *pair, reference))
            if len(compared) == len(tasks) > 1:
                ours, theirs = (pd.concat(of, axis=1) for of in zip(*compared.values(), strict=True))
                every.append(_effect(str(model), method, POOLED, ours, theirs, reference))
    return every


def _effect(model: str, method: str, task: str, ours: pd.DataFrame, theirs: pd.DataFrame, reference: str) -> Effect:
    if not ours.index.equals(theirs.index) or not ours.columns.equals(theirs.columns):
        raise ValueError(f"{method} and {reference} have other seeds or items of {task}; they cannot be paired")
    difference = paired_bootstrap(ours.to_numpy(), theirs.to_numpy(), "difference")
    scaled = Estimate(*(100 * number for number in difference))
    return Effect(model, method, task, 100 * float(ours.to_numpy().mean()), scaled, *ours.shape)


def _frame(effects: list[Effect]) -> pd.DataFrame:
    rows = [
        (e.model, e.method, e.task, e.accuracy, *e.difference, e.seeds, e.items) for e in effects
    ]  # fmt: skip
    return pd.DataFrame(
        rows, columns=["model", "method", "task", "accuracy", "difference", "low", "high", "seeds", "items"]
    )


def _page(shown: list[Effect], reference: str, run: str) -> str:
    """One row a model and method, one column a task: accuracy, and the difference from the reference."""
    frame = pd.DataFrame(
        [{"model": e.model, "method": e.method, "task": e.task, "text": _text(e, reference)} for e in shown]
    )
    table = (
        frame.pivot_table("text", ["model", "method"], "task", aggfunc="first", sort=False).fillna("–").reset_index()
    )
    seeds, items = shown[0].seeds, {e.task: e.items for e in shown}
    said = ", ".join(f"{task} {n}" for task, n in items.items())
    return (
        f"# Methods beside “{reference}”, run “{run}”\n\n"
        f"Accuracy in percent (strict), and in parentheses its difference from “{reference}” in points with a 95 % "
        f"interval: a paired bootstrap that draws seeds, then items ({seeds} seeds; items: {said}). With {seeds} seeds "
        "their spread is underestimated. Intervals are not adjusted for their number.\n\n"
        f"{markdown(table)}\n"
    )


def _text(effect: Effect, reference: str) -> str:
    if effect.method == reference:
        return text.fixed(effect.accuracy, 1)
    value, low, high = effect.difference
    return f"{text.fixed(effect.accuracy, 1)} ({text.signed(value)}: {text.signed_span(low, high)})"


def _figure(shown: list[Effect], reference: str, run: str) -> Figure:
    """A panel a model, a line a method: difference from the reference with its interval, a colour a task."""
    models = list(dict.fromkeys(e.model for e in shown))
    methods = [name for name in dict.fromkeys(e.method for e in shown) if name != reference]
    tasks = list(dict.fromkeys(e.task for e in shown))
    figure = Figure(figsize=(5.2 * len(models) + 1.8, 0.42 * len(methods) + 1.6), layout="constrained")
    axes = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    by_place = {(e.model, e.method, e.task): e for e in shown}
    for axis, model in zip(axes, models, strict=True):
        for (y, method), (k, task) in product(enumerate(methods), enumerate(tasks)):
            if (effect := by_place.get((model, method, task))) is None:
                continue
            value, low, high = effect.difference
            axis.errorbar(
                value, y + 0.22 * (k - (len(tasks) - 1) / 2), xerr=[[value - low], [high - value]], capsize=2,
                fmt="D" if task == POOLED else "o", color="black" if task == POOLED else COLOURS[k % len(COLOURS)],
                markersize=4.5, label=f"{task}, n = {effect.seeds} seeds × {effect.items}",
            )  # fmt: skip
        axis.axvline(0, color="#999999", linewidth=0.8)
        axis.set_xscale("symlog", linthresh=LINEAR, linscale=1.5)
        limits = [1.2 * edge(e.difference) for e in shown for edge in (min, max)]
        axis.set_xlim(min(*limits, -1), max(*limits, 1))
        ticks = [sign * n for n in (0, 1, 2, 5, 20, 50) for sign in (-1, 1)]
        axis.set_xticks(sorted({n for n in ticks if min(limits) <= n <= max(limits)} | {0}))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(axis="x", color="#eeeeee")
        axis.set_axisbelow(True)
        of_reference = [e for e in shown if (e.model, e.method) == (model, reference)]
        if of_reference:
            axis.set_title(f"{model}: {reference} has {of_reference[-1].accuracy:.1f} %", fontsize=10)
        axis.set_xlabel(
            f"difference in accuracy, percentage points, 95 % interval\n(logarithmic beyond ±{LINEAR})", fontsize=9
        )
    axes[0].set_yticks(range(len(methods)), methods, fontsize=9)
    axes[0].set_ylim(len(methods) - 0.4, -0.6)
    legend(figure, axes, ncols=len(tasks))
    figure.suptitle(f"Methods beside “{reference}”, run “{run}”", fontsize=11)
    return figure
