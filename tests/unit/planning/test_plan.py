"""The plan of a run: sizes, memory and jobs are what they are; what was measured goes before what is estimated."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from conftest import ROOT
from transformer2.config import Method, load, parse
from transformer2.config.sizes import EVERYDAY
from transformer2.models import new_expert
from transformer2.planning import costs, plan, text
from transformer2.planning.costs import Adapted, Size
from transformer2.planning.machines import MACHINES
from transformer2.provenance import write_json
from transformer2.reproduce import ledger
from transformer2.stages.blocks import Stages
from transformer2.stages.keys import contents, key_of
from transformer2.svf.basis import decoder_matrices, write_basis

SHAPES = ledger.read_all(ROOT / "paper_tables").shapes
SMALL = {"hidden_size": 64, "intermediate_size": 224, "num_attention_heads": 8, "num_key_value_heads": 2}
TRAIN = plan.Job("train", {"model": "one", "task": "gsm8k", "method": "svf", "point": "kl_coefficient-0.0"}, gpus=2)
AUDIT = plan.Job("audit", {})
NO_LOADS = plan.Loads(0, 0, 0, 0)


def small(layers: int = 4) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL, num_hidden_layers=layers, vocab_size=100, max_position_embeddings=2048)
    return LlamaForCausalLM(config).to(torch.bfloat16)


def size_of(model: Any) -> Size:
    return plan._size(model.config.to_dict())


@pytest.mark.parametrize(
    ("row", "parameters"), [("llama3-8b", 8.03e9), ("mistral-7b", 7.25e9), ("llama3-70b", 70.55e9)]
)
def test_sizes_of_the_documents_models_give_the_parameters_of_the_real_architecture(row: str, parameters: float):
    size = Size(**SHAPES[row].model_dump())
    heads = {"num_attention_heads": size.hidden // 128, "num_key_value_heads": size.key_value // 128}
    config = LlamaConfig(
        hidden_size=size.hidden, intermediate_size=size.intermediate, num_hidden_layers=size.layers,
        vocab_size=size.vocabulary, tie_word_embeddings=False, **heads,
    )  # fmt: skip
    with torch.device("meta"):
        real = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    assert size.parameters == pytest.approx(real, rel=1e-4) == pytest.approx(parameters, rel=2e-3)


def test_the_page_for_users_of_peft_has_the_sizes_of_experts_and_bases():
    page = (ROOT / "docs/peft.md").read_text()
    sizes = {
        "SmolLM2-135M": Size(30, 576, 192, 1536, 49152, tied=True), "Qwen2.5-1.5B": plan.QWEN_1_5B,
        "Llama-3-8B": Size(**SHAPES["llama3-8b"].model_dump()),
        "Llama-3-70B": Size(**SHAPES["llama3-70b"].model_dump()),
    }  # fmt: skip
    for name, size in sizes.items():
        (row,) = re.findall(rf"^\| {name} \| (.*) \|$", page, re.M)
        svf, file, mlp, lora, basis, hours = row.split(" | ")
        numbers = [svf.removesuffix(" numbers"), mlp, lora]
        kinds = [("svf", "all"), ("svf", "mlp"), ("lora", "all")]
        of_kinds = [{"adapter": adapter, "modules": modules, "rank": 16} for adapter, modules in kinds]
        assert numbers == [f"{costs.trained_numbers(size, kind, size.layers):,}" for kind in of_kinds]
        assert file == f"{4 * costs.trained_numbers(size, of_kinds[0], size.layers) / 1e6:.1f} MB"
        gb = costs.basis_bytes(size, Adapted("svf", "all", size.layers), 2) / costs.GB
        assert float(basis.removesuffix(" GB")) == pytest.approx(gb, rel=0.05)
        number, unit = hours.split()
        seconds = float(number) * {"seconds": 1, "minutes": 60, "hours": 3600}[unit]
        assert seconds == pytest.approx(costs.basis_seconds(size), rel=0.1)


def test_the_formula_of_a_basis_is_the_size_of_its_file(tmp_path: Path):
    model = small()
    model.save_pretrained(tmp_path)
    write_basis(decoder_matrices(tmp_path, torch.bfloat16), tmp_path / "basis")
    written = (tmp_path / "basis").stat().st_size
    header = int.from_bytes((tmp_path / "basis").read_bytes()[:8], "little") + 8
    assert costs.basis_bytes(size_of(model), Adapted("svf", "all", 4), 2) == written - header


@pytest.mark.parametrize(
    ("adapter", "modules"),
    [("svf", "all"), ("svf", "mlp"), ("svf", "attention_qv"), ("lora", "attention_qv"), ("lora", "mlp_attention_qv")],
)
def test_the_formula_of_activations_is_what_autograd_keeps(adapter: str, modules: str):
    """Of one layer more, so that what the first and the last layer do otherwise falls out."""
    tokens = (4, 96)
    kept = [_kept(small(layers), adapter, modules, tokens) for layers in (4, 3)]
    model = small()
    formula = costs.activation_bytes(size_of(model), Adapted(adapter, modules, 1), tokens[0] * tokens[1], 2)
    mask = tokens[0] * tokens[1] * tokens[1] * 2  # not in the formula: it has a number for each pair of tokens
    heads = tokens[0] * tokens[1] * 4 * (8 - 64 / 128)  # the formula has heads of 128
    assert kept[0] - kept[1] - mask - heads == pytest.approx(formula, rel=0.02)


def _kept(model: Any, adapter: str, modules: str, tokens: tuple[int, int]) -> int:
    """Bytes of activations that autograd keeps of a pass over a padded batch."""
    settings = Method(settings={"adapter": adapter, "modules": modules, "lora_dropout": 0.0, "rank": 1}).points()
    expert: Any = new_expert(model, settings["single"], None, seed=0).eval()
    weights = {t.untyped_storage().data_ptr() for t in (*expert.parameters(), *expert.buffers())}
    sizes: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        is_batch = tensor.numel() and tensor.shape[0] in (tokens[0], tokens[0] * tokens[1])
        if is_batch and storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.randint(0, 100, tokens)
    mask = torch.ones_like(ids)
    mask[0, 50:] = 0
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = expert.get_base_model().base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    assert states.last_hidden_state.requires_grad
    return sum(size for size, _ in sizes.values())


@pytest.mark.parametrize("name", ["h200", "b200", "h100", "a100", "a100-40gb", "l40s", "l4", "rtx4090", "rtx5090"])
def test_gpus_that_labs_have_can_be_planned_for(name):
    assert name in MACHINES


def test_what_is_stated_of_gpus_has_the_right_units():
    for name, machine in MACHINES.items():
        assert 20 < machine.memory < 200, name
        assert 50 < machine.flops / machine.bandwidth < 450, f"{name}: operations for each byte that is read"


def test_the_fullest_gpu_has_the_most_of_the_adapted_layers():
    """70B with SVF on the upper half of its layers, which lie on the GPUs in equal parts."""
    size, adapted = Size(**SHAPES["llama3-70b"].model_dump()), Adapted("svf", "all", 40)
    one = Adapted("svf", "all", 1)
    weights = costs.scaled_bytes(size, one, 2)
    layers = [weights] * 40 + [weights * 2 + costs.basis_bytes(size, one, 2)] * 40
    for gpus in (1, 4, 8):
        fullest = max(sum(layers[i : i + 80 // gpus]) for i in range(0, 80, 80 // gpus))
        rest = (costs.weight_bytes(size, 2) - 80 * weights) / gpus + costs.composing_bytes(size, adapted, 2)
        expected = (fullest + rest) / costs.GB + costs.CONTEXT_GB
        assert costs.training_gb(size, adapted, 0, 0, 0, 2, gpus=gpus) == pytest.approx(expected, rel=1e-6)


def test_recomputed_layers_keep_their_inputs_and_cost_another_forward_pass():
    size, adapted = Size(**SHAPES["llama3-8b"].model_dump()), Adapted("svf", "all", 32)
    kept = costs.activation_bytes(size, adapted, 1000, 2, recomputed=True)
    assert kept == 1000 * 32 * 4096 * 2 < costs.activation_bytes(size, adapted, 1000, 2) / 15
    once, twice = (costs.learning_operations(size, adapted, 1000, 500, 1000, False, r) for r in (False, True))
    assert twice - once == pytest.approx(1000 * 2 * size.decoder)


def test_what_was_measured_goes_before_the_formula():
    estimator: Any = SimpleNamespace(cost=lambda job: plan.Cost(3600.0, 10.0 if job.gpus else None, 5.0))
    lines = plan.lines([TRAIN, TRAIN, AUDIT], estimator, {TRAIN.kind: 7200.0})
    by_rule = {line.rule: line for line in lines}
    assert (by_rule["train"].jobs, by_rule["train"].gpu_hours, by_rule["train"].how) == (2, 2 * 2 * 2, {"measured"})
    assert (by_rule["audit"].cpu_hours, by_rule["audit"].how) == (1, {"formula"})
    assert by_rule["train"].gpu_gb == 10 and by_rule["audit"].gpu_gb is None


def test_what_is_done_is_not_planned_again_and_says_how_long_its_like_take(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = Stages(load(ROOT / "tests/config/tiny.yaml"))
    jobs, seconds, loads = plan.jobs(stages)
    rules = [job.rule for job in jobs]
    assert seconds == {}
    assert {"model", "basis", "data", "train", "answer", "score", "choose", "html_report"} <= set(rules)
    with_model = [job for job in jobs if job.rule in plan.WITH_MODEL_RULES]
    assert loads == plan.Loads(len(with_model), 12, 0, 0), "five stages of two models, two of another"
    step = stages.steps("select", "tiny-llama")[0]
    for path in (*step.inputs, *step.outputs):
        write_json(path, path.name)
    write_json(step.manifest, {"seconds": 3.0, "key": key_of(step, contents(step))})
    left, seconds, _ = plan.jobs(stages)
    assert len(left) == len(jobs) - 1 and seconds == {plan.job_of(step, stages.run).kind: 3.0}
    write_json(step.inputs[0], "another")
    assert len(plan.jobs(stages)[0]) == len(jobs)
    step.manifest.write_text("{")
    assert plan.jobs(stages) == (jobs, {}, loads), "a corrupt manifest is that of a step to be done"


def test_a_run_of_scores_from_elsewhere_loads_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = load(ROOT / "tests/config/tiny.yaml").model_copy(update={"scores": "scores.json"})
    jobs, _, loads = plan.jobs(Stages(run))
    assert [job.rule for job in jobs] == list(plan.REPORT) and loads == NO_LOADS


def test_what_comes_after_the_stages_is_named_as_the_rules_are():
    text = (ROOT / "workflow/rules/report.smk").read_text()
    assert re.findall(r"^rule (\w+):", text, re.MULTILINE) == list(plan.REPORT)


def test_the_papers_run_loads_each_model_a_few_times(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    run = load(ROOT / "config/paper.yaml")
    jobs, _, loads = plan.jobs(Stages(run))
    assert {(job.model, job.gpus) for job in jobs if job.rule == "train"} == {
        (name, model.gpus) for name, model in run.models.items()
    }
    assert loads.steps > 500 and loads.processes < loads.steps / 3
    assert f"{loads.processes} loads of a model ({loads.steps}, " in text.page([], run, "h100", MACHINES["h100"], loads)


def test_the_hours_of_a_whole_run_are_those_of_its_plan_before_anything_is_done(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    run, estimator = estimated()
    jobs, seconds, _ = plan.jobs(Stages(run))
    of_plan = sum(line.gpu_hours for line in plan.lines(jobs, estimator, seconds))
    assert plan.whole_gpu_hours(run, ledger.read_all(ROOT / "paper_tables")) == pytest.approx(of_plan) and of_plan > 100


def test_a_model_whose_sizes_are_not_known_yet_is_not_estimated():
    run = load(ROOT / "config.yaml")
    job = plan.Job("train", dict(TRAIN.of) | {"model": "pocket-llama"}, 1)
    (line,) = plan.lines([job], plan.Estimator(run, {}, MACHINES["h100"]), {})
    assert line.how == {plan.NOT_ESTIMATED} and line.gpu_hours == 0
    assert plan.NOT_ESTIMATED in text.page([line], run, "h100", MACHINES["h100"], NO_LOADS)


def estimated(gpu_gb_of: str = "") -> Any:
    run = load(ROOT / "config" / "paper.yaml")
    of_models = plan.sizes(run, ledger.read_all(ROOT / "paper_tables"), ROOT / "results" / "models")
    assert of_models.keys() == run.models.keys(), "the papers' own models need no download"
    return run, plan.Estimator(run, of_models, MACHINES["h100"])


def job(rule: str, **wildcards: str) -> plan.Job:
    return plan.Job(rule, {"seed": "0", **wildcards}, gpus=1)


def test_every_kind_of_job_of_the_documents_run_has_a_cost_that_is_of_the_right_order():
    run, estimator = estimated()
    of_8b = {"model": "llama3-8b", "task": "gsm8k"}
    train = job("train", method="svf", point="kl_coefficient-0.1", **of_8b)
    lora = job("train", method="lora", point="learning_rate-0.0002_clip_norm-1.0", **of_8b)
    jobs = {
        "svf": train, "lora": lora, "answer": job("answer", adapter="base", **of_8b),
        "adapt": job("adapt", model="llama3-8b", task="math", budget="10", configuration="vector"),
        "light": job("adapt", model="llama3-8b", task="arc_challenge", budget="light", configuration="vector"),
        "shots": job("train_on_shots", model="llama3-8b", task="arc_challenge", budget="3", configuration="ia3_100"),
        "dispatch": job("dispatch", model="llama3-8b", task="math", adapter="prompt"),
    }  # fmt: skip
    cost = {name: estimator.cost(of) for name, of in jobs.items()}
    assert all(of.seconds > 1 and 16 < of.gpu_gb < 80 for of in cost.values()), cost
    assert cost["lora"].seconds < cost["svf"].seconds, "answering costs more than learning"
    assert cost["light"].seconds < cost["adapt"].seconds / 10
    assert cost["answer"].gpu_gb < cost["svf"].gpu_gb
    weights, basis = estimator.cost(job("model", model="llama3-8b")), estimator.cost(job("basis", model="llama3-8b"))
    assert weights.disk == pytest.approx(16.06e9, rel=0.01) and basis.disk == pytest.approx(5.5e9, rel=0.01)


def test_where_every_prompt_is_classified_as_many_are_answered_as_there_are():
    run, estimator = estimated()
    there = (
        estimator._items("gsm8k", "test") + estimator._items("mbpp_pro", "test") + estimator._items("arc_easy", "test")
    )
    for limit, expected in ((40, 40), (None, there + EVERYDAY["test"])):
        prompts = run.adaptation.prompts.model_copy(update={"test": limit})
        adaptation = run.adaptation.model_copy(update={"prompts": prompts})
        estimator.run = run.model_copy(update={"adaptation": adaptation})
        assert estimator._items("classify", "test") == expected
        of = job("answer", model="llama3-8b", task="classify", adapter="cls-classify")
        assert estimator.cost(of).seconds > 0


def test_sizes_of_a_model_of_no_row_are_known_by_its_source():
    llama, llava = "hub:meta-llama/Meta-Llama-3-8B-Instruct", "hub:llava-hf/llama3-llava-next-8b-hf"
    models = {
        "next": {"source": llama},
        "seeing": {"source": llava, "backbone": "next", "strategies": ["few-shot"]},
        "unknown": {"source": "hub:somebody/else"},
    }
    run = parse({"models": models, "methods": {"svf": {}}, "adaptation": None, "unseen": {}})
    known = plan.sizes(run, ledger.read_all(ROOT / "paper_tables"), ROOT / "results" / "models")
    assert known.keys() == {"next", "seeing"} and known["next"].layers == known["seeing"].layers == 32
    assert known["seeing"].tower > known["next"].tower == 0
    said = text.what_fits([plan.Line("train", "next", 1, 1.0, 0, 60.0)], run, 24)
    assert "next (ours alone): does not fit on 0 GPU" in said


def test_what_fits_names_the_rows_and_the_jobs_that_do_not():
    run, _ = estimated()
    lines = [plan.Line("answer", "llama3-8b", 1, 1.0, 0, 20.0), plan.Line("train", "llama3-8b", 1, 1.0, 0, 60.0)]
    said = text.what_fits(lines, run, 24)
    assert "llama3-8b (llama3-8b): does not fit on 1 GPU: train (60 GB); answer would" in said
    assert "llama3-8b (llama3-8b): every job fits on 1 GPU" in text.what_fits(lines, run, 80)
    assert "mistral-7b (mistral-7b): no job of it that is still to run asks for a GPU" in said
