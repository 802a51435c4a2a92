"""The verdict on a cell: from the sampling error of both numbers, never for a stand-in, never on too few items."""

import math
from dataclasses import replace
from decimal import Decimal
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_tables import TABLES, scores_of, table1, write

from rendering import render
from transformer2.reproduce import ledger
from transformer2.reproduce.cells import Cell, cells
from transformer2.reproduce.frames import read_scores
from transformer2.reproduce.verdicts import Judged, judge_cells

N = 1319


def cells_of(solved: int, tmp_path: Path, items: int = N, standin: bool = False) -> dict[str, Cell]:
    """Table 1 with our score of Llama3's base on GSM8K, which the paper has as 75.89, 1001 of 1319."""
    rows = scores_of("l", "llama3-8b", "base", "gsm8k", solved, standin=standin, items=range(items))
    return table1(rows, tmp_path)


def verdict(solved: int, tmp_path: Path, **how) -> Judged:
    return judge_cells(list(cells_of(solved, tmp_path, **how).values()))["arxiv/table1/llama3-8b/base/gsm8k"]


@pytest.mark.parametrize(
    ("solved", "expected"),
    [(1001, "reproduced"), (1040, "reproduced"), (960, "reproduced"), (1060, "higher"), (940, "lower")],
)
def test_a_score_is_reproduced_if_it_does_not_differ_beyond_chance(solved, expected, tmp_path):
    found = verdict(solved, tmp_path)
    assert found.verdict == expected
    assert found.difference.value == pytest.approx(100 * solved / N - 75.89)
    assert found.difference.low < found.difference.value < found.difference.high
    assert (found.difference.low <= 0 <= found.difference.high) == (expected == "reproduced")


def test_agreement_on_fewer_items_than_the_papers_is_inconclusive(tmp_path):
    assert verdict(76, tmp_path, items=100).verdict == "inconclusive"
    assert verdict(20, tmp_path, items=100).verdict == "lower"


def test_items_that_were_given_as_shots_are_not_missed(tmp_path):
    table = ledger.read(TABLES["arxiv"].with_name("table10.yaml"))
    rows = scores_of("l", "llama3-8b", "few_shot_10_on_test", "arc_challenge", 960, standin=False, items=range(1162))
    rows = [row | {"trained_on": ""} for row in rows]
    found = judge_cells(cells(table, read_scores(write(rows, tmp_path / "s.csv")), "strict"))
    assert found["arxiv/table10/llama3-8b/few_shot_10_on_test/arc_challenge"].verdict == "reproduced"


@pytest.mark.parametrize("solved", [0, 500, 1001, 1319])
def test_a_stand_in_is_never_compared_whatever_it_scores(solved, tmp_path):
    found = verdict(solved, tmp_path, standin=True)
    assert found.verdict == "not comparable (stand-in)" and math.isnan(found.difference.value)


def test_what_was_not_run_is_said_so(tmp_path):
    found = judge_cells(list(cells_of(1001, tmp_path).values()))
    assert found["arxiv/table1/llama3-8b/svf/gsm8k"].verdict == "not run"


def test_many_cells_are_tested_together(tmp_path):
    """p is 0.03 alone; with a second comparable cell Holm asks for less than 0.025, and the cell neither differs nor
    agrees. More cells never make agreement easier."""
    alone = cells_of(1048, tmp_path)
    assert judge_cells(list(alone.values()))["arxiv/table1/llama3-8b/base/gsm8k"].verdict == "higher"
    rows = scores_of("l", "llama3-8b", "base", "gsm8k", 1048, standin=False, items=range(N))
    rows += scores_of("l", "llama3-8b", "base", "arc_easy", 2105, standin=False, items=range(2376))
    found = judge_cells(list(table1(rows, tmp_path).values()))
    assert found["arxiv/table1/llama3-8b/base/gsm8k"].verdict == "inconclusive"
    assert found["arxiv/table1/llama3-8b/base/arc_easy"].verdict == "reproduced"


def test_runs_of_the_papers_own_skill_are_called_reproduced_in_95_percent(tmp_path):
    """Two samples of one skill: at most 5 % are called different (Monte Carlo error 3 standard deviations)."""
    cell = next(iter(cells_of(1001, tmp_path).values()))
    assert cell.ours
    rng, trials, wrong = np.random.default_rng(0), 400, 0
    for _ in range(trials):
        reported = cell.reported.model_copy(update={"value": Decimal(f"{100 * rng.binomial(N, 0.76) / N:.2f}")})
        sampled = replace(
            cell, entry=cell.entry._replace(reported=reported), ours=replace(cell.ours, correct=rng.binomial(N, 0.76))
        )
        wrong += judge_cells([sampled])[cell.id].verdict != "reproduced"
    assert wrong / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert wrong > 0


def test_the_csv_has_verdict_difference_and_what_could_have_been_seen(tmp_path):
    rows = scores_of("l", "llama3-8b", "base", "gsm8k", 900, standin=False, items=range(N))
    rows += scores_of("l", "llama3-8b", "svf", "gsm8k", 1044, standin=False, items=range(N))
    render(TABLES["arxiv"], write(rows, tmp_path / "s.csv"), tmp_path)
    frame = pd.read_csv(StringIO((tmp_path / "arxiv/table1.csv").read_text())).set_index("cell")
    cell = frame.loc["arxiv/table1/llama3-8b/svf/gsm8k"]
    assert (cell["verdict"], cell["reported_k"], cell["reported_n"]) == ("reproduced", 1044, 1319)
    assert cell["difference_low"] < 0 < cell["difference_high"] and 0 < cell["detectable"] < 5
    assert frame.loc["arxiv/table1/llama3-8b/base/gsm8k", "verdict"] == "lower"
    text = (tmp_path / "arxiv/table1.md").read_text()
    assert "verdict reproduced, +0.00" in text and "verdict lower, −7.66" in text


# ---- counts alone, without which items were right


def test_counts_are_compared_as_independent_samples(tmp_path):
    def counted(method: str, solved: int) -> list[dict]:
        rows = scores_of("l", "llama3-8b", method, "gsm8k", solved, standin=False, items=range(N))
        return [row | {"item": row["item"].replace("/test/", "/unpaired/")} for row in rows]

    found = table1(counted("base", 1001) + counted("svf", 1044), tmp_path)
    ours = found["llama3-8b/svf/gsm8k"].ours
    assert ours and not ours.paired and math.isnan(ours.detectable)
    assert ours.normalised.value == pytest.approx(1044 / 1001)
    assert 0.99 < ours.normalised.low < 1.01 < ours.normalised.high
    assert 0.03 < ours.p_value < 0.06  # McNemar on nested items would give 1e-13
    mixed = table1(scores_of("l", "llama3-8b", "base", "gsm8k", 1001, standin=False, items=range(N))
                   + counted("svf", 1044), tmp_path)  # fmt: skip
    again = mixed["llama3-8b/svf/gsm8k"].ours
    assert again and again.p_value == ours.p_value
