"""What a run spends on the training of each method: read from its configuration, and told where it differs."""

import pytest

from conftest import ROOT
from transformer2.config import Run, load
from transformer2.reproduce.budgets import Budget, are_unequal, budgets


@pytest.fixture(scope="module")
def tiny() -> Run:
    return load(ROOT / "tests" / "config" / "tiny.yaml")


def changed(run: Run, **methods: dict) -> Run:
    everything = run.model_dump()
    for name, changes in methods.items():
        everything["methods"][name] |= changes
    return Run.model_validate(everything)


def test_a_budget_is_the_updates_of_a_training_and_the_points_of_its_sweep(tiny):
    sweep = {"learning_rate": [0.1, 0.2, 0.3], "clip_norm": [1.0, 2.0]}
    run = changed(tiny, lora={"settings": {"steps": 7}, "sweep": sweep})
    assert budgets(run)["lora"] == Budget(7, 6)
    assert str(Budget(7, 6)) == "7 updates × 6 sweep points" and str(Budget(7, 1)) == "7 updates × 1 sweep point"


def test_the_longest_training_of_a_sweep_counts(tiny):
    run = changed(tiny, lora={"settings": {}, "sweep": {"steps": [5, 9]}})
    assert budgets(run)["lora"] == Budget(9, 2)


def test_what_is_made_of_experts_has_their_budget(tiny):
    run = changed(tiny, svf={"settings": {"steps": 11}, "sweep": {"kl_coefficient": [0.0, 0.1]}})
    spent = budgets(run)
    made_of_svf = {"svf", "few_shot_10", "few_shot_10_on_test", "uniform_mix", "prompt", "cls"}
    assert {name: spent[name] for name in made_of_svf} == dict.fromkeys(made_of_svf, Budget(11, 2))
    assert spent["lora_on_test"] == spent["lora_on_shots"] == spent["lora"]


def test_the_base_and_what_is_trained_on_shots_have_none(tiny):
    spent = budgets(tiny)
    assert "base" not in spent
    assert tiny.adaptation
    assert not [name for name in spent for of in tiny.adaptation.trained if name.startswith(of)]


def test_scores_that_were_measured_elsewhere_have_no_known_budget(tiny):
    assert budgets(Run.model_validate(tiny.model_dump() | {"scores": "scores.json"})) == {}


def test_budgets_are_compared_as_far_as_they_are_known():
    known = {"svf": Budget(12, 2), "lora": Budget(12, 2), "longer": Budget(20, 2), "wider": Budget(12, 4)}
    assert not are_unequal(known, ("svf", "lora")) and not are_unequal(known, ("svf", "base"))
    assert are_unequal(known, ("svf", "longer")) and are_unequal(known, ("lora", "wider"))
