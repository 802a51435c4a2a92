"""How many items the data sets have, and how many prompts of each class: known before anything is downloaded.

Published facts of the data sets, split as the tasks split them. A test compares them with the tasks and the files.
"""

from collections.abc import Callable, Mapping

ITEMS: dict[str, dict[str, int]] = {
    "gsm8k": {"train": 3737, "validation": 3736, "test": 1319},
    "mbpp_pro": {"train": 200, "validation": 100, "test": 99},
    "arc_easy": {"train": 1126, "validation": 1125, "test": 2376},
    "math": {"test": 5000},
    "humaneval": {"test": 164},
    "arc_challenge": {"test": 1172},
    "textvqa": {"train": 17301, "validation": 17301, "test": 5000},
    "okvqa": {"test": 5046},
}
"""Task -> items of each split."""
DOMAINS = {
    "gsm8k": "math", "mbpp_pro": "code", "arc_easy": "reasoning", "math": "math", "humaneval": "code",
    "arc_challenge": "reasoning",
}  # fmt: skip
"""Task about text -> the class that its prompts belong to."""
OTHERS = "others"
"""The class of everyday requests."""
EVERYDAY = {"train": 700, "validation": 225, "test": 254}
"""Split -> everyday requests that there are."""

Items = Callable[[str, str], int | None]
"""(task, split) -> items that a run has of it; None where that is not known before the run."""


def available(task: str, split: str) -> int:
    """Items of a split of a task."""
    return ITEMS[task][split]


def class_sizes(tasks: list[str], split: str, items: Items) -> Mapping[str, int] | None:
    """Prompts of each class that the classification expert's data can be chosen from; None if one is not known."""
    sizes = {OTHERS: EVERYDAY[split]}
    for task in tasks:
        if (n := items(task, split)) is None:
            return None
        sizes[DOMAINS[task]] = sizes.get(DOMAINS[task], 0) + n
    return sizes


def shares(sizes: Mapping[str, int], limit: int | None) -> dict[str, int]:
    """How many prompts of each class make `limit` in all: equal parts, and all that a smaller class has.

    Args:
        sizes: prompts of each class that there are.
        limit: of all classes together; None takes every prompt.

    Raises:
        ValueError: the classes have fewer prompts than `limit`, or `limit` is too small for one of each.
    """
    total, rest, taken = sum(sizes.values()), limit, {}
    if rest is None:
        rest = total
    if not len(sizes) <= rest <= total:
        have = ", ".join(f"{name} {n}" for name, n in sorted(sizes.items()))
        raise ValueError(f"{rest} prompts of {len(sizes)} classes: set between {len(sizes)} and {total} ({have})")
    for number, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], name))):
        taken[name] = min(sizes[name], rest // (len(sizes) - number))
        rest -= taken[name]
    if empty := [name for name, n in sizes.items() if not n]:
        raise ValueError(f"there is no prompt of class {empty[0]!r}")
    return taken
