"""Gains over a base with their standard errors: of a run, whose items are known, and of counts, whose pairing is not.

Gains and standard errors are in percentage points. A gain is the mean over items of (method right) - (base right), so
it varies by the items on which the two differ, the discordant ones.

Three standard errors, all of the adjusted Wald kind, which keeps its coverage on small samples and says that no change
on n items is no proof of no change:

- one seed, items known: Bonett and Price (2012), which adds one discordant item in each direction;
- several seeds, items known: the mixed model with crossed random effects of items and seeds, by its mean squares (Clark
  1973; Judd, Westfall and Kenny 2012), after the same adjustment, with the critical value of Cochran and Cox (1950):
  Satterthwaite's degrees of freedom find a gain of none in up to 12 % of the runs with two seeds and 8 % with three;
- counts alone: Agresti and Caffo (2000) for independent samples. The paper's base and method answered the same items,
  but how many were discordant is not reported. Independence is one bound, the other is that all discordant items favour
  one side (`paired_error` with the difference of the counts). A negative association would be worse than independence;
  no method that starts from its base is expected to have one.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import t as student

from transformer2.reproduce.statistics import Estimate, critical


class Gain(NamedTuple):
    """A gain in percentage points, and what its interval needs."""

    value: float
    se: float
    df: float
    """Of Student's t: from the number of seeds less one, if these differ as wholes, to infinite, as for one seed."""
    discordant: float
    """Share of items on which method and base differ, with one more in each direction; mean over seeds."""
    seed_variance: float
    """Variance of the gain from seed to seed, in points squared; 0 for one seed, where it is not known."""
    seeds: int
    items: int

    @property
    def interval(self) -> Estimate:
        """The gain with its 95 % interval."""
        width = float(critical(self.df)) * self.se
        return Estimate(self.value, self.value - width, self.value + width)

    @property
    def p_value(self) -> float:
        """Of the two-sided test that there is no gain."""
        return 2 * float(student.sf(abs(self.value) / self.se, self.df))


def paired_gain(method: ArrayLike, base: ArrayLike) -> Gain:
    """The gain on the same items, from verdicts (items,) or (seeds, items): booleans, or shares from 0 to 1.

    A base of one seed goes with every seed of the method.

    Raises:
        ValueError: the arrays are not of the same items and seeds.
    """
    ours, theirs = (np.atleast_2d(np.asarray(of, dtype=float)) for of in (method, base))
    if ours.shape[1] != theirs.shape[1] or len(theirs) not in (1, len(ours)):
        raise ValueError(f"cannot pair method {ours.shape} with base {theirs.shape} (seeds, items)")
    gains = 100 * (ours - theirs)  # (seeds, items)
    seeds, items = gains.shape
    padded = np.hstack([gains, np.full((seeds, 1), 100.0), np.full((seeds, 1), -100.0)])
    discordant = float((padded**2).mean()) / 100**2
    if seeds == 1:
        return Gain(float(gains.mean()), float(padded.std()) / (items + 2) ** 0.5, np.inf, discordant, 0.0, 1, items)
    se, df, seed_variance = _crossed(padded)
    return Gain(float(gains.mean()), se, df, discordant, seed_variance, seeds, items)


def _crossed(values: np.ndarray) -> tuple[float, float, float]:
    """Standard error of the mean of (seeds, items), its degrees of freedom, and the variance between seeds.

    E MS_seed = residual + items * seed variance, E MS_item = residual + seeds * item variance, and the mean has the
    variance (MS_seed + MS_item - MS_residual) / (seeds * items). A negative estimate of the seed variance counts as 0.
    The share of MS_seed is known by seeds - 1 degrees of freedom, the rest by many: the critical value is the mean of
    both, weighted by their shares, and the degrees of freedom are those of the t with that 97.5 % quantile.
    """
    seeds, items = values.shape
    mean, of_seed, of_item = values.mean(), values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    by_item = seeds * ((of_item - mean) ** 2).sum() / (items - 1)
    residual = ((values - of_seed - of_item + mean) ** 2).sum() / ((items - 1) * (seeds - 1))
    by_seed = max(items * ((of_seed - mean) ** 2).sum() / (seeds - 1), residual)
    total = by_seed + by_item - residual
    share = min(by_seed / total, 1.0)  # above 1 where items differ less than chance
    few, many = (float(critical(df)) for df in (seeds - 1, np.inf))
    return (total / (seeds * items)) ** 0.5, _degrees(share * few + (1 - share) * many), (by_seed - residual) / items


def _degrees(quantile: float) -> float:
    """Degrees of freedom of the t distribution with this 97.5 % quantile."""

    def excess(df: float) -> float:
        return float(critical(df)) - quantile

    return np.inf if excess(1e6) >= 0 else float(brentq(excess, 0.5, 1e6))  # pyright: ignore[reportArgumentType]


def counted_gain(correct: float, n: float, base_correct: float, base_n: float, factor: float = 1.0) -> Gain:
    """The gain over so many times the base where only counts are known, taken for independent samples."""
    share, base = correct / n, base_correct / base_n
    se = float(independent_error(correct, n, base_correct, base_n, factor))
    discordant = float(independent_discordant(share, base))
    return Gain(100 * (share - factor * base), se, np.inf, discordant, 0.0, 1, int(min(n, base_n)))


def paired_error(only_method: ArrayLike, only_base: ArrayLike, n: ArrayLike) -> np.ndarray:
    """Standard error, in points, of a gain on n items of which so many were solved by one side alone (Bonett and Price
    2012)."""
    adjusted = np.asarray(n, dtype=float) + 2
    method, base = (np.asarray(only_method) + 1) / adjusted, (np.asarray(only_base) + 1) / adjusted
    return 100 * np.sqrt((method + base - (method - base) ** 2) / adjusted)


def independent_error(
    correct: ArrayLike, n: ArrayLike, base_correct: ArrayLike, base_n: ArrayLike, factor: float = 1.0
) -> np.ndarray:
    """Standard error, in points, of the difference of two independent samples, the second times a factor (Agresti and
    Caffo 2000)."""
    variance = 0.0
    for right, of, times in ((correct, n, 1.0), (base_correct, base_n, factor)):
        adjusted = np.asarray(of, dtype=float) + 2
        share = (np.asarray(right) + 1) / adjusted
        variance = variance + times**2 * share * (1 - share) / adjusted
    return 100 * np.sqrt(np.asarray(variance))


def independent_discordant(share: ArrayLike, base: ArrayLike) -> np.ndarray:
    """Share of items on which method and base differ, if one says nothing about the other."""
    method, other = np.asarray(share), np.asarray(base)
    return method * (1 - other) + other * (1 - method)
