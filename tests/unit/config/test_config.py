"""The configuration: one source, clear mistakes, nothing stale."""

import re
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from transformer2.config import RECIPES, ConfigError, Method, Run, Training, default_yaml, json_schema, load, parse
from transformer2.provenance import write_json
from transformer2.tasks import TASKS

CONFIGS = sorted({path.resolve() for part in ("config", "tests/config") for path in (ROOT / part).glob("*.yaml")})
"""Of all runs; config/config.yaml is a link to the default one."""


def test_generated_files_are_not_stale():
    assert (ROOT / "config.yaml").read_text() == default_yaml(), "run `python -m transformer2 schema`"
    assert (ROOT / "workflow/schemas/config.schema.json").read_text() == json_schema(), (
        "run `python -m transformer2 schema`"
    )


HUB = {
    "data": "hub",
    "tasks": {"gsm8k": {}, "mbpp_pro": {}, "arc_easy": {}},
    "unseen": {"humaneval": {}},
    "methods": {"svf": {}},
    "models": {"m": {"source": "dir:x", "row": "llama3-8b"}},
}
ADAPTATION = {"classifier": {}, "prompts": {"train": 8, "validation": 8, "test": 8}}


def test_the_default_yaml_is_the_default_run():
    assert parse(yaml.safe_load(default_yaml())) == Run()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_run_written_as_json_is_read_as_the_same_run(path: Path, tmp_path: Path):
    """JSON is YAML, but for numbers such as 5e-05, which YAML 1.1 takes for text."""
    run = load(path)
    write_json(tmp_path / "run.json", run.model_dump(mode="json"))
    again = load(tmp_path / "run.json")
    assert again == run and again.model_dump_json() == run.model_dump_json()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_of_the_project_is_valid(path: Path):
    assert load(path).run


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"modles": {}}, "modles: unknown key 'modles'; did you mean 'models'?"),
        ({"tasks": {"gsm8": {}}}, "tasks: unknown task 'gsm8'; did you mean 'gsm8k'?"),
        ({"tasks": {"gsm8k": {"tset": 3}}}, "tasks.gsm8k.tset: unknown key 'tset'; did you mean 'test'?"),
        ({"models": {"m": {"source": "dir:x", "row": "llama3-8b", "gpu": 1}}}, "did you mean 'gpus'?"),
        ({"models": {"m": {"row": "llama3-8b"}}}, "models.m.source: missing"),
        (
            {"models": {"llama3-8b": {"source": "dir:x"}}},
            "models: llama3-8b is a row of the paper: set `row: llama3-8b`, or give the model another name",
        ),
        (
            {
                "models": {
                    "m": {"source": "dir:x", "row": "mistral-7b", "transfer": {"experts_of": "my_shuffled"}},
                    "my_shuffled": {"source": "dir:y"},
                }
            },
            "models.m.transfer.experts_of: 'my_shuffled' is a name of shuffled experts; give that model another one",
        ),
        ({"models": {}}, "models: needs at least one entry"),
        ({"methods": {"svf": {"sweep": {"kl_coeficient": [0]}}}}, "did you mean 'kl_coefficient'?"),
        ({"methods": {"svf": {"sweep": {"kl_coefficient": []}}}}, "methods.svf.sweep: kl_coefficient has no value"),
        ({"methods": {"svf": {"sweep": {"select": ["best", "last"]}}}}, "methods.svf.sweep: select cannot be swept"),
        (
            {"methods": {"svf": {"settings": {"steps": 0}}}},
            "methods.svf.settings.steps: must be greater than or equal to 1 (got 0)",
        ),
        (
            {"methods": {"base": {}}},
            "methods.base: 'base' is a name of the model without an expert; choose another one",
        ),
        ({"methods": {"cls": {}}}, "methods.cls: 'cls' is a name of a way of two-pass inference; choose another one"),
        ({"methods": {"prompt": {}}}, "methods.prompt: 'prompt' is a name of a way of two-pass inference"),
        ({"adaptation": ADAPTATION | {"cemm": {}}}, "adaptation.cemm: unknown key 'cemm'; did you mean 'cem'?"),
        ({"adaptation": ADAPTATION | {"cem": {"elits": 1}}}, "adaptation.cem.elits: unknown key 'elits'; did you mean"),
        ({"adaptation": ADAPTATION | {"cem": {"elites": 40}}}, "40 elites in a population of 32"),
        (
            {"adaptation": ADAPTATION | {"experts": "svd"}},
            "adaptation.experts: unknown method 'svd'; did you mean 'svf'?",
        ),
        ({"adaptation": ADAPTATION | {"budgets": {"3": {"shots": 3}}}}, "the main budget, named '10', is missing"),
        (
            {"adaptation": ADAPTATION | {"budgets": {"10": {"shots": 10, "tasks": ["maths"]}}}},
            "adaptation.budgets.10.tasks: unknown unseen task 'maths'; did you mean 'math'?",
        ),
        ({"adaptation": ADAPTATION | {"budgets": {"10": {}}}}, "adaptation.budgets.10.shots: missing"),
        ({"unseen": {"math": {"test": 10}}}, "10 shots of 10 items of math leave none to test"),
        ({"adaptation": ADAPTATION | {"experts": "lora"}}, "must be trained with adapter 'svf'"),
        (
            {"adaptation": ADAPTATION | {"compared": ["lore"]}},
            "adaptation.compared: unknown method 'lore'; did you mean",
        ),
        (
            {"adaptation": ADAPTATION | {"experts": "svf_mlp_pg"}},
            "adaptation.experts: is picked and mixed for all models",
        ),
        (
            {"adaptation": ADAPTATION | {"trained": {"ia3": {"sweep": {"rank": [1, 2]}}}}},
            "adaptation.trained.ia3: there is no validation data to choose from a sweep by",
        ),
        (
            {"adaptation": None, "methods": {"svf": {"tasks": ["math"]}}},
            "methods.svf.tasks: unknown training task 'math'",
        ),
        (
            {"adaptation": None, "methods": {"svf": {"also_on": ["gsm8k"]}}},
            "methods.svf.also_on: unknown unseen task 'gsm8k'",
        ),
        (
            {"adaptation": None, "methods": {"svf": {"rows": ["llama3-9b"]}}},
            "methods.svf.rows: unknown row 'llama3-9b'; did you mean 'llama3-8b'?",
        ),
        (
            {"adaptation": ADAPTATION | {"budgets": {"10": {"shots": 10, "rows": ["pocket-llama"]}}}},
            "adaptation.budgets.10.rows: unknown row 'pocket-llama'; valid are llama3-70b, llama3-8b, llava-next-8b",
        ),
        ({"methods": {"svf": {"settings": {"adapter": "lorra"}}}}, "adapter"),
        (
            {"adaptation": None, "methods": {"svf": {"settings": {"answers": 4, "objective": "next_token"}}}},
            "methods.svf: answers is 4, but next_token samples none; leave answers out",
        ),
        (
            {"adaptation": None, "methods": {"svf": {"recipe": "release", "sweep": {"answers": [1, 4]}}}},
            "methods.svf: answers is 4, but greedy answers to a prompt are all the same; leave answers out, or set "
            "rollout: sampled",
        ),
        (
            {"adaptation": ADAPTATION | {"classifier": {"settings": {"answers": 2, "rollout": "greedy"}}}},
            "adaptation.classifier: answers is 2, but greedy",
        ),
        (
            {"adaptation": ADAPTATION | {"trained": {"few": {"recipe": "paper-ia3", "settings": {"answers": 2}}}}},
            "adaptation.trained.few: answers is 2, but next_token",
        ),
        (
            {"models": {"m": {"source": "pocket:llava-next", "row": "llava-next-8b"}}},
            "models.m.backbone: missing; pocket:llava-next is built around another pocket model",
        ),
        (
            {
                "models": {
                    "m": {"source": "dir:x", "row": "llama3-8b"},
                    "v": {"source": "dir:y", "row": "llava-next-8b", "backbone": "n"},
                }
            },
            "models.v.backbone: unknown language model 'n'; valid are m",
        ),
        (
            {
                "models": {
                    "m": {"source": "dir:x", "row": "llama3-8b"},
                    "v": {"source": "dir:y", "row": "llava-next-8b", "backbone": "m"},
                }
            },
            "models.v.strategies: a model with a backbone can only be adapted by few-shot",
        ),
        (
            {
                "adaptation": ADAPTATION | {"compared": ["ia3"]},
                "methods": {"svf": {}, "ia3": {"recipe": "paper-ia3"}},
            },
            "methods.ia3.rows: name rows without llava-next-8b; of what is compared on pocket-llava",
        ),
        (
            {
                "models": {
                    "m": {"source": "dir:x", "row": "llama3-8b", "transfer": {"experts_of": "v"}},
                    "v": {"source": "dir:y", "row": "llava-next-8b", "backbone": "m", "strategies": ["few-shot"]},
                }
            },
            "models.m.transfer: only from one language model to another, without pictures",
        ),
        (
            {"tasks": {"textvqa": {}}, "models": {"m": {"source": "dir:x", "row": "llama3-8b"}}},
            "models.m: no task for it (tasks about pictures are only for models with a backbone)",
        ),
        ({"unseen": {}}, "adaptation needs at least one unseen task"),
        ({"unseen": {"gsm8k": {}}}, "unseen: gsm8k is a training task"),
        ({"unseen": {"humanevil": {}}}, "unseen: unknown task 'humanevil'; did you mean 'humaneval'?"),
        ({"seeds": ["one"]}, "seeds[0]: must be a valid integer (got 'one')"),
        (
            {"seeds": [4, 7], "methods": {"svf": {"seeds": 3}}, "adaptation": None},
            "methods.svf.seeds: 3 seeds are asked for; the run has 2",
        ),
        (
            {"seeds": [4, 7], "methods": {"svf": {}, "lora": {"seeds": 1}}, "adaptation": ADAPTATION},
            "methods.lora.seeds: 1, but its experts are adapted with 2 seeds; set adaptation.seeds",
        ),
        (
            {"adaptation": ADAPTATION | {"classifier": {"seeds": 1}}},
            "adaptation.classifier.seeds: is for `methods`; here adaptation.seeds is for all",
        ),
        (
            {"methods": {"svf": {}, "lora": {"seeds": 1}}, "adaptation": None, "reference": "svf"},
            "methods.lora.seeds: must be as many as those of the reference svf",
        ),
        ({"run": "a/b"}, "run: 'a/b' cannot name files: use letters"),
        (
            HUB | {"tasks": {"gsm8k": {"test": 2000}}, "adaptation": None},
            "tasks.gsm8k.test: 2000 items are asked for; the data set has 1319",
        ),
        (
            HUB | {"unseen": {"humaneval": {"test": 165}}, "adaptation": ADAPTATION | {"compared": []}},
            "unseen.humaneval.test: 165 items are asked for; the data set has 164",
        ),
        (
            HUB | {"adaptation": ADAPTATION | {"compared": [], "budgets": {"10": {"shots": 164}}}},
            "adaptation.budgets.10.shots: 164 shots of 164 items of humaneval leave none to test",
        ),
        (
            HUB | {"adaptation": ADAPTATION | {"compared": [], "prompts": {"train": 20000}}},
            "adaptation.prompts.train: 20000 prompts of 4 classes: set between 4 and ",
        ),
        (
            HUB | {"adaptation": ADAPTATION | {"compared": [], "prompts": {"train": 3}}},
            "adaptation.prompts.train: 3 prompts of 4 classes: set between 4 and ",
        ),
    ],
)
def test_a_mistake_is_one_line_with_the_place_and_the_nearest_name(raw, message):
    with pytest.raises(ConfigError) as error:
        parse(raw)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_missing_or_broken_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=re.escape(f"no configuration {tmp_path / 'none.yaml'}")):
        load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match=r"bad\.yaml, line 1: expected"):
        load(tmp_path / "bad.yaml")


def test_a_sweep_is_every_combination_with_a_slug_each():
    points = Method(recipe="paper-lora", sweep={"learning_rate": [1e-4, 2e-4], "clip_norm": [1.0, 1e-3]}).points()
    assert list(points) == [
        "learning_rate-0.0001_clip_norm-1.0", "learning_rate-0.0001_clip_norm-0.001",
        "learning_rate-0.0002_clip_norm-1.0", "learning_rate-0.0002_clip_norm-0.001",
    ]  # fmt: skip
    assert points["learning_rate-0.0002_clip_norm-1.0"].adapter == "lora"
    assert list(Method().points()) == ["single"]


def test_recipes_have_the_values_of_the_text_and_of_the_release():
    paper, release = Training(**RECIPES["paper"]), Training(**RECIPES["release"])
    assert (paper.learning_rate, paper.clip_norm, paper.batch_size) == (2e-3, 1e-3, 256)
    assert paper.init_std**2 == pytest.approx(1e-3)
    assert (paper.parametrisation, paper.rollout, paper.kl) == ("linear", "sampled", "policy_to_base")
    assert (release.parametrisation, release.rollout, release.kl) == ("sigmoid_nuclear", "greedy", "base_to_policy")
    lora = Training(**RECIPES["paper-lora"])
    assert (lora.rank, lora.lora_alpha, lora.lora_dropout, lora.batch_size, lora.steps) == (16, 32, 0.05, 256, 200)


def test_half_of_the_layers_is_for_svf_alone():
    run = Run()
    assert run.training("pocket-llama-deep", "svf", "learning_rate-0.02")["layers"] == "half"
    assert run.training("pocket-llama-deep", "lora", next(iter(run.methods["lora"].points())))["layers"] == "all"


@pytest.mark.parametrize("name", ["deviations", "deviations-smollm2"])
def test_every_choice_of_the_study_switches_what_its_name_says_and_nothing_else(name):
    run = load(ROOT / "config" / f"{name}.yaml")
    paper = run.training(next(iter(run.models)), "paper", "single")
    assert run.methods["release"].recipe == "release"
    for method in run.methods.keys() - {"paper", "release"}:
        switched = run.training(next(iter(run.models)), method, "single")
        changed = {key for key in paper if paper[key] != switched[key]}
        key = max((key for key in changed if method.startswith(key)), key=len, default=None)
        key = {"kl_off": "kl_coefficient", "kl_base_to_policy": "kl"}.get(method, key)
        assert key in changed, (method, changed)
        # what belongs to the other choice: sigmoids start elsewhere, and Adam has no weight decay
        assert changed - {key} <= {"parametrisation": {"init_mean", "init_std"}, "optimizer": {"weight_decay"}}.get(
            key, set()
        )


def test_tasks_about_pictures_are_for_the_vision_language_model_alone():
    run = Run()
    assert run.tasks_of("pocket-llava") == ["textvqa"] and run.unseen_of("pocket-llava") == ["okvqa"]
    assert run.tasks_of("pocket-llama") == run.text_tasks == ["gsm8k", "mbpp_pro", "arc_easy"]
    training = run.training("pocket-llava", "svf", "learning_rate-0.02")
    assert (training["reward_wrong"], training["layers"]) == (-0.1, "half")
    assert run.training("pocket-llama", "svf", "learning_rate-0.02")["reward_wrong"] == -1


def test_a_model_is_a_stand_in_unless_it_is_the_papers_own():
    own = {"source": "hub:mistralai/Mistral-7B-Instruct-v0.3", "row": "mistral-7b"}
    assert not parse({"models": {"m": own}}).models["m"].standin
    assert parse({"models": {"m": own | {"row": "llama3-8b"}}}).models["m"].standin


def test_a_model_without_a_row_is_no_stand_in_and_has_every_method_whose_rows_do_not_leave_it_out():
    models = {"next": {"source": "pocket:mistral"}, "m": {"source": "pocket:llama", "row": "llama3-8b"}}
    methods = {"svf": {}, "lora": {"rows": ["llama3-8b"]}, "dora": {"rows": ["llama3-8b", "next"]}}
    run = parse({"models": models, "methods": methods, "adaptation": None, "unseen": {}})
    assert run.row_of("next") == "next" and not run.standin("next") and run.standin("m")
    assert {method: run.models_of(method) for method in methods} == {
        "svf": ["next", "m"], "lora": ["m"], "dora": ["next", "m"],
    }  # fmt: skip
    assert run.tasks_of("next") == run.tasks_of("m")
    alone = parse({"models": {"next": models["next"]}})
    assert alone.models_of("svf") == ["next"] and alone.models_of("svf_mlp_pg") == []


def test_the_smoke_run_has_a_training_task_and_an_unseen_task_of_each_kind_and_what_tables_1_and_2_compare():
    run = load(ROOT / "config" / "smoke.yaml")
    kinds = {"math", "code", "reasoning"}
    for tasks in (run.tasks, run.unseen):
        assert {TASKS[task].domain for task in tasks} == kinds
    assert len(run.models) == 1 and {"svf", "lora"} <= run.methods.keys()
    (model,) = run.models.values()
    assert run.adaptation and run.adaptation.compared == ["lora"] and set(model.strategies) == {"prompt", "few-shot"}


def test_a_search_is_described_by_its_budget_its_configuration_and_its_task():
    run = Run()
    settings = run.search("light", "layer-normalised", "math")
    assert settings["iterations"] == 2 != run.search("10", "vector", "math")["iterations"]
    assert (settings["granularity"], settings["normalised"], settings["max_new_tokens"]) == ("layer", True, 36)
    assert (settings["population"], settings["score"]) == (12, "strict")
