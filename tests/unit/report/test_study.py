"""Methods beside a reference: paired over seeds and items, in a page, a figure and its data."""

import pandas as pd
import pytest
from test_tables import scores_of, write

from transformer2.report.figures.study import POOLED, draw, effects
from transformer2.reproduce.frames import read_scores
from transformer2.reproduce.statistics import paired_bootstrap


@pytest.fixture
def rows() -> list[dict]:
    """Two tasks, three seeds: `paper` solves 20 of 40, `worse` ten less, `same` as many, one seed more and one less."""
    rows = []
    for seed, task in ((seed, task) for seed in range(3) for task in ("gsm8k", "arc_easy")):
        for method, solved in (("paper", 20), ("worse", 10), ("same", 19 + seed)):
            rows += scores_of("toy", "llama3-8b", method, task, solved, seed=seed)
        rows += scores_of("toy", "llama3-8b", "base", task, 5, seed=0) if seed == 0 else []
    return rows


def test_effects_are_paired_differences_from_the_reference(rows, tmp_path):
    found = {(e.method, e.task): e for e in effects(read_scores(write(rows, tmp_path / "s.csv")), "paper")}
    assert list(dict.fromkeys(method for method, _ in found)) == ["paper", "worse", "same"]
    assert {task for _, task in found} == {"gsm8k", "arc_easy", POOLED}
    worse = found["worse", POOLED]
    assert (worse.accuracy, worse.seeds, worse.items) == (25, 3, 80)
    solved = [[i < 10 for i in range(40)] * 2] * 3, [[i < 20 for i in range(40)] * 2] * 3
    assert worse.difference == pytest.approx([100 * x for x in paired_bootstrap(*solved, "difference")], abs=3)
    assert worse.difference.high < 0
    assert found["same", "gsm8k"].difference.value == 0
    assert found["same", "gsm8k"].difference.low < 0 < found["same", "gsm8k"].difference.high
    assert found["paper", "gsm8k"].difference == (0, 0, 0)


def test_methods_are_compared_by_their_best_states(rows, tmp_path):
    trained = [row | {"state": "best" if row["method"] != "base" else ""} for row in rows]
    for seed, task in ((seed, task) for seed in range(3) for task in ("gsm8k", "arc_easy")):
        for method in ("paper", "worse", "same"):
            trained += scores_of("toy", "llama3-8b", method, task, 0, seed=seed, state="last")
    plain, both = (effects(read_scores(write(of, tmp_path / "s.csv")), "paper") for of in (rows, trained))
    assert [(e.method, e.task, e.accuracy) for e in both] == [(e.method, e.task, e.accuracy) for e in plain]


def test_page_figure_and_data_say_the_same(rows, tmp_path):
    draw(read_scores(write(rows, tmp_path / "s.csv")), "paper", tmp_path / "study")
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "| toy | paper | 50.0 | 50.0 | 50.0 |" in text and "25.0 (−25.0: " in text
    assert "3 seeds; items: gsm8k 40, arc_easy 40, all tasks 80" in text
    data = pd.read_csv(tmp_path / "study.csv").set_index(["method", "task"])
    assert data.loc[("worse", POOLED), "difference"] == -25
    drawn = (tmp_path / "study.svg").read_text(encoding="utf-8")
    assert "all tasks, n = 3 seeds × 80" in drawn and "toy: paper has 50.0 %" in drawn
    assert all((tmp_path / f"study.{kind}").stat().st_size > 1000 for kind in ("pdf", "png"))


def test_a_reference_that_was_not_run_or_has_other_seeds_is_one_line(rows, tmp_path):
    with pytest.raises(ValueError, match="the reference 'papier' was not run; trained methods are"):
        effects(read_scores(write(rows, tmp_path / "s.csv")), "papier")
    fewer = [row for row in rows if (row["method"], row["seed"]) != ("same", 2)]
    with pytest.raises(ValueError, match="same and paper have other seeds or items of"):
        effects(read_scores(write(fewer, tmp_path / "s.csv")), "paper")


def test_a_method_of_one_task_is_compared_on_that_task_alone(rows, tmp_path):
    rows += [row for seed in range(3) for row in scores_of("toy", "llama3-8b", "narrow", "gsm8k", 30, seed=seed)]
    rows += scores_of("other", "mistral-7b", "worse", "gsm8k", 30)  # a model without the reference
    found = effects(read_scores(write(rows, tmp_path / "s.csv")), "paper")
    assert [(e.task, e.difference.value) for e in found if e.method == "narrow"] == [("gsm8k", 25)]
    assert {e.model for e in found} == {"toy"}
    draw(read_scores(tmp_path / "s.csv"), "paper", tmp_path / "study")
