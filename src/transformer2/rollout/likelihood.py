"""Log-probabilities of completions and their divergence from another policy, without (batch, length, vocabulary)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import CHUNK_LOGITS
from .batching import pad
from .pictures import picture_inputs


def completion_states(
    model: Any, prompts: Sequence[list[int]], completions: Sequence[list[int]]
) -> tuple[Tensor, Tensor]:
    """Last hidden states that predict the tokens of the completions, (tokens, width), and those tokens, (tokens,).

    Rows follow each other; `model` is a causal (or vision-language) model of transformers whose logits are its output
    head applied to these states.
    """
    ids, mask = pad([[*p, *c] for p, c in zip(prompts, completions, strict=True)], 0, "right")
    ids, mask = ids.to(model.device), mask.to(model.device)
    pictures = picture_inputs(prompts, model.device)
    states = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False, **pictures).last_hidden_state
    position = torch.arange(ids.shape[1], device=ids.device)
    start = torch.tensor([len(p) for p in prompts], device=ids.device)[:, None]
    answered = ((position >= start) & mask.bool())[:, 1:]
    # On several GPUs the last layer is not where the first one is.
    return states[:, :-1][answered.to(states.device)], ids[:, 1:][answered]


def token_logprobs(head: Any, states: Tensor, targets: Tensor) -> Tensor:
    """log pi(target) (tokens,) in float32.

    Naive equivalent: `head(states).log_softmax(-1).gather(-1, targets[:, None])[:, 0]`.
    """
    logprobs = torch.empty(len(states), device=states.device)  # there may be no token at all
    for part in parts(head, states):
        logprobs[part] = of_targets(distributions(head, states[part]), targets[part])
    return logprobs


def token_kl(policy: Tensor, base: Tensor, direction: str) -> Tensor:
    """Exact KL (tokens,) between next-token distributions, log-probabilities over the vocabulary of two policies.

    `policy_to_base` is KL(policy || base) as in Eq. (1), `base_to_policy` the reverse, which the released code uses.
    """
    p, q = (policy, base) if direction == "policy_to_base" else (base, policy)
    return (p.exp() * (p - q)).sum(-1)


def distributions(head: nn.Module, states: Tensor) -> Tensor:
    """Log-probabilities of every next token, (tokens, vocabulary), in float32."""
    return head(states).float().log_softmax(-1)


def of_targets(logprobs: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target, (tokens,), from log-probabilities (tokens, vocabulary)."""
    return logprobs.gather(-1, targets[:, None].to(logprobs.device))[:, 0]


def parts(head: Any, states: Tensor) -> list[slice]:
    """`states` in pieces whose logits have at most `CHUNK_LOGITS` numbers."""
    size = max(1, CHUNK_LOGITS // head.weight.shape[0])
    return [slice(first, first + size) for first in range(0, len(states), size)]
