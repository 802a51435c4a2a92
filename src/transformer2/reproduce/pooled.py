"""The gain of a method over all cells of a table: a random-effects meta-analysis, of ours and of the paper's.

Cells are weighted by the inverse of their variance plus that between cells (Paule and Mandel 1982, which equals REML
for effects of like precision). The interval is that of Hartung, Knapp, Sidik and Jonkman with Student's t, never
narrower than the usual one (Roever, Knapp and Friede 2015), as tables have few cells. Cells of one test set on several
models share its items, and are taken for independent.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.stats.meta_analysis import combine_effects

from transformer2.reproduce.statistics import critical


class Pooled(NamedTuple):
    """A mean effect with its 95 % interval, and the standard deviation of true effects between cells."""

    value: float
    low: float
    high: float
    spread: float


def pool(effects: ArrayLike, errors: ArrayLike) -> Pooled:
    """The mean of effects with standard errors; of a single effect, the effect itself.

    Raises:
        ValueError: there is no effect, or an error is not positive.
    """
    effect, variance = np.asarray(effects, dtype=float), np.asarray(errors, dtype=float) ** 2
    if not len(effect) or not (variance > 0).all():
        raise ValueError("a pooled estimate needs effects with standard errors above 0")
    if len(effect) == 1:
        width = float(critical(np.inf)) * variance[0] ** 0.5
        return Pooled(effect[0], effect[0] - width, effect[0] + width, 0.0)
    with np.errstate(divide="ignore"):  # statsmodels reports I², which equal effects have not
        mean: Any = combine_effects(effect, variance, method_re="iterated")
    error = max(mean.sd_eff_w_re, mean.sd_eff_w_re_hksj)
    width = float(critical(len(effect) - 1)) * error
    return Pooled(mean.mean_effect_re, mean.mean_effect_re - width, mean.mean_effect_re + width, mean.tau2**0.5)


def pool_methods(cells: pd.DataFrame) -> pd.DataFrame:
    """One row a method, in the order of the table: ours, the paper's, and ours minus the paper's over the same cells.

    `cells` are judged cells of one table (`answers.judge`); those without both gains are left out. Stand-ins have rows
    of their own, without a difference from the paper's. The paper's gain and the difference have the wider standard
    error, as of independent samples.
    """
    both = cells.loc[cells["gain"].notna() & cells["ours"].notna()]
    rows = []
    for (method, standin), of in both.groupby(["method", "standin"], sort=False):
        parts = {"ours": (of["ours"], of["ours_se"]), "gain": (of["gain"], of["se"])}
        if not standin:
            parts["difference"] = (of["ours"] - of["gain"], np.hypot(of["ours_se"], of["se"]))
        row: dict[str, object] = {"method": method, "label": of["label"].iloc[0], "standin": standin, "cells": len(of)}
        for name, effects in parts.items():
            row[name], row[f"{name}_low"], row[f"{name}_high"], row[f"{name}_spread"] = pool(*effects)
        rows.append(row)
    return pd.DataFrame(rows)
