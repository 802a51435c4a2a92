"""Answers that are handed over token by token, against `generate` for each prompt alone."""

import pytest

from helpers import model, tokenizer
from transformer2.rollout.engine import Sampling
from transformer2.rollout.hf import HFEngine

PROMPTS = [[0, *range(10, 20), 20 + i] for i in range(5)] + [[0, 13]]
SAMPLINGS = [
    Sampling(20), Sampling(3), Sampling(12, 1.0, seed=4), Sampling(20, 1.5, seed=5), Sampling(1), Sampling(30),
]  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> HFEngine:
    words = tokenizer()
    return HFEngine(model(len(words)), words)


def streamed(engine: HFEngine, prompts: list, samplings: list[Sampling], leaves: dict[int, int]) -> list[list]:
    """Tokens and reasons of each row; the row `r` is left with its token number `leaves[r]`."""
    came: list[list] = [[] for _ in prompts]

    def receive(row, token, reason):
        came[row].append((token, reason))
        return len(came[row]) != leaves.get(row)

    engine.stream(prompts, samplings, None, receive)
    return came


def test_each_row_has_the_tokens_that_it_has_alone(engine):
    together = streamed(engine, PROMPTS, SAMPLINGS, {})
    for prompt, sampling, tokens in zip(PROMPTS, SAMPLINGS, together, strict=True):
        (alone,) = engine.generate([prompt], sampling)
        assert [token for token, _ in tokens] == alone.token_ids
        assert [reason for _, reason in tokens] == [None] * (len(tokens) - 1) + [alone.finish_reason]


def test_a_row_that_is_left_ends_there_and_the_others_go_on(engine):
    whole, left = streamed(engine, PROMPTS, SAMPLINGS, {}), streamed(engine, PROMPTS, SAMPLINGS, {0: 2, 3: 1, 5: 1})
    assert left == [whole[0][:2], whole[1], whole[2], whole[3][:1], whole[4], whole[5][:1]]


def test_once_all_rows_are_left_the_model_stops(engine, monkeypatch):
    passes, forward = [], engine.model.forward
    monkeypatch.setattr(engine.model, "forward", lambda *a, **k: (passes.append(1), forward(*a, **k))[1])
    streamed(engine, [[0, 13]] * 3, [Sampling(200)] * 3, {0: 1, 1: 2, 2: 3})
    assert len(passes) == 3


def test_a_model_without_an_end_is_refused(engine, monkeypatch):
    monkeypatch.setattr(engine.model.generation_config, "eos_token_id", None)
    with pytest.raises(ValueError, match="names no token that ends its answers"):
        streamed(engine, PROMPTS, SAMPLINGS, {})
