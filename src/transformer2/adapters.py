"""Taking PEFT adapters off a base model, so that one model in memory serves one adapter after another."""

from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from transformer2.svf.layer import SVFLayer


def strip(model: Any) -> Any:
    """The base model of a PEFT model as it was loaded: the same modules, and the same parameters bit for bit.

    Works in place. Takes off the layers of every adapter, and gradient checkpointing; puts the model in evaluation mode
    and lets all floating-point parameters ask for gradients, as transformers leaves them. A model without adapters
    stays as it is.

    Args:
        model: a transformers model whose layers PEFT has replaced, or the PEFT model around it, which is of no use
            afterwards.

    Raises:
        ValueError: an adapter is merged or trains biases of the base model, so weights are no longer those that were
            loaded. SVF can be unmerged bit for bit, and is.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if any(getattr(config, "bias", "none") != "none" for config in getattr(base, "peft_config", {}).values()):
        raise ValueError("an adapter trains biases of the base model: load the model again to use it without adapters")
    wrappers = {name: module for name, module in base.named_modules() if _is_outermost(base, name, module)}
    if any(_is_merged(module) for module in wrappers.values()):
        raise ValueError("an adapter is merged into the base model: load the model again to use it without adapters")
    for name, module in wrappers.items():
        if isinstance(module, SVFLayer):
            module.unmerge()
        inner: Any = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
        base.set_submodule(name, inner)
    if hasattr(base, "peft_config"):
        del base.peft_config
    if base.is_gradient_checkpointing:
        base.gradient_checkpointing_disable()
        base.disable_input_require_grads()
    for parameter in base.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    base.zero_grad()
    return base.eval()


def _is_outermost(base: nn.Module, name: str, module: nn.Module) -> bool:
    """Whether a module is a layer that PEFT put in, and lies in no other such layer."""
    if not isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        return False
    parts = name.split(".")
    above = (base.get_submodule(".".join(parts[:length])) for length in range(1, len(parts)))
    return not any(isinstance(one, BaseTunerLayer | AuxiliaryTrainingWrapper) for one in above)


def _is_merged(module: nn.Module) -> bool:
    return isinstance(module, BaseTunerLayer) and module.merged and not isinstance(module, SVFLayer)
