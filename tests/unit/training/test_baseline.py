"""Leave-one-out: the advantage of an answer among those to the same prompt."""

import pytest
import torch

from helpers import WORDS, model, rows, settings, tokenizer
from transformer2.models import new_expert
from transformer2.provenance import read_jsonl
from transformer2.rollout.hf import HFEngine
from transformer2.training import loop
from transformer2.training.baseline import leave_one_out
from transformer2.training.objective import Sample


def samples(*rewards: float) -> list[Sample]:
    return [Sample([1], [i], reward) for i, reward in enumerate(rewards)]


def test_an_advantage_is_the_reward_minus_the_mean_of_the_others():
    found = [one.reward for one in leave_one_out(samples(1, -1, -1, -1, 1, 1, 1, 1, -1, -1, 1, 1), 4)]
    assert found[:4] == pytest.approx([2.0, -2 / 3, -2 / 3, -2 / 3])
    assert found[4:8] == [0.0] * 4, "nothing is learnt where all are right"
    assert found[8:] == pytest.approx([-4 / 3, -4 / 3, 4 / 3, 4 / 3])
    assert [one.completion_ids for one in leave_one_out(samples(1, -1), 2)] == [[0], [1]]


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_the_mean_gradient_is_that_of_plain_reinforce_whatever_all_rewards_have_in_common(shift):
    """A policy over three actions: all gradients that can come about, weighed by how likely they are."""
    p, k = torch.tensor([0.5, 0.3, 0.2]), 2
    rewards = [1.0 + shift, -1.0 + shift, 1.0 + shift]
    score = torch.eye(3) - p  # d log p(a) / d logits
    means = {"plain": torch.zeros(3), "rloo": torch.zeros(3)}
    seconds = dict.fromkeys(means, 0.0)
    for a in range(3):
        for b in range(3):
            first, second = (one.reward for one in leave_one_out(samples(rewards[a], rewards[b]), k))
            found = {"plain": (rewards[a], rewards[b]), "rloo": (first, second)}
            for name, (of_a, of_b) in found.items():
                gradient = (of_a * score[a] + of_b * score[b]) / k
                means[name] += p[a] * p[b] * gradient
                seconds[name] += float(p[a] * p[b] * gradient.square().sum())
    torch.testing.assert_close(means["plain"], means["rloo"])
    assert seconds["rloo"] == pytest.approx(0.84, abs=1e-3)
    assert (seconds["plain"] > seconds["rloo"]) is (shift > 0), "a baseline pays where rewards are far from zero"


def test_a_training_answers_each_prompt_of_a_batch_so_often(tmp_path):
    words = tokenizer()
    chosen = settings(answers=4, steps=2, batch_size=8)
    expert = new_expert(model(len(words)), chosen, None, 0)
    one = loop.Trainer(expert, HFEngine(expert, words), words, WORDS, rows(24), rows(4), chosen, 0, tmp_path)
    one.run()
    lines = read_jsonl(tmp_path / "rollouts.jsonl")
    of_step = [line["item"] for line in lines if line["step"] == 0]
    assert len(of_step) == 8 and len({*of_step}) == 2 and of_step[:4] == [of_step[0]] * 4
    assert len({line["completion"] for line in lines if line["item"] == of_step[0]}) > 1
    assert {line["reward"] for line in lines} <= {1.0, -1.0}, "the log has rewards, not advantages"
