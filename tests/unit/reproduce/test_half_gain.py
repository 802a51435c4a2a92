"""Updates and samples to half of the gain: by hand, and from the curves of a run."""

import pandas as pd
import pytest
from test_learning_figures import CHOSEN, RUN, learnt

from transformer2.reproduce.frames import read_half_gain, write_frame
from transformer2.reproduce.half_gain import half_gains, updates_to_half


@pytest.mark.parametrize(
    ("accuracies", "updates"),
    [
        ((0.5, 0.7, 0.9), 10),  # exactly at the second evaluation
        ((0.5, 0.6, 0.9), 14),  # 0.7 lies a third of the way from 10 to 20: 13.3, so after 14
        ((0.5, 0.9, 0.4), 5),  # the best counts, not the last
        ((0.5, 0.3, 0.9), 17),  # first down: 0.7 is two thirds of the way from 0.3 to 0.9
        ((0.5, 0.8, 0.6), 5),
        ((0.0, 0.0, 0.01), 15),
    ],
)
def test_half_of_the_gain_is_reached_on_the_line_between_two_evaluations(accuracies, updates):
    assert updates_to_half((0, 10, 20), accuracies) == updates


@pytest.mark.parametrize("accuracies", [(0.5,), (0.5, 0.5, 0.5), (0.5, 0.4, 0.3)])
def test_a_training_without_gain_never_reaches_half_of_it(accuracies):
    assert updates_to_half(range(len(accuracies)), accuracies) is None


def test_the_line_does_not_make_an_update_of_rounding():
    assert updates_to_half((0, 3), (0.1, 0.1 + 0.2)) == 2, "1.5"
    assert updates_to_half((0, 2), (0.1, 0.7)) == 1, "and not 2, because 0.4 is a little more in binary"


def test_of_a_sweep_the_chosen_point_counts_with_batches_of_its_own_size(tmp_path):
    curves = learnt(tmp_path)  # 0.5, 0.7, 0.9 after 0, 2 and 4 updates; another point falls
    write_frame(half_gains(curves, _with_points()), tmp_path / "half_gain.csv")
    (row,) = read_half_gain(tmp_path / "half_gain.csv").to_dict("records")
    assert (row["point"], row["base"], row["best"], row["n"]) == (CHOSEN, 0.5, 0.9, 20)
    assert row["updates"] == 2 and row["samples"] == 2 * 256, "256 is the batch of the recipe"


def test_an_expert_without_gain_has_neither_updates_nor_samples(tmp_path):
    curves = learnt(tmp_path)
    worse = curves.assign(chosen=~curves["chosen"])  # as if the point that falls had been chosen
    write_frame(half_gains(worse, _with_points()), tmp_path / "half_gain.csv")
    (row,) = read_half_gain(tmp_path / "half_gain.csv").to_dict("records")
    assert row["base"] == row["best"] == 0.5 and pd.isna(row["updates"]) and pd.isna(row["samples"])


def _with_points():
    sweep = {"learning_rate": [0.002, 0.02]}
    methods = {"svf": RUN.methods["svf"].model_copy(update={"sweep": sweep})}
    return RUN.model_copy(update={"methods": methods})
