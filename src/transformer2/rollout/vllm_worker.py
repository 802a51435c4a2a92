"""The part that runs inside vLLM's workers: puts an expert into the weights of the running model.

vLLM mixes `SVFWorker` into its worker (`worker_extension_cls`), one on every GPU. Only z crosses from the engine to the
workers, a few hundred kilobytes for a few billion weights. W and Q are read once and stay with the workers, each of
which holds those of its share of the matrices and sends W' to the others.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from transformer2.svf.basis import open_bases, scale_weight


class SVFWorker:
    """Methods of a worker. `model_runner` is vLLM's own: it holds the running model."""

    model_runner: Any
    svf_base: "BaseWeights"
    svf_changed: set[str]

    def svf_open(self, model: str, basis: str | None, on_host: bool, shared: Mapping[str, Tensor] | None) -> None:
        """Says where W and Q are; comes before all else.

        Args:
            model: folder of the base model.
            basis: its bases (`svf.basis.write_basis`); None where no SVF expert will be asked for.
            on_host: keep W and Q in page-locked memory of the CPU, not on the GPU.
            shared: weights of a base model that lies in this process, by parameter name; they are used as they are.
        """
        self.svf_base = BaseWeights(Path(model), basis, on_host, shared)
        self.svf_changed = set()

    def svf_scale(self, z: Mapping[str, bytes]) -> int:
        """Puts W' in place of the matrices of an expert, and what the base model has, bit for bit, in place of other
        parameters that were changed before; returns how many were written.

        Whole matrices go through vLLM's own loader, which packs those that it keeps as one (q, k and v; gate and up)
        and takes this worker's shard of them. Naive equivalent: load a folder with `scale_weight(W, Q, z - 1)` in it.

        Args:
            z: module name -> z (r,), float32 bytes; empty for the base model.
        """
        scaled = {f"{module}.weight": vector for module, vector in z.items()}
        written = sorted({*scaled, *self.svf_changed})
        with torch.no_grad():
            for name in written:
                self._svf_write(name, self._svf_whole(name, scaled.get(name)))
        self.svf_changed = {*scaled}
        return len(written)

    def svf_put(self, parameters: Iterable[tuple[str, Tensor]]) -> int:
        """Puts given tensors in place of parameters (by the names in the model's files), and what the base model has in
        place of others that were changed before; returns how many were given. For workers of the engine's process."""
        put = set()
        with torch.no_grad():
            for name, tensor in parameters:
                self._svf_write(name, tensor)
                put.add(name)
            for name in sorted(self.svf_changed - put):
                self._svf_write(name, self._svf_whole(name, None))
        self.svf_changed = put
        return len(put)

    def _svf_write(self, name: str, tensor: Tensor) -> None:
        self.model_runner.model.load_weights([(name, tensor)])

    def _svf_whole(self, name: str, z: bytes | None) -> Tensor:
        """A parameter of the base model, scaled by z where there is one: made by one worker and sent to all."""
        running = next(self.model_runner.model.parameters())
        rank, workers = self._svf_place()
        owner = self.svf_base.number(name) % workers
        if rank == owner:
            weight = self.svf_base.scaled(name, z, running.device, running.dtype)
        else:
            weight = torch.empty(self.svf_base.shape(name), device=running.device, dtype=running.dtype)
        return self._svf_send(weight.contiguous(), owner) if workers > 1 else weight

    def _svf_place(self) -> tuple[int, int]:
        """This worker's number among those that share the model, and how many they are."""
        from vllm.distributed.parallel_state import get_tp_group  # pyright: ignore[reportMissingImports]

        group = get_tp_group()
        return group.rank_in_group, group.world_size

    def _svf_send(self, weight: Tensor, owner: int) -> Tensor:
        """The weight of the worker `owner`, at all workers."""
        from vllm.distributed.parallel_state import get_tp_group  # pyright: ignore[reportMissingImports]

        return get_tp_group().broadcast(weight, src=owner)


class BaseWeights:
    """W and Q of a base model as a worker keeps them: each is read once, when it is first asked for."""

    def __init__(self, model: Path, basis: str | None, on_host: bool, shared: Mapping[str, Tensor] | None):
        self.basis, self.on_host = basis, on_host
        self.shared = dict(shared or {})
        self.files = {} if shared else parameter_files(model)
        self._numbers = {name: number for number, name in enumerate(sorted(self.shared or self.files))}
        self._weights: dict[str, Tensor] = {}
        self._bases: dict[str, Tensor] = {}

    def number(self, name: str) -> int:
        """A number that stands for the parameter, the same in every worker."""
        return self._numbers[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(_opened(self.files[name]).get_slice(name).get_shape())

    def scaled(self, name: str, z: bytes | None, device: torch.device, dtype: torch.dtype) -> Tensor:
        """W, or W' where there is z (r,) in float32 bytes, on the device of the running model."""
        weight = self.shared[name].detach() if self.shared else self._weight(name, device, dtype)
        if z is None:
            return weight.to(device, non_blocking=True)
        d = torch.frombuffer(bytearray(z), dtype=torch.float32).to(device) - 1
        q = self._q(name, device, dtype)
        return scale_weight(weight.to(device, non_blocking=True), q.to(device, non_blocking=True), d)

    def _weight(self, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
        if name not in self._weights:
            self._weights[name] = self._keep(self._read(name, dtype), device)
        return self._weights[name]

    def _q(self, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Q of a weight. Where the process shares W, Q is the one that its own layers have."""
        if self.basis is None:
            raise ValueError("an expert of SVF on vLLM needs the bases of its model (transformer2 basis)")
        bases, module = open_bases(self.basis), name.removesuffix(".weight")
        if self.shared:
            return bases.load(module, self.shared[name]).q
        if name not in self._bases:
            self._bases[name] = self._keep(bases.load(module, self._read(name, dtype)).q, device)
        return self._bases[name]

    def _read(self, name: str, dtype: torch.dtype) -> Tensor:
        return _opened(self.files[name]).get_tensor(name).to(dtype)

    def _keep(self, tensor: Tensor, device: torch.device) -> Tensor:
        """The tensor where it stays: on the GPU, or in page-locked memory, from which copies to a GPU are fastest."""
        if device.type == "cpu":
            return tensor
        return tensor.pin_memory() if self.on_host else tensor.to(device)


def parameter_files(model: Path) -> dict[str, Path]:
    """Parameter name -> the safetensors file that holds it."""
    return {key: file for file in sorted(model.glob("*.safetensors")) for key in _opened(file).keys()}  # noqa: SIM118


@cache
def _opened(file: Path) -> Any:
    """A file of weights, mapped while the worker runs: tensors keep their place in memory, so each is hashed once."""
    return safe_open(file, "pt")


def as_bytes(z: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Vectors by module name as they are sent to workers."""
    return {name: vector.detach().float().cpu().numpy().tobytes() for name, vector in z.items()}
