"""The models that a benchmark runs on: a folder of weights, or random weights of a named shape.

Bases of SVF are random orthogonal matrices: neither time nor memory depends on their values, and both sides of a
comparison get the same ones. Where a result depends on them (`bases`), real decompositions are made.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import typer
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

from transformer2.svf import SVFConfig, SVFModel
from transformer2.svf.basis import Basis

MLP = ["gate_proj", "up_proj", "down_proj"]
SHAPES: dict[str, dict[str, Any]] = {
    "pocket": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4,
               "num_key_value_heads": 2, "vocab_size": 2048, "tie_word_embeddings": True},
    "smollm2": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
                "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
    "llama3-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                  "num_key_value_heads": 8, "vocab_size": 128256},
}  # fmt: skip
"""Sizes of Llamas by name; `smollm2` is SmolLM2-135M."""


def load(model: str, device: str, dtype: str) -> Any:
    """A causal language model in inference mode that never ends an answer by itself.

    Args:
        model: a folder of transformers, or a name of `SHAPES`, whose weights are drawn at random.
        device: `cpu` or `cuda`.
        dtype: a floating-point type by torch's name.

    Raises:
        BadParameter: neither a folder nor a known name, or no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("--device cuda: torch sees no GPU here; use --device cpu")
    if Path(model).is_dir():
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        loaded = loaded.to(device)
        for parameter in loaded.parameters():
            parameter.data = parameter.data.clone()  # out of the mapped file, whose pages are no memory until read
    elif model in SHAPES:
        loaded = random_llama(SHAPES[model], device, dtype)
    else:
        raise typer.BadParameter(
            f"--model {model}: no such folder, and no shape of that name; shapes are {', '.join(SHAPES)}"
        )
    loaded.generation_config = GenerationConfig(pad_token_id=0)
    return loaded.eval()


def random_llama(sizes: dict[str, Any], device: str, dtype: str) -> Any:
    """A Llama of these sizes (keys of `LlamaConfig`) with random weights, the same in every call."""
    torch.manual_seed(0)
    config = LlamaConfig(**{"tie_word_embeddings": False, "max_position_embeddings": 8192} | sizes)  # type: ignore[arg-type]
    config.bos_token_id = config.eos_token_id = None
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))


@cache
def _orthogonal(r: int) -> Tensor:
    generator = torch.Generator().manual_seed(r)
    return torch.linalg.qr(torch.randn(r, r, generator=generator))[0]


def orthogonal(weight: Tensor) -> Tensor:
    """A random orthogonal matrix (r, r) in the place of a weight's basis, r = min(m, n); each call makes a copy."""
    return _orthogonal(min(weight.shape)).to(weight, copy=True)


def norms(weight: Tensor) -> Tensor:
    """What stands for the singular values with the basis of `orthogonal`, (r,) in float32."""
    q = orthogonal(weight).float()
    tall = weight.shape[0] >= weight.shape[1]
    return (weight.float() @ q).norm(dim=0) if tall else (q.T @ weight.float()).norm(dim=1)


def random_basis(_config: Any, _name: str, module: Any) -> Basis:
    weight = module.weight.detach()
    return Basis(orthogonal(weight), norms(weight))


@contextmanager
def random_bases() -> Iterator[None]:
    """Inside, SVF takes random bases in place of decompositions."""
    with patch.object(SVFModel, "_basis", staticmethod(random_basis)):
        yield


def with_svf(model: nn.Module, experts: Sequence[str] = ("default",), **settings: Any) -> PeftModel:
    """The model with SVF experts on the matrices of its MLPs; `settings` are those of `SVFConfig`."""
    config = SVFConfig(**{"target_modules": MLP, "task_type": "CAUSAL_LM", "init_std": 0.01} | settings)  # type: ignore[arg-type]
    torch.manual_seed(1)
    with random_bases():
        adapted = get_peft_model(model, config, experts[0])  # type: ignore[arg-type]
        for name in experts[1:]:
            adapted.add_adapter(name, config)
    return adapted  # type: ignore[return-value]


def with_lora(model: nn.Module, rank: int = 16) -> PeftModel:
    """The model with LoRA on the matrices of its MLPs."""
    return get_peft_model(model, lora_config(rank))  # type: ignore[arg-type, return-value]


def lora_config(rank: int = 16) -> LoraConfig:
    return LoraConfig(target_modules=MLP, r=rank, lora_alpha=2 * rank, task_type="CAUSAL_LM")


def token_ids(model: Any, lengths: Sequence[int], seed: int = 2) -> list[list[int]]:
    """Rows of random token ids."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.config.get_text_config().vocab_size
    return [torch.randint(5, vocabulary, (n,), generator=generator).tolist() for n in lengths]


class NoTokenizer:
    """All that an engine asks of a tokenizer where answers are compared by their token ids."""

    pad_token_id = 0
    eos_token_id = None

    def decode(self, *_: Any, **__: Any) -> str:
        return ""

    def batch_decode(self, rows: Any, **_: Any) -> list[str]:
        return ["" for _ in rows]
