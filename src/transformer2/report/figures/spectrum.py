"""What the top singular values of each matrix hold, as a picture (Figures 10 and 11; 7 and 8 of the workshop)."""

from pathlib import Path

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from transformer2.report.figures.drawing import COLOURS, save
from transformer2.reproduce.spectrum import discussed

MODULES = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("gate_proj", "up_proj", "down_proj"),
)
"""Panels: a row of attention, a row of the MLP."""
NAMES = {
    "q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output",
    "gate_proj": "MLP gate", "up_proj": "MLP up", "down_proj": "MLP down",
}  # fmt: skip
MEASURES = {"ratio": "share of Σσ\n(the paper's ratio)", "variance_ratio": "share of Σσ²\n(variance)"}
SMALLEST = 256
"""A picture shows r from this part of the largest rank on: below, lines lie on the axis."""


NUMBERS = {
    "llama3-8b": "Figure 10 of the paper (7 of the workshop paper)",
    "mistral-7b": "Figure 11 of the paper (8 of the workshop paper)",
}
"""Row of the paper's tables -> what the papers call the picture of its model."""


def draw(spectra: pd.DataFrame, model: str, out: Path) -> None:
    """Writes the picture of one model: files as `drawing.save`.

    One panel a type of matrix, twice: the paper's ratio above, variance below; one line an r over the layers.
    Raises ValueError if the frame has no such model.
    """
    spectra = spectra.loc[spectra["model"] == model]
    if spectra.empty:
        raise ValueError(f"the frame of spectra has no model {model}")
    first = spectra.iloc[0]
    full_rank = int(first["full_rank"])
    shown = spectra.loc[spectra["r"].between(full_rank / SMALLEST, full_rank / 2)]
    tops = sorted(shown["r"].unique())
    figure = Figure(figsize=(8.6, 8.6), layout="constrained")
    axes = figure.subplots(4, 4, sharex=True, sharey=True)
    rows = [(measure, modules) for measure in MEASURES for modules in MODULES]
    for of_row, (measure, modules) in zip(axes, rows, strict=True):
        for axis, module in zip(of_row, modules, strict=False):
            of_module = shown.loc[shown["module"] == module]
            _panel(axis, of_module, measure, full_rank, tops)
            axis.set_title(f"{NAMES[module]} (rank {', '.join(map(str, of_module['rank'].unique()))})", fontsize=9)
        of_row[0].set_ylabel(MEASURES[measure], fontsize=8.5)
        if len(modules) < len(of_row):
            of_row[-1].set_axis_off()
    handles, labels = axes[0][0].get_legend_handles_labels()
    axes[1][3].legend(handles[::-1], labels[::-1], loc="center", frameon=False, fontsize=8, title="top r values")
    axes[2][3].tick_params(labelbottom=True)  # nothing stands below it
    figure.supxlabel("layer", fontsize=9)
    ran = f"{model} in place of {first['stands_in_for']}" if first["standin"] and first["stands_in_for"] else model
    figure.suptitle(
        f"{NUMBERS.get(first['stands_in_for'], 'Singular values, as Figure 10')}, run “{first['run']}”: {ran}\n"
        f"share of the top r singular values of each matrix ({spectra['layer'].nunique()} layers, largest rank "
        f"{full_rank}; exact, no sampling)",
        fontsize=10,
    )
    save(figure, shown, out)


def _panel(axis: Axes, of_module: pd.DataFrame, measure: str, full_rank: int, tops: list[int]) -> None:
    """Lines from light to dark by r, one of `tops`, if the matrix has that rank; the r that the paper discusses
    stands out."""
    for number, r in enumerate(tops):
        line = of_module.loc[of_module["r"] == r].sort_values("layer")
        if line.empty:
            continue
        special = r == discussed(full_rank)
        axis.plot(
            line["layer"], line[measure],
            color=COLOURS[1] if special else colormaps["Blues"](0.3 + 0.65 * number / max(1, len(tops) - 1)),
            linewidth=2.4 if special else 1.2, marker="o" if len(line) < 40 else None, markersize=2.5,
            zorder=3 if special else 2, label=f"r = {r}" + (" (as 256 of 4096)" if special else ""),
        )  # fmt: skip
    axis.set_ylim(0, 1.02)
    axis.grid(color="#eeeeee")
    axis.tick_params(labelsize=7.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
