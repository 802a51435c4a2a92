"""The objective of Eq. (1) on a batch of answers; with reference answers and r = 1 it is next-token training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from transformer2.config import Training
from transformer2.rollout.batching import by_tokens
from transformer2.rollout.likelihood import completion_states, distributions, of_targets, parts, token_kl
from transformer2.svf.layer import hold

from .team import ALONE, Team


@dataclass(frozen=True)
class Sample:
    """An answer to learn from. `reward` weighs its log-likelihood: r of Eq. (1), or 1 for a reference answer."""

    prompt_ids: list[int]
    completion_ids: list[int]
    reward: float


def negative_objective(logprobs: Tensor, kl: Tensor, rewards: Tensor, kl_coefficient: float) -> Tensor:
    """-J of Eq. (1) at each token of the answers, -(log pi(y_t|x, y_<t) r - lambda KL_t), (tokens,).

    Args:
        logprobs: log pi of each token, (tokens,).
        kl: divergence of the policy from the base model there, (tokens,); zeros if lambda is 0.
        rewards: r of the answer that it is a token of, (tokens,).
    """
    return -(logprobs * rewards - kl_coefficient * kl)


def token_weights(lengths: Sequence[int], how: str) -> Tensor:
    """Weights (tokens,) with which an answer's tokens make one number: their `sum` (Eq. 1) or their `mean`."""
    of_answers = torch.ones(len(lengths)) if how == "sum" else 1 / torch.tensor(lengths)
    return of_answers.repeat_interleave(torch.tensor(lengths))


def gradient_by_states(
    head: Any, states: Tensor, base_states: Tensor | None, targets: Tensor, rewards: Tensor, weights: Tensor,
    settings: Training,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sums over tokens of weight times -J and of weight times KL, (2,), and the gradient of the first by `states`.

    Logits exist for a few tokens at a time, and once: a gradient is taken before the next ones are made. Naive
    equivalent: autograd through `head(states)` as a whole, which holds all logits at once.

    Args:
        states: last hidden states that predict the tokens of the answers, (tokens, width); `base_states` those of the
            base model, None if lambda is 0.
        targets: these tokens, (tokens,).
        rewards, weights: of each token, (tokens,).
    """
    sums, gradient = torch.zeros(2, device=states.device), torch.empty_like(states)
    for part in parts(head, states):
        leaf = states[part].detach().requires_grad_()
        policy = distributions(head, leaf)
        logprobs = of_targets(policy, targets[part])
        kl = torch.zeros_like(logprobs)
        if base_states is not None:
            with torch.no_grad():
                base = distributions(head, base_states[part])
            kl = token_kl(policy, base, settings.kl)
        losses = weights[part] * negative_objective(logprobs, kl, rewards[part], settings.kl_coefficient)
        losses.sum().backward()
        gradient[part] = cast(Tensor, leaf.grad)
        sums += torch.stack([losses.detach().sum(), (weights[part] * kl.detach()).sum()])
    return sums, gradient


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
    totals = torch.zeros(2, dtype=torch.float64)
    lengths = [len(s.prompt_ids) + len(s.completion_ids) for s in samples]
    with hold(model):
        for batch, weight in team.share(list(by_tokens(lengths, settings.micro_batch_tokens))):
            part = [samples[i] for i in batch]
            prompts, answers = [s.prompt_ids for s in part], [s.completion_ids for s in part]
            base_states = None
            if settings.kl_coefficient > 0:
                with torch.no_grad(), model.disable_adapter():
                    base_states, _ = completion_states(causal, prompts, answers)
            states, targets = completion_states(causal, prompts, answers)
            answer_lengths = [len(answer) for answer in answers]
            rewards = torch.tensor([s.reward for s in part]).repeat_interleave(torch.tensor(answer_lengths))
            weights = weight / len(samples) * token_weights(answer_lengths, settings.loss)
            sums, gradient = gradient_by_states(
                head, states, base_states, targets, rewards.to(states.device), weights.to(states.device), settings
            )
            states.backward(gradient)
            totals += sums.cpu()
    team.all_reduce([totals, *(p.grad for p in model.parameters() if p.requires_grad and p.grad is not None)])
    return dict(zip(("loss", "kl"), totals.tolist(), strict=True))
