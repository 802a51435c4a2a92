"""How time and memory grow with width, depth, batch, candidates of a search and experts, on random Llamas."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from transformer2.planning import costs
from transformer2.planning.costs import Adapted, Size
from transformer2.rollout.engine import Sampling
from transformer2.rollout.hf import HFEngine

from .. import training
from ..measuring import Side, Work, first, timed
from ..models import NoTokenizer, random_llama, token_ids, with_svf
from ..options import Device, Dtype, Repeats

WIDTHS, DEPTHS, BATCHES, CANDIDATES, EXPERTS = (256, 512, 1024), (4, 8, 16), (4, 8, 16, 32), (2, 4, 8, 16), (2, 4, 8)
ANSWER_TOKENS = 48
PROMPT_TOKENS = 16
TOKENS = PROMPT_TOKENS + ANSWER_TOKENS
PROMPTS = 4
MIXED_TOKENS = 8
BYTES = {"float32": 4, "bfloat16": 2}


def measure(device: Device = "cpu", dtype: Dtype = "float32", repeats: Repeats = 3) -> dict[str, Any]:
    """Growth of time and memory, with exponents, beside what `transformer2 plan` reckons with."""
    b = BYTES[dtype]

    def of_step(size: Size, answers: int) -> Case:
        return Case(lambda: step(llama(device, dtype, size), answers), *planned_step(size, answers, b))

    def of_mix(experts: int, candidates: int) -> Case:
        size = sizes()
        return Case(lambda: mixed(llama(device, dtype, size), experts, candidates),
                    *planned_mix(size, experts, candidates, b))  # fmt: skip

    kinds: dict[str, tuple[Iterable[int], Callable[[int], Case]]] = {
        "width": (WIDTHS, lambda width: of_step(sizes(width=width), 8)),
        "depth": (DEPTHS, lambda depth: of_step(sizes(depth=depth), 8)),
        "answers of a batch": (BATCHES, lambda answers: of_step(sizes(), answers)),
        "candidates": (CANDIDATES, lambda candidates: of_mix(2, candidates)),
        "experts": (EXPERTS, lambda experts: of_mix(experts, 8)),
    }
    growth = {
        what: [point(size, case_of(size), repeats, device) for size in of_kind]
        for what, (of_kind, case_of) in kinds.items()
    }
    return {"growth": growth, "exponents": {what: fitted(points) for what, points in growth.items()}}


@dataclass(frozen=True)
class Case:
    """Work of one size, with the operations and bytes that are planned for it."""

    build: Callable[[], Work]
    planned_flops: float
    planned_peak_bytes: float


def sizes(width: int = 512, depth: int = 4) -> Size:
    return Size(depth, width, width, 3 * width, 4096, tied=True)


def llama(device: str, dtype: str, size: Size) -> Any:
    heads = size.hidden // 64
    config = {"hidden_size": size.hidden, "intermediate_size": size.intermediate, "num_hidden_layers": size.layers,
              "vocab_size": size.vocabulary, "num_attention_heads": heads, "num_key_value_heads": heads,
              "tie_word_embeddings": size.tied}  # fmt: skip
    return random_llama(config, device, dtype)


def step(base: Any, answers: int) -> Work:
    """An optimizer step with the divergence from the base model, all answers in one pass."""
    settings = training.settings("paper", kl_coefficient=0.1, micro_batch_tokens=10**6)
    batch = training.samples(base, answers, PROMPT_TOKENS, ANSWER_TOKENS)
    take = training.optimizer_step(with_svf(base), settings)
    return lambda: take(batch)


def planned_step(size: Size, answers: int, b: int) -> tuple[float, float]:
    adapted, tokens, answered = Adapted("svf", "mlp", size.layers), answers * TOKENS, answers * ANSWER_TOKENS
    trained = costs.trained_numbers(size, {"adapter": "svf", "modules": "mlp"}, size.layers)
    memory = costs.training_gb(size, adapted, tokens, answered, trained, b, kl=True)
    return costs.learning_operations(size, adapted, tokens, answered, tokens, kl=True), as_bytes(memory)


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
        engine.generate(rows, Sampling(MIXED_TOKENS), of_row)

    return work


def planned_mix(size: Size, experts: int, candidates: int, b: int) -> tuple[float, float]:
    adapted, rows = Adapted("svf", "mlp", size.layers), candidates * PROMPTS
    operations = 2 * size.parameters * costs.factored(size, adapted) * rows * (PROMPT_TOKENS + MIXED_TOKENS)
    return operations, as_bytes(costs.answering_gb(size, adapted, rows, PROMPT_TOKENS, MIXED_TOKENS, b, experts))


def as_bytes(gb: float) -> float:
    """Without what CUDA holds by itself, which torch's allocator does not count, nor a CPU has."""
    return (gb - costs.CONTEXT_GB) * costs.GB


def point(size: int, case: Case, repeats: int, device: str) -> dict[str, float]:
    work, measured = first(Side("", case.build), device)
    times = [timed(work, device) for _ in range(repeats)]
    wall, processor = (float(np.median(column)) for column in zip(*times, strict=True))
    return {"size": size, "flops": measured.flops, "planned_flops": round(case.planned_flops),
            "peak_bytes": measured.peak_bytes, "planned_peak_bytes": round(case.planned_peak_bytes),
            "seconds": wall, "processor_seconds": processor}  # fmt: skip


def fitted(points: list[dict[str, float]]) -> dict[str, float]:
    """Exponents of a cost that grows as a power of the size: the slope of its logarithm."""
    sizes = np.log([point["size"] for point in points])
    costs = {kind: np.log([point[kind] for point in points]) for kind in points[0] if kind != "size"}
    return {kind: round(float(np.polyfit(sizes, values, 1)[0]), 3) + 0.0 for kind, values in costs.items()}
