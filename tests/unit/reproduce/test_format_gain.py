"""A gain is split into what the form of answers adds and what is gained where both can be read."""

import numpy as np
import pandas as pd
import pytest
from test_tables import scores_of

from transformer2.reproduce.format_gain import format_gains, split_gain
from transformer2.reproduce.gains import paired_gain


def test_the_parts_sum_to_the_gain_and_count_items_by_hand():
    #                       learns to answer, right | wrong | forgets to answer | both: gained, lost, right, wrong
    base_right = np.array([[0, 0, 1, 0, 1, 1, 0]])
    right = np.array([[1, 0, 0, 1, 0, 1, 0]])
    base_read = np.array([[False, False, True, True, True, True, True]])
    read = np.array([[True, True, False, True, True, True, True]])
    form, both = split_gain(right, read, base_right, base_read)
    assert form.value == pytest.approx(100 * (1 - 1) / 7) and both.value == pytest.approx(100 * (1 - 1) / 7)
    form, both = split_gain(right, read, base_right * 0, base_read)
    assert form.value == pytest.approx(100 / 7) and both.value == pytest.approx(200 / 7)
    assert form.value + both.value == pytest.approx(paired_gain(right, base_right * 0).value)


def test_a_model_that_only_learns_the_form_gains_by_nothing_else():
    base = scores_of("toy", "llama3-8b", "base", "gsm8k", 10)
    expert = scores_of("toy", "llama3-8b", "svf", "gsm8k", 20, state="best")
    for row in base:
        row["read"] = row["lenient"]  # what is wrong cannot be read
    (row,) = format_gains(pd.DataFrame(base + expert)).to_dict("records")
    assert (row["gain"], row["form"], row["both"]) == (25, 25, 0)
    assert row["low"] < 0 < row["high"]
    assert (row["base_read"], row["read"], row["base_of_read"], row["of_read"]) == pytest.approx((30, 100, 100, 55))
    assert (row["seeds"], row["n"]) == (1, 40)


def test_seeds_share_their_base():
    base = scores_of("toy", "llama3-8b", "base", "gsm8k", 10)
    experts = [row for seed in (0, 1) for row in scores_of("toy", "llama3-8b", "svf", "gsm8k", 12 + seed, seed=seed)]
    (row,) = format_gains(pd.DataFrame(base + experts)).to_dict("records")
    assert (row["seeds"], row["form"], row["both"]) == (2, 0, pytest.approx(6.25))


def test_scores_that_do_not_say_what_was_read_are_left_out():
    rows = scores_of("toy", "llama3-8b", "base", "gsm8k", 10) + scores_of("toy", "llama3-8b", "svf", "gsm8k", 12)
    assert format_gains(pd.DataFrame(rows).assign(read="")).empty
