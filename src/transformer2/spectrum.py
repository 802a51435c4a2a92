"""How much of a weight matrix its largest singular values hold (Appendix C).

The document calls sum_{i<=r} sigma_i / sum_i sigma_i a ratio of variance. The variance of principal components goes
with sigma^2, so both ratios are computed.
"""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from transformer2.seals import intact

DISCUSSED = Fraction(256, 4096)
"""r that the document discusses, as a share of the largest rank of its two models: a smaller stand-in is looked at with
the same share of its own."""


def spectra(bases: Mapping[str, Path], whose: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row a model, matrix and r: what the top r singular values hold.

    Args:
        bases: file of `svf.basis.write_basis` by name of the model.
        whose: what the frame says of each model: run, stands_in_for, standin.

    Columns: run, model, stands_in_for, standin, module (q_proj, ...), layer, rank (of the matrix), full_rank (the
    largest of the model's matrices), r, share_of_rank (r / rank), ratio, variance_ratio (both in 0..1).
    """
    from transformer2.svf.basis import singular_values  # here, as the environment that draws has no torch
    from transformer2.svf.model import decoder_layer

    rows = []
    for model, file in bases.items():
        values = {name: s.double().numpy() for name, s in singular_values(intact(file)).items()}
        full_rank = max(len(s) for s in values.values())
        who = {"run": whose[model]["run"], "model": model} | {k: whose[model][k] for k in ("stands_in_for", "standin")}
        for name, s in values.items():
            module, layer = name.rpartition(".")[2], decoder_layer(name)
            of_matrix = {"module": module, "layer": layer, "rank": len(s), "full_rank": full_rank}
            captured, variance = cumulative(s), cumulative(s**2)
            rows += [
                who
                | of_matrix
                | {"r": r, "share_of_rank": r / len(s), "ratio": captured[r - 1], "variance_ratio": variance[r - 1]}
                for r in tops(full_rank)
                if r <= len(s)
            ]
    return pd.DataFrame(rows).sort_values(["model", "module", "layer", "r"], kind="stable", ignore_index=True)


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
