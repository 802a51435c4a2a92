"""Which frames a run has, and which files they are made of: known from its configuration alone."""

from collections.abc import Iterator
from typing import NamedTuple

from transformer2 import paths
from transformer2.config import Run
from transformer2.grid import Grid

ILLUSTRATED_TASK = "gsm8k"
"""Whose sample the schematic figures show."""


def frame_files(run: Run) -> list[str]:
    """The names of the frames that a run has, in its folder."""
    grid, names = Grid(run), ["scores.csv.gz"]
    if run.scores is not None:
        return names
    if grid.trained:
        names += ["experts.csv", "curves.csv.gz", "half_gain.csv"]
    if grid.adaptive("prompt") or grid.adaptive("cls"):
        names += ["decisions.csv.gz", "timings.csv"]
    if grid.searches:
        names.append("alphas.csv.gz")
    return [*names, "spectra.csv"]


def expert_folders(grid: Grid) -> Iterator[tuple[dict[str, str], int, str]]:
    """(model, method and task; seed; folder) of every expert of a training task."""
    for expert in grid.trained:
        for seed in grid.run.seeds_of(expert.method):
            yield expert._asdict(), seed, paths.EXPERT.of(run=grid.run.run, seed=seed, **expert._asdict())


def adaptation_files(grid: Grid) -> list[str]:
    """The record of every search, for the first seed."""
    return [f"{folder}/adaptation.json" for folder in grid.search_folders()]


class Illustration(NamedTuple):
    """What `reproduce.illustration` looks at: a base model, the experts of a seed by task, and data."""

    model: str
    experts: dict[str, str]
    data: str


def illustrated_model(run: Run) -> str:
    """The model that the schematic figures show: the one in the place of the paper's main model, or the first."""
    models = Grid(run).language_models
    return next((name for name in models if run.row_of(name) == "llama3-8b"), models[0])


def illustration_files(run: Run) -> Illustration:
    """The files that the schematic figures of a run show."""
    model = illustrated_model(run)
    return Illustration(
        model=paths.BASE.of(model=model),
        experts=Grid(run).experts_to_adapt(model, run.adaptation_seeds[0]),
        data=paths.DATA.of(run=run.run, task=ILLUSTRATED_TASK, split="train"),
    )
