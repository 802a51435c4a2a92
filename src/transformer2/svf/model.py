"""SVF as a PEFT tuner: swaps the targeted linear modules for `layer.Linear`."""

from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

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


def _add_adapter_names(adapter_names: list[str], _module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    return args, kwargs | {"adapter_names": adapter_names}
