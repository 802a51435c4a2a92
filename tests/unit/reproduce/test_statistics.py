"""statistics.py against published values, scipy, and simulation."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from transformer2.reproduce.statistics import (
    detectable_gain,
    holm,
    independent,
    mcnemar_exact,
    paired_bootstrap,
    wilson,
)


def paired_verdicts(rng: np.random.Generator, items: int, method: float, base: float, both: float):
    """(2, items) booleans with the given rates of solving an item: by method, by base, and by both."""
    rates = [both, method - both, base - both, 1 - method - base + both]
    outcome = rng.choice(4, size=items, p=rates)
    return np.stack([outcome < 2, (outcome == 0) | (outcome == 2)])


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_intervals_of_newcombe_1998_table_1(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_refuses_what_is_no_proportion():
    with pytest.raises(ValueError, match="5 successes of 4 items"):
        wilson(5, 4)
    with pytest.raises(ValueError, match="0 successes of 0 items"):
        wilson(0, 0)


def test_wilson_covers_the_true_rate_in_95_percent_of_samples():
    n, rates = 400, np.linspace(0.05, 0.95, 19)
    intervals = np.array([wilson(k, n) for k in range(n + 1)])
    covers = (intervals[:, :1] <= rates) & (rates <= intervals[:, 1:])
    coverage = (covers * stats.binom.pmf(np.arange(n + 1)[:, None], n, rates)).sum(axis=0)
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.005)
    assert coverage.min() > 0.93


def test_mcnemar_gives_the_exact_p_of_fagerland_2013():
    # Airway hyper-responsiveness before and after transplantation: 1 and 7 discordant pairs, p = 0.0703.
    before = np.repeat([True, True, False, False], [1, 1, 7, 12])
    after = np.repeat([True, False, True, False], [1, 1, 7, 12])
    assert mcnemar_exact(before, after) == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar_exact(after, before) == mcnemar_exact(before, after)


def test_mcnemar_is_the_binomial_test_of_the_discordant_items():
    method, base = paired_verdicts(np.random.default_rng(0), 200, 0.6, 0.5, 0.4)
    wins, losses = int((method & ~base).sum()), int((base & ~method).sum())
    assert mcnemar_exact(method, base) == pytest.approx(stats.binomtest(wins, wins + losses).pvalue)


def test_mcnemar_of_equal_verdicts_is_one():
    verdicts = np.arange(30) % 3 == 0
    assert mcnemar_exact(verdicts, verdicts) == 1


def test_mcnemar_refuses_arrays_of_different_items():
    with pytest.raises(ValueError, match="shapes"):
        mcnemar_exact([True, False], [True])


def test_mcnemar_keeps_its_level_under_the_null():
    rng = np.random.default_rng(1)
    p_values = [mcnemar_exact(*paired_verdicts(rng, 150, 0.5, 0.5, 0.35)) for _ in range(400)]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize("statistic", ["difference", "ratio"])
def test_bootstrap_of_one_seed_agrees_with_scipy(statistic):
    method, base = paired_verdicts(np.random.default_rng(2), 300, 0.6, 0.5, 0.4)

    def contrast(a, b, axis):
        return a.mean(axis) - b.mean(axis) if statistic == "difference" else a.mean(axis) / b.mean(axis)

    options = {"paired": True, "vectorized": True, "method": "percentile", "rng": np.random.default_rng(3)}
    expected = stats.bootstrap((method, base), contrast, **options).confidence_interval
    estimate = paired_bootstrap(method, base, statistic)
    assert estimate.value == pytest.approx(contrast(method, base, 0))
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=0.01)


@pytest.mark.parametrize("statistic", ["difference", "ratio"])
def test_bootstrap_covers_the_true_value_in_95_percent_of_samples(statistic):
    rng, method, base, trials = np.random.default_rng(4), 0.55, 0.5, 400
    truth = method - base if statistic == "difference" else method / base
    covered = 0
    for trial in range(trials):
        ours, theirs = paired_verdicts(rng, 200, method, base, 0.4)
        estimate = paired_bootstrap(ours, theirs, statistic, n_resamples=400, seed=trial)
        covered += estimate.low <= truth <= estimate.high
    assert covered / trials == pytest.approx(0.95, abs=3 * math.sqrt(0.05 * 0.95 / trials))


def seeded_verdicts(rng: np.random.Generator, seeds: int, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Experts whose skill varies by seed around a true gain of 0.1 over a base that solves half the items."""
    base = rng.random(items) < 0.5
    skills = 0.6 + rng.normal(0, 0.1, size=(seeds, 1))
    return rng.random((seeds, items)) < skills, base


def test_bootstrap_over_seeds_covers_the_true_gain_where_one_over_items_alone_does_not():
    rng, trials = np.random.default_rng(5), 150
    both_levels, items_alone = 0, 0
    for trial in range(trials):
        method, base = seeded_verdicts(rng, seeds=8, items=400)
        two = paired_bootstrap(method, base, "difference", n_resamples=200, seed=trial)
        one = paired_bootstrap(method.mean(axis=0), base, "difference", n_resamples=200, seed=trial)
        both_levels += two.low <= 0.1 <= two.high
        items_alone += one.low <= 0.1 <= one.high
    assert both_levels / trials > 0.9
    assert items_alone / trials < 0.85


def test_bootstrap_repeats_itself_for_the_same_seed_only():
    method, base = paired_verdicts(np.random.default_rng(6), 100, 0.6, 0.5, 0.4)
    assert paired_bootstrap(method, base, "ratio", seed=1) == paired_bootstrap(method, base, "ratio", seed=1)
    assert paired_bootstrap(method, base, "ratio", seed=1) != paired_bootstrap(method, base, "ratio", seed=2)


def test_bootstrap_of_equal_verdicts_has_no_spread():
    verdicts = np.arange(40) % 4 == 0
    assert paired_bootstrap(verdicts, verdicts, "difference") == (0, 0, 0)
    assert paired_bootstrap(verdicts, verdicts, "ratio") == (1, 1, 1)


def test_ratio_to_a_base_that_solves_nothing_is_undefined_and_the_difference_is_not():
    method, base = np.arange(20) % 2 == 0, np.zeros(20, bool)
    assert all(math.isnan(number) for number in paired_bootstrap(method, base, "ratio"))
    assert paired_bootstrap(method, base, "difference").value == 0.5


def test_ratio_to_a_base_that_solves_one_item_has_no_upper_end():
    method, base = np.arange(20) % 2 == 0, np.arange(20) == 0
    estimate = paired_bootstrap(method, base, "ratio")
    assert estimate.value == 10
    assert 1 <= estimate.low < 10
    assert estimate.high == math.inf


def test_bootstrap_refuses_arrays_of_different_items_or_seeds():
    with pytest.raises(ValueError, match="cannot pair"):
        paired_bootstrap(np.ones(4), np.ones(5), "ratio")
    with pytest.raises(ValueError, match="cannot pair"):
        paired_bootstrap(np.ones((3, 4)), np.ones((2, 4)), "ratio")


@pytest.mark.parametrize("n", [1, 7, 99, 400, 1319, 2376])
def test_wilson_contains_the_proportion_itself_at_both_ends(n):
    assert wilson(0, n)[0] <= 0.0 and wilson(n, n)[1] >= 1.0


# ---- several tests at once


def test_holm_multiplies_the_smallest_p_most_and_keeps_their_order():
    # Wikipedia's example of the Holm-Bonferroni method: 0.01, 0.04, 0.03, 0.005.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 9, 50])
def test_holm_is_that_of_statsmodels(n):
    p_values = np.random.default_rng(n).random(n) ** 3
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_leaves_out_what_is_no_test():
    assert holm([]) == []
    adjusted = holm([0.01, math.nan, 0.04])
    assert adjusted[0] == 0.02 and math.isnan(adjusted[1]) and adjusted[2] == 0.04


# ---- independent samples


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((56, 70, 48, 80), 0.0524, 0.3339), ((9, 10, 3, 10), 0.1705, 0.8090), ((10, 10, 0, 20), 0.6791, 1.0000)],
)
def test_difference_of_two_samples_has_the_interval_of_newcombe_1998_method_10(counts, low, high):
    found = independent(*counts, "difference").estimate
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("statistic", ["difference", "ratio"])
def test_intervals_of_two_samples_cover_the_truth(statistic):
    rng, trials, covered, called_different = np.random.default_rng(7), 600, 0, 0
    for _ in range(trials):
        counts = rng.binomial(300, 0.55), 300, rng.binomial(200, 0.5), 200
        found = independent(*counts, statistic).estimate
        covered += found.low <= (0.05 if statistic == "difference" else 1.1) <= found.high
        called_different += independent(counts[0], 300, rng.binomial(200, 0.55), 200, statistic).p_value < 0.05
    error = 3 * math.sqrt(0.05 * 0.95 / trials)
    assert covered / trials == pytest.approx(0.95, abs=error)
    assert called_different / trials == pytest.approx(0.05, abs=error)


def test_two_samples_without_spread_are_equal_or_as_different_as_can_be():
    assert independent(10, 10, 20, 20, "difference").p_value == 1
    assert all(math.isnan(number) for number in independent(0, 10, 0, 20, "ratio").estimate)
    assert independent(10, 10, 0, 10, "difference").p_value < 0.001
    with pytest.raises(ValueError, match="11 successes of 10 items"):
        independent(11, 10, 1, 10, "difference")


# ---- power


@pytest.mark.parametrize(("n", "discordant"), [(100, 0.3), (400, 0.1), (1319, 0.2)])
def test_a_detectable_gain_is_seen_in_four_of_five_samples(n, discordant):
    gain = detectable_gain(n, discordant)
    shares = [(discordant + gain) / 2, (discordant - gain) / 2, 1 - discordant]
    rng = np.random.default_rng(8)
    draws = rng.multinomial(n, shares, size=2000)
    p_values = stats.binom.cdf(np.minimum(draws[:, 0], draws[:, 1]), draws[:, 0] + draws[:, 1], 0.5) * 2
    assert 0.72 < (p_values < 0.05).mean() < 0.85  # the exact test needs a little more than the formula says


def test_where_all_differences_favour_the_method_few_are_enough():
    assert detectable_gain(400, 0.0) == pytest.approx(8 / 400, abs=0.003)
    assert detectable_gain(400, 0.0) < detectable_gain(400, 0.2) < detectable_gain(100, 0.2)
    assert detectable_gain(2, 0.0) == math.inf
