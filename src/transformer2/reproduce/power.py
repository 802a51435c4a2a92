"""What a number of items can show, and so what the paper's own gains show and what a replication of them needs.

The test is that of McNemar at the two-sided level of 0.05, by Connor's normal approximation (1987). It needs the share
of discordant items, which the paper does not report: every answer is given for both bounds, independent (the most
items) and maximal pairing (the fewest, all in favour of one side). The truth lies between them.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm

from transformer2.reproduce.statistics import LEVEL, POWER

TELESCOPE = 1 / 3
"""Power with which a study could have seen an effect, for the effect not to be called too small (Simonsohn 2015)."""
Z = float(norm.ppf((1 + LEVEL) / 2))


def needed_items(gain: ArrayLike, discordant: ArrayLike, power: float = POWER) -> np.ndarray:
    """Items that show a gain with a power, rounded up; infinite for no gain.

    In shares of 1; at least the gain itself is discordant.
    """
    size = np.abs(np.asarray(gain, dtype=float))
    psi = np.maximum(discordant, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        items = ((Z * np.sqrt(psi) + norm.ppf(power) * np.sqrt(psi - size**2)) / size) ** 2
    return np.where(size == 0, np.inf, np.ceil(items))


def power_of(gain: ArrayLike, discordant: ArrayLike, n: ArrayLike) -> np.ndarray:
    """Power to show a gain on n items, by the larger tail; the level's half where there is no gain. Shares of 1."""
    size = np.abs(np.asarray(gain, dtype=float))
    psi = np.maximum(np.maximum(discordant, size), 1e-12)
    spread = np.sqrt(np.maximum(psi - size**2, 1e-12))
    return norm.cdf((size * np.sqrt(np.asarray(n, dtype=float)) - Z * np.sqrt(psi)) / spread)


def detectable(n: ArrayLike, discordant: ArrayLike, power: float = POWER) -> np.ndarray:
    """Smallest gain that n items show with a power, in shares of 1: `statistics.detectable_gain` for arrays.

    The root of z sqrt(psi) + z_power sqrt(psi - gain^2) = gain sqrt(n), a quadratic equation in the gain. Where that
    gain would exceed psi, all discordant items favour the method (psi = gain): a quadratic in sqrt(1 - gain). At most
    1.
    """
    items, psi = np.asarray(n, dtype=float), np.asarray(discordant, dtype=float)
    z_power = float(norm.ppf(power))
    root = np.sqrt(np.maximum(items * z_power**2 - z_power**2 * (Z**2 - z_power**2), 0) * psi)
    gain = (Z * np.sqrt(items * psi) + np.sign(z_power) * root) / (items + z_power**2)
    inner = np.sqrt(np.maximum((Z * z_power) ** 2 + (items + z_power**2) * (items - Z**2), 0))
    one_sided = 1 - ((inner - Z * z_power) / (items + z_power**2)) ** 2
    return np.minimum(np.where((gain <= psi) & (psi > 0), gain, one_sided), 1.0)


def power_table(printed: pd.DataFrame) -> pd.DataFrame:
    """The printed gains (`printed_gains`) with what they can show; cells without a printed gain are left out.

    low, high: 95 % interval of the gain as of independent samples.
    beyond: whether the gain exceeds its sampling error: "yes" if it does even as of independent samples, "if paired" if
      it would with maximal pairing alone, else "no".
    power, power_paired: of a replication on as many items, if the printed gain is the true one.
    needed, needed_paired: items for a power of 80 %.
    worth: whether a replication on as many items has 80 % power: "yes", "if paired", or "no".
    """
    frame = printed.loc[printed["gain"].notna()].reset_index(drop=True)
    gain, n = frame["gain"] / 100, frame["n"]
    frame["low"], frame["high"] = frame["gain"] - Z * frame["se"], frame["gain"] + Z * frame["se"]
    frame["beyond"] = _answer(frame["gain"].abs() > Z * frame["se"], frame["gain"].abs() > Z * frame["se_paired"])
    for suffix in ("", "_paired"):
        discordant = frame[f"discordant{suffix}"]
        frame[f"power{suffix}"] = power_of(gain, discordant, n)
        frame[f"needed{suffix}"] = needed_items(gain, discordant)
    frame["worth"] = _answer(frame["power"] >= POWER, frame["power_paired"] >= POWER)
    return frame


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """How many printed gains (`power_table`) are beyond their sampling error: one row a paper, kind of method and sign.

    Numbers that repeat an earlier one of the same paper are left out.
    """
    once = table.loc[table["repeats"] == ""]
    whose = once["own"].map({True: "SVF and Transformer²", False: "compared with"}).rename("methods")
    sign = once["gain"].map(lambda gain: "above the base" if gain > 0 else "at or below it").rename("printed score")
    table = pd.crosstab([once["document"], whose, sign], once["beyond"])
    table = table.reindex(columns=["yes", "if paired", "no"], fill_value=0)
    return table.assign(cells=table.sum(axis=1)).reset_index()


def _answer(surely: pd.Series, at_best: pd.Series) -> np.ndarray:
    return np.select([surely, at_best], ["yes", "if paired"], "no")
