"""Sequences of many lengths in few, well-filled batches."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def by_length(lengths: Sequence[int], max_rows: int) -> Iterator[list[int]]:
    """Indices in batches of at most `max_rows`, longest first, so that little is padded and memory peaks at once."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for start in range(0, len(order), max_rows):
        yield order[start : start + max_rows]


def by_tokens(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of at most `max_tokens` including padding (at least one sequence each), longest first."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad(sequences: Sequence[list[int]], fill: int, side: str) -> tuple[Tensor, Tensor]:
    """(ids, attention mask), both (batch, longest), padded on the `left` (to generate) or the `right` (to train)."""
    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), fill)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        where = slice(longest - len(sequence), longest) if side == "left" else slice(0, len(sequence))
        ids[row, where] = torch.tensor(sequence)
        mask[row, where] = 1
    return ids, mask
