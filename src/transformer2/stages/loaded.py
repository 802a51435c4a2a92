"""What a process holds while it works through a stage: a base model with its tokenizer, or a vLLM engine, or (where it
trains with vLLM) both."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformer2.adapters import strip
from transformer2.models import load_expert, load_model, load_tokenizer
from transformer2.rollout.engine import Engine
from transformer2.rollout.hf import HFEngine
from transformer2.seals import intact


@contextmanager
def lend_base(folder: Path, dtype: str = "float32") -> Iterator[tuple[Any, Any]]:
    """The base model of a folder and its tokenizer, loaded once a process. Adapters put on inside are taken off.

    Raises:
        ValueError: as `models.load_model`.
    """
    model, tokenizer = _loaded(folder, dtype, _time_of(folder))
    try:
        yield model, tokenizer
    finally:
        strip(model)


@lru_cache(maxsize=1)
def _loaded(folder: Path, dtype: str, time: int) -> tuple[Any, Any]:
    return load_model(folder, dtype), load_tokenizer(folder)


def _time_of(folder: Path) -> int:
    """When the model of a folder was written; 0 for one in the hub's cache."""
    config = Path(folder) / "config.json"
    return config.stat().st_mtime_ns if config.is_file() else 0


@contextmanager
def answering_engine(
    name: str, model: Path, expert: Path | None, basis: Path | None, dtype: str, gpus: int, batch_rows: int
) -> Iterator[tuple[Engine, Any]]:
    """The engine `name` (hf | vllm) with an expert, or with the base model alone, and the tokenizer.

    Raises:
        ValueError: as `models.load_expert`; vLLM is to answer with an expert, and there is no basis.
    """
    if name != "vllm":
        _close_vllm()  # it holds most of a GPU's memory
        with lend_base(model, dtype) as (base, tokenizer):
            adapted = base if expert is None else load_expert(base, expert, basis)
            yield HFEngine(adapted, tokenizer, batch_rows), tokenizer
        return
    from transformer2.svf.basis import singular_values
    from transformer2.transfer import read_z

    if expert is not None and basis is None:
        raise ValueError("an expert on vLLM needs --basis: the bases of its model (transformer2 basis)")
    _loaded.cache_clear()
    engine = _vllm(model, basis, dtype, gpus, None)
    if expert is not None and basis is not None:
        engine.put("expert", read_z(expert, singular_values(intact(basis))))
    engine.set_expert(None if expert is None else "expert")
    yield engine, engine.tokenizer


def training_engine(
    name: str, expert: Any, model: Path, tokenizer: Any, basis: Path | None, dtype: str, gpus: int, batch_rows: int
) -> Engine:
    """The engine `name` (hf | vllm) that answers with an expert in training."""
    if name != "vllm":
        _close_vllm()
        return HFEngine(expert, tokenizer, batch_rows)
    from transformer2.rollout.vllm import BESIDE_TRAINING

    engine = _vllm(model, basis, dtype, gpus, BESIDE_TRAINING)
    engine.follow(expert)
    return engine


_engines: dict[tuple[Any, ...], Any] = {}
"""The vLLM engine of this process, by what it was started with."""


def _vllm(model: Path, basis: Path | None, dtype: str, gpus: int, memory: float | None) -> Any:
    """The vLLM engine that was started so; another one is closed first, as two do not fit on a GPU."""
    from transformer2.rollout.vllm import VLLMEngine

    asked = (model, basis, dtype, gpus, memory)
    if asked not in _engines:
        _close_vllm()
        share = {} if memory is None else {"memory": memory}
        _engines[asked] = VLLMEngine(model, load_tokenizer(model), basis, {}, dtype, gpus, **share)
    return _engines[asked]


def _close_vllm() -> None:
    while _engines:
        _engines.popitem()[1].close()
