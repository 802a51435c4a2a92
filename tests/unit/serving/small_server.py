"""A server over a tiny model with random experts, in a thread of the tests."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from helpers import model, tokenizer
from transformer2.adaptation.model import SelfAdaptiveModel
from transformer2.models import load_model
from transformer2.serving.server import Server, listener
from transformer2.serving.worker import Worker
from transformer2.svf import SVFConfig

EXPERTS = ("code", "math", "reasoning")
QUESTIONS = [f"{words} {n}" for n in range(16) for words in ("say one word", "yes or no", "the answer is", "please")]


def save_models(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Folders of a base model and of its experts, `cls` among them."""
    words = tokenizer()
    llama = model(len(words))
    llama.config.max_position_embeddings = 2048
    llama.save_pretrained(folder / "base")
    words.save_pretrained(folder / "base")
    return folder / "base", {
        name: save_expert(folder / "base", folder / "experts" / name, seed)
        for seed, name in enumerate((*EXPERTS, "cls"))
    }


def save_expert(base: Path, folder: Path, seed: int) -> Path:
    settings = SVFConfig(target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(load_model(base), settings)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "svf_z" in name:
            parameter.data = 1 + 0.5 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(str(folder))
    return folder


@contextmanager
def running(adaptive: SelfAdaptiveModel, weights: dict[str, float] | None = None, places: int = 256) -> Iterator[Any]:
    """A server that answers; its `address` is free for it alone."""
    with listener("127.0.0.1", 0) as place:
        server = Server(Worker(adaptive, weights, places), f"http://127.0.0.1:{place.getsockname()[1]}")
        thread = threading.Thread(target=server.run, args=([place],))
        thread.start()
        while thread.is_alive() and not server.started:
            time.sleep(0.01)
        try:
            yield server
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive() and not server.worker.works
