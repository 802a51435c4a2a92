"""Limits that the sizes of the data sets set: checked when a configuration is read, not after hours of a run."""

from functools import partial
from typing import TYPE_CHECKING

from transformer2.config.sizes import available, class_sizes, shares

if TYPE_CHECKING:
    from transformer2.config.run import Run

SPLITS = ("train", "validation", "test")


def known_items(run: "Run", task: str, split: str) -> int | None:
    """Items that a run has of a task; None where that is not known before the run (files that it takes as a whole)."""
    limit = getattr(run.data_of[task], split)
    return available(task, split) if limit is None and run.data == "hub" else limit


def check_sizes(run: "Run") -> None:
    """Checks what a run asks of its data sets against what they have: items, and prompts of each class.

    Sizes of data on the hub are known. Other data counts where the run sets the number of items of a split.

    Raises:
        ValueError: the data sets cannot give something; names the setting and what there is.
    """
    for name, asked in run.data_of.items() if run.data == "hub" else ():
        section, splits = ("tasks", SPLITS) if name in run.tasks else ("unseen", ("test",))
        for split in splits if name != "classify" else ():
            n, there = getattr(asked, split), available(name, split)
            if n is not None and n > there:
                raise ValueError(f"{section}.{name}.{split}: {n} items are asked for; the data set has {there}")
    for split in SPLITS if run.adaptation else ():
        sizes = class_sizes(run.text_tasks, split, partial(known_items, run))
        try:
            if run.adaptation and sizes is not None:
                shares(sizes, getattr(run.adaptation.prompts, split))
        except ValueError as error:
            raise ValueError(f"adaptation.prompts.{split}: {error}") from None
