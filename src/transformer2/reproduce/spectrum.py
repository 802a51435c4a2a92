"""How much of a weight matrix its largest singular values hold (Appendix C).

The paper calls sum_{i<=r} sigma_i / sum_i sigma_i a ratio of variance. The variance of principal components goes
with sigma^2, so both ratios are computed.
"""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from transformer2.checksums import verified

DISCUSSED = Fraction(256, 4096)
"""r that the paper discusses, as a share of the largest rank of its two models: a smaller stand-in is looked at with
the same share of its own."""


def spectra(bases: Mapping[str, Path], models: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row a model, matrix and r: what the top r singular values hold.

    Args:
        bases: file of `svf.basis.write_basis` by name of the model.
        models: what the frame says of each model: run, stands_in_for, standin.

    Columns: run, model, stands_in_for, standin, module (q_proj, ...), layer, rank (of the matrix), full_rank (the
    largest of the model's matrices), r, share_of_rank (r / rank), ratio, variance_ratio (both in 0..1).
    """
    rows = []
    for model, file in bases.items():
        values = singular_values(verified(file))
        full_rank = max(len(s) for s in values.values())
        of_model = {"run": models[model]["run"], "model": model}
        of_model |= {key: models[model][key] for key in ("stands_in_for", "standin")}
        for name, s in values.items():
            of_matrix = {"module": name.rpartition(".")[2], "layer": decoder_layer(name)}
            of_matrix |= {"rank": len(s), "full_rank": full_rank}
            captured, variance = cumulative(s), cumulative(s**2)
            rows += [
                of_model
                | of_matrix
                | {"r": r, "share_of_rank": r / len(s), "ratio": captured[r - 1], "variance_ratio": variance[r - 1]}
                for r in tops(full_rank)
                if r <= len(s)
            ]
    return pd.DataFrame(rows).sort_values(["model", "module", "layer", "r"], kind="stable", ignore_index=True)


def singular_values(file: Path) -> dict[str, np.ndarray]:
    """s (r,) in float64 of every matrix in a file of `svf.basis.write_basis`, by module name; read without torch."""
    from safetensors import safe_open  # here, as the environment that draws has none

    with safe_open(file, "numpy") as tensors:
        keys = [key for key in tensors.keys() if key.endswith(".s")]  # noqa: SIM118 (not a dict)
        return {key.removesuffix(".s"): tensors.get_tensor(key).astype(np.float64) for key in keys}


def decoder_layer(module: str) -> int:
    """Index of the decoder layer of a module: the first number in its name, as in `layers.3.mlp`."""
    return next(int(part) for part in module.split(".") if part.isdigit())


def cumulative(values: np.ndarray) -> np.ndarray:
    """Share of the first r of `values` (rank,) in their sum, for r = 1 .. rank."""
    summed = np.cumsum(values)
    return summed / summed[-1]


def tops(full_rank: int) -> list[int]:
    """The r that are looked at: powers of two up to the largest rank, and the discussed share of it."""
    return sorted({2**k for k in range(full_rank.bit_length())} | {discussed(full_rank)})


def discussed(full_rank: int) -> int:
    """256 for a model whose largest rank is 4096, in proportion for others."""
    return max(1, round(DISCUSSED * full_rank))
