"""The grid follows from the configuration alone: what is compared, and which files it needs."""

from collections import Counter

import pytest
import yaml
from test_config import CONFIGS

from conftest import ROOT
from transformer2 import config, paths
from transformer2.grid import IDENTITY, Cell, Grid
from transformer2.stages.steps import Steps


def grid(**changes) -> Grid:
    """The grid of the smallest run with some keys replaced."""
    raw = yaml.safe_load((ROOT / "tests/config/tiny.yaml").read_text())
    return Grid(config.parse(raw | changes))


@pytest.fixture(scope="module")
def tiny() -> Grid:
    return grid()


@pytest.mark.parametrize("file", [*CONFIGS, ROOT / "tests/config/tiny.yaml"], ids=lambda path: path.name)
def test_every_cell_is_an_adapter_of_the_run_on_a_task_of_the_model_once(file):
    run = config.load(file)
    one = Grid(run)
    assert len(set(one.cells)) == len(one.cells) > 0
    for cell in one.cells:
        assert cell.task in [*run.tasks_of(cell.model), *run.unseen_of(cell.model), "classify"]
        assert set(one.identity(cell)) == set(IDENTITY)
        adapter = one.adapters[cell.adapter]
        if adapter.kind == "choice":
            assert adapter.candidates and all(name in one.adapters for name in adapter.candidates)
        elif adapter.kind != "dispatch":
            files = one.files_to_answer(cell)
            assert ("expert" in files) == (adapter.kind != "base")
            assert one.method_of(cell.adapter) in (*run.trained, "base")


def test_methods_and_the_adaptation_have_as_many_seeds_as_they_say(tiny):
    methods = {name: method.model_dump() for name, method in tiny.run.methods.items()}
    adaptation = tiny.run.adaptation.model_dump() | {"seeds": 1}
    one = grid(seeds=[3, 0, 5], methods=methods | {"lora": methods["lora"] | {"seeds": 2}}, adaptation=adaptation)
    seeds = {
        adapter: sorted(cell.seed for cell in one.cells if cell[:3] == ("tiny-llama", adapter, task))
        for adapter, task in (
            ("base", "gsm8k"), ("svf-gsm8k", "gsm8k"), ("lora-gsm8k-last", "gsm8k"), ("cls-classify", "classify"),
            ("few_shot_10", "math"), ("prompt", "math"),
        )
    }  # fmt: skip
    assert seeds.pop("svf-gsm8k") == [0, 3, 5] and seeds.pop("lora-gsm8k-last") == [0, 3]
    assert seeds == dict.fromkeys(("base", "cls-classify", "few_shot_10", "prompt"), [3])
    trained = {step.of["seed"] for step in Steps(one.run).all["train", "tiny-llama"] if step.of["method"] == "svf"}
    assert trained == {"3", "0", "5"}


def test_an_expert_is_scored_in_both_states_of_its_training(tiny):
    states = Counter(tiny.adapters[cell.adapter].state for cell in tiny.cells if cell.adapter.startswith("svf-"))
    assert states["best"] == states["last"] > 0
    last = Cell("tiny-llama", "svf-gsm8k-last", "gsm8k", 0)
    files = tiny.files_to_answer(last)
    assert files["expert"] == "results/tiny/experts/tiny-llama/gsm8k/svf/seed0/last/adapter_model.safetensors"
    assert files["best_answers"] == "results/tiny/generations/tiny-llama/svf-gsm8k/gsm8k/seed0.jsonl"
    assert files["basis"] == paths.BASIS.of(model="tiny-llama")
    assert "basis" not in tiny.files_to_answer(last._replace(adapter="lora-gsm8k"))
    identity = tiny.identity(last)
    assert (identity["method"], identity["trained_on"], identity["state"]) == ("svf", "gsm8k", "last")


def test_where_the_last_state_is_the_expert_it_alone_is_scored():
    methods = {"svf": {"settings": {"select": "last"}}}
    one = grid(methods=methods, adaptation=None, unseen={})
    assert {a.state for a in one.adapters.values() if a.kind == "expert"} == {"last"}
    assert set(one.files_to_answer(Cell("tiny-llama", "svf-gsm8k-last", "gsm8k", 0))) == {"expert", "basis"}


def test_without_adaptation_there_are_only_the_base_and_experts():
    one = grid(adaptation=None, unseen={}, methods={"svf": {}})
    assert {adapter.kind for adapter in one.adapters.values()} == {"base", "expert"}
    assert one.searches == one.trained_on_shots == one.adaptive("prompt") == []


def test_models_about_pictures_keep_to_their_tasks(tiny):
    tasks = {cell.task for cell in tiny.cells if cell.model == "tiny-llava"}
    assert tasks == {"textvqa", "okvqa"}
    assert all(cell.task not in tasks for cell in tiny.cells if cell.model == "tiny-llama")


def test_a_choice_on_shots_leaves_them_out_and_one_on_test_items_leaves_out_none(tiny):
    assert (tiny.adapters["lora_on_shots"].shots, tiny.adapters["lora_on_test"].shots) == (4, 0)
    assert tiny.adapters["few_shot_light"].candidates == tuple(
        f"few_shot_light-{name}" for name in ("vector", "layer-normalised")
    )


def test_methods_are_trained_on_the_shots_of_budgets_that_limit_no_search(tiny):
    assert tiny.trained_on_shots == [("tiny-llama", "arc_challenge", "ia3_2_10")]
    assert tiny.method_of("ia3_2_10-all") == "ia3_2" and tiny.method_of("few_shot_10-vector") == "svf"


def test_a_model_of_no_row_of_the_paper_says_so_in_its_scores_and_lends_its_experts_by_its_name(tiny):
    identity = tiny.identity(Cell("tiny-next", "base", "math", 0))
    assert (identity["model"], identity["stands_in_for"], identity["standin"]) == ("tiny-next", "", False)
    models = {
        "next": {"source": "pocket:llama"},
        "m": {"source": "pocket:mistral", "row": "mistral-7b", "transfer": {"experts_of": "next"}},
    }
    unseen = {task: tiny.run.unseen[task].model_dump() for task in ("math", "arc_challenge")}
    one = grid(models=models, tasks={"gsm8k": tiny.run.tasks["gsm8k"].model_dump()}, unseen=unseen)
    assert one.transferred_methods == ["svf_from_next", "svf_from_next_shuffled"]
    assert ("m", "math", "10_cross") in one.searches and ("next", "math", "10_cross") not in one.searches
    assert {"gsm8k", "next:gsm8k"} == set(one.experts_to_mix("m", "10_cross", 0))


def test_both_models_experts_are_mixed_across_a_transfer():
    one = Grid(config.load(ROOT / "config.yaml"))
    own = one.experts_to_mix("pocket-mistral", "10", 0)
    both = one.experts_to_mix("pocket-mistral", "10_cross", 0)
    assert list(both)[: len(own)] == list(own) and len(both) == 2 * len(own)
    assert both["llama3-8b:gsm8k"] == one.transferred_expert("pocket-mistral", "gsm8k", "svf_from_llama3-8b", 0)
    shuffled = {cell.seed for cell in one.cells if one.adapters[cell.adapter].method == "svf_from_llama3-8b_shuffled"}
    assert shuffled == {0, 1, 2}
