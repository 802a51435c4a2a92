"""Intervals and paired tests for accuracies: thin glue on statsmodels and numpy.

Verdicts are booleans, one an item (or one a seed and item); two methods are compared on the same items only.
All intervals are two-sided with 95 % coverage.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95
N_RESAMPLES = 10_000
BLOCK = 250  # resamples drawn side by side: bounds the memory on large test sets


class Estimate(NamedTuple):
    """A value with its 95 % interval; all NaN if the value is not defined."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"))


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson score interval (1927) of a proportion, as fractions of 1.

    `successes` may be a mean over seeds. Raises ValueError if it lies outside 0..n.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} items is no proportion")
    interval = np.asarray(proportion_confint(successes, n, alpha=1 - LEVEL, method="wilson"))
    share = successes / n  # rounding can leave a bound of 0 or 1 on its wrong side
    return min(float(interval[0]), share), max(float(interval[1]), share)


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> float:
    """p of the two-sided exact McNemar test of booleans (items,) of the same items; 1 if they are equal."""
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(f"McNemar pairs items: shapes {first.shape} and {second.shape} differ")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    result = mcnemar([[0, only_first], [only_second, 0]], exact=True)
    return float(result.pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def paired_bootstrap(
    method: ArrayLike,
    base: ArrayLike,
    statistic: Literal["difference", "ratio"],
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Difference or ratio of the means of `method` and `base`, with a percentile bootstrap interval.

    `method` and `base` are (items,) or (seeds, items) over the same items; a `base` without seeds, or with
    one, goes with every seed of `method`. Each resample draws seeds, then items: one draw of items for all of
    its seeds, since these answered the same items. With one seed this is the paired percentile bootstrap of
    `scipy.stats.bootstrap`, which knows no second level. With S seeds their spread is seen at (S - 1) / S of
    its variance, so few seeds make the interval too short.

    Degenerate cases: equal arrays give 0 or 1 with an interval of no length. A ratio to a base that solves
    nothing is `UNDEFINED`. A resample in which the base happens to solve nothing counts as an infinite ratio,
    or as 1 if the method solves nothing either; the upper end can thus be infinite. Quantiles are not
    interpolated.

    Raises:
        ValueError: the arrays are not of the same items and seeds.
    """
    samples, base_samples = _aligned(method, base)
    contrast = _difference if statistic == "difference" else _ratio
    if statistic == "ratio" and not base_samples.any():
        return UNDEFINED
    rng = np.random.default_rng(seed)
    seeds, items = samples.shape
    resampled = []
    for block in range(0, n_resamples, BLOCK):
        count = min(BLOCK, n_resamples - block)
        drawn = rng.integers(seeds, size=(count, seeds, 1)), rng.integers(items, size=(count, 1, items))
        resampled.append(contrast(samples[drawn].mean(axis=(1, 2)), base_samples[drawn].mean(axis=(1, 2))))
    tail = (1 - LEVEL) / 2
    low = np.quantile(np.concatenate(resampled), tail, method="lower")
    high = np.quantile(np.concatenate(resampled), 1 - tail, method="higher")
    return Estimate(float(contrast(samples.mean(), base_samples.mean())), float(low), float(high))


def _aligned(method: ArrayLike, base: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as (seeds, items), a base of one seed repeated."""
    samples, base_samples = np.atleast_2d(np.asarray(method)), np.atleast_2d(np.asarray(base))
    if base_samples.shape[1] != samples.shape[1] or len(base_samples) not in (1, len(samples)):
        raise ValueError(f"cannot pair method {samples.shape} with base {base_samples.shape} (seeds, items)")
    return samples, np.broadcast_to(base_samples, samples.shape)


def _difference(method: np.ndarray, base: np.ndarray) -> np.ndarray:
    return method - base


def _ratio(method: np.ndarray, base: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = method / base
    return np.where(np.isnan(ratio), 1.0, ratio)
