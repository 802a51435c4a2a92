"""SVF in torch's data parallelism: two processes find the gradients of one."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import get_peft_model
from test_svf import TARGETS, randomise, tiny_llama
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from transformer2.svf import SVFConfig
from transformer2.svf.layer import Linear

WORLD = 2


def batch() -> Tensor:
    return torch.randint(0, 50, (4, 11), generator=torch.Generator().manual_seed(3))


def expert() -> nn.Module:
    model = get_peft_model(tiny_llama(), SVFConfig(target_modules=TARGETS, task_type="CAUSAL_LM"))
    randomise(model, "default")
    return model.train()


def loss(model: nn.Module, rows: Tensor) -> Tensor:
    return model(input_ids=rows, labels=rows).loss


def step(model: nn.Module, rows: Tensor, work: Callable[[Tensor], object] = Tensor.backward) -> list[Tensor]:
    """Gradients of two passes, between which every vector moves as an optimiser would move it."""
    found = []
    for _ in range(2):
        model.zero_grad()
        work(loss(model, rows))
        vectors = [p for name, p in sorted(model.named_parameters()) if "svf_z" in name]
        found += [whole(p.grad) for p in vectors if p.grad is not None]
        with torch.no_grad():
            for p in vectors:
                p.data -= 0.1 * p.grad  # type: ignore[operator]
    return found


def whole(gradient: Tensor) -> Tensor:
    return (gradient.full_tensor() if isinstance(gradient, DTensor) else gradient).clone()


def ddp(rank: int) -> list[Tensor]:
    return step(nn.parallel.DistributedDataParallel(expert()), batch()[rank::WORLD])


def fsdp2(rank: int) -> list[Tensor]:
    from torch.distributed.fsdp import fully_shard

    model = expert()
    mesh = dist.init_device_mesh("cpu", (WORLD,))
    for layer in model.base_model.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    found = step(model, batch()[rank::WORLD])
    layers = [module for module in model.modules() if isinstance(module, Linear)]
    assert layers and all(isinstance(layer.base_layer.weight, DTensor) for layer in layers), "shards again"
    assert all(layer.composed is None for layer in layers), "no whole W' lies beside the shards"
    return found


def fsdp1(rank: int) -> list[Tensor]:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    model = expert()
    policy = ModuleWrapPolicy({type(model.base_model.model.model.layers[0])})
    model = FullyShardedDataParallel(
        model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
    )
    model.zero_grad()
    loss(model, batch()[rank::WORLD]).backward()
    assert all(module.composed is None for module in model.modules() if isinstance(module, Linear))
    with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
        return [
            p.grad.clone() for name, p in sorted(model.named_parameters()) if "svf_z" in name and p.grad is not None
        ]


def accelerate_fsdp(rank: int) -> list[Tensor]:
    from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
        cpu_ram_efficient_loading=False,
    )  # fmt: skip
    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = DistributedType.FSDP  # which accelerate would not choose on a CPU
    accelerator.state.fsdp_plugin = plugin
    model = expert()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model, optimiser = accelerator.prepare(model, optimiser)
    found = step(model, batch()[rank::WORLD], accelerator.backward)
    assert any(isinstance(p, DTensor) for p in model.parameters())
    return found


def run(rank: int, work: Callable[[int], list[Tensor]], folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (Path(folder) / "port").read_text()}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    found = work(rank)
    if rank == 0:
        torch.save(found, Path(folder) / "gradients")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("work", [ddp, fsdp1, fsdp2, accelerate_fsdp])
def test_two_processes_find_the_gradients_of_one(work, free_port):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "port").write_text(str(free_port))
        mp.start_processes(run, (work, folder), WORLD, start_method="spawn")
        found = torch.load(Path(folder) / "gradients")
    model = expert()
    expected = step(model, batch())
    assert len(expected) == 2 * 14 and len(found) in (14, 28)
    torch.testing.assert_close(found, expected[: len(found)], rtol=1e-4, atol=1e-6)


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
