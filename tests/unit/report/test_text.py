"""How numbers are written, in tables, pages and traces alike."""

import math

import pytest

from transformer2.report import text
from transformer2.reproduce.statistics import UNDEFINED, Estimate


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (text.fixed(12.345), "12.35"),
        (text.fixed(math.inf), "∞"),
        (text.fixed(math.nan), "undefined"),
        (text.signed(-0.25), "−0.2"),
        (text.signed(0.3), "+0.3"),
        (text.signed_span(-1.5, 2), "−1.5 to +2.0"),
        (text.span(12, math.inf), "12.00–∞"),
        (text.span(math.nan, math.nan), "undefined"),
        (text.times(1.2), "× 1.20"),
        (text.with_interval(Estimate(50, 40, 60)), "50.00 (95 %: 40.00 to 60.00)"),
        (text.with_interval(UNDEFINED), "undefined"),
        (text.p_value(0.0004), "p < 0.001"),
        (text.p_value(0.0314), "p = 0.031"),
        (text.percent_of(0.5, 0.4, 0.6, 80), "50.0 (40.0–60.0), n = 80"),
        (text.setting("policy_gradient"), "policy gradient"),
        (text.listed(["a"]), "a"),
        (text.listed(["a", "b", "c"]), "a, b and c"),
        (text.counted(1, "claim"), "1 claim"),
        (text.counted(0, "claim"), "0 claims"),
        (text.paper("arxiv"), "the paper"),
        (text.paper("workshop"), "the workshop paper"),
    ],
)
def test_numbers_and_lists_read_as_a_reader_expects(made, expected):
    assert made == expected
