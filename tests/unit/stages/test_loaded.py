"""What a process keeps loaded: one base model, and one vLLM engine."""

from typing import Any

import pytest

from helpers import model, tokenizer
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

    def __init__(self, *started: Any, **options: Any):
        self.tokenizer = started[1]
        self.running.append(self)

    def set_expert(self, name: str | None) -> None:
        self.expert = name

    def follow(self, policy: Any) -> None:
        self.policy = policy

    def close(self) -> None:
        self.running.remove(self)


def test_one_vllm_runs_at_a_time_and_none_beside_transformers_own_generation(loads, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm, "VLLMEngine", Engine)

    def answering(name: str, folder: str) -> None:
        with loaded.answering_engine(name, tmp_path / folder, None, None, "float32", 1, 4) as (engine, _):
            assert len(Engine.running) == (name == "vllm") and engine is not None

    for name, folder in [("vllm", "one"), ("vllm", "one"), ("vllm", "two"), ("hf", "two"), ("vllm", "two")]:
        answering(name, folder)
    assert len(loads) == 1 and loaded._loaded.cache_info().currsize == 0, "vLLM has the GPU for itself"
    with loaded.lend_base(tmp_path / "two") as (base, words):
        policy = object()
        engine = loaded.training_engine("vllm", policy, tmp_path / "two", words, None, "float32", 1, 4)
        assert engine.policy is policy and len(Engine.running) == 1  # type: ignore[attr-defined]
        loaded.training_engine("hf", base, tmp_path / "two", words, None, "float32", 1, 4)
    assert Engine.running == []


def test_an_expert_on_vllm_needs_the_basis(tmp_path):
    with (
        pytest.raises(ValueError, match="an expert on vLLM needs --basis"),
        loaded.answering_engine("vllm", tmp_path, tmp_path, None, "float32", 1, 4),
    ):
        pass
