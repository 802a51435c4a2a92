"""The figure of a case: what its rivals take in shares of ours, or how a cost grows."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from transformer2.report.figures.drawing import COLOURS, STYLE

WHAT = {"seconds": "time", "flops": "operations", "peak_bytes": "memory"}


def draw(report: dict[str, Any], out: Path) -> None:
    """Writes the figure of a report as SVG; the same report gives the same file."""
    picture = growth(report) if "growth" in report else bars(report)
    with rc_context(STYLE):
        picture.savefig(out, format="svg", metadata={"Date": None})


def bars(report: dict[str, Any]) -> Figure:
    """Time, operations and memory of each rival over ours; the line at 1 is ours."""
    picture = Figure(figsize=(6, 2.6), layout="constrained")
    axes = picture.subplots()
    pairs = report["ratios"]
    width = 0.8 / len(pairs)
    for number, (pair, of_pair) in enumerate(pairs.items()):
        kinds = [kind for kind in WHAT if kind in of_pair]
        places = [i + (number - (len(pairs) - 1) / 2) * width for i in range(len(kinds))]
        drawn = axes.bar(places, [of_pair[kind] for kind in kinds], width, label=pair, color=COLOURS[number])
        axes.bar_label(drawn, fmt="%.2f", fontsize=8)
        axes.set_xticks(range(len(kinds)), [WHAT[kind] for kind in kinds])
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylabel("rival / ours")
    axes.set_title(f"{report['case']}: above 1, ours takes less", fontsize=10)
    axes.margins(y=0.15)
    axes.legend(frameon=False, fontsize=8)
    return picture


def growth(report: dict[str, Any]) -> Figure:
    """Time and memory against what grows, on logarithmic axes, with the fitted exponents."""
    picture = Figure(figsize=(10, 2.8), layout="constrained")
    panels = picture.subplots(1, len(report["growth"]))
    for axes, (what, points) in zip(panels, report["growth"].items(), strict=True):
        sizes = [point["size"] for point in points]
        for number, kind in enumerate(("processor_seconds", "peak_bytes")):
            values = [point[kind] / points[0][kind] for point in points]
            exponent = report["exponents"][what][kind]
            label = f"{'time' if number == 0 else 'memory'}: {exponent:.2f}"
            axes.loglog(sizes, values, "o-", color=COLOURS[number], label=label)
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes], fontsize=8)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
        axes.set_title(what, fontsize=10)
        axes.legend(frameon=False, fontsize=8, title="exponent", title_fontsize=8)
    panels[0].set_ylabel("in shares of the smallest")
    return picture
