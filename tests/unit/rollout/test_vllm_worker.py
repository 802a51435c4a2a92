"""What vLLM's workers do to the weights of the running model, on a model of transformers in its place."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

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
    made.files = str(tmp_path), str(tmp_path / "bases")
    return made


def test_an_expert_is_put_into_the_weights_and_the_base_comes_back_bit_for_bit(worker, tmp_path):
    llama = worker.model_runner.model.llama
    before = {name: parameter.detach().clone() for name, parameter in llama.named_parameters()}
    z = {name: 1 + 0.3 * torch.randn(len(s)) for name, s in singular_values(tmp_path / "bases").items()}
    for names in ([Q], [V], [Q, V]):
        worker.svf_scale(*worker.files, as_bytes({name: z[name] for name in names}))
        for name, parameter in llama.named_parameters():
            weight, matrix = before[name], name.removesuffix(".weight")
            scaled = scale_weight(weight, decompose(weight).q, z[matrix] - 1) if matrix in names else weight
            assert torch.equal(parameter, scaled), name
    assert worker.svf_scale(*worker.files, {}) == 2
    assert all(torch.equal(parameter, before[name]) for name, parameter in llama.named_parameters())


def test_weights_are_opened_and_hashed_once_for_all_experts(worker, tmp_path, monkeypatch):
    hashed, opened = [], []
    sha256, safe_open = basis._sha256, vllm_worker.safe_open
    vllm_worker._opened.cache_clear()
    monkeypatch.setattr(basis, "_FINGERPRINTS", {})
    monkeypatch.setattr(basis, "_sha256", lambda weight: hashed.append(weight.shape) or sha256(weight))
    monkeypatch.setattr(vllm_worker, "safe_open", lambda *args: opened.append(args) or safe_open(*args))
    vectors = singular_values(tmp_path / "bases")
    for scale in (1.0, 1.5, 0.5):
        worker.svf_scale(*worker.files, as_bytes({name: torch.full_like(s, scale) for name, s in vectors.items()}))
    assert len(hashed) == len(vectors) == 14 and len(opened) == 1
