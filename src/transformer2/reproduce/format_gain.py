"""How much of a gain is answers that can be read at all.

A model that does not answer in the form that a scorer reads is wrong, whatever it knows. Training may then gain by the
form alone; a model that is prompted better would not gain as much.
"""

import numpy as np
import pandas as pd

from transformer2.reproduce.cells import item_verdicts, same_items
from transformer2.reproduce.gains import Gain, paired_gain

EXPERT = ["model", "method", "trained_on", "state", "task"]
"""Columns that identify the scores of an expert on a task."""


def split_gain(right: np.ndarray, read: np.ndarray, base_right: np.ndarray, base_read: np.ndarray) -> tuple[Gain, Gain]:
    """The two parts of a gain in percentage points, each a `Gain` over all items; their values sum to the gain.

    The first part is of items of which the answer of the method or that of its base cannot be read: what is gained and
    lost with the form. The second is of items where both can be read.

    Args:
        right, base_right: whether an answer is right, 0 to 1; (seeds, items).
        read, base_read: whether anything was read from it; (seeds, items).
    """
    both = read & base_read
    return paired_gain(right * ~both, base_right * ~both), paired_gain(right * both, base_right * both)


def format_gains(scores: pd.DataFrame) -> pd.DataFrame:
    """The split of the gain of every expert on a task over its base, one row each; lenient scores, in percent.

    Columns: `EXPERT`, seeds, n, base_read, read (shares of answers that can be read), base_of_read, of_read (right of
    those), gain; form, both (the parts of the gain, `split_gain`) with low and high (95 % interval) of `both`. Left out
    is what has no base, and scores that do not say what was read.
    """
    known = scores.loc[scores["read"].isin((True, False))]
    bases = {key: of for key, of in known.loc[known["method"] == "base"].groupby(["model", "task"], sort=False)}
    rows = []
    for key, samples in known.loc[known["trained_on"] != ""].groupby(EXPERT, sort=False):
        named = dict(zip(EXPERT, key, strict=True))  # type: ignore[arg-type]
        if (base := bases.get((named["model"], named["task"]))) is None:
            continue
        right, base_right = same_items(item_verdicts(samples, "lenient"), item_verdicts(base, "lenient"))
        read, base_read = same_items(item_verdicts(samples, "read"), item_verdicts(base, "read"))
        form, both = split_gain(right, read, base_right, base_read)
        rows.append(named | {
            "seeds": len(right), "n": right.shape[1],
            "base_read": 100 * base_read.mean(), "read": 100 * read.mean(),
            "base_of_read": _of(base_right, base_read), "of_read": _of(right, read),
            "gain": form.value + both.value, "form": form.value, "both": both.value,
            "low": both.interval.low, "high": both.interval.high,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _of(right: np.ndarray, read: np.ndarray) -> float:
    """Percent right of the answers that can be read; NaN if none can be."""
    return 100 * float(right[read].mean()) if read.any() else float("nan")
