"""Answers to prompts that begin with the same words: the project's engine against `generate` in order of arrival."""

from typing import Any

import torch
from transformers import GenerationConfig

from transformer2.rollout.batching import pad
from transformer2.rollout.engine import Sampling
from transformer2.rollout.hf import HFEngine

from ..measuring import Side, compare, ratios
from ..models import NoTokenizer, load, token_ids, with_svf
from ..options import AnswerTokens, BatchRows, Device, Dtype, Model, Prompts, PromptTokens, Repeats, SharedTokens

ENDING = 48
"""One token of so many ends an answer, so that answers of random weights have many lengths."""


def measure(
    device: Device = "cpu", model: Model = "smollm2", dtype: Dtype = "float32", repeats: Repeats = 1,
    prompts: Prompts = 32, shared_tokens: SharedTokens = 64, prompt_tokens: PromptTokens = 48,
    answer_tokens: AnswerTokens = 48, batch_rows: BatchRows = 16,
) -> dict[str, Any]:  # fmt: skip
    """Prompts answered greedily, against transformers' `generate` in order of arrival."""
    adapted = with_svf(load(model, device, dtype)).eval()
    [shared] = token_ids(adapted, [shared_tokens], seed=5)
    lengths = torch.randint(
        prompt_tokens // 2, prompt_tokens + 1, (prompts,), generator=torch.Generator().manual_seed(4)
    )
    rows = [[*shared, *own] for own in token_ids(adapted, lengths.tolist())]
    ends = list(range(5, adapted.config.get_text_config().vocab_size, ENDING))
    adapted.get_base_model().generation_config = GenerationConfig(pad_token_id=0, eos_token_id=ends)  # type: ignore
    engine = HFEngine(adapted, NoTokenizer(), batch_rows)

    def ours() -> list[list[int]]:
        return [answer.token_ids for answer in engine.generate(rows, Sampling(answer_tokens))]

    def arrival() -> list[list[int]]:
        config = GenerationConfig(max_new_tokens=answer_tokens, do_sample=False, eos_token_id=ends, pad_token_id=0)
        answers = []
        for first in range(0, prompts, batch_rows):
            ids, mask = (t.to(adapted.device) for t in pad(rows[first : first + batch_rows], 0, "left"))
            with torch.no_grad():
                output = adapted.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            answers += [until_end(row, set(ends)) for row in output[:, ids.shape[1] :].tolist()]
        return answers

    measured = compare([Side("ours", lambda: ours), Side("generate", lambda: arrival)], repeats, device)
    pairs = list(zip(measured["ours"].result, measured["generate"].result, strict=True))
    return {
        "sides": {name: one.facts() for name, one in measured.items()},
        "ratios": {"generate/ours": ratios(measured, "ours", "generate", device)},
        "same": {"answers": sum(a == b for a, b in pairs), "of": len(pairs)},
        "mean_answer_tokens": sum(len(a) for a, _ in pairs) / len(pairs),
    }


def until_end(row: list[int], ends: set[int]) -> list[int]:
    """An answer up to and with the token that ends it."""
    return row[: next((i + 1 for i, token in enumerate(row) if token in ends), None)]
