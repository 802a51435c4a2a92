"""A tiny random model, its tokenizer and a task that it can learn: what the tests of rollout and training share."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from transformer2.config import TaskTraining
from transformer2.pocket import vision
from transformer2.pocket.tokenizer import train_tokenizer
from transformer2.tasks import Prompt, Row, Score, Split, Task

TEXTS = ["say one word yes or no please", "the answer is yes", "the answer is no", "0 1 2 3 4 5 6 7 8 9"]


def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, [], vocab_size=320)


def model(vocabulary: int, seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=2,
            initializer_range=0.3,
        )
    )  # fmt: skip
    return llama.eval()


def rows(n: int) -> list[Row]:
    return [{"item": f"words/train/{i}", "question": f"say one word {i}"} for i in range(n)]


def right(text: str) -> bool:
    """A letter of the first half of the alphabet is in it: a random model gets some answers right."""
    return any(letter in text for letter in "abcdefghijklm")


def score(task_rows: Sequence[Row], completions: Sequence[str]) -> list[Score]:
    return [Score(strict=right(text), lenient=right(text), answer=text) for text in completions]


WORDS = Task(
    name="words", version=1, domain="reasoning", columns={"question": str}, source=None,
    splits={"train": Split("train")}, prompt=lambda row: Prompt(({"role": "user", "content": row["question"]},)),
    question=lambda row: row["question"],
    solution=lambda row: "yes", score=score, stop=(), max_new_tokens=6,
)  # fmt: skip


def settings(**changes: Any) -> TaskTraining:
    short = {"steps": 6, "batch_size": 8, "eval_every": 2, "clip_norm": 1.0, "init_std": 0.0, "max_new_tokens": 6}
    return TaskTraining(**(short | changes))


def vision_tokenizer(*shape: Any) -> Any:
    """The tokenizer with a processor of pictures; `shape` as `pocket.vision.new_processor` takes it."""
    processor = vision.new_processor(tokenizer(), *shape)
    words: Any = processor.tokenizer
    words.processor = processor
    return words


def vision_model(layers: int = 2) -> tuple[Any, Any]:
    """A tiny random LlavaNext and its tokenizer with the processor; the language model has the shapes of a stand-in."""
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.3, max_position_embeddings=512, tie_word_embeddings=False,
        )
    )  # fmt: skip
    words = vision_tokenizer()
    return vision.new_model(llama, words.processor, seed=0).eval(), words
