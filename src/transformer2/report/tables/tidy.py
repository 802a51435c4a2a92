"""The numbers of a table of accuracies, one row a cell."""

from decimal import Decimal
from typing import Any

import pandas as pd

from transformer2.report.tables.experts import Experts
from transformer2.reproduce import audit
from transformer2.reproduce.answers import JUDGED
from transformer2.reproduce.cells import Cell, Measured, Scoring
from transformer2.reproduce.verdicts import JudgedTable

GAIN = {
    "gain": "ours", "gain_low": "ours_low", "gain_high": "ours_high", "gain_p": "p_value", "reported_gain": "gain",
    "reported_gain_se": "se", "reported_gain_se_paired": "se_paired", "sign": "sign", "inside": "inside",
    "predicted_low": "predicted_low", "predicted_high": "predicted_high", "equivalence": "equivalence",
    "equivalence_p": "equivalence_p", "telescopes": "telescopes", "why": "why",
    "verdict_if_paired": "verdict_if_paired", "unequal_budgets": "unequal_budgets",
}  # fmt: skip
"""Columns about the gain of a cell -> those of `answers.judge`."""
ANSWERS = ("sign", "inside", "equivalence", "telescopes")
"""Those that answer the four questions, which nothing does where there is no gain of ours and of the paper's."""


def tidy(judged: JudgedTable, run: str, lenient: list[Cell], computed: bool, experts: Experts) -> pd.DataFrame:
    """One row a cell with all its numbers; those of ours are missing where nothing was run."""
    table = judged.table
    records = [
        {
            "cell": cell.id, "document": table.document, "table": table.name, "model": cell.row.model,
            "method": cell.entry.method, "task": cell.column.task, "metric": cell.column.metric,
            "reported": _printed(cell.reported.value), "reported_normalised": _printed(cell.reported.normalised),
            "reported_k": _k(cell), "reported_n": cell.column.n - cell.row.shots, "run": run,
            **_origin(cell.ours, computed), "verdict": judged.verdict(cell), **_gain(judged, cell),
            "budget": str(judged.budgets.get(cell.entry.method, "")) if cell.ours else None,
            "score_comparison": judged.scores[cell.id].comparison, **_difference(judged, cell),
            **_numbers(cell.ours, "strict"), **_numbers(loose.ours, "lenient"),
            "detectable": cell.ours.detectable if cell.ours else None,
            "state": cell.ours.state if cell.ours else None,
            "kept_steps": " ".join(map(str, experts.steps(cell, cell.ours))) if cell.ours else None,
            **_other(cell.other, loose.other, computed),
        }
        for cell, loose in zip(judged.cells, lenient, strict=True)
    ]  # fmt: skip
    frame = pd.DataFrame(records)
    for name in ("n", "reported_k", "strict_correct", "lenient_correct"):
        counts = frame[name].astype("Float64")
        whole = all(count % 1 == 0 for count in counts.dropna())  # sums of shares may not be
        frame[name] = counts.astype("Int64") if whole else counts
    return frame


def _gain(judged: JudgedTable, cell: Cell) -> dict[str, Any]:
    """The gain of a cell with a method, and the answers to the four questions; a stand-in's answer none of them."""
    if cell.row.method == "base":
        return dict.fromkeys(GAIN)
    row = judged.gains.loc[cell.id]
    answered = row["verdict"] in JUDGED
    return {name: None if name in ANSWERS and not answered else row[column] for name, column in GAIN.items()}


def _difference(judged: JudgedTable, cell: Cell) -> dict[str, float]:
    return dict(
        zip(("difference", "difference_low", "difference_high"), judged.scores[cell.id].difference, strict=True)
    )


def _k(cell: Cell) -> int | None:
    """How many items the paper's number is, where that can be decoded."""
    value = cell.reported.value
    fitting = audit.decode(value, cell.column.n - cell.row.shots) if value is not None else []
    return fitting[0] if fitting else None


def _printed(number: Decimal | None) -> str | None:
    return None if number is None else str(number)


def _origin(ours: Measured | None, computed: bool) -> dict[str, Any]:
    """`computed`: whether the run has files of scores, and not only the frame."""
    if ours is None:
        return {
            "status": "not run",
            "model_run": None,
            "standin": None,
            "seeds": None,
            "files": None,
            "paired": None,
            "n": None,
        }
    return {
        "status": "run",
        "model_run": ours.model,
        "standin": ours.standin,
        "seeds": " ".join(map(str, ours.seeds)),
        "files": " ".join(ours.files) if computed else "",
        "paired": ours.paired,
        "n": ours.items,
    }


def _other(other: Measured | None, lenient: Measured | None, computed: bool) -> dict[str, Any]:
    """The other state of the trainings, where both are scored."""
    if other is None or lenient is None:
        return dict.fromkeys(("other_state", "other_files", "other_strict_score", "other_lenient_score"))
    files = " ".join(other.files) if computed else ""
    scores = {"other_strict_score": other.score.value, "other_lenient_score": lenient.score.value}
    return {"other_state": other.state, "other_files": files} | scores


def _numbers(ours: Measured | None, scoring: Scoring) -> dict[str, Any]:
    names = ("correct", "score", "low", "high", "normalised", "normalised_low", "normalised_high", "p")
    numbers = (ours.correct, *ours.score, *ours.normalised, ours.p_value) if ours else (None,) * len(names)
    return {f"{scoring}_{name}": number for name, number in zip(names, numbers, strict=True)}
