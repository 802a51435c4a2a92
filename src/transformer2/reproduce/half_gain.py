"""How long a training takes to half of its gain on validation, in updates and in samples.

Methods that end at the same accuracy may differ in this.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
import pandas as pd

from transformer2.config import Run

EXPERT = ["model", "method", "task", "seed"]
"""Columns that identify an expert of a run."""


def updates_to_half(steps: Sequence[int], accuracies: Sequence[float]) -> int | None:
    """The first update after which validation is at or above base + (best - base) / 2; None if there is no gain.

    `steps` are the updates before each evaluation, in order: the first one is of the base. Between two evaluations
    accuracy is taken to change in a straight line.
    """
    base, best = accuracies[0], max(accuracies)
    if best <= base:
        return None
    half = base + (best - base) / 2
    end = next(i for i, accuracy in enumerate(accuracies) if accuracy >= half)
    crossing = np.interp(half, accuracies[end - 1 : end + 1], steps[end - 1 : end + 1])
    return ceil(round(float(crossing), 6))


def half_gains(curves: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Updates and samples to half of the gain, one row an expert: the curve of the point of its sweep that was chosen.

    Columns: run, model, stands_in_for, standin, method, task, seed, point; base, best (accuracy on validation, 0..1),
    n (its items); updates (`updates_to_half`) and samples (as many batches), both missing where there is no gain.
    """
    validation = curves.loc[curves["chosen"] & (curves["split"] == "validation")].sort_values("step", kind="stable")
    rows = []
    for _, curve in validation.groupby(EXPERT, sort=False):
        first, accuracies = curve.iloc[0], curve["accuracy"].tolist()
        updates = updates_to_half(curve["step"].tolist(), accuracies)
        batch = run.trained[first["method"]].points()[first["point"]].batch_size
        rows.append({
            **first[["run", "model", "stands_in_for", "standin", "method", "task", "seed", "point"]],
            "base": accuracies[0], "best": max(accuracies), "n": first["n"],
            "updates": updates, "samples": None if updates is None else updates * batch,
        })  # fmt: skip
    return pd.DataFrame(rows).astype({"updates": "Int64", "samples": "Int64"})
