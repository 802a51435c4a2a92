"""Steps of gradients as the project's training loop takes them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from transformer2.config import RECIPES, Training
from transformer2.training.loop import BETAS
from transformer2.training.objective import Sample, accumulate_gradients
from transformer2.training.recompute import set_training_mode

from .models import token_ids


def settings(recipe: str, **differing: Any) -> Training:
    """Training settings of a recipe, with what differs from it."""
    return Training(**(RECIPES[recipe] | differing))


def samples(model: Any, answers: int, prompt_tokens: int, answer_tokens: int) -> list[Sample]:
    """Answers of random tokens, one of three right."""
    rows = token_ids(model, [prompt_tokens + answer_tokens] * answers)
    return [Sample(row[:prompt_tokens], row[prompt_tokens:], -1.0 if i % 3 else 1.0) for i, row in enumerate(rows)]


def optimizer_step(model: PeftModel, settings: Training) -> Callable[[Sequence[Sample]], Tensor]:
    """A function that takes one optimizer step and returns the gradients of all trained numbers, one after another."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=settings.learning_rate, betas=BETAS)

    def step(batch: Sequence[Sample]) -> Tensor:
        set_training_mode(model, dropout=False)
        optimizer.zero_grad()
        accumulate_gradients(model, batch, settings)
        gradients = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm)
        optimizer.step()
        model.eval()
        return gradients

    return step
