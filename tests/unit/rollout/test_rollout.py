"""The engine, prompts as token ids, and log-probabilities, each against its naive twin."""

import pytest
import torch
import torch.nn.functional as F

from helpers import WORDS, model, rows, settings, tokenizer
from transformer2.models import new_expert
from transformer2.rollout import likelihood
from transformer2.rollout.batching import by_length, by_tokens, pad
from transformer2.rollout.engine import Sampling, encode_prompt
from transformer2.rollout.hf import HFEngine
from transformer2.tasks import Prompt

PROMPTS = [[0, 10, 11, 12], [0, 13], [0, 14, 15, 16, 17, 18, 19]]


@pytest.fixture(scope="module")
def words():
    return tokenizer()


@pytest.fixture(scope="module")
def llama(words):
    return model(len(words))


def test_a_prompt_has_exactly_one_bos_whoever_writes_it(words):
    chat, plain = Prompt(({"role": "user", "content": "say yes"},), "the"), Prompt(text="say yes")
    assert words.apply_chat_template(list(chat.messages), tokenize=False).startswith(words.bos_token)
    for prompt in (chat, plain):
        ids = encode_prompt(words, prompt)
        assert ids[0] == words.bos_token_id and ids.count(words.bos_token_id) == 1
    assert words.decode(encode_prompt(words, chat)).endswith("<|assistant|>the")


def test_greedy_generation_equals_an_argmax_loop(words, llama):
    engine = HFEngine(llama, words, batch_rows=2)
    for prompt, completion in zip(PROMPTS, engine.generate(PROMPTS, Sampling(8)), strict=True):
        ids = list(prompt)
        for _ in range(8):
            ids.append(int(llama(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == words.eos_token_id:
                break
        assert completion.token_ids == ids[len(prompt) :]


def test_the_output_head_takes_rows_that_lie_together(words):
    """Else torch copies a frozen head for every row on a CPU."""
    expert, seen = new_expert(model(len(words)), settings(), None, seed=0), []
    expert.get_output_embeddings().register_forward_hook(lambda _, args, __: seen.append(args[0].is_contiguous()))
    HFEngine(expert, words).generate(PROMPTS, Sampling(3))
    assert len(seen) == 3 and all(seen)


def test_sampling_repeats_with_its_seed_and_differs_with_another(words, llama):
    engine = HFEngine(llama, words)
    first, again, other = (engine.generate(PROMPTS, Sampling(8, 1.0, seed=s)) for s in (1, 1, 2))
    assert first == again and first != other


def test_sampling_follows_the_models_own_distribution_at_temperature_one(words, llama):
    llama.generation_config.update(top_p=0.01, temperature=0.1)
    engine = HFEngine(llama, words, batch_rows=500)
    drawn = torch.tensor([c.token_ids[0] for c in engine.generate([PROMPTS[0]] * 3000, Sampling(1, 1.0, seed=5))])
    expected = llama(torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1)
    frequency = torch.bincount(drawn, minlength=len(expected)) / len(drawn)
    assert (frequency - expected).abs().max() < 4 * (0.25 / 3000) ** 0.5
    llama.generation_config.update(top_p=1.0, temperature=1.0)


def test_a_stop_string_ends_the_answer_and_is_cut_off(words, llama):
    engine = HFEngine(llama, words)
    free = engine.generate(PROMPTS, Sampling(8))
    stop = words.decode(free[0].token_ids[3:5])
    stopped = engine.generate(PROMPTS, Sampling(8, stop=(stop,)))[0]
    assert stopped.finish_reason == "stop" and stop not in stopped.text
    assert free[0].token_ids[: len(stopped.token_ids)] == stopped.token_ids and len(stopped.token_ids) <= 5
    assert free[0].text.startswith(stopped.text)


def test_an_answer_that_ends_keeps_its_eos_and_one_that_does_not_says_length(words, llama):
    engine = HFEngine(llama, words)
    answers = engine.generate([PROMPTS[0]] * 200, Sampling(6, 1.0, seed=0))
    for answer in answers:
        ended = answer.token_ids[-1] == words.eos_token_id
        assert answer.finish_reason == ("stop" if ended else "length")
        assert words.eos_token_id not in answer.token_ids[:-1] and (ended or len(answer.token_ids) == 6)
        assert words.eos_token not in answer.text


def test_no_expert_is_the_base_model_bit_for_bit(words):
    base = model(len(words))
    expected = HFEngine(base, words).generate(PROMPTS, Sampling(8)), base(torch.tensor([PROMPTS[0]])).logits
    expert = new_expert(base, settings(init_std=0.8), None, seed=0)
    engine = HFEngine(expert, words)
    changed = engine.generate(PROMPTS, Sampling(8))
    engine.set_expert(None)
    assert engine.generate(PROMPTS, Sampling(8)) == expected[0] != changed
    engine.set_expert("default")
    assert engine.generate(PROMPTS, Sampling(8)) == changed
    with expert.disable_adapter():
        assert torch.equal(expert(torch.tensor([PROMPTS[0]])).logits, expected[1])


def test_logprobs_equal_the_naive_ones_for_each_token(words, llama):
    completions = [[5, 6, 7], [8], [9, 10]]
    for prompt, completion, actual in zip(
        PROMPTS, completions, HFEngine(llama, words).logprobs(PROMPTS, completions), strict=True
    ):
        logits = llama(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("direction", ["policy_to_base", "base_to_policy"])
def test_token_kl_equals_kl_div(direction):
    p, q = torch.randn(2, 5, 30).log_softmax(-1)
    first, second = (p, q) if direction == "policy_to_base" else (q, p)
    expected = F.kl_div(second, first, log_target=True, reduction="none")  # kl_div(input, target) = KL(target || input)
    torch.testing.assert_close(likelihood.token_kl(p, q, direction), expected.sum(-1))


def test_log_probabilities_in_parts_are_those_of_all_logits_at_once(monkeypatch):
    head = torch.nn.Linear(8, 30, bias=False)
    states, targets = torch.randn(11, 8), torch.randint(0, 30, (11,))
    monkeypatch.setattr(likelihood, "CHUNK_LOGITS", 30 * 4)
    actual = likelihood.token_logprobs(head, states, targets)
    torch.testing.assert_close(actual, head(states).log_softmax(-1).gather(-1, targets[:, None])[:, 0])


def test_no_tokens_have_no_log_probabilities():
    head = torch.nn.Linear(8, 30, bias=False)
    assert likelihood.token_logprobs(head, torch.randn(0, 8), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_batches_hold_every_sequence_once_within_their_limits():
    lengths = [3, 50, 7, 7, 20, 1, 9]
    for batches in (list(by_length(lengths, 3)), list(by_tokens(lengths, 40))):
        assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert all(len(b) == 1 or max(lengths[i] for i in b) * len(b) <= 40 for b in by_tokens(lengths, 40))


def test_padding_goes_to_its_side():
    ids, mask = pad([[1, 2], [3]], 9, "left")
    assert ids.tolist() == [[1, 2], [9, 3]] and mask.tolist() == [[1, 1], [0, 1]]
    ids, mask = pad([[1, 2], [3]], 9, "right")
    assert ids.tolist() == [[1, 2], [3, 9]] and mask.tolist() == [[1, 1], [1, 0]]


def test_the_dummy_task_is_prompted_through_the_chat_template(words):
    assert "say one word 0" in words.decode(encode_prompt(words, WORDS.prompt(rows(1)[0])))
