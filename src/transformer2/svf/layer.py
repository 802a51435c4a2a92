"""A linear layer whose singular values are scaled by a trained vector.

Notation: W (m, n) with r = min(m, n), x (..., n), d = z - 1 (r,), Q as in `basis`. Work is done with d, so that the
base model (d = 0) is exact in every dtype.

Two forms of the same product:

- composed: W' is made once for a value of the trained vectors and kept; one product of matrices, as in the base model.
  The vectors are compared by value, as optimisers may write them without torch's version counter noticing.
- factored: Q is applied to the input (tall) or the output (wide) of the base layer as it is. For rows with vectors of
  their own, for weights that are quantised or sharded, and where some z is almost zero.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from .basis import Basis, is_tall, scale_weight, weight_delta
from .config import SVFConfig
from .targets import backend_of, dense_weight, multiplies, oriented

BASE_ROW = "__base__"
"""PEFT's name for a row of a mixed batch that no adapter touches."""


def smallest_divisor(dtype: torch.dtype) -> float:
    """The smallest |z| that `ScaledLinear` may divide by: below it, rounding errors of the dtype would drown dz."""
    return max(1e-3, 16 * torch.finfo(dtype).eps)


class ScaledLinear(torch.autograd.Function):
    """y = x W'^T + b with the gradient of z from saved activations, never from dL/dW' (m x n).

    With g = dL/dy and dx = g W':

        tall: dz_i = sum_t (x_t Q)_i (dx_t Q)_i / z_i      wide: dz_i = sum_t ((y_t - b) Q)_i (g_t Q)_i / z_i

    Naive equivalent: `F.linear(x, scale_weight(W, Q, d), b)` under autograd.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor, scaled: Tensor, q: Tensor, bias: Tensor | None) -> Tensor:
        y = F.linear(x, scaled, bias)
        ctx.save_for_backward(x if is_tall(scaled) else y, d, scaled, q, bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        (g,) = grads
        saved, d, scaled, q, bias = ctx.saved_tensors
        dx = g @ scaled
        if is_tall(scaled):
            products = diagonal(saved, dx, q)
        else:
            products = diagonal(saved if bias is None else saved - bias, g, q)
        return dx, products.to(d.dtype) / (1 + d), None, None, None


def diagonal(left: Tensor, right: Tensor, q: Tensor) -> Tensor:
    """sum_t (left_t Q)_i (right_t Q)_i, (r,), of two tensors (..., r): the diagonal of Q^T (left^T right) Q.

    With more than r rows, left^T right costs half of left Q and right Q. In float16 it could overflow.
    """
    left, right = left.flatten(0, -2), right.flatten(0, -2)
    if len(left) > len(q) and q.dtype != torch.float16:
        left, right = (left.T @ right) @ q, q
    else:
        left, right = left @ q, right @ q
    accurate = torch.promote_types(q.dtype, torch.float32)
    return (left.to(accurate) * right.to(accurate)).sum(0)


def scaled_projection(x: Tensor, q: Tensor, d: Tensor) -> Tensor:
    """x Q diag(d) Q^T in the dtype of x; d is (r,), or (rows, 1, ..., r) if each row of x has its own."""
    return (((x.to(q.dtype) @ q) * d).to(q.dtype) @ q.T).to(x.dtype)


def scaling(p: Tensor, s: Tensor, parametrisation: str) -> Tensor:
    """z (r,) of a trained vector p (r,), for the singular values s (r,); see `SVFConfig.parametrisation`."""
    if parametrisation == "linear":
        return p
    mask = torch.sigmoid(p)
    return mask * (s.sum() / (s * mask).sum())


class Vectors(nn.ParameterDict):
    """Trained vectors by adapter. `model.to(dtype)` leaves their dtype: in bfloat16 small steps from z = 1 are lost."""

    def _apply(self, fn: Any, recurse: bool = True):
        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        return super()._apply(moved, recurse)


@dataclass(frozen=True)
class Composed:
    """W' (m, n) of the trained vectors (their values one after another); `divides`: no z is too small to divide by."""

    key: tuple
    vectors: Tensor
    scaled: Tensor
    divides: bool


class SVFLayer(BaseTunerLayer):
    """State of SVF in one layer: the basis, shared by all adapters, and one vector an adapter."""

    adapter_layer_names = ("svf_z",)
    other_param_names = ("parametrisation",)

    svf_q: Tensor
    svf_s: Tensor

    def __init__(self, base_layer: nn.Module, basis: Basis):
        self.base_layer = base_layer
        self.quantization_backend = backend_of(base_layer)
        weight = dense_weight(base_layer)
        self.out_features, self.in_features = weight.shape
        self.tall = is_tall(weight)
        self.sharded = False  # torch's FSDP has taken the weight apart
        self.svf_z = Vectors()
        self.parametrisation: dict[str, str] = {}
        self.register_buffer("svf_q", basis.q.to(weight), persistent=False)  # type: ignore[attr-defined]
        self.register_buffer("svf_s", basis.s.to(weight.device), persistent=False)  # type: ignore[attr-defined]
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._unmerged: Tensor | None = None

    def update_layer(self, adapter_name: str, config: SVFConfig) -> None:
        """Adds the vector of a new adapter, in float32."""
        identity = 1.0 if config.parametrisation == "linear" else 0.1  # any constant p gives z = 1
        mean = identity if config.init_mean is None else config.init_mean
        start = mean + (config.init_std if config.init_weights else 1.0) * torch.randn(self.svf_s.shape)
        self.svf_z[adapter_name] = nn.Parameter(start.to(self.svf_s.device))
        self.parametrisation[adapter_name] = config.parametrisation
        self.set_adapter(self.active_adapters)

    def z(self, adapter_name: str) -> Tensor:
        """z (r,) of an adapter as it multiplies the singular values; differentiable in the trained vector."""
        return scaling(self.svf_z[adapter_name].float(), self.svf_s, self.parametrisation[adapter_name])

    def d(self, adapter_names: Sequence[str]) -> Tensor:
        """z - 1 (r,); the deltas of several active adapters add up, as everywhere in PEFT."""
        present = [self.z(name) - 1 for name in adapter_names if name in self.svf_z]
        return torch.stack(present).sum(0) if present else torch.zeros_like(self.svf_s)

    def base_weight(self) -> Tensor:
        """W (m, n), also while an adapter is merged."""
        return dense_weight(self.base_layer) if self._unmerged is None else self._unmerged

    @torch.no_grad()
    def get_delta_weight(self, adapter: str) -> Tensor:
        """W' - W of one adapter, in the layout and dtype of the base layer's weight."""
        weight = self.base_weight()
        return oriented(self.base_layer, weight_delta(weight, self.svf_q, self.d([adapter])).to(weight.dtype))

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True


class Linear(nn.Module, SVFLayer):
    """torch.nn.Linear (or transformers' Conv1D, or bitsandbytes' Linear4bit and Linear8bitLt) with SVF."""

    def __init__(self, base_layer: nn.Module, basis: Basis, adapter_name: str, config: SVFConfig):
        super().__init__()
        SVFLayer.__init__(self, base_layer, basis)
        self.multiplies = multiplies(base_layer)
        self.composed: Composed | None = None
        self.held = False  # inside `hold`: the vectors cannot change
        self.held_rows: dict[int, Tensor] | None = None  # inside `hold_rows`: d of the rows, by their number
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Puts W' in place of W and keeps W, so that `unmerge` restores it bit for bit.

        Raises:
            ValueError: `safe_merge`, and W' is not finite.
        """
        adapter_names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.svf_z]
        if not adapter_names:
            return
        base = self.base_weight()
        merged = scale_weight(base, self.svf_q, self.d([*self.merged_adapters, *adapter_names]))
        if safe_merge and not torch.isfinite(merged).all():
            raise ValueError(f"the adapter {', '.join(adapter_names)} gives a weight that is not finite")
        self._unmerged = base
        self.set_base_weight(oriented(self.base_layer, merged).contiguous())
        self.merged_adapters.extend(adapter_names)

    def unmerge(self) -> None:
        if self._unmerged is not None:
            self.set_base_weight(oriented(self.base_layer, self._unmerged))
        self._unmerged = None
        self.merged_adapters.clear()

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """As the base layer; `adapter_names` gives each row of x its own adapter."""
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        known = any(name in self.svf_z for name in set(adapter_names or self.active_adapters))
        if not known or (self.merged and not adapter_names):
            return self.base_layer(x, *args, **kwargs)
        if self.quantization_backend is None and not torch.is_autocast_enabled(x.device.type):
            x = self._cast_input_dtype(x, self.base_layer.weight.dtype)  # type: ignore[arg-type]
        if adapter_names:
            return self._factored(x, self._d_of_rows(x, adapter_names))
        if self.multiplies and not self.sharded:
            return self._composed(x)
        return self._factored(x, self.d(self.active_adapters))

    def _d_of_rows(self, x: Tensor, names: list[str]) -> Tensor:
        """d (rows, 1, ..., r) for the rows of x; zeros for BASE_ROW. Inside `hold_rows`, inference makes it once."""
        if self.merged:
            raise ValueError("rows cannot have adapters of their own while one is merged: call unmerge_adapter() first")
        if len(names) != len(x):
            raise ValueError(f"adapter_names has {len(names)} names for {len(x)} rows; it must have one a row")
        held = {} if self.held_rows is None or torch.is_grad_enabled() else self.held_rows
        if len(names) not in held:
            d = {name: self.d([name]) for name in set(names)}
            held[len(names)] = torch.stack([d[name] for name in names])
        return held[len(names)].reshape(len(x), *[1] * (x.ndim - 2), -1)

    def _factored(self, x: Tensor, d: Tensor) -> Tensor:
        """x W'^T + b by the base layer as it is. Naive equivalent: `scale_weight` for each row, then `F.linear`."""
        if self.tall:
            return self.base_layer(x + scaled_projection(x, self.svf_q, d))
        y = self.base_layer(x)
        return y + scaled_projection(y if self.bias is None else y - self.bias, self.svf_q, d)

    def _composed(self, x: Tensor) -> Tensor:
        """x W'^T + b by W', as the base model would compute it."""
        if self.composed is None or not self.held or self.composed.key != self._key():
            compose([self])
        w: Composed = self.composed  # type: ignore[assignment]
        x, bias = x.to(w.scaled.dtype), None if self.bias is None else self.bias.to(w.scaled.dtype)
        if not torch.is_grad_enabled():
            return F.linear(x, w.scaled, bias)
        d = self.d(self.active_adapters)
        if not w.divides:
            return self._factored(x, d)
        return ScaledLinear.apply(x, d, w.scaled, self.svf_q.to(w.scaled.dtype), bias)  # type: ignore[return-value]

    def _key(self) -> tuple:
        """What W' depends on besides the values of the vectors (and of Q, which belongs to W)."""
        weight: Tensor = self.base_layer.weight  # type: ignore[assignment]
        device = weight.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        names = tuple(name for name in self.active_adapters if name in self.svf_z)
        return names, weight.data_ptr(), weight.device, dtype

    def _vectors(self) -> Tensor:
        return torch.cat([self.svf_z[name].detach() for name in self.active_adapters if name in self.svf_z])

    def _apply(self, fn: Any, recurse: bool = True):
        s = self.svf_s
        super()._apply(fn, recurse)
        self.svf_s = s.to(self.svf_q.device)  # float32 always
        self._unmerged = None if self._unmerged is None else fn(self._unmerged)
        self.composed = None
        return self

    def __repr__(self) -> str:
        return "svf." + super().__repr__()


def compose(layers: Sequence[Linear]) -> None:
    """Makes W' of layers on one device for the present values of their vectors, unless it is there.

    One comparison for all layers: the host waits for the device once, and once more if something has changed.
    """
    with torch.inference_mode(False), torch.no_grad():  # what is made in inference mode could not be trained with
        kept = [(layer, w) for layer in layers if (w := layer.composed) is not None and w.key == layer._key()]
        if kept:
            before, now = (torch.cat(v) for v in ([w.vectors for _, w in kept], [one._vectors() for one, _ in kept]))
            kept = kept if torch.equal(before, now) else []
        fresh = {layer for layer, _ in kept}
        stale = [layer for layer in layers if layer not in fresh]
        ds = [layer.d(layer.active_adapters) for layer in stale]
        smallest = torch.stack([(1 + d).abs().min() for d in ds]).tolist() if ds else []
        for layer, d, z in zip(stale, ds, smallest, strict=True):
            key = layer._key()
            scaled = scale_weight(layer.base_weight(), layer.svf_q, d).to(key[-1])
            layer.composed = Composed(key, layer._vectors(), scaled, z > smallest_divisor(scaled.dtype))


@contextmanager
def hold(model: nn.Module) -> Iterator[None]:
    """Inside, the vectors do not change: W' of all SVF layers of a model is made now and not compared again."""
    by_device: dict[torch.device, list[Linear]] = {}
    for layer in model.modules():
        if not isinstance(layer, Linear):
            continue
        layer.sharded = layer.sharded or _is_sharded(layer)
        off = layer.sharded or layer.merged or layer.disable_adapters or layer.held
        if layer.multiplies and not off and layer._key()[0]:
            by_device.setdefault(layer.svf_q.device, []).append(layer)
    held = [layer for group in by_device.values() for layer in group]
    for group in by_device.values():
        compose(group)
    for layer in held:
        layer.held = True
    try:
        yield
    finally:
        for layer in held:
            layer.held = False


@contextmanager
def hold_rows(layers: Sequence[Linear]) -> Iterator[None]:
    """Inside, the vectors do not change, and a batch of so many rows has always the same adapters in its rows."""
    before = [layer.held_rows for layer in layers]
    for layer in layers:
        layer.held_rows = {}
    try:
        yield
    finally:
        for layer, rows in zip(layers, before, strict=True):
            layer.held_rows = rows


def _is_sharded(layer: Linear) -> bool:
    """Whether torch's FSDP (either version) has taken the weight apart, as it does between forward passes."""
    weight: Tensor = layer.base_layer.weight  # type: ignore[assignment]
    shape = layer.out_features, layer.in_features
    return isinstance(weight, DTensor) or oriented(layer.base_layer, weight).shape != shape
