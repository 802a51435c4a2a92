"""Intervals, tests and power for accuracies: thin glue on scipy, statsmodels and numpy.

Verdicts are booleans, one an item (or one a seed and item), or shares from 0 to 1 (VQA accuracy), for whose mean the
Wilson interval is wider than need be: nothing between 0 and 1 varies more than a boolean of the same mean. Two methods
are compared on the same items; where nobody knows which items were right, as for the papers' own numbers, as two
independent samples.
All intervals are two-sided with 95 % coverage.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint, test_proportions_2indep

LEVEL = 0.95
POWER = 0.8
N_RESAMPLES = 10_000
BLOCK = 250  # resamples drawn side by side: bounds the memory on large test sets


class Estimate(NamedTuple):
    """A value with its 95 % interval; all NaN if the value is not defined."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"))


def critical(df: ArrayLike) -> np.ndarray:
    """Critical value of Student's t with so many degrees of freedom (of any shape) for a 95 % interval."""
    return student.ppf((1 + LEVEL) / 2, df)


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Wilson score interval (1927) of a proportion, as fractions of 1.

    `successes` may be a mean over seeds. Raises ValueError if it lies outside 0..n.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} items is no proportion")
    interval = np.asarray(proportion_confint(successes, n, alpha=1 - LEVEL, method="wilson"))
    share = successes / n  # rounding can leave a bound of 0 or 1 on its wrong side
    return min(float(interval[0]), share), max(float(interval[1]), share)


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> float:
    """p of the two-sided exact McNemar test of verdicts (items,) on the same items; 1 if they are equal.

    It asks on which items one is better than the other, so for shares in place of booleans it is the exact sign test.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"McNemar pairs items: shapes {first.shape} and {second.shape} differ")
    only_first, only_second = int((first > second).sum()), int((second > first).sum())
    result = mcnemar([[0, only_first], [only_second, 0]], exact=True)
    return float(result.pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def holm(p_values: Sequence[float]) -> list[float]:
    """The p of several tests, adjusted by Holm (1979) so that all of them together keep the level; NaN stays NaN and
    is no test. (statsmodels' `multipletests` gives the same, and collects garbage for 0.1 s at every call.)"""
    adjusted = np.array(p_values, dtype=float)
    order = np.argsort(adjusted)[: np.count_nonzero(~np.isnan(adjusted))]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * adjusted[order]), 1.0)
    return adjusted.tolist()


class Contrast(NamedTuple):
    """A difference or ratio of two proportions, and p of the test that they are equal."""

    estimate: Estimate
    p_value: float


def independent(
    correct: float, n: float, other_correct: float, other_n: float, statistic: Literal["difference", "ratio"]
) -> Contrast:
    """Compares two proportions of independent samples: Newcombe's hybrid score interval of the difference (1998,
    method 10) or the adjusted log interval of the ratio (Walter 1975), and the score test.

    Answers to the same items are correlated, as a rule positively: taken for independent, their interval is too wide
    and their p too large, never the other way. A ratio to nothing is `UNDEFINED`. Counts may be means over seeds.

    Raises:
        ValueError: a count lies outside 0..n.
    """
    wilson(correct, n)
    wilson(other_correct, other_n)
    samples = correct, n, other_correct, other_n
    share, other = correct / n, other_correct / other_n
    same = share == other and share in (0, 1)  # no variance to test with
    with np.errstate(divide="ignore", invalid="ignore"):  # statsmodels reports odds as well
        test = test_proportions_2indep(*samples, method="score", correction=False)
    p_value = 1.0 if same else float(test.pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    if statistic == "difference":
        low, high = confint_proportions_2indep(*samples, method="newcomb", compare="diff", alpha=1 - LEVEL)
        return Contrast(Estimate(share - other, float(low), float(high)), p_value)
    if not other_correct or not correct:
        return Contrast(UNDEFINED, p_value)
    low, high = confint_proportions_2indep(*samples, method="log-adjusted", compare="ratio", alpha=1 - LEVEL)
    return Contrast(Estimate(share / other, float(low), float(high)), p_value)


def detectable_gain(n: int, discordant: float) -> float:
    """Smallest gain that McNemar's test at level 0.05 shows in `POWER` of the samples of `n` items (Connor 1987).

    `discordant` is the share of items that one method alone solves, in either direction; where it is less than the
    gain itself, all of them are taken to favour the method. In shares of 1; `inf` if not even a gain on all items would
    be seen. The exact test needs slightly more.
    """
    level, power = float(norm.ppf(1 - (1 - LEVEL) / 2)), float(norm.ppf(POWER))

    def shortfall(gain: float) -> float:
        psi = max(discordant, gain)
        return float(level * math.sqrt(psi) + power * math.sqrt(max(psi - gain**2, 0.0)) - gain * math.sqrt(n))

    if shortfall(1.0) > 0:
        return math.inf
    return float(brentq(shortfall, 1e-9, 1.0))  # pyright: ignore[reportArgumentType]


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
