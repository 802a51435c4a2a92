"""What a process holds while it works through a stage: a base model with its tokenizer, and a vLLM engine where that
answers. On one GPU both use the same W and Q."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformer2.adapters import strip
from transformer2.checksums import verified
from transformer2.experts import CONFIG, kind_of, read_expert
from transformer2.models import load_expert, load_model, load_tokenizer
from transformer2.provenance import read_json
from transformer2.rollout.engine import Engine
from transformer2.rollout.hf import HFEngine
from transformer2.svf.config import PEFT_TYPE

ROOM = 2e9
"""Bytes of a GPU that stay free beside vLLM and what is known: CUDA's own, and W' while it is composed."""


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
    kind = None if expert is None else kind_of(expert)
    if name == "vllm" and gpus > 1:
        _loaded.cache_clear()  # the workers have the GPUs for themselves
        engine = _vllm(model, None, basis, dtype, gpus, _rank(kind, expert))
        yield _with_expert(engine, None, kind, expert, basis), engine.tokenizer
        return
    if name != "vllm":
        _close_vllm()  # it holds most of a GPU's memory
    with lend_base(model, dtype) as (base, tokenizer):
        if name != "vllm":
            adapted = base if expert is None else load_expert(base, expert, basis)
            yield HFEngine(adapted, tokenizer, batch_rows), tokenizer
            return
        yield (
            _with_expert(_vllm(model, base, basis, dtype, 1, _rank(kind, expert)), base, kind, expert, basis),
            tokenizer,
        )


def _with_expert(engine: Any, base: Any, kind: str | None, expert: Path | None, basis: Path | None) -> Any:
    """vLLM with an expert from a folder in the form that it takes; `base` is the base model of this process."""
    from transformer2.svf.basis import singular_values
    from transformer2.transfer import read_z

    engine.policy = None
    if expert is not None:
        if kind == PEFT_TYPE:
            if basis is None:
                raise ValueError("an expert on vLLM needs --basis: the bases of its model (transformer2 basis)")
            engine.put("expert", read_z(expert, singular_values(verified(basis))))
        elif kind == "LoRA":
            read_expert(expert)
            engine.put("expert", expert)
        elif base is None:
            raise ValueError(
                f"{kind} is answered on one GPU only: its weights are merged in this process; set engine hf"
            )
        else:
            engine.put("expert", load_expert(base, expert, basis))
    engine.set_expert(None if expert is None else "expert")
    return engine


def training_engine(
    name: str, expert: Any, model: Path, tokenizer: Any, basis: Path | None, dtype: str, gpus: int, batch_rows: int
) -> Engine:
    """The engine `name` (hf | vllm) that answers with an expert in training."""
    if name != "vllm":
        _close_vllm()
        return HFEngine(expert, tokenizer, batch_rows)
    config = expert.peft_config["default"]
    plain = config.peft_type == "LORA" and not config.use_dora
    base = expert.get_base_model() if gpus == 1 else None
    engine = _vllm(model, base, basis, dtype, gpus, config.r if plain else 0, beside_training=True)
    engine.follow(expert)
    return engine


_engines: dict[tuple[Any, ...], Any] = {}
"""The vLLM engine of this process, by what it was started with."""


def _rank(kind: str | None, expert: Path | None) -> int:
    """The rank that vLLM is started for: of LoRA; 0 for experts of other kinds."""
    return read_json(expert / CONFIG)["r"] if expert is not None and kind == "LoRA" else 0


def _vllm(
    model: Path, base: Any, basis: Path | None, dtype: str, gpus: int, rank: int, beside_training: bool = False
) -> Any:
    """The vLLM engine that was started so; another one is closed first, as two do not fit on a GPU.

    Beside it stay Q, in training W' of the trained expert, and some room; the base model of this process is there
    already. The workers of several GPUs keep W and Q of their share, in training in the memory of the CPU.
    """
    from transformer2.rollout.vllm import VLLMEngine, memory_share, start_rank

    rank = rank and start_rank(rank)
    asked = (model, basis, dtype, gpus, rank, beside_training)
    if asked not in _engines:
        _close_vllm()
        scaled = sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))
        bases = 0 if basis is None or rank else basis.stat().st_size
        kept = bases + scaled * (gpus > 1 or beside_training)
        on_host = gpus > 1 and beside_training
        memory = memory_share(ROOM + (0 if rank or on_host else kept / gpus))
        tokenizer = load_tokenizer(model)
        _engines[asked] = VLLMEngine(model, tokenizer, basis, {}, dtype, gpus, memory, rank, base, on_host)
    return _engines[asked]


def release() -> None:
    """Frees what this process holds."""
    _close_vllm()
    _loaded.cache_clear()


def _close_vllm() -> None:
    while _engines:
        _engines.popitem()[1].close()
