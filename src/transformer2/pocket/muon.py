"""Muon in float32: `torch.optim.Muon` orthogonalises in bfloat16, which most CPUs emulate, at ten times the time."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """U V^T of each matrix U S V^T in a stack (n, rows, columns), up to singular values between about 0.7 and 1.2.

    Newton-Schulz iterations with the quintic polynomial of Muon. Naive equivalent: `torch.linalg.svd`.
    """
    a, b, c = COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is orthogonalised, for matrices alone.

    A step has the root mean square that AdamW's has, 0.2 lr. Matrices of one shape are orthogonalised together.
    Naive equivalent: `torch.optim.Muon(..., weight_decay=0, adjust_lr_fn="match_rms_adamw")`.
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for (rows, columns), matrices in by_shape.items():
                updates = [self._momentum(matrix, matrix.grad, group["momentum"]) for matrix in matrices]  # type: ignore
                step = -0.2 * group["lr"] * max(rows, columns) ** 0.5
                for matrix, update in zip(matrices, orthogonalise(torch.stack(updates)), strict=True):
                    matrix.add_(update, alpha=step)

    def _momentum(self, matrix: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        """The gradient's running mean, one step ahead (Nesterov)."""
        if matrix not in self.state:
            self.state[matrix]["mean"] = torch.zeros_like(matrix)
        mean = self.state[matrix]["mean"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)
