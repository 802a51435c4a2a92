"""Where the samples of a training step come from: the policy's scored answers, or the reference answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from transformer2.config import TaskTraining
from transformer2.rollout.engine import Completion, Engine, Sampling, encode_prompt
from transformer2.tasks import RIGHT, Row, Score, Task, classify

from .objective import Sample


def derive_seed(seed: int, *parts: int) -> int:
    """A seed for one purpose at one step: randomness depends only on (seed, step), so that a resumed training needs no
    state of a generator."""
    value = seed
    for part in parts:
        value = (value * 1_000_003 + part + 0x9E3779B9) % 2**63
    return value


def batch_indices(n: int, batch_size: int, step: int, seed: int) -> list[int]:
    """The rows of step `step` (from 0): consecutive pieces of an endless stream of shuffled epochs over n rows."""
    size = min(batch_size, n)
    first, last = step * size, (step + 1) * size - 1
    stream: list[int] = []
    for epoch in range(first // n, last // n + 1):
        generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
        stream += torch.randperm(n, generator=generator).tolist()
    offset = first - first // n * n
    return stream[offset : offset + size]


def weighted_indices(weights: Sequence[float], batch_size: int, step: int, seed: int) -> list[int]:
    """The rows of step `step` (from 0), each drawn with a probability in proportion to its weight, with replacement."""
    generator = torch.Generator().manual_seed(derive_seed(seed, step))
    size = min(batch_size, len(weights))
    return torch.multinomial(torch.tensor(weights), size, replacement=True, generator=generator).tolist()


def step_rows(rows: Sequence[Row], batch_size: int, step: int, seed: int) -> list[Row]:
    """The rows of one step: drawn by their weights, or in shuffled epochs where rows have no weights."""
    if "weight" in rows[0]:
        return [rows[i] for i in weighted_indices([row["weight"] for row in rows], batch_size, step, seed)]
    return [rows[i] for i in batch_indices(len(rows), batch_size, step, seed)]


@dataclass(frozen=True)
class Rollout:
    """The answers of one step of REINFORCE and their scores, for the log."""

    rows: list[Row]
    completions: list[Completion]
    scores: list[Score]
    rewards: list[float]


def rollout(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    rows: Sequence[Row],
    settings: TaskTraining,
    seed: int,
) -> tuple[list[Sample], Rollout]:
    """Answers of the policy to `rows` with their rewards: +1 if right, `reward_wrong` if not (Section 3.2).

    Training uses the engine's own token ids, after the prompt ids that they were generated from.
    """
    prompts = [encode_prompt(tokenizer, task.prompt(row)) for row in rows]
    if settings.rollout == "labels":
        completions = drawn_labels(engine, tokenizer, task, prompts, seed)
    else:
        temperature = 1.0 if settings.rollout == "sampled" else 0.0
        completions = engine.generate(prompts, Sampling(settings.max_new_tokens, temperature, task.stop, seed))
    scores = task.score(rows, [completion.text for completion in completions])
    rewards = [1.0 if getattr(score, settings.reward) >= RIGHT else settings.reward_wrong for score in scores]
    samples = [Sample(p, c.token_ids, r) for p, c, r in zip(prompts, completions, rewards, strict=True)]
    return samples, Rollout(list(rows), completions, scores, rewards)


def drawn_labels(
    engine: Engine, tokenizer: PreTrainedTokenizerBase, task: Task, prompts: Sequence[list[int]], seed: int
) -> list[Completion]:
    """Answers that name a class, drawn by how likely each name is after the words that all such answers begin with.

    A model that never answers in this form gets no reward for what it writes freely, and so nothing to learn from. The
    policy that draws is the model's own, restricted to four answers; the gradient is that of the whole model.

    Raises:
        ValueError: the task is another one than the classification of prompts.
    """
    if task.name != classify.TASK.name:
        raise ValueError(f"rollout: labels are those of the task {classify.TASK.name}; {task.name} has none")
    opening, firsts = classify.label_tokens(tokenizer)
    likely = engine.next_logprobs([[*prompt, *opening] for prompt in prompts], firsts).softmax(-1)
    drawn = torch.multinomial(likely, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
    texts = [classify.ANSWER % classify.CLASSES[i] for i in drawn.tolist()]
    end: Any = tokenizer.eos_token_id
    return [Completion([*tokenizer(text, add_special_tokens=False).input_ids, end], text, "stop") for text in texts]


def references(tokenizer: PreTrainedTokenizerBase, task: Task) -> Callable[[Sequence[Row]], list[Sample]]:
    """Turns rows into their reference answers, EOS included, after the same prompts that answers are generated from."""

    def sample(row: Row) -> Sample:
        answer = tokenizer(task.solution(row), add_special_tokens=False).input_ids
        return Sample(encode_prompt(tokenizer, task.prompt(row)), [*answer, tokenizer.eos_token_id], 1.0)  # type: ignore[list-item]

    return lambda rows: [sample(row) for row in rows]
