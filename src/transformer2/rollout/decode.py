"""Decoding token by token with a model of transformers, in few and small forward passes.

What all prompts begin with is computed once, and rows that have ended leave the batch. Naive equivalent: `generate` of
transformers, greedily or at a temperature, without top-k, top-p and penalties.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from .batching import pad
from .pictures import PicturePrompt, picture_inputs

SHORTEST_PREFIX = 8
"""Tokens: what a forward pass of its own is worth."""
LEAVING = 0.25
"""Share of a batch that has ended when its rows leave: the cache of the others is copied then."""

OfRows = Callable[[Sequence[str | None] | None], AbstractContextManager[None]]
"""Gives the rows of the forward passes inside experts of their own; None gives all the active one."""


@dataclass(frozen=True)
class Prefix:
    """What all prompts begin with: its tokens, and the cache of keys and values with one row for each expert."""

    ids: list[int]
    cache: Any
    row: dict[str | None, int]

    def of(self, experts: Sequence[str | None]) -> Any:
        """The cache with one row for each of these experts."""
        chosen = copy.deepcopy(self.cache)
        chosen.batch_select_indices(torch.tensor([self.row[name] for name in experts]))
        return chosen


def common_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """The tokens that all prompts begin with, shorter than each of them; none for prompts with pictures."""
    if any(isinstance(prompt, PicturePrompt) for prompt in prompts):
        return []
    first, last = min(prompts), max(prompts)  # in the order of lists: the two that differ earliest
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(map(len, prompts)))
    return first[: min(length, min(map(len, prompts)) - 1)]


def prefix_of(
    model: Any, prompts: Sequence[list[int]], experts: Sequence[str | None] | None, of_rows: OfRows
) -> Prefix:
    """The shared prefix of prompts, computed once for each of their experts; empty where it saves nothing, and for
    models that attend within a window: it would count the padding that comes between the prefix and shorter prompts."""
    ids, cache = common_prefix(prompts), DynamicCache(config=model.config)
    names: list[str | None] = [None] if experts is None else sorted(set(experts), key=str)
    if len(ids) < SHORTEST_PREFIX or len(names) == len(prompts) or any(cache.is_sliding):
        return Prefix([], cache, {})
    with of_rows(None if experts is None else names):
        model(input_ids=torch.tensor([ids] * len(names), device=model.device), past_key_values=cache, logits_to_keep=1)
    return Prefix(ids, cache, {name: row for row, name in enumerate(names)})


def decode(
    model: Any, prompts: Sequence[list[int]], experts: Sequence[str | None] | None, prefix: Prefix, of_rows: OfRows,
    max_new_tokens: int, choose: Callable[[Tensor, list[int]], Tensor], ended: Callable[[list[int]], bool],
    fill: int, streamer: Any = None,
) -> list[list[int]]:  # fmt: skip
    """The tokens that continue each prompt, the one that ends it included.

    Args:
        model: causal (or vision-language) model of transformers.
        prompts: one batch; longer than `prefix`, which they begin with.
        experts: of the rows; None gives all the active one.
        prefix: of these prompts and experts.
        of_rows: see `OfRows`.
        max_new_tokens: of an answer.
        choose: the next token (rows,) of the logits (rows, vocabulary) of those rows of the batch.
        ended: whether an answer of these tokens ends with the last of them.
        fill: token id of padding.
        streamer: of transformers, for a batch of one row.
    """
    ids, mask = (t.to(model.device) for t in pad([prompt[len(prefix.ids) :] for prompt in prompts], fill, "left"))
    mask = torch.cat([mask.new_ones(len(prompts), len(prefix.ids)), mask], dim=1)
    cache = prefix.of(experts or [None] * len(prompts)) if prefix.ids else DynamicCache(config=model.config)
    inputs: dict[str, Any] = picture_inputs(prompts, model.device)
    answers: list[list[int]] = [[] for _ in prompts]
    if streamer:
        streamer.put(torch.tensor(prompts))
    alive, running = list(range(len(prompts))), set(range(len(prompts)))  # rows in the cache; those that have not ended
    while alive:
        with of_rows(None if experts is None else [experts[row] for row in alive]):
            while len(running) > (1 - LEAVING) * len(alive):
                positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
                output = model(
                    input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                    logits_to_keep=1, **inputs,
                )  # fmt: skip
                inputs = {}
                tokens = choose(output.logits[:, -1], alive)
                for row, token in zip(alive, tokens.tolist(), strict=True):
                    if row in running:
                        answers[row].append(token)
                        if len(answers[row]) == max_new_tokens or ended(answers[row]):
                            running.remove(row)
                if streamer:
                    streamer.put(tokens.cpu())
                ids, mask = tokens[:, None].to(ids), torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
        keep = [i for i, row in enumerate(alive) if row in running]
        if keep:
            cache.batch_select_indices(torch.tensor(keep))  # on the CPU: layers may lie on several GPUs
            ids, mask = ids[keep], mask[keep]
        alive = [alive[i] for i in keep]
    if streamer:
        streamer.end()
    return answers
