"""A linear layer whose singular values are scaled by a trained vector.

Notation: W (m, n) with r = min(m, n), x (..., n), d = z - 1 (r,), Q as in `basis`. Work is done with d, so that the
base model (d = 0) is exact in every dtype.
"""

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from .basis import Basis, is_tall, scale_weight
from .config import SVFConfig

BASE_ROW = "__base__"
"""PEFT's name for a row of a mixed batch that no adapter touches."""
SMALLEST_Z = 1e-3
"""Below this |z| the gradient of `ScaledLinear` would divide by almost zero; the factored form takes over."""


class ScaledLinear(torch.autograd.Function):
    """y = x W'^T with the gradient of z from saved activations, never from dL/dW' (m x n).

    With y = x W'^T, g = dL/dy and dx = g W':

        tall: dz_i = sum_t (x_t Q)_i (dx_t Q)_i / z_i      wide: dz_i = sum_t (y_t Q)_i (g_t Q)_i / z_i

    Naive equivalent: `F.linear(x, scale_weight(W, Q, d))` under autograd.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor, scaled: Tensor, q: Tensor) -> Tensor:
        y = F.linear(x, scaled)
        ctx.save_for_backward(x if is_tall(scaled) else y, d, scaled, q)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        (g,) = grads
        saved, d, scaled, q = ctx.saved_tensors
        dx = g @ scaled
        left, right = (saved, dx) if is_tall(scaled) else (saved, g)
        products = (left @ q).float() * (right @ q).float()
        return dx, products.flatten(0, -2).sum(0) / (1 + d), None, None


def factored_linear(x: Tensor, weight: Tensor, q: Tensor, d: Tensor) -> Tensor:
    """x W'^T without W'; d is (r,) or, for a batch whose rows have their own z, (batch, 1, r).

    Naive equivalent: `F.linear(x, scale_weight(weight, q, d))` for each row.
    """
    if is_tall(weight):
        return F.linear(x + ((x @ q) * d).to(x.dtype) @ q.T, weight)
    y = F.linear(x, weight)
    return y + ((y @ q) * d).to(y.dtype) @ q.T


def scaling(p: Tensor, s: Tensor, parametrisation: str) -> Tensor:
    """z (r,) of a trained vector p (r,), for the singular values s (r,); see `SVFConfig.parametrisation`."""
    if parametrisation == "linear":
        return p
    mask = torch.sigmoid(p)
    return mask * (s.sum() / (s * mask).sum())


class SVFLayer(BaseTunerLayer):
    """State of SVF in one layer: the basis, shared by all adapters, and one vector an adapter."""

    adapter_layer_names = ("svf_z",)
    other_param_names = ("parametrisation",)

    svf_q: Tensor
    svf_s: Tensor

    def __init__(self, base_layer: nn.Module, basis: Basis):
        if not isinstance(base_layer, nn.Linear):
            raise TypeError(f"SVF adapts torch.nn.Linear, not {type(base_layer).__name__}")
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.svf_z = nn.ParameterDict({})
        self.parametrisation: dict[str, str] = {}
        self.register_buffer("svf_q", basis.q.to(base_layer.weight), persistent=False)  # type: ignore[attr-defined]
        self.register_buffer("svf_s", basis.s.to(base_layer.weight.device), persistent=False)  # type: ignore[attr-defined]
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._unmerged: Tensor | None = None
        self._cache: tuple[list, Tensor, bool] | None = None

    def update_layer(self, adapter_name: str, config: SVFConfig, inference_mode: bool = False) -> None:
        """Adds the vector of a new adapter, in float32."""
        identity = 1.0 if config.parametrisation == "linear" else 0.1  # any constant p gives z = 1
        mean = identity if config.init_mean is None else config.init_mean
        start = mean + config.init_std * torch.randn(self.svf_s.shape)
        self.svf_z[adapter_name] = nn.Parameter(start.to(self.svf_s.device))
        self.parametrisation[adapter_name] = config.parametrisation
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def z(self, adapter_name: str) -> Tensor:
        """z (r,) of an adapter as it multiplies the singular values; differentiable in the trained vector."""
        return scaling(self.svf_z[adapter_name], self.svf_s, self.parametrisation[adapter_name])

    def d(self, adapter_names: list[str]) -> Tensor:
        """z - 1 (r,); the deltas of several active adapters add up, as everywhere in PEFT."""
        present = [self.z(name) - 1 for name in adapter_names if name in self.svf_z]
        return torch.stack(present).sum(0) if present else torch.zeros_like(self.svf_s)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """W' - W (m, n) of one adapter."""
        weight = self.get_base_weight()
        return scale_weight(weight, self.svf_q, self.d([adapter]).detach()) - weight

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True


class Linear(nn.Module, SVFLayer):
    """torch.nn.Linear with SVF."""

    def __init__(self, base_layer: nn.Module, basis: Basis, adapter_name: str, config: SVFConfig):
        super().__init__()
        SVFLayer.__init__(self, base_layer, basis)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Puts W' in place of W and keeps W, so that `unmerge` restores it bit for bit."""
        adapter_names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.svf_z]
        if not adapter_names:
            return
        base = self.get_base_weight() if self._unmerged is None else self._unmerged
        merged = scale_weight(base, self.svf_q, self.d([*self.merged_adapters, *adapter_names]).detach())
        if safe_merge and not torch.isfinite(merged).all():
            raise ValueError(f"the adapter {', '.join(adapter_names)} gives a weight that is not finite")
        self._unmerged = base
        self.set_base_weight(merged)
        self.merged_adapters.extend(adapter_names)

    def unmerge(self) -> None:
        if self._unmerged is not None:
            self.set_base_weight(self._unmerged)
        self._unmerged = None
        self.merged_adapters.clear()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows = kwargs.pop("adapter_names", None)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if self.merged or not any(name in self.svf_z for name in rows or self.active_adapters):
            return self.base_layer(x, *args, **kwargs)
        x = self._cast_input_dtype(x, self.base_layer.weight.dtype)
        y = self._mixed(x, rows) if rows else self._scaled(x)
        return y if self.base_layer.bias is None else y + self.base_layer.bias

    def _mixed(self, x: Tensor, rows: list[str]) -> Tensor:
        """Each row of the batch with the z of its own adapter: one pass for all."""
        d = {name: self.d([name]) for name in set(rows)}  # zeros for BASE_ROW
        return factored_linear(x, self.base_layer.weight, self.svf_q, torch.stack([d[name] for name in rows])[:, None])

    def _scaled(self, x: Tensor) -> Tensor:
        scaled, divides = self._scaled_weight()
        if not torch.is_grad_enabled():
            return F.linear(x, scaled)
        d = self.d(self.active_adapters)
        if not divides:
            return factored_linear(x, self.base_layer.weight, self.svf_q, d)
        return ScaledLinear.apply(x, d, scaled, self.svf_q)  # type: ignore[return-value]

    @torch.no_grad()
    def _scaled_weight(self) -> tuple[Tensor, bool]:
        """W' and whether every |z| allows a division; composed once for each value of the trained vectors."""
        vectors = [self.svf_z[name] for name in self.active_adapters if name in self.svf_z]
        sources = [self.base_layer.weight, *vectors]
        key = [(source, source.data_ptr(), source._version) for source in sources]
        if self._cache is None or not _same(self._cache[0], key):
            d = self.d(self.active_adapters)
            scaled = scale_weight(self.base_layer.weight, self.svf_q, d)
            self._cache = (key, scaled, bool((1 + d).abs().min() > SMALLEST_Z))
        return self._cache[1], self._cache[2]

    def __repr__(self) -> str:
        return "svf." + super().__repr__()


def _same(one: list, other: list) -> bool:
    """Equality of cache keys: the same tensors (by identity, as their `==` is elementwise) in the same state."""
    return len(one) == len(other) and all(a[0] is b[0] and a[1:] == b[1:] for a, b in zip(one, other, strict=True))
