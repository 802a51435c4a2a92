"""GSM8K (Cobbe et al. 2021): grade-school word problems whose answer is one number."""

import re
from collections.abc import Sequence
from functools import partial

from transformer2.tasks.base import Prompt, Row, Score, Split, Task, chat, hub_rows

SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)


def prompt(row: Row) -> Prompt:
    return Prompt(chat(SYSTEM, row["question"]))


def solution(row: Row) -> str:
    """The official worked answer, calculator marks `<<16-3=13>>` kept (as in Figure 8 of the paper)."""
    return row["answer"]


def strict_number(text: str) -> float | None:
    numbers = re.findall(r"\d*\.?\d+", text)
    return float(numbers[-1]) if numbers else None


def score(rows: Sequence[Row], completions: Sequence[str]) -> list[Score]:
    return [
        Score(ok := strict_number(c) == strict_number(r["answer"]), ok, None)
        for r, c in zip(rows, completions, strict=True)
    ]


TASK = Task(
    name="gsm8k",
    version=1,
    domain="math",
    columns=("question", "answer"),
    hub=partial(hub_rows, "openai/gsm8k", "main"),
    splits={
        "train": Split("train", slice(0, None, 2)),
        "validation": Split("train", slice(1, None, 2)),
        "test": Split("test"),
    },
    prompt=prompt,
    solution=solution,
    score=score,
    stop=("Instruction", "Response"),
    max_new_tokens=512,
)
