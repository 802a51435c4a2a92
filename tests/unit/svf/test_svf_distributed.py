"""SVF in torch's data parallelism: two processes find the gradients of one."""

import os
import socket
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
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


WORKS = (ddp, fsdp1, fsdp2, accelerate_fsdp)


def run(rank: int, folder: Path) -> None:
    """Each work in a process group of its own; what it found, or the error that it ended with, is written."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    for work in WORKS:
        os.environ["MASTER_PORT"] = (folder / f"port of {work.__name__}").read_text()
        dist.init_process_group("gloo", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
        try:
            found = work(rank)
        except Exception:
            (folder / f"{work.__name__}.{rank}.error").write_text(traceback.format_exc())
        else:
            torch.save(found, folder / f"{work.__name__}.{rank}")
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what both processes found; they are started once, since they import for seconds."""
    folder = tmp_path_factory.mktemp("gradients")
    for work, port in zip(WORKS, free_ports(len(WORKS)), strict=True):
        (folder / f"port of {work.__name__}").write_text(str(port))
    mp.start_processes(run, (folder,), WORLD, start_method="spawn")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("work", WORKS)
def test_two_processes_find_the_gradients_of_one(work, gradients):
    errors = [path.read_text() for path in sorted(gradients.glob(f"{work.__name__}.*.error"))]
    assert not errors, errors[0]
    found = torch.load(gradients / f"{work.__name__}.0")
    model = expert()
    expected = step(model, batch())
    assert len(expected) == 2 * 14 and len(found) in (14, 28)
    torch.testing.assert_close(found, expected[: len(found)], rtol=1e-4, atol=1e-6)


def free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
