"""What all figures share: colours, the legend, and the files that a figure is written to."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transformer2.provenance import atomic_path, atomic_write

STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "transformer2"}
"""Text stays text, and the same picture is the same file."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
"""Of the methods in the order of the table, or of what else is compared; distinct in all common kinds of colour
blindness (Okabe and Ito 2008)."""
FORMATS = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
"""Formats of every figure -> metadata that would make two files of the same picture differ."""


def legend(figure: Figure, axes: Iterable[Axes], ncols: int) -> None:
    """One legend below all panels; what several of them show has one entry."""
    entries = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=ncols, frameon=False, fontsize=9
    )


def save(figure: Figure, data: pd.DataFrame, out: Path) -> None:
    """Writes `<out>.pdf`, `.svg` and `.png`, and what they show as `<out>.csv`; each whole or not at all."""
    for kind, metadata in FORMATS.items():
        with atomic_path(out.with_name(f"{out.name}.{kind}")) as temporary, rc_context(STYLE):
            figure.savefig(temporary, format=kind, dpi=160, metadata=metadata)
    atomic_write(out.with_name(f"{out.name}.csv"), data.to_csv(index=False, float_format="%.6g"))
