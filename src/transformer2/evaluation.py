"""Answers of a model to a task, their scores, and one tidy frame of all scores of a run."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from transformer2.provenance import read_json, whole_file
from transformer2.rollout.engine import Engine, Sampling, encode_prompt
from transformer2.tasks import Row, Task

IDENTITY = ("run", "model", "stands_in_for", "standin", "method", "trained_on", "task", "seed")
"""What a file of scores says of itself: columns of the tidy frame."""
COLUMNS = (*IDENTITY, "item", "strict", "lenient", "new_tokens", "finish_reason")


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
                yield {
                    "item": rows[i]["item"],
                    "prompt": tokenizer.decode(prompts[i]),
                    "completion": completion.text,
                    "token_ids": completion.token_ids,
                    "finish_reason": completion.finish_reason,
                    "seconds": round(seconds, 5),
                }
            bar.update(len(part))


def score_answers(task: Task, rows: Sequence[Row], answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both scores of every answer, in the order of `rows`.

    Raises:
        ValueError: the answers are not those to these rows.
    """
    by_item = {sample["item"]: sample for sample in answers}
    missing = [row["item"] for row in rows if row["item"] not in by_item]
    if missing or len(by_item) != len(rows):
        raise ValueError(
            f"{len(by_item)} answers to {len(rows)} items of {task.name}, {len(missing)} items have none: answer again"
        )
    ordered = [by_item[row["item"]] for row in rows]
    scores = task.score(rows, [sample["completion"] for sample in ordered])
    return [
        {
            "item": sample["item"], "strict": score.strict, "lenient": score.lenient, "answer": score.answer,
            "new_tokens": len(sample["token_ids"]), "finish_reason": sample["finish_reason"],
        }
        for sample, score in zip(ordered, scores, strict=True)
    ]  # fmt: skip


def accuracy(
    engine: Engine, tokenizer: PreTrainedTokenizerBase, task: Task, rows: Sequence[Row], max_new_tokens: int, which: str
) -> float:
    """Share of `rows` that the model answers greedily as the score `which` (strict | lenient) accepts."""
    prompts = [encode_prompt(tokenizer, task.prompt(row)) for row in rows]
    completions = engine.generate(prompts, Sampling(max_new_tokens, stop=task.stop))
    scores = task.score(rows, [completion.text for completion in completions])
    return sum(getattr(score, which) for score in scores) / len(scores)


def collect(files: Sequence[Path], out: Path) -> int:
    """Writes the scores of many files as one frame (gzipped CSV, one row a sample); returns its length."""
    import pandas as pd  # here, so that the engines' processes start without it

    parts = []
    for file in files:
        record = read_json(file)
        items = pd.DataFrame(record["items"])
        parts.append(items.assign(**{key: record[key] for key in IDENTITY}))
    frame = pd.concat(parts, ignore_index=True)[list(COLUMNS)]
    with whole_file(out) as temporary:
        frame.to_csv(temporary, index=False, compression={"method": "gzip", "mtime": 0})
    return len(frame)
