"""The objective of Eq. (1) on a batch of answers; with reference answers and r = 1 it is next-token training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transformer2.config import Training
from transformer2.rollout.batching import by_tokens
from transformer2.rollout.likelihood import completion_states, token_kl, token_logprobs

from .team import ALONE, Team


@dataclass(frozen=True)
class Sample:
    """An answer to learn from. `reward` weighs its log-likelihood: r of Eq. (1), or 1 for a reference answer."""

    prompt_ids: list[int]
    completion_ids: list[int]
    reward: float


def negative_objective(logprobs: Tensor, kl: Tensor, rewards: Tensor, kl_coefficient: float) -> Tensor:
    """-J of Eq. (1), summed over samples: -(log pi(y|x) r - lambda KL).

    Args:
        logprobs: log pi(y|x) of each sample, (samples,).
        kl: divergence of the policy from the base model along each answer, (samples,); zeros if lambda is 0.
        rewards: (samples,).
    """
    return -(logprobs * rewards - kl_coefficient * kl).sum()


def reduce_by_sample(values: Tensor, lengths: Sequence[int], how: str) -> Tensor:
    """Per-token values (tokens,) to one number a sample (samples,): their `sum` (Eq. 1) or their `mean`."""
    sums = torch.stack([piece.sum() for piece in values.split(list(lengths))])
    return sums if how == "sum" else sums / torch.tensor(lengths, device=values.device)


def accumulate_gradients(
    model: Any, samples: Sequence[Sample], settings: Training, team: Team = ALONE
) -> dict[str, float]:
    """Adds the gradient of the mean of -J over `samples` to `.grad`, micro-batch by micro-batch; in a team, where each
    process takes its share of them, the sum over all processes.

    The divergence is exact over the vocabulary at each position of the sampled answers; its dependence on which answers
    are sampled is not differentiated, as usual.

    Returns:
        Means over the samples: loss, kl (nats an answer).
    """
    causal, head = model.get_base_model(), model.get_base_model().get_output_embeddings()
    totals = {"loss": 0.0, "kl": 0.0}
    lengths = [len(s.prompt_ids) + len(s.completion_ids) for s in samples]
    for batch, weight in team.share(list(by_tokens(lengths, settings.micro_batch_tokens))):
        part = [samples[i] for i in batch]
        prompts, answers = [s.prompt_ids for s in part], [s.completion_ids for s in part]
        answer_lengths = [len(answer) for answer in answers]
        base_states = None
        if settings.kl_coefficient > 0:
            with torch.no_grad(), model.disable_adapter():
                base_states, _ = completion_states(causal, prompts, answers)
        states, targets = completion_states(causal, prompts, answers)
        logprobs = reduce_by_sample(token_logprobs(head, states, targets), answer_lengths, settings.loss)
        kl = torch.zeros_like(logprobs)
        if base_states is not None:
            kl = reduce_by_sample(token_kl(head, states, base_states, settings.kl), answer_lengths, settings.loss)
        rewards = torch.tensor([s.reward for s in part], device=logprobs.device)
        loss = weight * negative_objective(logprobs, kl, rewards, settings.kl_coefficient) / len(samples)
        loss.backward()
        totals["loss"] += loss.item()
        totals["kl"] += weight * kl.sum().item() / len(samples)
    sums = torch.tensor([*totals.values()], dtype=torch.float64)
    team.add_up([sums, *(p.grad for p in model.parameters() if p.requires_grad and p.grad is not None)])
    return dict(zip(totals, sums.tolist(), strict=True))
