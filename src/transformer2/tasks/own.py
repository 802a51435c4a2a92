"""A user's own prompts with short reference answers: rows {"prompt": ..., "answer": ...}."""

import re
from collections.abc import Sequence

from transformer2.tasks.base import Prompt, Row, Score, Split, Task, Text


def prompt(row: Row) -> Prompt:
    """The prompt as user message, without a system message; ValueError if there are no words in it."""
    if not str(row["prompt"]).strip():
        raise ValueError("the prompt is empty: there is nothing to answer")
    return Prompt(({"role": "user", "content": row["prompt"]},))


def _score(row: Row, completion: str) -> Score:
    """Strict: the reply is the answer. Lenient: its last line with words holds the answer, in any case and spacing.

    Raises:
        ValueError: the row's answer is empty.
    """
    if not str(row["answer"]).strip():
        raise ValueError(f"the answer to {row['prompt']!r} is empty: any reply would hold it")
    lines = [line for line in completion.splitlines() if re.search(r"\w", line)]
    last = lines[-1].strip() if lines else ""
    words = r"\s+".join(map(re.escape, str(row["answer"]).split()))
    held = re.search(rf"(?<![\w.,-]){words}(?!\w|[.,]\d)", last, re.IGNORECASE) is not None  # not the 5 of 1.5 or -5
    return Score(completion.strip() == str(row["answer"]).strip(), held, last or None)


def score(rows: Sequence[Row], completions: Sequence[str]) -> list[Score]:
    return [_score(row, completion) for row, completion in zip(rows, completions, strict=True)]


TASK = Task(
    name="own",
    version=1,
    domain="others",
    columns={"prompt": Text, "answer": Text | int | float},
    source=None,
    splits={"test": Split("test")},
    prompt=prompt,
    question=lambda row: row["prompt"],
    solution=lambda row: str(row["answer"]),
    score=score,
    stop=(),
    max_new_tokens=512,
)
