"""Attention of models with fewer heads of keys than of queries, one new token a row at a time."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_grouped"
"""Under which transformers knows it."""


def grouped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention (rows, queries, heads, width) of queries (rows, heads, queries, width), keys and values.

    The query heads that share a head of keys become its queries, so that neither keys nor values are repeated. Where
    there is more than one query a row, and so a causal mask, it is transformers' own `sdpa`, the naive equivalent.
    """
    groups = query.shape[1] // key.shape[1]
    if query.shape[2] > 1 or groups == 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    together = query.view(len(query), key.shape[1], groups, -1)
    answer = F.scaled_dot_product_attention(together, key, value, attention_mask, scale=options.get("scaling"))
    return answer.view(query.shape).transpose(1, 2), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def group_heads(model: Any) -> None:
    """Lets a language model that attends by `sdpa` do so by `grouped_attention`. Classes of transformers that choose
    their attention in another way stay as they are."""
    decoder = model.get_decoder()
    if decoder.config._attn_implementation == "sdpa":
        decoder.set_attn_implementation(NAME)
