"""SVF as a PEFT tuner: swaps the targeted linear modules for `layer.Linear`."""

import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from .basis import Basis, BasisFile, decompose
from .config import SVFConfig
from .layer import BASE_ROW, Linear, SVFLayer

DECODER_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class SVFModel(BaseTuner):
    """Singular value fine-tuning (Section 3.2): W' = U diag(s * z) V^T with a trained z for each targeted matrix."""

    prefix = "svf_"
    tuner_layer_cls = SVFLayer
    target_module_mapping = dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), DECODER_PROJECTIONS)

    def _create_and_replace(  # type: ignore[override]
        self, peft_config: SVFConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str, **_: Any,
    ) -> None:  # fmt: skip
        if isinstance(target, Linear):
            target.update_layer(adapter_name, peft_config)
            return
        if target is self.model.get_output_embeddings():  # type: ignore[operator]
            raise ValueError(
                f"{current_key} is the output head; SVF adapts decoder layers only: leave it out of target_modules"
            )
        new_module = Linear(target, self._basis(peft_config, current_key, target), adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            new_module.requires_grad_(False)
        self._replace_module(parent, target_name, new_module, target)

    def add_weighted_adapter(self, adapters: Sequence[str], weights: Tensor, adapter_name: str) -> None:
        """Adds (or overwrites) the adapter z' = sum_k alpha_k z_k of Section 3.2 (C).

        Args:
            adapters: the K experts; all must scale the same matrices.
            weights: alpha, (K,) or (K, layers) with one column for each decoder layer that the experts scale, in order.
            adapter_name: of the mixed adapter. It holds z' itself, whatever the experts' parametrisation is.

        Raises:
            ValueError: an expert is not there, or as `mixed_vectors`.
        """
        if missing := [name for name in adapters if name not in self.peft_config]:
            raise ValueError(f"no adapter named {', '.join(missing)}; there are {', '.join(self.peft_config)}")
        with torch.no_grad():
            mixed = mixed_vectors({adapter: self.vectors(adapter) for adapter in adapters}, weights)
        if adapter_name not in self.peft_config:
            self.peft_config[adapter_name] = replace(
                self.peft_config[adapters[0]],  # type: ignore[type-var]
                parametrisation="linear", init_mean=None, init_std=0.0, inference_mode=True,
            )  # fmt: skip
            self.inject_adapter(self.model, adapter_name)
        with torch.no_grad():
            for name, layer in self.svf_layers():
                if name in mixed:
                    layer.svf_z[adapter_name].copy_(mixed[name])

    def vectors(self, adapter: str) -> dict[str, Tensor]:
        """z (r,) of every matrix that an adapter scales, by its name; differentiable in the trained vectors."""
        return {name: layer.z(adapter) for name, layer in self.svf_layers() if adapter in layer.svf_z}

    def scaled_layers(self, adapter: str) -> list[int]:
        """Decoder layers in which an adapter scales matrices, in order."""
        return sorted({decoder_layer(name) for name, layer in self.svf_layers() if adapter in layer.svf_z})

    def svf_layers(self) -> list[tuple[str, SVFLayer]]:
        """Every layer that some adapter scales, with its name."""
        return [(name, module) for name, module in self.named_modules() if isinstance(module, SVFLayer)]

    @staticmethod
    def _basis(config: SVFConfig, name: str, target: nn.Module) -> Basis:
        weight = target.weight.data  # type: ignore[union-attr]
        return decompose(weight) if config.basis_path is None else BasisFile(config.basis_path).load(name, weight)  # type: ignore[arg-type]

    @contextmanager
    def _enable_peft_forward_hooks(self, *_: Any, **kwargs: Any):
        """Hands `adapter_names`, one a row of the batch, to every SVF layer for one forward pass."""
        adapter_names: list[str] | None = kwargs.pop("adapter_names", None)
        if adapter_names is None:
            yield
            return
        if self.training:
            raise ValueError("adapter_names are for inference: call model.eval() first")
        unknown = sorted(set(adapter_names) - set(self.peft_config) - {BASE_ROW})
        if unknown:
            raise ValueError(
                f"no adapter named {', '.join(unknown)}; there are {', '.join(self.peft_config)} and {BASE_ROW}"
            )
        hooks = [
            module.register_forward_pre_hook(partial(_add_adapter_names, adapter_names), with_kwargs=True)
            for module in self.modules()
            if isinstance(module, Linear)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def mixed_vectors(experts: Mapping[str, Mapping[str, Tensor]], weights: Tensor) -> dict[str, Tensor]:
    """z' = sum_k alpha_k z_k of Section 3.2 (C), by matrix.

    Args:
        experts: z by matrix of each of the K experts; all must scale the same matrices.
        weights: alpha, (K,) or (K, layers) with one column for each decoder layer that the experts scale, in order.

    Raises:
        ValueError: the experts scale other matrices, the weights have another shape, or they are zero for all experts
            at once: z' = 0 would delete a matrix.
    """
    (first, of_first), *others = experts.items()
    for name, of_other in others:
        if different := of_other.keys() ^ of_first.keys():
            raise ValueError(
                f"{first} and {name} scale other matrices ({sorted(different)[0]} and {len(different) - 1} more are in "
                "one of them only): they cannot be mixed"
            )
    layers = sorted({decoder_layer(matrix) for matrix in of_first})
    alpha = torch.as_tensor(weights, dtype=torch.float32)
    alpha = alpha[:, None].expand(-1, len(layers)) if alpha.ndim == 1 else alpha
    if alpha.shape != (len(experts), len(layers)):
        raise ValueError(
            f"alpha has the shape {tuple(alpha.shape)}; for {len(experts)} experts and {len(layers)} layers "
            f"it must be ({len(experts)},) or ({len(experts)}, {len(layers)})"
        )
    if (alpha == 0).all(0).any():
        raise ValueError("alpha is zero for all experts: z' = 0 would delete the matrices it scales")
    found = {}
    for matrix in of_first:
        z = torch.stack([vectors[matrix] for vectors in experts.values()])
        found[matrix] = alpha[:, layers.index(decoder_layer(matrix))].to(z.device) @ z
    return found


def decoder_layer(name: str) -> int:
    """Index of the decoder layer that a module belongs to."""
    found = re.search(r"\.layers\.(\d+)\.", f".{name}")
    if found is None:
        raise ValueError(f"{name} lies in no decoder layer")
    return int(found[1])


def _add_adapter_names(adapter_names: list[str], _module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    return args, kwargs | {"adapter_names": adapter_names}
