"""How many items the data sets have: what a run can ask for, known before anything is downloaded."""

from collections.abc import Callable, Mapping

from transformer2.tasks import TASKS, everyday
from transformer2.tasks.classify import OTHERS

SOURCE_ROWS: dict[str, dict[str, int]] = {
    "gsm8k": {"train": 7473, "test": 1319},
    "mbpp_pro": {"train": 200, "validation": 100, "test": 99},
    "arc_easy": {"train": 2251, "test": 2376},
    "math": {"test": 5000},
    "humaneval": {"test": 164},
    "arc_challenge": {"test": 1172},
    "textvqa": {"train": 34602, "validation": 5000},
    "okvqa": {"validation": 5046},
}
"""Task -> rows of each source split on the hub (MBPP-Pro: of the release that it is made of), as published."""

Items = Callable[[str, str], int | None]
"""(task, split) -> items that a run has of it; None where that is not known before the run."""


def available(task: str, split: str) -> int:
    """Items of a split of a task: the rows of its source split that belong to it."""
    part = TASKS[task].splits[split]
    return len(range(SOURCE_ROWS[task][part.source])[part.rows])


def class_sizes(tasks: list[str], split: str, items: Items) -> Mapping[str, int] | None:
    """Prompts of each class that rule `classes` has to choose from in one split; None if one is not known."""
    sizes = {OTHERS: len(everyday.prompts(split))}
    for task in tasks:
        if (n := items(task, split)) is None:
            return None
        sizes[TASKS[task].domain] = sizes.get(TASKS[task].domain, 0) + n
    return sizes
