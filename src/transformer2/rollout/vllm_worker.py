"""The part that runs inside vLLM's workers: puts an SVF expert into the weights of the running model.

vLLM mixes `SVFWorker` into its worker (`worker_extension_cls`), one on every GPU. Only z crosses from the engine to
the workers, a few hundred kilobytes for a few billion weights; W and Q are read where they lie.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from transformer2.svf.basis import matrix_files, open_bases, scale_weight


class SVFWorker:
    """Methods of a worker. `model_runner` is vLLM's own: it holds the running model."""

    model_runner: Any

    def svf_scale(self, model: str, basis: str, z: Mapping[str, bytes]) -> int:
        """Puts W' in place of the matrices of an expert, and W, bit for bit, in place of others that were scaled
        before; returns how many were written.

        Whole matrices go through vLLM's own loader, which packs those that it keeps as one (q, k and v; gate and up)
        and takes this worker's shard of them. Naive equivalent: load a folder with `scale_weight(W, Q, z - 1)` in it.

        Args:
            model: folder of the base model.
            basis: its bases (`svf.basis.write_basis`).
            z: module name -> z (r,), float32 bytes; empty for the base model.
        """
        scaled: set[str] = getattr(self, "svf_scaled", set())
        running = self.model_runner.model
        parameter = next(running.parameters())
        files = matrix_files(Path(model))
        for name in sorted({*z, *scaled}):
            file, key = files[name]
            weight = _opened(file).get_tensor(key).to(parameter.dtype)
            if name in z:
                basis_of_weight = open_bases(basis).load(name, weight)
                d = torch.frombuffer(bytearray(z[name]), dtype=torch.float32) - 1
                weight, q, d = (tensor.to(parameter.device) for tensor in (weight, basis_of_weight.q, d))
                weight = scale_weight(weight, q, d)
            running.load_weights([(f"{name}.weight", weight)])
        self.svf_scaled = {*z}
        return len({*z, *scaled})


@cache
def _opened(file: Path) -> Any:
    """A file of weights, mapped while the worker runs: tensors keep their place in memory, so each is hashed once."""
    return safe_open(file, "pt")


def as_bytes(z: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Vectors by module name as they are sent to workers."""
    return {name: vector.detach().float().cpu().numpy().tobytes() for name, vector in z.items()}
