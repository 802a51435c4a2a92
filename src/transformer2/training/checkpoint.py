"""The whole state of a training in one file that is complete or absent, and holds its own checksum.

None lies beside it, so a process that is killed while it saves leaves the checkpoint of before as it was.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from transformer2.provenance import atomic_path


def save(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Writes tensors of any shape by name, and facts that JSON can hold; a file that is there is replaced as a whole.

    Raises:
        TypeError: a fact is nothing that JSON can hold.
    """
    held, said = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, json.dumps(facts)
    with atomic_path(path, with_checksum=False) as temporary:
        save_file(held, temporary, {"facts": said, "sha256": _digest(held, said)})


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts; ValueError if they are not what was saved."""
    try:
        with safe_open(path, "pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        whole = metadata["sha256"] == _digest(tensors, metadata["facts"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if not whole:
        raise ValueError(f"{path} is corrupt: its checksum is another one")
    return tensors, json.loads(metadata["facts"])


def _digest(tensors: dict[str, Tensor], said: str) -> str:
    digest = hashlib.sha256(said.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
