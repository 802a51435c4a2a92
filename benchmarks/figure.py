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
    """Time, operations and memory against what grows, on logarithmic axes, with fitted exponents; dashed as planned."""
    picture = Figure(figsize=(11, 3.6), layout="constrained")
    panels = picture.subplots(1, len(report["growth"]), sharey=True)
    for axes, (what, points) in zip(panels, report["growth"].items(), strict=True):
        sizes = [point["size"] for point in points]
        for number, kind in enumerate(("processor_seconds", "flops", "peak_bytes")):
            exponents = report["exponents"][what]
            label = f"{WHAT.get(kind, 'time')}: {exponents[kind]:.2f}"
            plan = f"planned_{kind}"
            label += f" ({exponents[plan]:.2f})" if plan in exponents else ""
            for of, style in ((kind, "o-"), (plan, "--")):
                if of in points[0]:
                    values = [point[of] / points[0][of] for point in points]
                    axes.loglog(sizes, values, style, color=COLOURS[number], label=label if of == kind else None)
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes], fontsize=8)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
        axes.set_title(what, fontsize=10)
        axes.legend(
            frameon=False, fontsize=8, title="exponent (planned)", title_fontsize=8, loc="upper center",
            bbox_to_anchor=(0.5, -0.1),
        )  # fmt: skip
    panels[0].set_ylabel("relative to the smallest")
    return picture
