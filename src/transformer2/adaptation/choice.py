"""The few shots, and the choice of one of several scored experts: on the shots, or on the test set as the papers do."""

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from transformer2.tasks import Row, Task

By = Literal["shots", "test"]


def shots(task: Task, rows: Sequence[Row], n: int) -> list[Row]:
    """The first n of the test rows after a shuffle by the task's seed: nested, and on whole test sets the very items
    that the released code holds out.

    Raises ValueError if no other row would remain.
    """
    if not 0 < n < len(rows):
        raise ValueError(f"{n} shots of {len(rows)} rows of {task.name}: there must be at least one, and one left over")
    order = list(range(len(rows)))
    random.Random(task.shots_seed).shuffle(order)
    return [rows[i] for i in order[:n]]


def choose(
    candidates: Mapping[str, Sequence[Mapping[str, Any]]], held_out: Collection[str], by: By,
    tie_breaks: Mapping[str, float] | None = None, which: str = "strict",
) -> tuple[str, list[dict[str, Any]]]:  # fmt: skip
    """The best candidate, and its scored items without the held-out ones.

    Args:
        candidates: scored items of each candidate, all of the same items (see `scoring.score_answers`).
        held_out: items that are shots; no reported score counts them.
        by: `shots` takes the candidate that answers most shots right: test items do not count. `test` takes the one
            that answers most of the other items right: the reported score is then the best of several, so optimistic.
        tie_breaks: of candidates with as many right answers the one with the highest number here wins, else the first.
        which: strict | lenient.

    Raises:
        ValueError: the candidates were scored on different items, or there is no item to choose by.
    """
    items = [{item["item"] for item in scored} for scored in candidates.values()]
    if any(other != items[0] for other in items):
        raise ValueError(f"{', '.join(candidates)} were scored on different items; score them again")
    basis = items[0] & set(held_out) if by == "shots" else items[0] - set(held_out)
    if not basis:
        raise ValueError(f"no item to choose among {', '.join(candidates)} by: {by}")

    def merit(name: str) -> tuple[float, float]:
        right = sum(item[which] for item in candidates[name] if item["item"] in basis)
        return right, (tie_breaks or {}).get(name, 0.0)

    best = max(candidates, key=merit)
    return best, [dict(item) for item in candidates[best] if item["item"] not in held_out]
