"""An optimizer step of SVF with the recipe `release`, against the algorithm of the released code."""

from typing import Any

import torch
from torch import Tensor

from .. import training
from ..measuring import Side, Work, compare, ratios
from ..models import load, with_svf
from ..options import Answers, AnswerTokens, Device, Dtype, MicroBatch, Model, PromptTokens, Repeats
from ..released import ReleasedStep, start


def measure(
    device: Device = "cpu", model: Model = "smollm2", dtype: Dtype = "float32", repeats: Repeats = 2,
    answers: Answers = 8, prompt_tokens: PromptTokens = 80, answer_tokens: AnswerTokens = 80,
    micro_batch_tokens: MicroBatch = 512,
) -> dict[str, Any]:  # fmt: skip
    """An optimizer step against the released algorithm's."""
    settings = training.settings("release", kl_coefficient=0.1, micro_batch_tokens=micro_batch_tokens)
    bases = [load(model, device, dtype) for _ in range(2)]  # the rival writes into the weights of its own
    batch = training.samples(bases[0], answers, prompt_tokens, answer_tokens)

    def ours() -> Work:
        adapted = with_svf(bases[0], parametrisation=settings.parametrisation)
        layers = [layer for _, layer in adapted.base_model.svf_layers()]  # type: ignore[operator]
        with torch.no_grad():
            for number, layer in enumerate(layers):
                layer.svf_z["default"].copy_(start(number, len(layer.svf_s), settings))
        step = training.optimizer_step(adapted, settings)

        def work() -> tuple[Tensor, Tensor]:
            gradients = step(batch)
            return gradients, torch.cat([layer.z("default").detach() for layer in layers])

        return work

    def released() -> Work:
        step = ReleasedStep(bases[1], settings)
        return lambda: step(batch)

    measured = compare([Side("svf", ours), Side("released", released)], repeats, device)
    (gradients, z), (of_rival, z_of_rival) = measured["svf"].result, measured["released"].result
    return {
        "sides": {name: one.facts() for name, one in measured.items()},
        "ratios": {"released/svf": ratios(measured, "svf", "released", device)},
        "same": {
            "relative_difference_of_gradients": float((gradients - of_rival).norm() / of_rival.norm()),
            "largest_difference_of_z": float((z - z_of_rival).abs().max()),
            "share_of_z_within_1e-6": float(((z - z_of_rival).abs() <= 1e-6).float().mean()),
        },
    }
