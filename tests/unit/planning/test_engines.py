"""What vLLM and several GPUs do to the hours of a run and to the memory that it needs."""

from dataclasses import replace

import pytest

from conftest import ROOT
from transformer2.config import load
from transformer2.planning import costs, engines, plan
from transformer2.planning.costs import Adapted, Size
from transformer2.planning.machines import MACHINES
from transformer2.reproduce import ledger
from transformer2.stages.blocks import Stages

SHAPES = ledger.read_all(ROOT / "paper_tables").shapes
SMALL, LARGE = (Size(**SHAPES[row].model_dump()) for row in ("llama3-8b", "llama3-70b"))
SVF, LORA = Adapted("svf", "all", 32), Adapted("lora", "attention_qv", 32)
H100 = MACHINES["h100"]


def hours(engine: str, gpus_of_70b: int) -> tuple[float, list[plan.Line]]:
    run = load(ROOT / "config/paper.yaml")
    models = run.models | {"llama3-70b": run.models["llama3-70b"].model_copy(update={"gpus": gpus_of_70b})}
    run = run.model_copy(update={"engine": engine, "models": models})
    of_models = plan.sizes(run, ledger.read_all(ROOT / "paper_tables"), ROOT / "results/models")
    lines = plan.lines(plan.jobs(Stages(run))[0], plan.Estimator(run, of_models, H100), {})
    return sum(line.gpu_hours for line in lines), lines


def test_the_papers_run_takes_a_quarter_of_the_hours_of_transformers_own_generation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, _ = hours("hf", 6)
    after, lines = hours("vllm", 8)
    assert after < before / 4
    assert all(line.gpu_gb is None or line.gpu_gb < 80 for line in lines)


@pytest.mark.slow
def test_no_language_method_of_the_papers_run_falls_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = load(ROOT / "config/paper.yaml")
    steps = [step for stage in ("train", "answer", "answer_adapted") for name in run.models
             for step in Stages(run).steps(stage, name)]  # fmt: skip
    engines_of = {(step.of["model"], step.arguments["engine"]) for step in steps}
    assert engines_of == {(name, "hf" if model.backbone else "vllm") for name, model in run.models.items()}


def test_short_answers_make_room_for_others_and_a_change_of_expert_costs_z_alone():
    full, half = (engines.answering_seconds(SMALL, LORA, 1000, 100, n, 2, H100, 1) for n in (512, 256))
    assert 1.5 < full / half < 2.5
    assert engines.composing_seconds(SMALL, LORA, H100, 1) == 0
    once = engines.composing_seconds(SMALL, SVF, H100, 1)
    with_svf = engines.answering_seconds(SMALL, SVF, 1000, 100, 512, 2, H100, 1)
    assert with_svf - full == pytest.approx(once, rel=0.2) and once < 1


def test_more_gpus_answer_sooner_but_not_for_nothing():
    half_svf = replace(SVF, layers=40)
    seconds = [engines.answering_seconds(LARGE, half_svf, 256, 100, 512, 2, H100, n) for n in (4, 8)]
    assert seconds[1] < seconds[0] / 2, "four have no room for many answers beside the weights"
    operations = 2 * LARGE.parameters * 256 * (100 + 256) / H100.compute / 8
    assert operations < seconds[1]
    alone = costs.learning_operations(LARGE, half_svf, 90000, 45000, 8192, True, True) / H100.compute
    together = engines.team_seconds(LARGE, half_svf, 90000, alone, 8192, 4, 2, 8)
    assert alone / 8 < together < alone / 4


def test_beside_a_training_one_gpu_holds_the_model_twice_and_q_and_scaled_weights_once():
    w, q, scaled = (of(SMALL, SVF, 2) if of is not costs.weight_bytes else of(SMALL, 2)
                    for of in (costs.weight_bytes, costs.basis_bytes, costs.scaled_bytes))  # fmt: skip
    held = (engines.held_gb(SMALL, SVF, 2, 1, True) - costs.CONTEXT_GB) * costs.GB
    assert held == pytest.approx(2 * w + q + scaled)
    shared = (engines.held_gb(SMALL, SVF, 2, 4, False) - costs.CONTEXT_GB) * costs.GB
    assert shared == pytest.approx((2 * w + q) / 4)
