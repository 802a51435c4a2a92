"""What a process keeps loaded: one base model, and one vLLM engine."""

from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel

from helpers import model, settings, tokenizer
from transformer2.models import new_expert
from transformer2.rollout import vllm
from transformer2.stages import loaded


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch):
    """Models that were loaded, of folders that need not be there."""
    names: list[str] = []

    def load(folder: Any, dtype: str = "float32") -> Any:
        names.append(f"{folder} {dtype}")
        return model(len(tokenizer()))

    monkeypatch.setattr(loaded, "load_model", load)
    monkeypatch.setattr(loaded, "load_tokenizer", lambda folder: tokenizer())
    loaded._loaded.cache_clear()
    yield names
    loaded._loaded.cache_clear()


def test_a_base_model_is_loaded_once_and_lent_without_adapters(loads, tmp_path):
    for _ in range(3):
        with loaded.lend_base(tmp_path / "one") as (base, _):
            assert not hasattr(base, "peft_config") and all(p.requires_grad for p in base.parameters())
            base.requires_grad_(False)
    assert len(loads) == 1
    with loaded.lend_base(tmp_path / "one", "bfloat16"), loaded.lend_base(tmp_path / "two"):
        pass
    assert len(loads) == 3


def test_a_model_that_was_written_anew_is_loaded_anew(loads, tmp_path):
    config = tmp_path / "config.json"
    for text in ("one", "two"):
        config.write_text(text)
        with loaded.lend_base(tmp_path):
            pass
        config.touch()
    assert len(loads) == 2


class Engine:
    """A vLLM that notes what is asked of it."""

    running: list["Engine"] = []

    def __init__(self, *started: Any):
        self.tokenizer, self.experts, self.policy = started[1], {}, None
        (self.gpus, self.memory, self.lora_rank, self.base, self.on_host) = started[5:]
        self.running.append(self)

    def put(self, name: str, expert: Any) -> None:
        self.experts[name] = expert

    def set_expert(self, name: str | None) -> None:
        self.expert = name

    def follow(self, policy: Any) -> None:
        self.policy = policy

    def close(self) -> None:
        self.running.remove(self)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vllm, "VLLMEngine", Engine)
    yield Engine.running
    loaded._close_vllm()


def test_one_vllm_runs_at_a_time_and_none_beside_transformers_own_generation(loads, tmp_path, engines):
    def answering(name: str, folder: str, gpus: int = 1) -> None:
        with loaded.answering_engine(name, tmp_path / folder, None, None, "float32", gpus, 4) as (engine, _):
            assert len(engines) == (name == "vllm") and engine is not None

    for name, folder in [("vllm", "one"), ("vllm", "one"), ("vllm", "two"), ("hf", "two"), ("vllm", "two")]:
        answering(name, folder)
    assert len(loads) == 2 and engines[0].base is not None, "one GPU: both use the same weights"
    answering("vllm", "two", gpus=2)
    assert engines[0].base is None and loaded._loaded.cache_info().currsize == 0, "the workers have the GPUs"
    with loaded.lend_base(tmp_path / "two") as (base, words):
        policy = new_expert(base, settings(), None, 0)
        engine = loaded.training_engine("vllm", policy, tmp_path / "two", words, None, "float32", 1, 4)
        assert engine.policy is policy and len(engines) == 1  # type: ignore[attr-defined]
        loaded.training_engine("hf", base, tmp_path / "two", words, None, "float32", 1, 4)
    assert engines == []


@pytest.mark.parametrize(
    ("adapter", "form"),
    [("lora", Path), ("dora", PeftModel), ("ia3", PeftModel), ("vera", PeftModel), ("tinylora", PeftModel)],
)
def test_vllm_takes_lora_from_its_folder_and_other_adapters_as_a_model(loads, tmp_path, engines, adapter, form):
    modules = "ia3" if adapter == "ia3" else "attention_qv"
    expert = new_expert(model(len(tokenizer())), settings(adapter=adapter, modules=modules, rank=5), None, 0)
    expert.save_pretrained(str(tmp_path / "expert"))
    with loaded.answering_engine("vllm", tmp_path, tmp_path / "expert", None, "float32", 1, 4) as (engine, _):
        assert isinstance(engine.experts["expert"], form) and engine.expert == "expert"  # type: ignore[attr-defined]
        assert engine.lora_rank == (8 if adapter == "lora" else 0)  # type: ignore[attr-defined]
    if adapter != "lora":
        with (
            pytest.raises(ValueError, match="is answered on one GPU only"),
            loaded.answering_engine("vllm", tmp_path, tmp_path / "expert", None, "float32", 2, 4),
        ):
            pass


def test_memory_that_others_need_is_not_vllms(monkeypatch):
    monkeypatch.setattr(vllm.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(vllm.torch.cuda, "mem_get_info", lambda: (60e9, 80e9))
    assert vllm.memory_share(20e9) == 0.5
    with pytest.raises(ValueError, match="60.0 GB of the GPU are free, and 61.0 GB are needed beside vLLM"):
        vllm.memory_share(61e9)


def test_an_expert_on_vllm_needs_the_basis(loads, tmp_path, engines):
    new_expert(model(len(tokenizer())), settings(), None, 0).save_pretrained(str(tmp_path / "expert"))
    with (
        pytest.raises(ValueError, match="an expert on vLLM needs --basis"),
        loaded.answering_engine("vllm", tmp_path, tmp_path / "expert", None, "float32", 1, 4),
    ):
        pass
