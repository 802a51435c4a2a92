"""Log-probabilities of completions and their divergence from another policy, without (batch, length, vocabulary)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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


def token_logprobs(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    """log pi(target) (tokens,) in float32.

    Naive equivalent: `head(states).log_softmax(-1).gather(-1, targets[:, None])[:, 0]`.
    """
    return _in_chunks(head, _logprobs, states, targets)


def token_kl(head: nn.Module, states: Tensor, base_states: Tensor, direction: str) -> Tensor:
    """Exact KL between the next-token distributions of two policies that share a head, (tokens,).

    `policy_to_base` is KL(policy || base) as in Eq. (1), `base_to_policy` the reverse, which the released code uses.
    """
    return _in_chunks(
        head, _kl_policy_to_base if direction == "policy_to_base" else _kl_base_to_policy, states, base_states
    )


def _logprobs(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    logits = head(states).float()
    return logits.gather(-1, targets[:, None].to(logits.device))[:, 0] - logits.logsumexp(-1)


def _kl_policy_to_base(head: nn.Module, states: Tensor, base_states: Tensor) -> Tensor:
    policy, base = head(states).float().log_softmax(-1), head(base_states).float().log_softmax(-1)
    return (policy.exp() * (policy - base)).sum(-1)


def _kl_base_to_policy(head: nn.Module, states: Tensor, base_states: Tensor) -> Tensor:
    return _kl_policy_to_base(head, base_states, states)


def _in_chunks(head: Any, function: Any, *tensors: Tensor) -> Tensor:
    """`function` over pieces of the tensors; the logits of a piece are computed again in the backward pass."""
    size = max(1, CHUNK_LOGITS // head.weight.shape[0])
    pieces = list(zip(*(tensor.split(size) for tensor in tensors), strict=True))
    if len(pieces) == 1:
        return function(head, *pieces[0])
    return torch.cat([checkpoint(function, head, *piece, use_reentrant=False) for piece in pieces])  # type: ignore[arg-type]
