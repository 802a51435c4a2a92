"""Answers of a model to a task, and their scores."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from transformer2.rollout.engine import Completion, Engine, Sampling, encode_prompt
from transformer2.rollout.pictures import prompt_text
from transformer2.tasks import Row, Task


def answer(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    rows: Sequence[Row],
    max_new_tokens: int,
    slice_rows: int,
) -> Iterator[dict[str, Any]]:
    """Greedy answers, one JSON row a sample; `seconds` is the sample's share of its slice's generation time."""
    prompts = [encode_prompt(tokenizer, task.prompt(row)) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: -len(prompts[i]))
    with tqdm(total=len(rows), desc=f"answering {task.name}", unit="prompt") as bar:
        for start in range(0, len(rows), slice_rows):
            part = order[start : start + slice_rows]
            started = time.perf_counter()
            completions = engine.generate([prompts[i] for i in part], Sampling(max_new_tokens, stop=task.stop))
            seconds = (time.perf_counter() - started) / len(part)
            for i, completion in zip(part, completions, strict=True):
                yield sample(rows[i], prompt_text(tokenizer, prompts[i]), completion, seconds)
            bar.update(len(part))


def sample(row: Row, prompt: str, completion: Completion, seconds: float) -> dict[str, Any]:
    """One answer as it is kept."""
    return {
        "item": row["item"],
        "prompt": prompt,
        "completion": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "seconds": round(seconds, 5),
    }


def accuracy(
    engine: Engine, tokenizer: PreTrainedTokenizerBase, task: Task, rows: Sequence[Row], max_new_tokens: int, which: str
) -> float:
    """Mean score `which` (strict | lenient) of the greedy answers to `rows`: the share that is right, as a rule.

    Rows of classes of unequal size have a `weight`, which makes it the mean over the classes.
    """
    prompts = [encode_prompt(tokenizer, task.prompt(row)) for row in rows]
    completions = engine.generate(prompts, Sampling(max_new_tokens, stop=task.stop))
    scores = task.score(rows, [completion.text for completion in completions])
    weights = [row.get("weight", 1.0) for row in rows]
    right = sum(weight * getattr(score, which) for weight, score in zip(weights, scores, strict=True))
    return right / sum(weights)
