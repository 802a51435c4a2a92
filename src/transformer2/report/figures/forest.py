"""A forest plot of gains: what the paper prints and what a run measured, one line a cell, with intervals."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transformer2.report.figures.drawing import legend
from transformer2.reproduce.power import Z

PAPER, OURS = "#777777", "#0072B2"
OFFSET = 0.16
"""Half of the distance between the two marks of a line, in lines."""


def forest(cells: pd.DataFrame, margin: float, title: str, pooled: pd.DataFrame | None = None) -> Figure:
    """A figure with one line a cell: hollow diamonds are the paper's gains, filled dots ours, lines 95 % intervals.

    `cells` are judged (`answers.judge`), and drawn by model. Without the column `ours` the paper's gains stand alone.
    `pooled` (`pooled.pool_methods`) adds a line a method. The band around each printed gain is the margin. The right
    edge holds the verdict of each cell, or, of the paper's gains alone, whether each exceeds its sampling error
    (`beyond`).
    """
    complete = cells if "ours" in cells else cells.assign(ours=np.nan)
    shown = complete.loc[complete[["gain", "ours"]].notna().any(axis=1)]
    models = list(dict.fromkeys(shown["model"]))
    lines, y = [], 0.0  # (height, name, remark, row)
    headings = []
    for model in models:
        headings.append((y, model))
        for _, row in shown.loc[shown["model"] == model].iterrows():
            y += 1
            lines.append((y, f"{row['label']}, {row['task']}", row.get("verdict", row.get("beyond", "")), row))
        y += 1.4
    figure = Figure(
        figsize=(8.6, 0.25 * (y + 1.5 * (0 if pooled is None else len(pooled) + 1)) + 1.6), layout="constrained"
    )
    axis = figure.subplots()
    for height, _, _, row in lines:
        _line(axis, height, row, margin)
    if pooled is not None and len(pooled):
        headings.append((y, "pooled over cells"))
        for _, row in pooled.iterrows():
            y += 1
            _summary(axis, y, row)
            of = f"{row['cells']} cells{', stand-ins' if bool(row['standin']) else ''}"
            lines.append((y, f"{row['label']} ({of})", "", row))
        y += 1
    right = "verdict" if "verdict" in shown else "beyond chance?"
    axis.text(1.01, 0, right, transform=axis.get_yaxis_transform(), va="center", fontsize=9, fontweight="bold")
    _dress(axis, lines, headings, y, "gain over the base, percentage points, 95 % intervals")
    figure.suptitle(title, fontsize=11)
    legend(figure, [axis], ncols=2)
    return figure


def _line(axis: Axes, y: float, row: Any, margin: float) -> None:
    alone, printed = math.isnan(row["ours"]), not math.isnan(row["gain"])
    if printed:
        height = y if alone else y - OFFSET
        axis.plot(
            [row["gain"] - margin, row["gain"] + margin], [height, height], color="#e4e4e4", linewidth=8,
            solid_capstyle="butt", zorder=0, label=f"within {margin:g} points of the paper's gain",
        )  # fmt: skip
        axis.plot(
            [row["gain"] - Z * row["se_paired"], row["gain"] + Z * row["se_paired"]], [height, height], color=PAPER,
            linewidth=3.5, solid_capstyle="butt", label="the paper, if their pairing is maximal",
        )  # fmt: skip
        axis.errorbar(
            row["gain"], height, xerr=Z * row["se"], fmt="D", color=PAPER, markerfacecolor="white", markersize=4.5,
            elinewidth=1, label="the paper, if base and method are independent",
        )  # fmt: skip
    if not alone:
        low, high = row["ours"] - row["ours_low"], row["ours_high"] - row["ours"]
        height = y + OFFSET if printed else y
        axis.errorbar(
            row["ours"], height, xerr=[[low], [high]], fmt="o", color=OURS, markersize=4.5, elinewidth=1.4,
            label="measured here",
        )  # fmt: skip


def _summary(axis: Axes, y: float, row: Any) -> None:
    """Pooled gains, as the usual diamonds from one end of the interval to the other."""
    for name, colour, height in (("gain", PAPER, y - OFFSET), ("ours", OURS, y + OFFSET)):
        low, value, high = row[f"{name}_low"], row[name], row[f"{name}_high"]
        corners = [low, value, high, value], [height, height - 0.2, height, height + 0.2]
        axis.fill(*corners, facecolor="white" if name == "gain" else colour, edgecolor=colour, linewidth=1)


Lines = Sequence[tuple[float, str, str, Any]]


def _dress(axis: Axes, lines: Lines, headings: Sequence[tuple[float, str]], bottom: float, label: str) -> None:
    axis.axvline(0, color="#444444", linewidth=0.8, zorder=1)
    axis.set_yticks([y for y, *_ in lines], [name for _, name, *_ in lines], fontsize=8.5)
    axis.set_ylim(bottom, -0.8)
    for y, text in headings:
        axis.text(
            -0.01, y, text, transform=axis.get_yaxis_transform(), ha="right", va="center", fontsize=9, fontweight="bold"
        )
    for y, _, remark, _ in lines:
        axis.text(1.01, y, remark, transform=axis.get_yaxis_transform(), va="center", fontsize=8.5)
    axis.set_xlabel(label, fontsize=9)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#eeeeee")
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
