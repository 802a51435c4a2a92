"""The benchmarks do the same work on both sides, and report it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import helpers
from benchmarks import models, training
from benchmarks.__main__ import CASES, app
from benchmarks.cases import scaling, step, token
from benchmarks.released import compose, factors
from benchmarks.table import table
from transformer2.planning.costs import Adapted, Size, factored
from transformer2.svf.basis import scale_weight

TINY = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 160, "tie_word_embeddings": True}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.SHAPES, "tiny", TINY)


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch_tokens", [1, 40, 10**6])
def test_a_step_moves_z_as_the_released_algorithm_does(micro_batch_tokens):
    report = step.measure(
        model="tiny", repeats=1, answers=4, prompt_tokens=7, answer_tokens=9, micro_batch_tokens=micro_batch_tokens
    )
    assert report["same"]["largest_difference_of_z"] < 1e-6
    assert report["same"]["relative_difference_of_gradients"] < 1e-4
    assert report["ratios"]["released/svf"]["flops"] > 1.2


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8)])
def test_the_released_composition_is_ours_in_one_parametrisation(shape):
    torch.manual_seed(0)
    weight, p = torch.randn(shape), torch.randn(min(shape))
    parts = factors(weight)
    u, s, vt = parts
    torch.testing.assert_close((u * s) @ vt, weight)
    z = torch.sigmoid(p) * (s.sum() / (s * torch.sigmoid(p)).sum())
    torch.testing.assert_close(compose(parts, p), scale_weight(weight, models.orthogonal(weight), z - 1))


def test_both_sides_of_a_token_train_the_same_matrices():
    of = {kind: adapt(models.load("tiny", "cpu", "float32")) for kind, adapt in
          (("svf", models.with_svf), ("lora", models.with_lora))}  # fmt: skip
    names = {kind: {name.rpartition(".")[2] for name in model.targeted_module_names} for kind, model in of.items()}
    assert names["svf"] == names["lora"] == set(models.MLP)


@pytest.mark.slow
def test_a_vector_costs_less_than_a_low_rank_product_where_matrices_are_large():
    report = token.measure(model="tiny", repeats=1, answers=2, prompt_tokens=6, answer_tokens=6, rank=64)
    assert report["ratios"]["lora/svf"]["flops"] > 1, "rank 64 on matrices of width 32"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["search", "answers", "bases", "programs"])
def test_a_case_writes_its_report_and_its_figure(case, tmp_path):
    sizes = {
        "search": ["--candidates", "3", "--prompts", "2", "--prompt-tokens", "5", "--answer-tokens", "3"],
        "answers": ["--prompts", "5", "--batch-rows", "2", "--answer-tokens", "6"],
        "bases": ["--layers", "1"],
        "programs": ["--programs", "3"],
    }
    model = [] if case == "programs" else ["--model", "tiny"]
    out = tmp_path / f"{case}.json"
    run(case, *model, *sizes[case], "--repeats", "1", "--out", str(out))
    report = json.loads(out.read_text())
    assert report["machine"]["packages"]["torch"] and report["machine"]["processor"]
    assert report["options"]["repeats"] == 1
    assert all(side["seconds"] and side["peak_bytes"] >= 0 for side in report["sides"].values())
    if "same" in report:
        found, of = report["same"].values()
        assert found == of, "both sides answer the same"
    assert out.with_suffix(".svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_a_step_is_compared_with_that_of_trl_on_the_same_prompts(tmp_path):
    pytest.importorskip("trl")
    words = helpers.tokenizer()
    helpers.model(len(words)).save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    out = tmp_path / "report.json"
    run(
        "policy-gradient", "--model", str(tmp_path / "model"), "--prompts", "2", "--completions", "2",
        "--prompt-tokens", "5", "--answer-tokens", "3", "--rank", "2", "--repeats", "1", "--out", str(out),
    )  # fmt: skip
    report = json.loads(out.read_text())
    assert report["sides"].keys() == {"svf", "trl"} and report["answers"] == 4
    assert all(side["seconds"] and side["flops"] > 0 for side in report["sides"].values())
    assert out.with_suffix(".svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_growth_is_fitted_and_drawn_beside_what_is_planned(tmp_path, monkeypatch):
    small = {"WIDTHS": (64, 128), "DEPTHS": (1, 2), "BATCHES": (2, 4), "CANDIDATES": (1, 2), "EXPERTS": (1, 2)}
    for name, of_kind in small.items():
        monkeypatch.setattr(scaling, name, of_kind)
    monkeypatch.setattr(
        scaling, "sizes", lambda width=64, depth=1: Size(depth, width, width, 2 * width, 160, tied=True)
    )
    measured = scaling.first

    def first(*arguments):
        work, facts = measured(*arguments)
        return work, replace(facts, peak_bytes=max(facts.peak_bytes, 1))  # so little may need no new page of memory

    monkeypatch.setattr(scaling, "first", first)
    out = tmp_path / "scaling.json"
    run("scaling", "--repeats", "1", "--out", str(out))
    report = json.loads(out.read_text())
    grown = {what: tuple(point["size"] for point in points) for what, points in report["growth"].items()}
    assert tuple(grown.values()) == tuple(small.values())
    for what, exponents in report["exponents"].items():
        assert exponents["flops"] == pytest.approx(exponents["planned_flops"], abs=0.1), what
    assert report["exponents"]["answers of a batch"]["planned_flops"] == pytest.approx(1, abs=0.2)
    assert out.with_suffix(".svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_our_bases_are_more_exact_than_those_of_a_float32_decomposition(tmp_path):
    run("bases", "--model", "tiny", "--repeats", "1", "--out", str(tmp_path / "b.json"))
    sides = json.loads((tmp_path / "b.json").read_text())["sides"]
    ours, svd = (sides[name]["largest_error"] for name in ("ours", "svd"))
    assert ours["singular_value"] <= svd["singular_value"] and ours["diagonality"] <= svd["diagonality"]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 2.0])
def test_exponents_are_those_of_a_power(exponent):
    points = [{"size": size, "seconds": 3.0 * size**exponent} for size in (2, 4, 16)]
    assert scaling.fitted(points)["seconds"] == pytest.approx(exponent, abs=1e-3)


def test_answers_are_of_the_lengths_that_are_asked_for_and_some_are_right():
    model = models.load("tiny", "cpu", "float32")
    samples = training.samples(model, 3, 4, 5)
    assert [(len(s.prompt_ids), len(s.completion_ids)) for s in samples] == [(4, 5)] * 3
    assert {s.reward for s in samples} == {1.0, -1.0}


def test_a_model_that_is_not_there_is_refused_in_one_line():
    result = CliRunner().invoke(app, ["token", "--model", "nowhere"])
    assert result.exit_code == 2 and "no such folder" in result.output


def test_every_case_has_help():
    for case in CASES:
        assert "--out" in run(case, "--help")


def test_the_page_has_the_numbers_of_the_reports_beside_it():
    docs = Path(__file__).parents[3] / "docs"
    assert table(sorted((docs / "performance").glob("*.json"))) in (docs / "performance.md").read_text(encoding="utf-8")


def test_shares_and_bounds_on_the_page_follow_from_the_reports_and_the_formulas_of_plan():
    docs = Path(__file__).parents[3] / "docs"
    page = (docs / "performance.md").read_text(encoding="utf-8")
    small = Size(30, 576, 192, 1536, 49152, tied=True)
    step = json.loads((docs / "performance/step.json").read_text())["sides"]
    ours, rival = step["svf"]["flops"], step["released"]["flops"]
    decoder = 3 * 2 * small.decoder * 40 * 160
    said = (
        f"are {decoder / ours:.0%} of our operations and {decoder / rival:.0%} of the rival's. With nothing else at all"
    )
    assert f"{said} the ratio would be {rival / decoder:.2f}".replace("%", " %") in page
    gradient = json.loads((docs / "performance/policy-gradient.json").read_text())["sides"]["svf"]["flops"]
    sides = [(min(shape), max(shape)) for shape in small.matrices("mlp")]
    composed, dz = 30 * sum(2 * r * r * (r + m) for r, m in sides), 30 * sum(4 * r * r * 32 * 96 for r, _ in sides)
    assert f"W' takes {composed / gradient:.0%} and the gradient of z {dz / gradient:.0%}".replace("%", " %") in page
    large = Size(32, 4096, 1024, 14336, 128256)
    tokens, of_large = 10 * (40 + 8), Adapted("svf", "mlp", 32)
    alone = 2 * large.parameters * tokens + 32 * 3 * 2 * 4096**2 * (4096 + 14336)
    together = 2 * large.parameters * tokens * factored(large, of_large)
    assert f"takes {alone / together:.1f} times fewer operations" in page
    assert f"{(576 + 1536) // 2} here" in page and f"that is {(4096 + 14336) // 2} tokens" in page
