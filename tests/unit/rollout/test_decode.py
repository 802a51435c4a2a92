"""Decoding with a shared prefix and rows that leave, against `generate` of transformers."""

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from helpers import WORDS, model, rows, settings, tokenizer
from transformer2.models import load_experts, load_model, new_expert, save_expert
from transformer2.rollout.attention import NAME
from transformer2.rollout.decode import common_prefix
from transformer2.rollout.engine import Sampling, encode_prompt
from transformer2.rollout.hf import HFEngine, StopCondition

START = [0, *range(10, 22)]
PROMPTS = [[*START, 5, 6, 7], [*START, 8], [*START, *range(30, 41)], [*START, 9, 9], [*START, 8, 7], [*START, 7]] * 3


@pytest.fixture(scope="module")
def words():
    return tokenizer()


@pytest.fixture(scope="module")
def llama(words):
    return model(len(words))


def of_transformers(llama, words, prompt: list[int], n: int) -> list[int]:
    config = GenerationConfig(
        max_new_tokens=n, do_sample=False, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id
    )
    return llama.generate(input_ids=torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()


def ending_early(llama, words) -> list[int]:
    """Tokens that end some answers early, so that rows leave the batch at different times."""
    return [words.eos_token_id, *(of_transformers(llama, words, PROMPTS[i], 12)[2 + i] for i in (1, 2, 4))]


@pytest.mark.parametrize("batch_rows", [1, 4, 64])
def test_answers_are_those_of_generate(words, llama, batch_rows, monkeypatch):
    monkeypatch.setattr(llama.generation_config, "eos_token_id", ending_early(llama, words))
    answers = HFEngine(llama, words, batch_rows).generate(PROMPTS, Sampling(12))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert answer.token_ids == of_transformers(llama, words, prompt, 12)[: len(answer.token_ids)]
    lengths = {len(answer.token_ids) for answer in answers}
    assert len(lengths) > 1 and max(lengths) == 12


def test_the_shared_prefix_is_computed_once_and_ended_rows_not_at_all(words, llama, monkeypatch):
    early, seen = ending_early(llama, words), []
    monkeypatch.setattr(llama.generation_config, "eos_token_id", early)
    handle = llama.model.embed_tokens.register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
    answers = HFEngine(llama, words, 64).generate(PROMPTS, Sampling(12))
    handle.remove()
    prefix, prefill, *steps = seen
    assert prefix == (1, len(START)) and prefill == (len(PROMPTS), max(map(len, PROMPTS)) - len(START))
    running = [sum(len(answer.token_ids) > n for answer in answers) for n in range(1, 12)]
    assert all(shape[0] * 0.75 < left <= shape[0] for shape, left in zip(steps, running, strict=False))
    assert len(steps) == sum(left > 0 for left in running) and steps[-1][0] < len(PROMPTS)


def test_prompts_share_what_all_begin_with_and_each_keeps_a_token():
    assert common_prefix([[1, 2, 3], [1, 2, 4, 5]]) == [1, 2]
    assert common_prefix([[1, 2], [1, 2, 3]]) == [1] and common_prefix([[1, 2]] * 3) == [1]
    assert common_prefix([[1], [2, 1]]) == []


def test_rows_with_experts_of_their_own_share_a_prefix_of_each(words, tmp_path):
    for seed, name in enumerate("ab"):
        save_expert(new_expert(model(len(words)), settings(init_std=0.8), None, seed=seed), tmp_path / name)
    engine = HFEngine(load_experts(model(len(words)), {n: tmp_path / n for n in "ab"}, None).eval(), words, 5)
    names = ["a", "b", None] * 6
    together = engine.generate(PROMPTS, Sampling(8), names)
    for name in ("a", "b", None):
        engine.set_expert(name)
        alone = engine.generate(PROMPTS, Sampling(8))
        assert [c.token_ids for c, n in zip(together, names, strict=True) if n == name] == [
            c.token_ids for c, n in zip(alone, names, strict=True) if n == name
        ]


def test_draws_of_a_row_do_not_depend_on_which_rows_have_left(words, llama, monkeypatch):
    prompts = [[*START, 5]] * 40
    free = HFEngine(llama, words, 64).generate(prompts, Sampling(12, 1.0, seed=3))
    monkeypatch.setattr(llama.generation_config, "eos_token_id", [words.eos_token_id, *range(40, 60)])
    ended = HFEngine(llama, words, 64).generate(prompts, Sampling(12, 1.0, seed=3))
    assert len({len(c.token_ids) for c in ended}) > 4
    assert all(a.token_ids[: len(b.token_ids)] == b.token_ids for a, b in zip(free, ended, strict=True))


@pytest.mark.parametrize("family", [Gemma3ForCausalLM, MistralForCausalLM, GPT2LMHeadModel])
def test_models_with_a_window_or_learnt_positions_answer_as_by_generate(words, family):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    kinds = {
        Gemma3ForCausalLM: (Gemma3TextConfig, {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8} | sizes),
        MistralForCausalLM: (MistralConfig, {"num_key_value_heads": 2, "sliding_window": 8} | sizes),
        GPT2LMHeadModel: (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    }
    config, shape = kinds[family]
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    other = family(config(vocab_size=len(words), initializer_range=0.3, **special, **shape)).eval()
    answers = HFEngine(other, words, 4).generate(PROMPTS, Sampling(8))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert answer.token_ids == of_transformers(other, words, prompt, 8)[: len(answer.token_ids)]


def test_a_model_that_chooses_its_attention_otherwise_is_loaded_as_it_is(words, tmp_path):
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 128}
    GPTJForCausalLM(GPTJConfig(vocab_size=len(words), eos_token_id=1, **shape)).save_pretrained(tmp_path)
    assert load_model(tmp_path).config._attn_implementation != NAME


def test_query_heads_that_share_keys_attend_as_repeated_keys_would(words, tmp_path):
    llama = model(len(words))
    assert llama.config.num_attention_heads > llama.config.num_key_value_heads
    llama.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    grouped = load_model(tmp_path)
    assert grouped.config._attn_implementation == NAME
    for prompt in PROMPTS[:6]:
        (answer,) = HFEngine(grouped, words).generate([prompt], Sampling(10))
        assert answer.token_ids == of_transformers(llama, words, prompt, 10)[: len(answer.token_ids)]


@pytest.mark.parametrize("stop", ["yes no", "s n", "no", "o ma", " ", "é"])
def test_a_stop_string_that_tokens_share_is_seen_as_decoding_all_of_them_sees_it(words, stop):
    ended = StopCondition(words, {words.eos_token_id}, (stop,))
    tokens = [i for row in rows(4) for i in encode_prompt(words, WORDS.prompt(row)) if i not in words.all_special_ids]
    naive = [stop in words.decode(tokens[: n + 1][-len(stop) - 1 :]) for n in range(len(tokens))]
    assert [ended(tokens[: n + 1]) for n in range(len(tokens))] == naive
