"""Bases of the matrices of some layers: the project's decomposition against `torch.linalg.svd` in float32."""

from typing import Any

import torch
from torch import Tensor

from transformer2.svf.basis import Basis, decompose

from ..measuring import Side, compare, ratios
from ..models import load
from ..options import Device, Layers, Model, Repeats


def measure(
    device: Device = "cpu", model: Model = "smollm2", repeats: Repeats = 2, layers: Layers = 2
) -> dict[str, Any]:
    """Bases of all matrices of some layers, against the singular value decomposition in float32."""
    loaded = load(model, device, "float32")
    weights = {
        name: module.weight.detach()
        for name, module in loaded.named_modules()
        if name.endswith("_proj") and int(name.split(".layers.")[1].split(".")[0]) < layers
    }

    def ours() -> list[Basis]:
        return [decompose(weight) for weight in weights.values()]

    def svd() -> list[Basis]:
        return [of_svd(weight) for weight in weights.values()]

    measured = compare([Side("ours", lambda: ours), Side("svd", lambda: svd)], repeats, device)
    exact = {name: torch.linalg.svd(weight.double().cpu(), full_matrices=False)[1] for name, weight in weights.items()}
    return {
        "sides": {
            name: one.facts() | {"largest_error": errors(one.result, weights.values(), exact.values())}
            for name, one in measured.items()
        },
        "ratios": {"svd/ours": ratios(measured, "ours", "svd", device)},
        "matrices": len(weights),
    }


def of_svd(weight: Tensor) -> Basis:
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return Basis(vt.T.contiguous() if weight.shape[0] >= weight.shape[1] else u, s)


def errors(bases: Any, weights: Any, exact: Any) -> dict[str, float]:
    """Largest errors: of a singular value, of the factor's orthogonality, and of what should be diagonal in Q^T W W^T Q
    (or Q^T W^T W Q), in shares of the largest singular value or its square."""
    worst = {"singular_value": 0.0, "orthogonality": 0.0, "diagonality": 0.0}
    for basis, weight, s in zip(bases, weights, exact, strict=True):
        q, w = basis.q.double().cpu(), weight.double().cpu()
        gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
        turned = q.T @ gram @ q
        found = {
            "singular_value": (basis.s.double().cpu() - s).abs().max() / s[0],
            "orthogonality": (q.T @ q - torch.eye(len(q), dtype=q.dtype)).abs().max(),
            "diagonality": (turned - turned.diag().diag()).abs().max() / s[0] ** 2,
        }
        worst = {name: max(value, float(found[name])) for name, value in worst.items()}
    return worst
