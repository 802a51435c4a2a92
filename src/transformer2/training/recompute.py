"""Gradient checkpointing of transformers: a decoder layer keeps only its input and runs again in the backward pass."""

from typing import Any

from peft import PeftModel
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_layers(model: PeftModel) -> None:
    """Makes layers keep only their inputs in steps of gradients (`set_training_mode`)."""
    base: Any = model.get_base_model()
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # It makes the embedding's output ask for a gradient, which only reentrant checkpointing needs: layers below the
    # first adapted one would keep their inputs, and the backward pass would go through them for nothing.
    base.disable_input_require_grads()


def set_training_mode(model: PeftModel, dropout: bool) -> None:
    """Puts the model in the mode of a step of gradients, with or without dropout; `model.eval()` ends it.

    A layer recomputes only while its own flag says training mode. The flag is set here also without dropout, where the
    modules inside the layer are not in training mode.
    """
    model.train(dropout)
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            module.training = True
