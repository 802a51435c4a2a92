"""Several processes that train one expert together, each on a GPU of its own.

The decoder layers' weights lie in shards with all of them (torch's FSDP); what is trained is small and lies whole with
each. Each process takes its share of the micro-batches of a step, and their gradients are added up. The first process
answers, scores and writes files, and hands the others what came of it, so that all of them go through the same steps.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

Result = TypeVar("Result")
TIMEOUT = timedelta(days=2)
"""How long a process waits for the others, who may wait for the answers of the first."""


@dataclass(frozen=True)
class Team:
    """The processes of a training: this one's number, and how many they are."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def broadcast_from_main(self, work: Callable[[], Result]) -> Result:
        """What the first process gets from `work`, in all of them."""
        if self.size == 1:
            return work()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # vLLM needs what torch would keep
        result: list[Any] = [work() if self.is_main else None]
        dist.broadcast_object_list(result, 0)
        return result[0]

    def share(self, batches: Sequence[list[int]]) -> list[tuple[list[int], float]]:
        """This process's batches, each with its weight. All processes get as many, as layers are put together for all
        of them at once: where there are too few, the first batch is repeated with weight 0."""
        rounds = -(-len(batches) // self.size)
        mine = [(batch, 1.0) for batch in batches[self.rank :: self.size]]
        return mine + [(batches[0], 0.0)] * (rounds - len(mine))

    def all_reduce(self, tensors: Iterable[Tensor]) -> None:
        """Puts the sum over all processes in place of each tensor."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)


ALONE = Team()


def join(rank: int, size: int, rendezvous: Path) -> Team:
    """Makes this process one of a team; `rendezvous` is a file that is not there yet, the same for all of them."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=size, timeout=TIMEOUT)
    return Team(rank, size)


def shard_layers(model: PeftModel, team: Team) -> None:
    """Leaves this process its shard of the weights of each decoder layer, on its GPU if it has one.

    What is trained, Q, embeddings and the head stay whole. A layer's weights are put together while it runs.
    """
    device = torch.device("cuda", team.rank) if torch.cuda.is_available() else torch.device("cpu")
    mesh = init_device_mesh(device.type, (team.size,))
    for layer in decoder_layers(model):
        layer.to(device)
        trained = {parameter for parameter in layer.parameters() if parameter.requires_grad}
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    model.to(device)


def decoder_layers(model: PeftModel) -> list[Any]:
    """The decoder layers of a language model."""
    causal: Any = model.get_base_model()
    return list(causal.get_decoder().layers)
