"""Experts on disk, and the one check that every command makes before it uses one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from transformer2.checksums import verified
from transformer2.provenance import read_json
from transformer2.svf.config import SVFConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BEFORE, AFTER = "base_model.model.", ".svf_z"
"""What PEFT writes around the name of a matrix to name its vector."""
SAID = 3
"""Vectors that a message names; the others are counted."""


def read_expert(folder: Path) -> tuple[PeftConfig, dict[str, Tensor]]:
    """Configuration and tensors of the expert in a folder, of any kind that PEFT knows.

    Raises:
        ValueError: there is no expert, one of its files cannot be read, or a number in it is not finite.
    """
    record = _configuration(folder)
    try:
        config = PeftConfig.from_peft_type(**record)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} is no configuration that PEFT reads: {_line(error)}") from error
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read ({error}): copy or train the expert again") from error
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(
            f"the expert in {folder} cannot be used: {len(broken)} of its {len(tensors)} tensors hold numbers that are "
            f"not finite, such as {broken[0]}; train it again"
        )
    return config, tensors


def _configuration(folder: Path) -> dict[str, Any]:
    """What the configuration of an expert says; ValueError as `read_expert`."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no expert: there is no {name} in it")
    verified(folder)
    record = read_json(folder / CONFIG)
    if not isinstance(record, dict) or "peft_type" not in record:
        raise ValueError(f"{folder / CONFIG} is no configuration of an adapter: it has no peft_type")
    return record


def svf_vectors(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[SVFConfig, dict[str, Tensor]]:
    """Configuration and trained vectors (r,), by matrix, of the SVF expert in a folder.

    Args:
        folder: of the expert.
        shapes: of the matrices (m, n) of the model that it is used with, by name: at least those that an expert may
            scale. The shapes (r,) of their singular values will do.

    Raises:
        ValueError: as `read_expert`, or the expert is of another kind, or belongs to another model: a vector is
            missing, has no matrix, or has another length than the matrix has singular values.
    """
    config, tensors = read_expert(folder)
    if not isinstance(config, SVFConfig):
        raise ValueError(f"{folder} is no SVF expert: it holds a {kind_of(folder)} adapter")
    if strange := [key for key in tensors if not (key.startswith(BEFORE) and key.endswith(AFTER))]:
        raise ValueError(f"{folder} is no SVF expert: it holds {strange[0]}")
    vectors = {key.removeprefix(BEFORE).removesuffix(AFTER): vector for key, vector in tensors.items()}
    belongs = f"the expert in {folder} belongs to another model: "
    wrong = [
        f"{name} ({' x '.join(map(str, vector.shape))}; the model's is {shapes.get(name, 'missing')})"
        for name, vector in vectors.items()
        if vector.shape != (min(shapes.get(name, (-1,))),)
    ]
    if wrong:
        raise ValueError(f"{belongs}{len(wrong)} vectors do not fit: {_some(wrong)}")
    targets = {name for name in shapes if check_target_module_exists(config, name)}
    if missing := sorted(targets - vectors.keys()):
        raise ValueError(
            f"{belongs}it has no vector for {len(missing)} matrices that it is to scale here: {_some(missing)}"
        )
    if extra := sorted(vectors.keys() - targets):
        raise ValueError(f"{belongs}{len(extra)} vectors are for matrices that {CONFIG} leaves out: {_some(extra)}")
    return config, vectors


def check_base(expert: Path, model: Path) -> None:
    """Raises ValueError where the records of both say that the expert was trained on other weights than those of the
    model in a folder: an expert of a model with the same shapes would load, and be wrong."""
    training = training_of(expert)
    if training is None or not (model / "manifest.json").is_file():
        return
    of_training, here = (
        {name: value for name, value in sums.items() if name.endswith(".safetensors")}
        for sums in (training["inputs"]["model"], read_json(model / "manifest.json")["sha256"])
    )
    if of_training != here:
        raise ValueError(
            f"the expert in {expert} was trained on other weights than those in {model}: their checksums differ; give "
            "the folder of the model that it was trained on"
        )


def training_of(expert: Path) -> dict[str, Any] | None:
    """The training that made an expert, as `training.json` has it; None if no training is on record."""
    selection, training = expert / "selection.json", expert / "training.json"
    if selection.is_file():
        return read_json(selection)["training"]
    return read_json(training) if training.is_file() else None


KINDS = {"LORA": "LoRA", "IA3": "IA³", "VERA": "VeRA", "TINYLORA": "TinyLoRA"}
"""Kinds of adapters that are written otherwise than PEFT names them."""


def kind_of(expert: Path) -> str:
    """What an expert is: SVF, LoRA, DoRA, ...; ValueError as `read_expert`."""
    config = _configuration(expert)
    kind: str = config["peft_type"]
    return "DoRA" if config.get("use_dora") else KINDS.get(kind, kind)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SAID]) + ("" if len(names) <= SAID else ", ...")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
