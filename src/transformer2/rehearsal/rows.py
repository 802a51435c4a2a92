"""Rows of a rehearsal: in the columns of the real data sets and as many, a hundred of them over and over."""

from transformer2.pocket.corpus import rows as pocket_rows
from transformer2.tasks import Row

DISTINCT = 100


def rows(task: str, split: str, n: int) -> list[Row]:
    """`n` rows of a split, with an `item` each."""
    distinct = pocket_rows(task, split, min(n, DISTINCT))
    return [distinct[i % len(distinct)] | {"item": f"{task}/{split}/{i}"} for i in range(n)]
