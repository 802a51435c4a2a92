"""Gradient checkpointing: less is kept, and nothing else changes, bit for bit.

On a CPU the second run of a layer repeats the first exactly: the same kernels on the same numbers in the same threads,
and torch restores the random state of dropout.
"""

from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import helpers
from helpers import WORDS, model, rows, settings, tokenizer
from transformer2.models import new_expert
from transformer2.pocket import corpus
from transformer2.provenance import read_jsonl
from transformer2.rollout.engine import encode_prompt
from transformer2.rollout.hf import HFEngine
from transformer2.tasks import TASKS
from transformer2.training import loop
from transformer2.training.objective import Sample, accumulate_gradients
from transformer2.training.recompute import recompute_layers, set_training_mode

SAMPLES = [Sample([0, 5, 6], [7, 8, 9], 1.0), Sample([0, 5], [11], -1.0), Sample([0, 5, 6, 7, 8], [9, 4], 1.0)]
KINDS: list[dict[str, Any]] = [
    {"adapter": "svf", "kl_coefficient": 0.2},
    {"adapter": "svf", "objective": "next_token", "parametrisation": "sigmoid_nuclear"},
    {"adapter": "lora", "modules": "attention_qv", "rank": 4},
    {"adapter": "lora", "modules": "mlp_attention_qv", "rank": 4, "objective": "next_token", "lora_dropout": 0.3},
    {"adapter": "dora", "modules": "attention_qv", "rank": 4, "objective": "next_token", "lora_dropout": 0.3},
    {"adapter": "ia3", "modules": "ia3", "objective": "next_token"},
    {"adapter": "vera", "modules": "attention_qv", "rank": 8, "objective": "next_token", "lora_dropout": 0.3},
    {"adapter": "tinylora", "rank": 2, "objective": "next_token"},
]


@pytest.fixture(scope="module")
def words():
    return tokenizer()


@pytest.fixture
def runs(monkeypatch) -> list[bool]:
    """Whether gradients were kept in each run of a decoder layer."""
    found, forward = [], LlamaDecoderLayer.forward

    def counted(*args, **kwargs):
        found.append(torch.is_grad_enabled())
        return forward(*args, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", counted)
    return found


def expert(base: Any, chosen: dict[str, Any], recomputes: bool) -> Any:
    adapted = new_expert(base, chosen, None, seed=1)
    if recomputes:
        recompute_layers(adapted)
    return adapted


def gradients(base: Any, chosen: dict[str, Any], samples: list[Sample], recomputes: bool) -> tuple[float, Any]:
    adapted = expert(base, chosen, recomputes)
    with torch.no_grad():  # LoRA's second factor starts at zero, which would leave the first without a gradient
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    torch.manual_seed(3)
    set_training_mode(adapted, dropout=chosen.objective == "next_token")
    facts = accumulate_gradients(adapted, samples, chosen)
    return facts["loss"], {name: p.grad for name, p in adapted.named_parameters() if p.grad is not None}


def assert_same(one: tuple[float, Any], other: tuple[float, Any]) -> None:
    assert one[0] == other[0] and one[1].keys() == other[1].keys()
    assert all(torch.equal(other[1][name], gradient) for name, gradient in one[1].items())
    assert any(gradient.abs().max() > 0 for gradient in one[1].values())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind['adapter']}-{kind.get('objective', 'pg')}")
def test_losses_and_gradients_are_those_without_it(words, runs, kind):
    chosen = settings(**kind, micro_batch_tokens=12)
    kept = gradients(model(len(words)), chosen, SAMPLES, recomputes=False)
    ran = runs.count(True)
    recomputed = gradients(model(len(words)), chosen, SAMPLES, recomputes=True)
    assert_same(kept, recomputed)
    assert (ran, runs.count(True) - ran) == (4, 8), "two micro-batches and two layers"


def test_gradients_of_a_model_that_sees_are_those_without_it(runs):
    found = []
    for recomputes in (False, True):
        base, words = helpers.vision_model()
        asked = [encode_prompt(words, TASKS["textvqa"].prompt(row)) for row in corpus.rows("textvqa", "test", 2)]
        samples = [Sample(prompt, [7, 8], reward) for prompt, reward in zip(asked, (1.0, -1.0), strict=True)]
        found.append(gradients(base, settings(layers="half"), samples, recomputes))
    assert_same(*found)
    assert runs.count(True) == 2 + 3, "the lower of the two layers has nothing to recompute"


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3]], ids=["svf-pg", "lora-next_token"])
def test_a_training_is_that_without_it_and_answers_without_it(words, tmp_path, runs, kind, caplog):
    trained, logs, passes = [], [], []
    for recomputes in (False, True):
        chosen = settings(learning_rate=0.02, patience=50, **kind)
        adapted, out = expert(model(len(words)), chosen, recomputes), tmp_path / str(recomputes)
        out.mkdir()
        trainer = loop.Trainer(adapted, HFEngine(adapted, words), words, WORDS, rows(24), rows(16), chosen, 0, out)
        before = len(runs)
        trainer.run()
        trained.append([p.detach().clone() for p in trainer.parameters.values()])
        logs.append([read_jsonl(out / name) for name in ("metrics.jsonl", "validation.jsonl")])
        assert not any(module.training for module in adapted.modules())
        passes.append(runs[before:].count(True))
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))
    timeless = [[{k: v for k, v in line.items() if "second" not in k} for log in of for line in log] for of in logs]
    assert timeless[0] == timeless[1]
    assert passes[1] == 2 * passes[0] > 0, "every layer of a step of gradients runs twice, none of an answer"
    assert "use_cache" not in caplog.text, "transformers warns where it drops the keys and values of an answer"


def test_half_of_the_layers_keeps_nothing_below_them(words):
    base = model(len(words))
    adapted, asked = expert(base, settings(layers="half"), recomputes=True), []
    for layer in base.model.layers:
        layer.register_forward_pre_hook(lambda _, args: asked.append(args[0].requires_grad))
    set_training_mode(adapted, dropout=False)
    accumulate_gradients(adapted, SAMPLES[:1], settings())
    assert asked[:2] == [False, False], "what enters the first adapted layer asks for no gradient either"


def test_a_policy_recomputes_without_dropout(words):
    adapted = expert(model(len(words)), settings(**KINDS[3]), recomputes=True)
    set_training_mode(adapted, dropout=False)
    assert {type(module) for module in adapted.modules() if module.training} == {LlamaDecoderLayer}


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3]], ids=["svf-pg", "lora-next_token"])
def test_the_hooks_that_move_states_between_cards_change_no_gradient(words, kind, recomputes):
    """Accelerate's hooks on every part of a model, all of which lie on one device here: what they do on several cards
    but for the copies from one card to another, which nothing here can run."""
    parts = ["model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1", "model.norm", "lm_head"]
    found = []
    for hooked in (False, True):
        base = model(len(words))
        if hooked:
            base = dispatch_model(base, dict.fromkeys(parts, "cpu"), main_device="cpu", force_hooks=True)
            assert all(hasattr(base.get_submodule(part), "_hf_hook") for part in parts)
        found.append(gradients(base, settings(**kind), SAMPLES, recomputes))
    assert_same(*found)
