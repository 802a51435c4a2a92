"""The engine on vLLM against the one on transformers: same weights, same prompts, same answers, with every expert."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import settings, tokenizer
from transformer2.models import load_expert, load_experts, load_model, new_expert
from transformer2.rollout.engine import Sampling
from transformer2.rollout.hf import HFEngine
from transformer2.svf.basis import decoder_matrices, singular_values, write_basis
from transformer2.transfer import read_z

pytest.importorskip("vllm", reason="vLLM is not installed (its CPU build does: docs/vllm.md)")
PROMPTS = [[0, *range(20, 20 + n)] for n in (3, 40, 7, 21, 40, 12)]
NAMES = ("first", "second")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, basis and two experts of a random model; heads of 64, the least that vLLM has kernels for."""
    folder, words = tmp_path_factory.mktemp("vllm"), tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=128, intermediate_size=224, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.2, max_position_embeddings=512, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    words.save_pretrained(folder / "base")
    write_basis(decoder_matrices(folder / "base", torch.float32), folder / "basis")
    for seed, name in enumerate(NAMES):
        chosen = settings(init_std=0.5, modules="all" if seed else "mlp", parametrisation="linear")
        new_expert(load_model(folder / "base"), chosen, folder / "basis", seed).save_pretrained(str(folder / name))
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Any]:
    from transformer2.rollout.vllm import VLLMEngine

    s = singular_values(folder / "basis")
    experts = {name: read_z(folder / name, s) for name in NAMES}
    engine = VLLMEngine(folder / "base", tokenizer(), folder / "basis", experts)
    yield engine
    if hasattr(engine, "_llm"):
        engine.close()


def with_transformers(folder: Path, expert: str | None = None) -> HFEngine:
    base = load_model(folder / "base")
    return HFEngine(load_expert(base, folder / expert, folder / "basis") if expert else base, tokenizer())


@pytest.mark.parametrize("expert", [None, *NAMES])
def test_greedy_answers_and_log_probabilities_are_those_of_transformers(folder, engine, expert):
    other = with_transformers(folder, expert)
    engine.set_expert(expert)
    ours, theirs = (of.generate(PROMPTS, Sampling(12)) for of in (engine, other))
    assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
    assert [(c.text, c.finish_reason) for c in ours] == [(c.text, c.finish_reason) for c in theirs]
    answers = [c.token_ids for c in ours]
    for a, b in zip(engine.logprobs(PROMPTS, answers), other.logprobs(PROMPTS, answers), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    next_ = [of.next_logprobs(PROMPTS[:2], [5, 9, 30]) for of in (engine, other)]
    torch.testing.assert_close(*next_, atol=1e-4, rtol=0)


def test_the_base_comes_back_bit_for_bit_after_an_expert_that_scales_other_matrices(engine):
    engine.set_expert(None)
    engine.generate(PROMPTS[:1], Sampling(1))
    weights = engine._llm.apply_model(lambda model: {k: v.clone() for k, v in model.state_dict().items()})[0]
    for name in (*NAMES, None):
        engine.set_expert(name)
        engine.generate(PROMPTS[:1], Sampling(1))
    after = engine._llm.apply_model(lambda model: dict(model.state_dict()))[0]
    assert all(torch.equal(after[key], weights[key]) for key in weights)


def test_rows_may_have_experts_of_their_own(folder, engine):
    experts = ["second", None, "first", "first", "second", None]
    engine.set_expert(None)
    mixed = engine.generate(PROMPTS, Sampling(12), experts)
    for i, expert in enumerate(experts):
        alone = with_transformers(folder, expert).generate([PROMPTS[i]], Sampling(12))
        assert mixed[i].token_ids == alone[0].token_ids


def test_a_prefix_that_was_cached_with_other_weights_is_not_used(folder, engine):
    """Long prompts twice: without a reset the second expert would read the first one's keys and values."""
    long = [[0, *[20 + i % 90 for i in range(300)], n] for n in (30, 40)]
    for expert in ("first", "second", "first"):
        engine.set_expert(expert)
        other = with_transformers(folder, expert)
        answers = [[30, 31]] * 2
        engine.generate(long, Sampling(2))
        for a, b in zip(engine.logprobs(long, answers), other.logprobs(long, answers), strict=True):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=0)
        ours, theirs = (of.generate(long, Sampling(8)) for of in (engine, other))
        assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]


def test_a_mix_is_that_of_transformers(folder, engine):
    alpha = torch.tensor([[0.7, 0.1], [0.6, 0.5]])  # one column a layer
    folders = {name: folder / name for name in ("second", "other")}
    new_expert(load_model(folder / "base"), settings(init_std=0.5), folder / "basis", 7).save_pretrained(
        str(folders["other"])
    )
    engine.put("other", read_z(folders["other"], singular_values(folder / "basis")))
    reference = HFEngine(load_experts(load_model(folder / "base"), folders, folder / "basis"), tokenizer())
    for of in (engine, reference):
        of.mix("both", ["second", "other"], alpha)
        of.set_expert("both")
    ours, theirs = (of.generate(PROMPTS, Sampling(8)) for of in (engine, reference))
    assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
    with pytest.raises(ValueError, match="first and second scale other matrices"):
        engine.mix("both", list(NAMES), torch.tensor([0.7, 0.6]))


def test_sampling_repeats_with_its_seed_and_differs_with_another_and_between_rows(engine):
    engine.set_expert(None)
    first, again, other = (engine.generate([PROMPTS[0]] * 8, Sampling(8, 1.0, seed=s)) for s in (1, 1, 99))
    assert first == again and first != other
    assert len({tuple(c.token_ids) for c in first}) > 1


def test_stop_strings_end_an_answer_and_are_cut_off(folder, engine):
    engine.set_expert(None)
    (free,) = engine.generate(PROMPTS[1:2], Sampling(12))
    stop = free.text.strip()[3:5]
    ours, theirs = (
        of.generate(PROMPTS[1:2], Sampling(12, stop=(stop,)))[0] for of in (engine, with_transformers(folder))
    )
    assert ours == theirs and ours.finish_reason == "stop" and stop not in ours.text


def test_training_hands_its_vectors_over(folder, engine):
    from transformer2.rollout.vllm import VLLMEngine

    policy: Any = load_expert(load_model(folder / "base"), folder / "second", folder / "basis")
    shared = VLLMEngine.__new__(VLLMEngine)  # the same vLLM: a process holds one at a time
    shared.__dict__ |= engine.__dict__ | {"_experts": {}}
    shared.follow(policy)
    with torch.no_grad():
        for layer in dict(policy.base_model.svf_layers()).values():
            layer.svf_z["default"].mul_(0.5)
    shared.refresh()
    ours, theirs = (of.generate(PROMPTS, Sampling(8)) for of in (shared, HFEngine(policy, tokenizer())))
    assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
    engine._running, engine._stale = "default", True


@pytest.mark.parametrize("adapter", ["dora", "ia3", "vera", "tinylora"])
def test_other_adapters_answer_by_merged_weights_and_the_base_comes_back(folder, engine, adapter):
    policy = trained(folder, adapter)
    engine.set_expert(None)
    before = engine.generate(PROMPTS, Sampling(8))
    weights = {name: weight.clone() for name, weight in policy.get_base_model().named_parameters()}
    engine.put(adapter, policy)
    for name in (adapter, "first", adapter):
        engine.set_expert(name)
        reference = HFEngine(policy, tokenizer()) if name == adapter else with_transformers(folder, name)
        ours, theirs = (of.generate(PROMPTS, Sampling(8)) for of in (engine, reference))
        assert [c.token_ids for c in ours] == [c.token_ids for c in theirs], name
    assert ours != before
    assert all(torch.equal(weight, weights[name]) for name, weight in policy.get_base_model().named_parameters())
    engine.set_expert(None)
    assert engine.generate(PROMPTS, Sampling(8)) == before


def trained(folder: Path, adapter: str) -> Any:
    """A model with an adapter whose trained numbers are no longer those of the start."""
    modules = {"ia3": "ia3", "tinylora": "all"}.get(adapter, "attention_qv")
    chosen = settings(adapter=adapter, modules=modules, rank=2, projection=4)
    policy = new_expert(load_model(folder / "base"), chosen, None, 3).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.4 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return policy


@pytest.mark.parametrize(("expert", "said"), [("third", "no expert named third; there are first, second")])
def test_a_mistake_is_one_line(engine, expert, said):
    with pytest.raises(ValueError, match=said):
        engine.set_expert(expert)


def test_what_is_switched_off_inside_of_vllm_is_still_there():
    """A private name: without it, oneDNN would answer with packed copies of the base model's weights."""
    from vllm import _custom_ops  # pyright: ignore[reportMissingImports]

    assert isinstance(_custom_ops._supports_onednn, bool)


def test_lora_is_answered_by_vllm_itself_also_in_training(folder, engine):
    """Last of all: a process runs one vLLM at a time."""
    from transformer2.rollout.vllm import VLLMEngine

    engine.close()
    policy = trained(folder, "lora")
    with_lora = VLLMEngine(folder / "base", tokenizer(), lora_rank=2)
    with_lora.follow(policy)
    for _ in range(2):
        ours, theirs = (of.generate(PROMPTS, Sampling(8)) for of in (with_lora, HFEngine(policy, tokenizer())))
        assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(-2)
        with_lora.refresh()
    with_lora.set_expert(None)
    ours, theirs = (of.generate(PROMPTS, Sampling(8)) for of in (with_lora, with_transformers(folder)))
    assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
    with pytest.raises(ValueError, match="start it for those of one kind"):
        with_lora.put("svf", {})
    with_lora.close()
