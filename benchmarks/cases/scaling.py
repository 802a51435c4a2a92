"""How time and memory grow with width, depth, batch, candidates of a search and experts, on random Llamas."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from transformer2.rollout.engine import Sampling
from transformer2.rollout.hf import HFEngine

from .. import training
from ..measuring import Side, Work, first, timed
from ..models import NoTokenizer, random_llama, token_ids, with_svf
from ..options import Device, Dtype, Repeats

WIDTHS, DEPTHS, BATCHES, CANDIDATES, EXPERTS = (128, 256, 512), (2, 4, 8), (2, 4, 8, 16), (2, 4, 8, 16), (2, 4, 8)
ANSWER_TOKENS = 48
PROMPT_TOKENS = 16
PROMPTS = 4


def measure(device: Device = "cpu", dtype: Dtype = "float32", repeats: Repeats = 3) -> dict[str, Any]:
    """Growth of time and memory, with exponents."""
    kinds: dict[str, tuple[Iterable[int], Callable[[int], Work]]] = {
        "width": (WIDTHS, lambda width: step(llama(device, dtype, width=width), 8)),
        "depth": (DEPTHS, lambda depth: step(llama(device, dtype, depth=depth), 8)),
        "answers of a batch": (BATCHES, lambda answers: step(llama(device, dtype), answers)),
        "candidates": (CANDIDATES, lambda candidates: mixed(llama(device, dtype), 2, candidates)),
        "experts": (EXPERTS, lambda experts: mixed(llama(device, dtype), experts, 8)),
    }
    growth = {
        what: [point(size, Side(what, lambda s=size, b=build: b(s)), repeats, device) for size in sizes]
        for what, (sizes, build) in kinds.items()
    }
    return {"growth": growth, "exponents": {what: fitted(points) for what, points in growth.items()}}


def llama(device: str, dtype: str, width: int = 256, depth: int = 4) -> Any:
    heads = width // 64
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": depth, "vocab_size": 4096,
             "num_attention_heads": heads, "num_key_value_heads": heads, "tie_word_embeddings": True}  # fmt: skip
    return random_llama(sizes, device, dtype)


def step(base: Any, answers: int) -> Work:
    """An optimizer step with the divergence from the base model, all answers in one pass."""
    settings = training.settings("paper", kl_coefficient=0.1, micro_batch_tokens=10**6)
    batch = training.samples(base, answers, PROMPT_TOKENS, ANSWER_TOKENS)
    take = training.optimizer_step(with_svf(base), settings)
    return lambda: take(batch)


def mixed(base: Any, experts: int, candidates: int) -> Work:
    """Answers of candidates of a search, each a mix of so many experts, to a few prompts."""
    names = [f"expert{i}" for i in range(experts)]
    adapted = with_svf(base.eval(), names).eval()
    engine = HFEngine(adapted, NoTokenizer(), batch_rows=candidates * PROMPTS)
    rows = token_ids(adapted, [PROMPT_TOKENS] * PROMPTS) * candidates
    of_row = [f"candidate{i}" for i in range(candidates) for _ in range(PROMPTS)]

    def work() -> None:
        for i in range(candidates):
            engine.mix(f"candidate{i}", names, torch.full((experts,), 1 / experts))
        engine.generate(rows, Sampling(8), of_row)

    return work


def point(size: int, side: Side, repeats: int, device: str) -> dict[str, float]:
    work, measured = first(side, device)
    times = [timed(work, device) for _ in range(repeats)]
    wall, processor = (float(np.median(column)) for column in zip(*times, strict=True))
    return {"size": size, "flops": measured.flops, "peak_bytes": measured.peak_bytes,
            "seconds": wall, "processor_seconds": processor}  # fmt: skip


def fitted(points: list[dict[str, float]]) -> dict[str, float]:
    """Exponents of a cost that grows as a power of the size: the slope of its logarithm."""
    sizes = np.log([point["size"] for point in points])
    costs = {kind: np.log([point[kind] for point in points]) for kind in points[0] if kind != "size"}
    return {kind: round(float(np.polyfit(sizes, values, 1)[0]), 3) for kind, values in costs.items()}
