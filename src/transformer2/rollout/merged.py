"""Weights of a base model with an adapter merged into them, one matrix at a time: for engines that know no adapters."""

from collections.abc import Iterator

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor


@torch.no_grad()
def merged_parameters(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    """(name, value) of every parameter of the base model that the active adapter changes, with the adapter in it.

    Names are those of the base model without an adapter. The model stays as it is, bit for bit: PEFT merges into a
    copy of one layer's parameters, which is then put aside, as subtracting the adapter again would leave rounding
    errors.
    """
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, BaseTunerLayer) and layer.active_adapters:
            base = layer.get_base_layer()
            kept = {key: parameter.data for key, parameter in base.named_parameters()}
            for parameter in base.parameters():
                parameter.data = parameter.data.clone()
            try:
                layer.merge()
                merged = {key: parameter.data for key, parameter in base.named_parameters()}
            finally:
                layer.merged_adapters.clear()
                for key, parameter in base.named_parameters():
                    parameter.data = kept[key]
            yield from ((f"{name}.{key}", value) for key, value in merged.items())
