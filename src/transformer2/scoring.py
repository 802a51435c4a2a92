"""Scores of answers that are on disk; without the libraries that run models, so that a job starts at once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from transformer2.config import unknown
from transformer2.sandbox import detect
from transformer2.tasks import TASKS, Row, Task


def task_of(name: str) -> Task:
    """The task of that name; ValueError if there is none."""
    if name not in TASKS:
        raise ValueError(unknown("task", name, TASKS))
    return TASKS[name]


def scored_task(name: str, allow_unsandboxed_code: bool) -> Task:
    """The task; one that runs code is tied to the isolation that works here, so that none missing is seen at once."""
    task = task_of(name)
    if not task.runs_code:
        return task
    score: Any = task.score
    return replace(task, score=partial(score, isolation=detect(accept_unsandboxed=allow_unsandboxed_code)))


def score_answers(task: Task, rows: Sequence[Row], answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both scores of every answer, in the order of `rows`.

    Raises:
        ValueError: the answers are not those to these rows, one each.
    """
    for what, items in (("answers", answers), ("rows", rows)):
        if repeated := [item for item, n in Counter(one["item"] for one in items).items() if n > 1]:
            raise ValueError(
                f"{len(repeated)} items of {task.name} stand more than once in the {what}, such as {repeated[0]}: "
                "which of them counts cannot be known"
            )
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
