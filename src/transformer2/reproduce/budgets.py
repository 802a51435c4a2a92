"""What a run spends on the training of each method, and whether methods that are compared spend as much."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from transformer2.config import Run
from transformer2.grid import Adapter, Grid


class Budget(NamedTuple):
    """The training behind one expert."""

    updates: int
    """Of one training; the most that a point of the sweep takes."""
    points: int
    """Of the sweep, each a training, of which validation chooses one."""

    def __str__(self) -> str:
        return f"{self.updates} updates × {self.points} sweep point{'s' if self.points > 1 else ''}"


Budgets = Mapping[str, Budget]
"""By the name of a method in a table; without the base, and without what is trained on shots, whose steps are the
method's name."""


def budgets(run: Run) -> dict[str, Budget]:
    """The budget of every method that a table may name: of its own training, or of the experts that it chooses among,
    mixes or sends prompts to. Empty for scores that were measured elsewhere, whose training is not known."""
    if run.scores is not None:
        return {}
    grid = Grid(run)
    spent = {}
    for adapter in grid.adapters.values():
        if (trained := _trained(adapter, grid)) is not None:
            points = run.trained[trained].points().values()
            spent[adapter.method] = Budget(max(point.steps for point in points), len(points))
    return spent


def _trained(adapter: Adapter, grid: Grid) -> str | None:
    """The method that trained the experts behind an adapter."""
    if adapter.kind == "expert":
        return adapter.method if adapter.trained_on != "classify" else None
    if adapter.kind == "choice":
        return _trained(grid.adapters[adapter.candidates[0]], grid)
    mixed = adapter.kind in ("mix", "uniform", "transferred", "dispatch")
    return grid.search.experts if mixed and grid.search else None


def are_unequal(known: Budgets, methods: Iterable[str]) -> bool:
    """Whether methods that are compared with each other have different budgets, as far as these are known."""
    return len({known[method] for method in methods if method in known}) > 1
