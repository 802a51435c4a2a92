"""What the paper's own gains show: power by simulation, the printed gains against the ledger."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from conftest import ROOT
from transformer2.report.figures.forest import forest
from transformer2.reproduce.ledger import entries, read_all
from transformer2.reproduce.power import counts, detectable, needed_items, power_of, power_table
from transformer2.reproduce.printed import printed_gains
from transformer2.reproduce.statistics import detectable_gain

LEDGER = read_all(ROOT / "paper_tables")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return power_table(printed_gains(LEDGER)).set_index("cell")


def seen(n: int, psi: float, gain: float, draws: int = 4000) -> float:
    """Share of samples in which the mid-p McNemar test is significant."""
    rates = [(psi + gain) / 2, (psi - gain) / 2, 1 - psi]
    wins, losses, _ = np.random.default_rng(0).multinomial(n, rates, size=draws).T
    fewer, total = np.minimum(wins, losses), wins + losses
    p_value = 2 * binom.cdf(fewer, total, 0.5) - binom.pmf(fewer, total, 0.5)
    return float((p_value < 0.05).mean())


@pytest.mark.parametrize(("psi", "gain"), [(0.3, 0.05), (0.1, 0.03), (0.05, 0.05), (0.4, 0.1)])
def test_the_needed_items_show_a_gain_in_four_of_five_samples(psi, gain):
    assert seen(int(needed_items(gain, psi)), psi, gain) == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize(("n", "psi", "gain"), [(1319, 0.2, 0.0326), (164, 0.3, 0.1), (2376, 0.1, 0.01)])
def test_power_is_that_of_the_test(n, psi, gain):
    assert float(power_of(gain, psi, n)) == pytest.approx(seen(n, psi, gain), abs=0.05)


@given(st.integers(30, 20000), st.floats(0, 0.6))
def test_the_detectable_gain_is_that_of_the_root_finder(n, discordant):
    assert float(detectable(n, discordant)) == pytest.approx(detectable_gain(n, discordant), rel=1e-4)


@given(st.floats(0.001, 0.3), st.floats(0, 0.6), st.sampled_from([1 / 3, 0.8]))
def test_needed_items_power_and_detectable_gain_agree(gain, discordant, power):
    n = float(needed_items(gain, discordant, power))
    if n < 10:
        return  # one item more or less is everything
    assert float(power_of(gain, discordant, n)) >= power - 1e-6
    assert float(detectable(n, discordant, power)) <= gain * 1.001
    assert float(power_of(gain, discordant, n - 2)) <= power


def test_without_a_gain_no_number_of_items_shows_one():
    assert float(needed_items(0.0, 0.2)) == math.inf
    assert float(power_of(0.0, 0.2, 1000)) == pytest.approx(0.025)
    assert float(power_of(0.0, 0.0, 1000)) == pytest.approx(0.025)


# ---- the paper's gains


def test_every_cell_with_a_method_is_there_once():
    frame = printed_gains(LEDGER)
    cells = [entry.id for found in LEDGER.scores for entry in entries(found) if entry.row.method != "base"]
    assert frame["cell"].tolist() == cells
    assert frame["score"].notna().sum() == frame["gain"].notna().sum() > 190  # a score without a base is no gain


def test_gains_are_differences_of_printed_scores(table):
    svf = table.loc["arxiv/table1/mistral-7b/svf/gsm8k"]
    assert (svf["base"], svf["score"], svf["n"]) == (42.83, 49.74, 1319)
    assert svf["gain"] == pytest.approx(6.91) and svf["discordant_paired"] == pytest.approx(0.0691)
    assert svf["discordant"] == pytest.approx(0.4974 * (1 - 0.4283) + 0.4283 * (1 - 0.4974))
    assert table.loc["arxiv/table2/llama3-8b/few_shot_10_on_test/math", "n"] == 4990  # less the shots
    assert table.loc["arxiv/section4/llama3-8b/uniform_mix/math", "base"] == 24.54  # of Table 2
    assert table.loc["workshop/table1/mistral-7b/svf/arc_easy", "base"] == 49.50  # of its own table, not of another
    assert table.loc["arxiv/table4/llama3-8b/lora/gsm8k", "repeats"] == "arxiv/table1/llama3-8b/lora/gsm8k"


def test_what_the_paper_shows(table):
    assert table.loc["arxiv/table1/mistral-7b/svf/gsm8k", ["beyond", "worth"]].tolist() == ["yes", "yes"]
    assert table.loc["arxiv/table1/llama3-8b/svf/gsm8k", ["beyond", "worth"]].tolist() == ["yes", "if paired"]
    assert table.loc["arxiv/table1/llama3-8b/svf/mbpp_pro", ["beyond", "worth"]].tolist() == ["no", "no"]
    arxiv = table.loc[(table["document"] == "arxiv") & (table["repeats"] == "")]
    gained = arxiv.loc[(arxiv["gain"] > 0) & (arxiv["beyond"] == "yes")]
    assert 5 <= len(gained) <= 9 and len(arxiv) > 90
    assert (arxiv["needed_paired"] <= arxiv["needed"]).all() and (arxiv["power_paired"] >= arxiv["power"] - 1e-9).all()


def test_pairing_decides_between_the_bounds(table):
    assert ((table["beyond"] == "yes") == (table["low"] * table["high"] > 0)).all()
    large = table["gain"].abs() > 1.96 * table["se_paired"]
    assert (large == (table["beyond"] != "no")).all()
    assert set(table["worth"]) == {"yes", "if paired", "no"}


def test_gains_beyond_their_sampling_error_are_counted_once(table):
    found = counts(table).set_index(["document", "methods", "printed score"])
    assert found["cells"].sum() == (table["repeats"] == "").sum()
    assert (found["cells"] == found[["yes", "if paired", "no"]].sum(axis=1)).all()
    own = table.loc[table["own"] & (table["repeats"] == "") & (table["document"] == "arxiv") & (table["gain"] > 0)]
    assert found.loc[("arxiv", "SVF and Transformer²", "above the base"), "yes"] == (own["beyond"] == "yes").sum() > 4
    assert not table.loc[table["method"].isin(["lora", "dora", "ia3_on_test", "lora_on_test"]), "own"].any()


def test_a_forest_of_the_papers_gains_alone(table):
    frame = table.reset_index()
    shown = frame.loc[(frame["document"] == "arxiv") & (frame["table"] == "table1")]
    axis = forest(shown, 2.0, "What Table 1 shows").axes[0]
    assert len(axis.containers) == len(shown) == 18
    answers = [text.get_text() for text in axis.texts if text.get_text() in ("yes", "if paired", "no")]
    assert answers == list(shown["beyond"])
