"""What vLLM's workers do to the weights of the running model, on a model of transformers in its place."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing
from transformers import AutoModelForCausalLM

from helpers import model, tokenizer
from transformer2.rollout import vllm_worker
from transformer2.rollout.vllm_worker import SVFWorker, as_bytes
from transformer2.svf import basis
from transformer2.svf.basis import decoder_matrices, decompose, scale_weight, singular_values, write_basis

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"


class Running(torch.nn.Module):
    """A model with vLLM's way of loading weights."""

    def __init__(self, llama: Any):
        super().__init__()
        self.llama = llama

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        with torch.no_grad():
            for name, weight in weights:
                self.llama.get_parameter(name).copy_(weight)


@pytest.fixture
def worker(tmp_path) -> Any:
    """A worker with a running model, whose files are the folder `model` and the bases `basis`."""
    llama = model(len(tokenizer()))
    llama.save_pretrained(tmp_path)
    write_basis(decoder_matrices(tmp_path, torch.float32), tmp_path / "bases")
    made: Any = SVFWorker()
    made.model_runner = SimpleNamespace(model=Running(llama))
    made._svf_place = lambda: (0, 1)
    made.svf_open(str(tmp_path), str(tmp_path / "bases"), False, None)
    return made


def test_an_expert_is_put_into_the_weights_and_the_base_comes_back_bit_for_bit(worker, tmp_path):
    llama = worker.model_runner.model.llama
    before = {name: parameter.detach().clone() for name, parameter in llama.named_parameters()}
    z = {name: 1 + 0.3 * torch.randn(len(s)) for name, s in singular_values(tmp_path / "bases").items()}
    for names in ([Q], [V], [Q, V]):
        worker.svf_scale(as_bytes({name: z[name] for name in names}))
        for name, parameter in llama.named_parameters():
            weight, matrix = before[name], name.removesuffix(".weight")
            scaled = scale_weight(weight, decompose(weight).q, z[matrix] - 1) if matrix in names else weight
            assert torch.equal(parameter, scaled), name
    assert worker.svf_scale({}) == 2
    assert all(torch.equal(parameter, before[name]) for name, parameter in llama.named_parameters())


def test_weights_are_opened_once_for_all_experts_and_checked_by_their_row_hashes(worker, tmp_path, monkeypatch):
    hashed, opened = [], []
    sha256, safe_open = basis._sha256, vllm_worker.safe_open
    vllm_worker._opened.cache_clear()
    monkeypatch.setattr(basis, "_FINGERPRINTS", {})
    monkeypatch.setattr(basis, "_sha256", lambda weight: hashed.append(weight.shape) or sha256(weight))
    monkeypatch.setattr(vllm_worker, "safe_open", lambda *args: opened.append(args) or safe_open(*args))
    worker.svf_open(str(tmp_path), str(tmp_path / "bases"), False, None)
    vectors = singular_values(tmp_path / "bases")
    read: list[str] = []
    kept = vllm_worker.BaseWeights._read
    monkeypatch.setattr(vllm_worker.BaseWeights, "_read", lambda *args: read.append(args[1]) or kept(*args))
    for scale in (1.0, 1.5, 0.5):
        worker.svf_scale(as_bytes({name: torch.full_like(s, scale) for name, s in vectors.items()}))
    assert not hashed and len(vectors) == 14 and len(opened) == 1
    assert len(read) == 2 * 14, "W and Q of a matrix are read once"


def test_weights_of_the_process_are_used_as_they_are(worker, tmp_path, monkeypatch):
    """On one GPU: W is that of the model that is trained or merged from, and no file is read."""
    base = AutoModelForCausalLM.from_pretrained(tmp_path)
    worker.svf_open(str(tmp_path), str(tmp_path / "bases"), False, dict(base.named_parameters()))
    monkeypatch.setattr(vllm_worker, "safe_open", None)
    vllm_worker._opened.cache_clear()
    z = torch.full((len(singular_values(tmp_path / "bases")[Q]),), 1.5)
    worker.svf_scale(as_bytes({Q: z}))
    weight, running = base.get_parameter(f"{Q}.weight"), worker.model_runner.model.llama
    assert torch.equal(running.get_parameter(f"{Q}.weight"), scale_weight(weight, decompose(weight).q, z - 1))
    worker.svf_put([(f"{V}.weight", torch.zeros_like(running.get_parameter(f"{V}.weight")))])
    assert torch.equal(running.get_parameter(f"{Q}.weight"), weight), "back to the base"
    assert not running.get_parameter(f"{V}.weight").any()
    assert worker.svf_scale({}) == 1
    assert all(torch.equal(p, base.get_parameter(name)) for name, p in running.named_parameters())


class Group:
    """What vLLM's group of workers offers, over torch's."""

    def __init__(self) -> None:
        self.rank_in_group, self.world_size = dist.get_rank(), dist.get_world_size()

    def broadcast(self, tensor: Tensor, src: int = 0) -> Tensor:
        dist.broadcast(tensor, src)
        return tensor


def share_of_a_worker(rank: int, folder: str) -> None:
    """One of two workers: each reads its share of the matrices, and both have all of them afterwards."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    base = AutoModelForCausalLM.from_pretrained(folder)
    made: Any = SVFWorker()
    made.model_runner = SimpleNamespace(model=Running(AutoModelForCausalLM.from_pretrained(folder)))
    group = Group()
    made._svf_place = lambda: (group.rank_in_group, group.world_size)
    made._svf_send = lambda weight, owner: group.broadcast(weight, owner)
    made.svf_open(folder, f"{folder}/bases", True, None)
    z = {name: torch.linspace(0.5, 1.5, len(s)) for name, s in singular_values(Path(folder, "bases")).items()}
    made.svf_scale(as_bytes(z))
    for name, vector in z.items():
        weight = base.get_parameter(f"{name}.weight")
        expected = scale_weight(weight, decompose(weight).q, vector - 1)
        assert torch.equal(made.model_runner.model.llama.get_parameter(f"{name}.weight"), expected)
    assert 0 < len(made.svf_base._weights) < len(z)
    held: list[Any] = [None, None]
    dist.all_gather_object(held, sorted(made.svf_base._weights))
    assert sorted(held[0] + held[1]) == sorted(f"{name}.weight" for name in z), "each matrix lies with one worker"
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_share_the_matrices_and_both_get_all_of_them(worker, tmp_path):
    multiprocessing.start_processes(share_of_a_worker, (str(tmp_path),), 2, start_method="spawn")
