"""Forward and backward passes of next-token training: SVF against PEFT's LoRA on the same matrices.

Vectors do not change meanwhile, so W' is there: making it costs once a step, whatever the batch is (see `step`).
"""

from typing import Any

from transformer2.training.objective import accumulate_gradients
from transformer2.training.recompute import set_training_mode

from .. import training
from ..measuring import Side, Work, compare, ratios
from ..models import load, with_lora, with_svf
from ..options import Answers, AnswerTokens, Device, Dtype, MicroBatch, Model, PromptTokens, Rank, Repeats


def measure(
    device: Device = "cpu", model: Model = "smollm2", dtype: Dtype = "float32", repeats: Repeats = 2,
    answers: Answers = 12, prompt_tokens: PromptTokens = 80, answer_tokens: AnswerTokens = 80,
    micro_batch_tokens: MicroBatch = 2048, rank: Rank = 16,
) -> dict[str, Any]:  # fmt: skip
    """Forward and backward passes, against LoRA on the same matrices."""
    settings = training.settings("paper-lora", micro_batch_tokens=micro_batch_tokens)
    bases = [load(model, device, dtype) for _ in range(2)]
    batch = training.samples(bases[0], answers, prompt_tokens, answer_tokens)

    def side(adapted: Any) -> Work:
        set_training_mode(adapted, dropout=False)
        return lambda: accumulate_gradients(adapted, batch, settings)

    measured = compare(
        [Side("svf", lambda: side(with_svf(bases[0]))), Side("lora", lambda: side(with_lora(bases[1], rank)))],
        repeats, device,
    )  # fmt: skip
    return {
        "sides": {name: one.facts() for name, one in measured.items()},
        "ratios": {"lora/svf": ratios(measured, "svf", "lora", device)},
        "tokens": answers * (prompt_tokens + answer_tokens),
    }
