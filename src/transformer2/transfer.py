"""Experts of one model on another (Section 4.3, Analysis 4; Appendix B.3).

z moves by matrix name and index: the i-th largest singular value of a matrix of the target is scaled by the z
of the i-th largest of the same matrix of the source. It is z itself, as it multiplied the source's singular values,
whatever the expert's parametrisation; on the target the expert is a linear one.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from transformer2.checksums import record_checksum, verified
from transformer2.experts import AFTER, BEFORE, CONFIG, WEIGHTS, svf_vectors
from transformer2.provenance import atomic_path
from transformer2.svf import SVFConfig
from transformer2.svf.basis import singular_values
from transformer2.svf.layer import scaling
from transformer2.svf.model import decoder_layer


def kind(name: str) -> str:
    """What a matrix is in its layer: `mlp.gate_proj` of `model.layers.3.mlp.gate_proj`."""
    return name.split(f".{decoder_layer(name)}.", 1)[1]


def check_same_matrices(source: Mapping[str, int], target: Mapping[str, int]) -> None:
    """Raises ValueError, with every matrix that does not fit and both sizes, unless source and target have the same
    matrices with the same rank, min(m, n)."""
    names = dict.fromkeys([*source, *target])
    wrong = [
        f"{name} ({source.get(name, 'missing')} against {target.get(name, 'missing')})"
        for name in names
        if source.get(name) != target.get(name)
    ]
    if wrong:
        raise ValueError(
            f"these experts do not fit the model: {len(wrong)} of {len(names)} matrices have other sizes (singular "
            f"values of the experts' model against those of this one): {', '.join(wrong)}; the mapping 'resampled' "
            "would interpolate"
        )


def resampled(z: Mapping[str, Tensor], source: Mapping[str, int], target: Mapping[str, int]) -> dict[str, Tensor]:
    """z for a model of another depth or width: our own; neither paper has it.

    Layer l of L takes z from the source's layer of the same relative depth, round(l / (L - 1) * (L' - 1)); a z of
    another length is interpolated linearly over the relative index i / (r - 1) of the singular values. What fits is
    left as it is, bit for bit.

    Args:
        z: vectors (r',) of the matrices that the expert scales.
        source: r' of every matrix of the source, by name.
        target: r of every matrix of the target.

    Raises:
        ValueError: the models have other kinds of matrices in a layer.
    """
    if different := {kind(name) for name in source} ^ {kind(name) for name in target}:
        raise ValueError(
            f"layers of the two models have other matrices ({', '.join(sorted(different))} in one of them only): "
            "nothing can be mapped"
        )
    of_source = {(decoder_layer(name), kind(name)): name for name in source}
    last_of_source, last = max(layer for layer, _ in of_source), max(map(decoder_layer, target))
    mapped = {}
    for name, r in target.items():
        same_depth = round(decoder_layer(name) / max(last, 1) * last_of_source)
        vector = z.get(of_source[same_depth, kind(name)])
        if vector is not None:
            mapped[name] = vector if len(vector) == r else interpolated(vector, r)
    return mapped


def interpolated(vector: Tensor, r: int) -> Tensor:
    """A vector (r',) as (r,), linearly over the relative index."""
    places = np.interp(np.linspace(0, 1, r), np.linspace(0, 1, len(vector)), vector.double().numpy())
    return torch.from_numpy(places).to(vector.dtype)


def shuffled(z: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Every vector with its values in another order; the order of one matrix depends only on its name and the seed."""
    reordered = {}
    for name, vector in z.items():
        digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
        reordered[name] = vector[torch.randperm(len(vector), generator=generator)]
    return reordered


def read_z(folder: Path, s: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """z by matrix name of the SVF expert in `folder`; `s` are the singular values of the model that it belongs to.

    Raises:
        ValueError: there is no SVF expert, or it belongs to another model.
    """
    config, trained = svf_vectors(folder, {name: (len(values),) for name, values in s.items()})
    return {name: scaling(p, s[name], config.parametrisation) for name, p in trained.items()}


def transfer(
    expert: Path, source_basis: Path, model: Path, basis: Path, out: Path, mapping: str | None, shuffle: int | None
) -> dict[str, int]:
    """Writes an expert of another model as one of `model`, a folder that PEFT loads; returns how many matrices it
    scales and how many z it has.

    Args:
        expert: folder of the SVF expert.
        source_basis: bases of the model that it was trained on.
        model: folder of the model that it is for.
        basis: bases of that model.
        out: the new folder.
        mapping: None (the models must have the same matrices) or "resampled".
        shuffle: seed of `shuffled`; None keeps the order.

    Raises:
        ValueError: as `read_z`, `check_same_matrices` and `resampled`.
    """
    values = singular_values(verified(source_basis))
    z = read_z(expert, values)
    kinds = {kind(name) for name in z}
    source, target = (
        {name: len(s) for name, s in of_model.items() if kind(name) in kinds}
        for of_model in (values, singular_values(verified(basis)))
    )
    if mapping is None:
        check_same_matrices(source, target)
    else:
        z = resampled(z, source, target)
    z = z if shuffle is None else shuffled(z, shuffle)
    config = SVFConfig.from_pretrained(str(expert))
    layers = sorted({decoder_layer(name) for name in z})
    placed = replace(
        config,  # type: ignore[type-var]
        base_model_name_or_path=str(model), parametrisation="linear", init_mean=None, init_std=0.0, inference_mode=True,
        layers_to_transform=None if config.layers_to_transform is None else layers,  # type: ignore[union-attr]
    )  # fmt: skip
    placed.save_pretrained(str(out))
    record_checksum(out / CONFIG)
    # Copies, as safetensors refuses one vector that two layers share.
    vectors = {f"{BEFORE}{name}{AFTER}": vector.clone() for name, vector in z.items()}
    with atomic_path(out / WEIGHTS) as temporary:
        save_file(vectors, temporary, {"format": "pt"})
    return {"matrices": len(z), "parameters": sum(len(vector) for vector in z.values())}
