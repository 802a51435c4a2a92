"""Whether a number of the papers was reproduced: one verdict a cell."""

from typing import Literal, NamedTuple

from transformer2.reproduce.cells import Cell
from transformer2.reproduce.statistics import LEVEL, UNDEFINED, Contrast, Estimate, holm, independent

Verdict = Literal[
    "reproduced", "higher", "lower", "inconclusive", "not comparable (stand-in)", "not run", "ours alone"
]  # fmt: skip
MEANING: dict[Verdict, str] = {
    "reproduced": "no difference beyond the sampling error of both, on as many items as the paper has",
    "higher": "ours is higher, beyond the sampling error of both and the number of cells that are compared",
    "lower": "ours is lower, beyond the sampling error of both and the number of cells that are compared",
    "inconclusive": "no difference, but on fewer items than the paper has; or one that so many cells show by chance",
    "not comparable (stand-in)": "another model, or other data, ran in the place of the paper's",
    "not run": "this run has no score for the cell",
    "ours alone": "the paper prints no such number",
}


class Judged(NamedTuple):
    verdict: Verdict
    difference: Estimate
    """Ours minus the paper's number in percentage points, with its 95 % interval; undefined if not compared."""


def judge_cells(cells: list[Cell]) -> dict[str, Judged]:
    """The verdict on every cell of one table, by id.

    The paper's number is a sample too: k of n items, where n is what its table says, less the shots. Both are taken
    for independent samples (`statistics.independent`), as nobody knows which items were right there. A difference must
    hold against the number of comparable cells of the table (Holm); agreement is judged by the cell alone, so that more
    cells never make it easier.
    """
    compared = {cell.id: _contrast(cell) for cell in cells if _comparable(cell)}
    adjusted = dict(zip(compared, holm([contrast.p_value for contrast in compared.values()]), strict=True))
    return {
        cell.id: Judged(
            _verdict(cell, compared.get(cell.id), adjusted.get(cell.id, 1.0)),
            Estimate(*(100 * number for number in compared[cell.id].estimate)) if cell.id in compared else UNDEFINED,
        )
        for cell in cells
    }


def _comparable(cell: Cell) -> bool:
    return cell.ours is not None and not cell.ours.standin and cell.reported.value is not None


def _contrast(cell: Cell) -> Contrast:
    assert cell.ours and cell.reported.value is not None
    n = _items(cell)
    reported = float(cell.reported.value) / 100 * n
    return independent(cell.ours.correct / len(cell.ours.seeds), cell.ours.items, reported, n, "difference")


def _items(cell: Cell) -> int:
    """Of the paper's number."""
    return cell.column.n - cell.row.shots


def _verdict(cell: Cell, contrast: Contrast | None, adjusted: float) -> Verdict:
    if cell.ours is None:
        return "not run" if cell.reported.value is not None else "ours alone"
    if cell.reported.value is None:
        return "ours alone"
    if contrast is None:
        return "not comparable (stand-in)"
    if adjusted < 1 - LEVEL:
        return "higher" if contrast.estimate.value > 0 else "lower"
    agrees = contrast.p_value >= 1 - LEVEL and cell.ours.items >= _items(cell)
    return "reproduced" if agrees else "inconclusive"
