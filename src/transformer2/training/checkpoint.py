"""The whole state of a training in one file that is complete or absent."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from transformer2.provenance import atomic_path
from transformer2.seals import intact


def save(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
            temporary,
            {"facts": json.dumps(facts)},
        )


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(intact(path), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])  # noqa: SIM118


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adam's moments and counters by parameter name."""
    return {
        f"optimizer.{key}.{name}": value
        for name, parameter in names.items()
        for key, value in optimizer.state[parameter].items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, names: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Restores the moments, each on the device of its parameter; `names` in the order of the optimizer's parameters."""
    prefix = "optimizer."
    state = {
        index: {
            key.removeprefix(prefix).removesuffix(f".{name}"): value
            for key, value in tensors.items()
            if key.startswith(prefix) and key.endswith(f".{name}")
        }
        for index, name in enumerate(names)
    }
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
