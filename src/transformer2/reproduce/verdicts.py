"""The cells of a table judged: by the gain of each method, and on a line of its own by the score."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd

from transformer2.reproduce.answers import judge, ours_as_row
from transformer2.reproduce.budgets import Budgets, are_unequal
from transformer2.reproduce.cells import Cell, cells
from transformer2.reproduce.ledger import Ledger, LedgerTable
from transformer2.reproduce.printed import printed_gains
from transformer2.reproduce.statistics import LEVEL, UNDEFINED, Contrast, Estimate, holm, independent

BASE = "base"
"""Stands in the place of a verdict where there is no method whose gain could be judged."""


@dataclass(frozen=True)
class JudgedTable:
    """The cells of a table of scores, with the verdicts on them."""

    table: LedgerTable
    margin: float
    cells: list[Cell]
    """Scored strictly."""
    gains: pd.DataFrame
    """`judge_cells`."""
    scores: dict[str, "ScoreComparison"]
    """By id of a cell."""
    budgets: Budgets

    @classmethod
    def of(cls, table: LedgerTable, ledger: Ledger, scores: pd.DataFrame, budgets: Budgets) -> "JudgedTable":
        """`scores` is the frame of scores of one run, `budgets` what it spent on each method."""
        strict = cells(table, scores, "strict")
        gains = judge_cells(strict, printed_gains(ledger), ledger.margin)
        unequal = [name for name in gains.index if cls._is_unequal(name, strict, budgets)]
        return cls(
            table, ledger.margin, strict, gains.assign(unequal_budgets=gains.index.isin(unequal)),
            compare_scores(strict), budgets,
        )  # fmt: skip

    @staticmethod
    def _is_unequal(id: str, strict: list[Cell], budgets: Budgets) -> bool:
        """Whether the method of a cell, and another that ran in the same model's rows, have different budgets."""
        of = next(cell for cell in strict if cell.id == id)
        if of.ours is None or of.entry.method not in budgets:
            return False
        ran = {cell.entry.method for cell in strict if cell.row.model == of.row.model and cell.ours}
        return are_unequal(budgets, ran)

    def verdict(self, cell: Cell) -> str:
        return BASE if cell.row.method == "base" else str(self.gains.loc[cell.id, "verdict"])


def judge_cells(cells: list[Cell], printed: pd.DataFrame, margin: float) -> pd.DataFrame:
    """The cells with a method, by their gain over the base: one row a cell, by id, with its answers and its verdict
    (`answers.judge`), and `state`, that of the trainings behind our gain.

    `printed` are the gains that the papers print (`printed.printed_gains`).
    """
    ours = pd.DataFrame([_ours(cell) for cell in cells if cell.row.method != "base"])
    return judge(printed.merge(ours, on="cell", validate="1:1"), margin).set_index("cell", drop=False)


def _ours(cell: Cell) -> dict[str, object]:
    """Our gain, and what ran; without it, a row of NaN."""
    of_cell: dict[str, object] = {"cell": cell.id, "standin": bool(cell.ours and cell.ours.standin)}
    gain = cell.ours.gain if cell.ours else None
    missing = dict.fromkeys(
        ("ours", "ours_se", "df", "seed_variance", "ours_discordant", "seeds", "items"), float("nan")
    )
    return of_cell | {"state": cell.ours.state if cell.ours else ""} | (ours_as_row(gain) if gain else missing)


# ---- scores


Comparison = Literal["no difference shown", "higher", "lower", "open", ""]
COMPARED: dict[Comparison, str] = {
    "no difference shown": "no difference beyond the sampling error of both, on as many items as the paper has",
    "higher": "our score is higher, beyond the sampling error of both and the number of cells that are compared",
    "lower": "our score is lower, beyond the sampling error of both and the number of cells that are compared",
    "open": "no difference, but on fewer items than the paper has, or one that so many cells show by chance",
}


class ScoreComparison(NamedTuple):
    comparison: Comparison
    """Empty where nothing is compared: a stand-in, a cell without our score or without the paper's."""
    difference: Estimate
    """Ours minus the paper's score in percentage points, with its 95 % interval; undefined if not compared."""


def compare_scores(cells: list[Cell]) -> dict[str, ScoreComparison]:
    """Our score beside the paper's, for every cell of one table, by id. It decides no verdict on a method.

    The paper's number is a sample too: k of n items, where n is what its table says, less the shots. Both are taken
    for independent samples (`statistics.independent`), as nobody knows which items were right there. A difference must
    hold against the number of comparable cells of the table (Holm); agreement is judged by the cell alone, so that more
    cells never make it easier.
    """
    compared = {cell.id: _contrast(cell) for cell in cells if _comparable(cell)}
    adjusted = dict(zip(compared, holm([contrast.p_value for contrast in compared.values()]), strict=True))
    return {
        cell.id: ScoreComparison(
            _comparison(cell, compared[cell.id], adjusted[cell.id]),
            Estimate(*(100 * number for number in compared[cell.id].estimate)),
        )
        if cell.id in compared
        else ScoreComparison("", UNDEFINED)
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


def _comparison(cell: Cell, contrast: Contrast, adjusted: float) -> Comparison:
    assert cell.ours
    if adjusted < 1 - LEVEL:
        return "higher" if contrast.estimate.value > 0 else "lower"
    agrees = contrast.p_value >= 1 - LEVEL and cell.ours.items >= _items(cell)
    return "no difference shown" if agrees else "open"
