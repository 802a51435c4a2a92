"""A server over a tiny model with random experts, in a thread of the tests."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from test_adaptation import save_expert

from helpers import model, tokenizer
from transformer2.adaptation.model import SelfAdaptiveModel
from transformer2.serving.server import Server, listener
from transformer2.serving.worker import Worker

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
