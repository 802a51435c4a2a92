"""The figures of a run, drawn in one process."""

from collections.abc import Callable, Sequence
from pathlib import Path

from transformer2.config import Run
from transformer2.report.contents import GAINS, Figure, chosen, figures_of
from transformer2.report.figures import adaptation, gains, learning, schematics, scores, spectrum, study
from transformer2.reproduce.budgets import budgets
from transformer2.reproduce.frames import Frames
from transformer2.reproduce.ledger import Ledger
from transformer2.reproduce.own_models import with_scored
from transformer2.reproduce.power import power_table
from transformer2.reproduce.printed import printed_gains
from transformer2.reproduce.verdicts import JudgedTable

Draw = Callable[[Figure, Frames, Path], None]
DRAW: dict[str, Draw] = {
    "confusion": lambda _, frames, out: adaptation.confusion(frames.decisions, out),
    "weights": lambda _, frames, out: adaptation.weights(frames.alphas, out),
    "convergence": lambda _, frames, out: adaptation.convergence(frames.alphas, out),
    "spectrum": lambda of, frames, out: spectrum.draw(frames.spectra, of.model, out),
    "learning": lambda of, frames, out: learning.learning(frames.curves, frames.scores, of.model, of.method, out),
    "sweep": lambda of, frames, out: learning.sweep(frames.curves, frames.scores, of.model, of.method, out),
    "overview": lambda _, frames, out: schematics.overview(frames.illustration, out),
    "method": lambda _, frames, out: schematics.method(frames.illustration, out),
    "adaptation prompt": lambda _, frames, out: schematics.adaptation_prompt(frames.illustration, out),
    "sample": lambda _, frames, out: schematics.sample(frames.illustration, out),
    "study": lambda of, frames, out: study.draw(frames.scores, of.method, out),
}
"""Kind of a figure -> the function that draws it from frames alone; others need the ledger as well."""


def write_figures(run: Run, folder: Path, ledger: Ledger, only: Sequence[str] = ()) -> list[str]:
    """Draws the figures of the run in `folder` to `<folder>/figures/`; returns their names.

    Files as `drawing.save`. `only` names those that are wanted; all without it. Raises ValueError for an unknown name.
    """
    frames, figures = Frames(folder), chosen("figure", figures_of(run, ledger), only)
    beside = ledger
    if any(figure.kind in ("table", "gains") for figure in figures):
        beside = with_scored(ledger, frames.scores)
    tables = {table.id: table for table in beside.scores}
    for figure in figures:
        out = folder / "figures" / figure.name
        if figure.kind == "table":
            scores.draw(tables[figure.name], frames.scores, out)
        elif figure.kind == "gains":
            of = tables[figure.name.removesuffix(GAINS)]
            gains.draw(JudgedTable.of(of, beside, frames.scores, budgets(run)), run.run, out)
        elif figure.kind == "power":
            gains.draw_power(power_table(printed_gains(ledger)), out)
        else:
            DRAW[figure.kind](figure, frames, out)
    return [figure.name for figure in figures]
