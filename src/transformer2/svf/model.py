"""SVF as a PEFT tuner: swaps the targeted linear modules for `layer.Linear`."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from .basis import Basis, decompose, open_bases
from .config import SVFConfig
from .layer import BASE_ROW, Linear, SVFLayer, hold, hold_rows
from .targets import TARGET_MODULES, check_target, dense_weight

LAYER = re.compile(r"(?:^|\.)(\d+)\.")
"""The number of a decoder layer in the name of a module: the first one."""


class SVFModel(BaseTuner):
    """Singular value fine-tuning (Section 3.2): W' = U diag(s * z) V^T with a trained z for each targeted matrix."""

    prefix = "svf_"
    tuner_layer_cls = SVFLayer
    target_module_mapping = TARGET_MODULES

    def _create_and_replace(  # type: ignore[override]
        self, peft_config: SVFConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str, **_: Any,
    ) -> None:  # fmt: skip
        if isinstance(target, Linear):
            target.update_layer(adapter_name, peft_config)
            return
        check_target(current_key, target, self.model)
        new_module = Linear(target, self._basis(peft_config, current_key, target), adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            new_module.requires_grad_(False)
        self._replace_module(parent, target_name, new_module, target)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Leaves vectors in float32; without `autocast_adapter_dtype`, casts them to the dtype of the base model."""
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        for _, layer in [] if autocast_adapter_dtype else self.svf_layers():
            if adapter_name in layer.svf_z:
                vector = layer.svf_z[adapter_name]
                layer.svf_z[adapter_name] = nn.Parameter(vector.to(layer.svf_q.dtype), vector.requires_grad)

    def add_weighted_adapter(self, adapters: Sequence[str], weights: Tensor | list[float], adapter_name: str) -> None:
        """Adds (or overwrites) the adapter z' = sum_k alpha_k z_k of Section 3.2 (C).

        Args:
            adapters: the K experts; all must scale the same matrices.
            weights: alpha, (K,) or (K, layers) with one column for each decoder layer that the experts scale, in order.
            adapter_name: of the mixed adapter. It holds z' itself, whatever the experts' parametrisation is.

        Raises:
            ValueError: an expert is not there, the adapter is there and cannot hold z', or as `mixed_vectors`.
        """
        if missing := [name for name in adapters if name not in self.peft_config]:
            raise ValueError(f"no adapter named {', '.join(missing)}; there are {', '.join(self.peft_config)}")
        with torch.no_grad():
            mixed = mixed_vectors({adapter: self.vectors(adapter) for adapter in adapters}, weights)
        if adapter_name in self.peft_config:
            self._check_holds(adapter_name, mixed)
        else:
            self.peft_config[adapter_name] = replace(
                self.peft_config[adapters[0]],  # type: ignore[type-var]
                parametrisation="linear", init_mean=None, init_std=0.0, inference_mode=True,
            )  # fmt: skip
            self.inject_adapter(self.model, adapter_name)
        with torch.no_grad():
            for name, layer in self.svf_layers():
                if name in mixed:
                    layer.svf_z[adapter_name].copy_(mixed[name])

    def _check_holds(self, adapter: str, mixed: Collection[str]) -> None:
        """Raises ValueError unless an adapter trains z itself, of these matrices and no others."""
        config: Any = self.peft_config[adapter]
        if config.parametrisation != "linear":
            raise ValueError(
                f"the adapter {adapter} is there, and its parametrisation {config.parametrisation} cannot hold a mix: "
                "choose another adapter_name"
            )
        scaled = {name for name, layer in self.svf_layers() if adapter in layer.svf_z}
        if different := scaled ^ set(mixed):
            raise ValueError(
                f"the adapter {adapter} is there, and scales other matrices than the experts ({min(different)} and "
                f"{len(different) - 1} more are in one of them only): choose another adapter_name"
            )

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
        weight = dense_weight(target)
        return decompose(weight) if config.basis_path is None else open_bases(config.basis_path).load(name, weight)

    @contextmanager
    def adapters_of_rows(self, names: Sequence[str], repeats: Collection[int] = (1,)) -> Iterator[None]:
        """Inside, each row of a batch has its own adapter: of the PEFT model, of the base model, or of a part of it.

        The vectors must not change inside: what the rows need of them is made once.

        Args:
            names: of the adapters (or BASE_ROW), one a row.
            repeats: how often `generate` may repeat each row.

        Raises:
            ValueError: no such adapter, the model is in training mode, or an adapter is merged.
        """
        self._check_names(names)
        hook = partial(_add_adapter_names, names, repeats)
        modules = [module for module in self.modules() if isinstance(module, Linear | AuxiliaryTrainingWrapper)]
        handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in modules]
        try:
            with hold_rows([module for module in modules if isinstance(module, Linear)]):
                yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT enters this around every forward pass and around `generate`, with their arguments.

        Private in name, it is where PEFT's own tuners (LoRA's for one) apply `adapter_names`; there is no other place.
        Without `adapter_names`, W' of every layer is made at once.
        """
        names: list[str] | None = kwargs.get("adapter_names")
        if names is None:
            with hold(self):
                yield
            return
        rows = next((len(one) for one in (*args, *kwargs.values()) if isinstance(one, Tensor)), len(names))
        if len(names) != rows:
            raise ValueError(f"adapter_names has {len(names)} names for {rows} rows; it must have one a row")
        with self.adapters_of_rows(names, _repeats(self.model, kwargs)):
            yield

    def _check_names(self, names: Sequence[str]) -> None:
        """Raises ValueError unless rows can have these adapters now."""
        if self.training:
            raise ValueError("adapter_names are for inference: call model.eval() first")
        if unknown := sorted(set(names) - set(self.peft_config) - {BASE_ROW}):
            raise ValueError(
                f"no adapter named {', '.join(unknown)}; there are {', '.join(self.peft_config)} and {BASE_ROW}"
            )
        if any(layer.merged for _, layer in self.svf_layers()):
            raise ValueError("rows cannot have adapters of their own while one is merged: call unmerge_adapter() first")


def _repeats(model: Any, options: Mapping[str, Any]) -> set[int]:
    """How often `generate` may repeat each row of a batch: for its beams, or for several answers to one prompt."""
    config = options.get("generation_config") or getattr(model, "generation_config", None)
    chosen = (options.get(key) or getattr(config, key, None) or 1 for key in ("num_beams", "num_return_sequences"))
    return {1, *chosen}


def _add_adapter_names(
    names: Sequence[str], repeats: Collection[int], _module: nn.Module, args: tuple, kwargs: dict
) -> tuple[tuple, dict]:
    """Names for the rows that a module is given, each one repeated as `generate` repeats its row."""
    rows = len(args[0]) if args else len(names)
    repeat = rows // len(names)
    if repeat * len(names) != rows or repeat not in repeats:
        raise ValueError(f"adapter_names has {len(names)} names for {rows} rows; it must have one a row")
    return args, kwargs | {"adapter_names": [name for name in names for _ in range(repeat)]}


def mixed_vectors(experts: Mapping[str, Mapping[str, Tensor]], weights: Tensor | list[float]) -> dict[str, Tensor]:
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
    alpha = torch.as_tensor(weights, dtype=torch.float32)
    layers = sorted({int(number[1]) for name in of_first if (number := LAYER.search(name))})
    if alpha.shape not in ((len(experts),), (len(experts), len(layers))):
        raise ValueError(
            f"alpha has the shape {tuple(alpha.shape)}; for {len(experts)} experts and {len(layers)} layers "
            f"it must be ({len(experts)},) or ({len(experts)}, {len(layers)})"
        )
    columns = {name: 0 if alpha.ndim == 1 else layers.index(decoder_layer(name)) for name in of_first}
    alpha = alpha[:, None] if alpha.ndim == 1 else alpha
    if (alpha == 0).all(0).any():
        raise ValueError("alpha is zero for all experts: z' = 0 would delete the matrices it scales")
    mixed = {}
    for matrix in of_first:
        z = torch.stack([vectors[matrix] for vectors in experts.values()])
        mixed[matrix] = alpha[:, columns[matrix]].to(z.device) @ z
    return mixed


def decoder_layer(name: str) -> int:
    """Index of the decoder layer that a module belongs to: the first number in its name, as in `layers.3.mlp`."""
    number = LAYER.search(name)
    if number is None:
        raise ValueError(f"{name} lies in no decoder layer")
    return int(number[1])
