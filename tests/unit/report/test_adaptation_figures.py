"""The pictures of self-adaptation show where prompts went and what the search found, number by number."""

import re
from pathlib import Path

import pandas as pd
import pytest
from test_adaptation_tables import ledger_file, rows, scores  # noqa: F401  (rows is a fixture)
from test_tables import write

from rendering import draw
from transformer2.report.figures.adaptation import checked, confusion, convergence, counts, shares, weights
from transformer2.reproduce.frames import read_alphas, read_decisions

ORIGIN = {"run": "toy", "model": "toy_llama", "stands_in_for": "llama3-8b", "standin": True}


def words(figure: Path) -> list[str]:
    return re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", figure.read_text(encoding="utf-8"))


@pytest.fixture
def decisions() -> list[dict]:
    """Of eight prompts on code six are found, one goes to math, one to others; nothing else was asked."""
    chosen = ["code"] * 6 + ["math", "others"]
    return [
        ORIGIN | {"task": "humaneval", "strategy": "prompt", "domain": "code", "item": f"humaneval/{i}", "class": name}
        for i, name in enumerate(chosen)
    ]


@pytest.fixture
def alphas() -> list[dict]:
    """Two iterations of a search in two layers, of which the second finds the mix, and one with 3 shots."""
    best = {0: {"gsm8k": 1.0, "mbpp_pro": 0.0, "arc_easy": 0.0}, 1: {"gsm8k": 0.0, "mbpp_pro": 0.05, "arc_easy": 0.2}}
    return [
        ORIGIN | {
            "task": "math", "budget": budget, "granularity": "layer", "normalised": False, "iteration": iteration,
            "layer": layer, "expert": expert, "mean": 0.3, "std": 0.4 - 0.1 * iteration,
            "best": alpha if iteration and budget == "10" else 0.7, "best_accuracy": 0.5 + 0.1 * iteration,
            "best_loglik": "", "evaluated": 32 * (iteration + 1),
        }
        for budget in ("10", "3") for iteration in (0, 1) for layer in best for expert, alpha in best[layer].items()
    ]  # fmt: skip


def test_a_dot_plot_leaves_out_what_the_paper_has_not_and_what_was_not_run(rows, tmp_path):  # noqa: F811
    for name in ("table8", "table10"):
        draw(ledger_file(f"arxiv/{name}"), write(rows, tmp_path / "scores.csv"), tmp_path / name)
    found = words(tmp_path / "table8.svg")
    assert found.count("ours: chosen on shots") == found.count("selected on test") == 4
    assert {"Transformer² (ours: n = 30, 37, 40)", "IA³ 100 steps (ours: n = 40)"} <= set(found)
    assert found.count("reported by the paper") == 1
    diamonds = re.findall("<use [^>]*fill: #ffffff; stroke: #777777", (tmp_path / "table10.svg").read_text())
    assert len(diamonds) == 4 + 1  # the four numbers of the paper's table, and the legend


def test_decisions_are_counted_by_domain_and_class(decisions):
    table = counts(pd.DataFrame(decisions))
    assert table.loc["code"].tolist() == [6, 1, 0, 1]
    assert table.loc[["math", "reasoning"]].to_numpy().sum() == 0


def test_the_matrix_shows_percent_of_each_row_and_its_n(decisions, tmp_path):
    confusion(read_decisions(write(decisions, tmp_path / "decisions.csv.gz")), tmp_path / "f")
    found = words(tmp_path / "f.svg")
    assert {"75", "12", "n = 8", "others", "toy_llama", "(for llama3-8b)"} <= set(found)
    assert (found.count("n = 0"), found.count("–"), found.count("not run")) == (2, 8, 3)


@pytest.mark.parametrize(("key", "value"), [("class", "poetry"), ("domain", "others")])
def test_an_unknown_class_or_domain_is_refused(key, value, decisions, tmp_path):
    decisions[0][key] = value
    with pytest.raises(ValueError, match=f"unknown {key}: '{value}'"):
        confusion(read_decisions(write(decisions, tmp_path / "decisions.csv")), tmp_path / "f")


def test_the_share_of_an_expert_is_its_mean_over_layers_that_count_alike(alphas, tmp_path):
    shared = shares(checked(read_alphas(write(alphas, tmp_path / "alphas.csv"))))
    assert shared.index.tolist() == [("toy_llama", "math", "layer", False)]
    assert shared.iloc[0].to_dict() == pytest.approx({"gsm8k": 0.5, "mbpp_pro": 0.1, "arc_easy": 0.4})


def test_the_weights_are_drawn_and_a_search_that_was_not_run_is_named(alphas, tmp_path):
    weights(read_alphas(write(alphas, tmp_path / "alphas.csv.gz")), tmp_path / "f")
    found = words(tmp_path / "f.svg")
    assert {"0.50", "0.40", "gsm8k expert", "mbpp_pro expert", "arc_easy expert", "equal weights"} <= set(found)
    assert found.count("not run") == 3


def test_searches_without_the_shown_budget_are_refused(alphas, tmp_path):
    few = [row for row in alphas if row["budget"] == "3"]
    with pytest.raises(ValueError, match="none with 10 shots"):
        convergence(read_alphas(write(few, tmp_path / "alphas.csv")), tmp_path / "f")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "drawing"), [("decisions", confusion), ("alphas", weights), ("alphas", convergence)])
def test_a_figure_is_the_same_file_each_time(name, drawing, request, tmp_path):
    read = {"decisions": read_decisions, "alphas": read_alphas}[name]
    frame = read(write(request.getfixturevalue(name), tmp_path / "frame.csv"))
    drawing(frame, tmp_path / "one")
    drawing(frame, tmp_path / "two")
    for suffix in ("svg", "png", "pdf", "csv"):
        one, two = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two and len(one) > 50, suffix
