"""The picture of a table shows every number that was reported and every one that was measured."""

import re

import pytest
from test_tables import TABLES, rows, scores_of, write  # noqa: F401  (rows is a fixture)

from rendering import draw


@pytest.mark.slow
def test_a_figure_is_the_same_file_each_time(rows, tmp_path):  # noqa: F811
    scores = write(rows, tmp_path / "scores.csv.gz")
    for name in ("one", "two"):
        draw(TABLES["arxiv"], scores, tmp_path / name)
    for suffix in ("svg", "png", "pdf", "csv"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes(), suffix


def test_each_row_is_named_and_says_what_ran_in_its_place(rows, tmp_path):  # noqa: F811
    draw(TABLES["arxiv"], write(rows, tmp_path / "scores.csv.gz"), tmp_path / "figure")
    words = re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", (tmp_path / "figure.svg").read_text())
    assert words.count("+ SVF (Ours)") == words.count("+ LoRA") == 3
    assert {"(toy_llama here)", "(mistral here)", "(nothing here)", "GSM8K (ours: n = 40)"} <= set(words)


def test_an_empty_run_still_has_its_reported_numbers(tmp_path):
    draw(TABLES["workshop"], write(scores_of("m", "", "base", "gsm8k", 1), tmp_path / "scores.csv"), tmp_path / "f")
    assert "reported by the paper" in (tmp_path / "f.svg").read_text()
