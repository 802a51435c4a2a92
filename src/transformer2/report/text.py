"""Numbers as text: every table, page and trace formats them here."""

import math
from collections.abc import Iterable
from typing import Any

from transformer2.reproduce.statistics import Estimate

UNDEFINED = "undefined"
ABSENT = "–"
"""Stands where there is no number."""


def fixed(value: float, digits: int = 2) -> str:
    """A number with so many decimals: 12.50, ∞, or undefined for NaN."""
    if math.isnan(value):
        return UNDEFINED
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, a true minus: +1.5, −0.3."""
    return f"{value:+.{digits}f}".replace("-", "−")


def times(value: float) -> str:
    """A normalised score: how many times the base, × 1.05."""
    return f"× {fixed(value)}"


def span(low: float, high: float, digits: int = 2) -> str:
    """The ends of an interval: 12.50–14.00."""
    return UNDEFINED if math.isnan(low) else f"{fixed(low, digits)}–{fixed(high, digits)}"


def signed_span(low: float, high: float) -> str:
    """The ends of an interval of differences: −1.5 to +0.3."""
    return f"{signed(low)} to {signed(high)}"


def gain(value: float, low: float, high: float) -> str:
    """A gain with its interval: +1.50 (−0.5 to +3.5)."""
    return ABSENT if math.isnan(value) else f"{signed(value, 2)} ({signed_span(low, high)})"


def with_interval(estimate: Estimate) -> str:
    """12.50 (95 %: 11.00 to 14.00)."""
    if math.isnan(estimate.value):
        return UNDEFINED
    return f"{fixed(estimate.value)} (95 %: {fixed(estimate.low)} to {fixed(estimate.high)})"


def p_value(p: float) -> str:
    """p = 0.031, or p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def percent_of(right: float, low: float, high: float, n: int) -> str:
    """A share with its interval, all in 0..1: 50.0 (40.0–60.0), n = 80."""
    return f"{100 * right:.1f} ({span(100 * low, 100 * high, 1)}), n = {n}"


def setting(value: Any) -> str:
    """A hyper-parameter as the ledger writes it: 2e-3, 0.05, 256; or in words."""
    if not isinstance(value, int | float):
        return str(value).replace("_", " ")
    if value and abs(value) < 0.01:
        digits, _, exponent = f"{value:.5e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:g}"


def checksum(sha256: str) -> str:
    """The first digits of a checksum, enough to compare by eye."""
    return sha256[:12]


def listed(parts: Iterable[str]) -> str:
    """a, b and c."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def counted(number: int, name: str) -> str:
    """1 claim, 2 claims."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def seeds(number: int) -> str:
    """one seed, 3 seeds."""
    return "one seed" if number == 1 else f"{number} seeds"


def were(number: int) -> str:
    return "was" if number == 1 else "were"


def are(number: int) -> str:
    return "is" if number == 1 else "are"


def paper(document: str) -> str:
    """What the papers are called that tables are of: the paper, or the workshop paper."""
    return {"arxiv": "the paper"}.get(document, f"the {document} paper")
