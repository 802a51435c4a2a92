"""The modules that SVF can adapt, by architecture, and their weights."""

from collections import ChainMap
from typing import Any

import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.integrations import get_bnb_param_type
from peft.utils.quantization_utils import QuantizationBackend, resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

DECODER_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "stablelm")
PROJECTIONS: dict[str, Any] = dict.fromkeys(LLAMA_LIKE, DECODER_PROJECTIONS)
TARGET_MODULES: Any = ChainMap(PROJECTIONS, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING)
"""Modules that SVF adapts if `target_modules` is not given: every projection of a decoder layer, as in the paper, where
the architecture is of Llama's kind; elsewhere those that PEFT chooses for LoRA (a view of its table)."""
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_target(name: str, module: nn.Module, model: nn.Module) -> None:
    """Raises ValueError, in one line that says why, unless SVF can adapt the module `name` of `model`."""
    if module is _output_head(model):
        raise ValueError(f"{name} is the output head; SVF adapts decoder layers only: leave it out of target_modules")
    if not isinstance(module, (nn.Linear, Conv1D)):
        raise ValueError(f"SVF adapts torch.nn.Linear and transformers' Conv1D, not {type(module).__name__} ({name})")
    if backend_of(module) is not None:
        return
    weight = module.weight
    # What wraps other tensors, as torchao's and DTensors do, says so by this method.
    plain = weight.dtype in DTYPES and not hasattr(weight.data, "__tensor_flatten__")
    if not plain or weight.is_meta or tuple(weight.shape) != _shape(module):
        raise ValueError(
            f"SVF cannot decompose {name}: its weight is a {type(weight.data).__name__} of {weight.dtype} with the "
            f"shape {tuple(weight.shape)} on {weight.device}, not {_shape(module)} numbers; load the model whole and "
            "in floating point (or in 4 or 8 bits by bitsandbytes)"
        )


def backend_of(module: nn.Module) -> QuantizationBackend | None:
    """PEFT's way to read and write the weight of a bitsandbytes module; None for a weight of plain numbers."""
    return resolve_quantization_backend(module) if get_bnb_param_type(module.weight) else None  # type: ignore[arg-type]


def dense_weight(module: nn.Module) -> Tensor:
    """The weight (m, n) of a module that `check_target` accepts: y = x W^T; dequantised if need be."""
    backend = backend_of(module)
    weight: Tensor = module.weight.data if backend is None else backend.get_base_weight(module)  # type: ignore[assignment, union-attr]
    return oriented(module, weight)


def oriented(module: nn.Module, weight: Tensor) -> Tensor:
    """From a module's own layout of a weight to (m, n), and back: transformers' Conv1D keeps (n, m)."""
    return weight.T if isinstance(module, Conv1D) else weight


def multiplies(module: nn.Module) -> bool:
    """Whether the module's forward pass is x W^T + b and nothing else, with a weight of plain numbers."""
    return type(module).forward in (nn.Linear.forward, Conv1D.forward) and backend_of(module) is None


def _shape(module: nn.Linear | Conv1D) -> tuple[int, ...]:
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return module.out_features, module.in_features


def _output_head(model: nn.Module) -> nn.Module | None:
    """The output head of a language model; None if the model has none or does not say."""
    try:
        return model.get_output_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
