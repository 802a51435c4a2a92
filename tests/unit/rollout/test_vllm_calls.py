"""What the engine asks of vLLM and when, with a stand-in that has vLLM's signatures (0.32.0): where no vLLM is."""

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from helpers import model, settings, tokenizer
from transformer2.models import new_expert
from transformer2.rollout import vllm
from transformer2.rollout.engine import Sampling


class LLM:
    """vLLM's class, as far as it is called: notes its calls, and refuses what a sleeping or waking engine would."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.asleep = False
        self.llm_engine = SimpleNamespace(remove_lora=lambda lora_id: self.calls.append(f"remove_lora {lora_id}"))

    def generate(self, prompts: Any, sampling_params: Any = None, *, use_tqdm: Any = True, lora_request: Any = None):
        assert not self.asleep, "a sleeping engine answers nothing"
        self.calls.append(f"generate {lora_request.lora_name}" if lora_request else "generate")
        answer = SimpleNamespace(token_ids=[5, 1], finish_reason="stop")
        return [SimpleNamespace(outputs=[answer]) for _ in prompts]

    def collective_rpc(self, method: str, timeout: float | None = None, args: tuple = (), kwargs: Any = None) -> list:
        assert not self.asleep, "weights of a sleeping engine are not there"
        self.calls.append(method)
        if method == "svf_put":
            self.calls[-1] += f" {len(list(args[0]))}"
        return [0]

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        self.calls.append("reset_prefix_cache")
        return True

    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        self.calls.append(f"sleep {level}")
        self.asleep = True

    def wake_up(self, tags: list[str] | None = None) -> bool:
        self.calls.append("wake_up")
        self.asleep = False
        return True


class LoRARequest(SimpleNamespace):
    def __init__(self, lora_name: str, lora_int_id: int, lora_path: str):
        super().__init__(lora_name=lora_name, lora_int_id=lora_int_id, lora_path=lora_path)


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> Iterator[LLM]:
    made, library, lora = LLM(), ModuleType("vllm"), ModuleType("vllm.lora.request")
    library.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    lora.LoRARequest = LoRARequest  # type: ignore[attr-defined]
    for name, module in (("vllm", library), ("vllm.lora", ModuleType("vllm.lora")), ("vllm.lora.request", lora)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(vllm, "_start", lambda *args: made)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: made.calls.append("empty_cache"))
    yield made


def engine_of(tmp_path: Any, lora_rank: int = 0) -> vllm.VLLMEngine:
    return vllm.VLLMEngine(tmp_path, tokenizer(), lora_rank=lora_rank)


def trained(adapter: str) -> Any:
    modules = "ia3" if adapter == "ia3" else "attention_qv"
    return new_expert(model(len(tokenizer())), settings(adapter=adapter, modules=modules, rank=2), None, 0)


def test_beside_a_training_vllm_is_awake_only_while_it_answers(llm, tmp_path):
    engine = engine_of(tmp_path)
    engine.follow(trained("ia3"))
    for _ in range(2):
        llm.calls.clear()
        engine.refresh()
        engine.generate([[1, 2]], Sampling(4))
        assert llm.asleep
    assert llm.calls == ["empty_cache", "wake_up", "svf_put 6", "reset_prefix_cache", "generate", "sleep 1"]
    llm.calls.clear()
    engine.generate([[1, 2]], Sampling(4))
    assert llm.calls == ["empty_cache", "wake_up", "generate", "sleep 1"], "weights that did not change stay"


def test_without_a_training_it_never_sleeps(llm, tmp_path):
    engine = engine_of(tmp_path)
    engine.generate([[1, 2]], Sampling(4))
    engine.generate([[1, 2]], Sampling(4))
    assert llm.calls == ["svf_open", "generate", "generate"]


def test_every_state_of_a_lora_has_an_id_of_its_own_and_the_one_before_is_dropped(llm, tmp_path):
    engine = engine_of(tmp_path, lora_rank=2)
    engine.follow(trained("lora"))
    for _ in range(3):
        engine.generate([[1, 2]], Sampling(4))
        engine.refresh()
    said = [call for call in llm.calls if "lora" in call or "default" in call]
    assert said == ["generate default-1", "remove_lora 1", "generate default-2", "remove_lora 2", "generate default-3"]
    assert not {"svf_put", "svf_scale", "svf_open"} & {*llm.calls}, "weights stay those of the base model"
    engine.set_expert(None)
    engine.generate([[1, 2]], Sampling(4))
    assert "generate" in llm.calls


@pytest.mark.parametrize(("rank", "started"), [(1, 1), (2, 8), (16, 16), (17, 32), (512, 512)])
def test_vllm_is_started_for_the_next_rank_that_it_knows(rank, started):
    assert vllm.start_rank(rank) == started


def test_a_rank_that_vllm_does_not_know_is_one_line():
    with pytest.raises(ValueError, match="LoRA of rank 513: vLLM takes ranks up to 512; set engine hf"):
        vllm.start_rank(513)
