"""Answers of a self-adaptive model to a task, with the decisions and the times of both passes."""

from collections.abc import Sequence
from typing import Any

from transformer2.evaluation import sample
from transformer2.rollout.engine import Sampling, encode_prompt
from transformer2.tasks import Row, Task

from .model import SelfAdaptiveModel

WARM_UP = 8
"""Rows that both passes answer before the clock starts."""


def answer_in_two_passes(
    model: SelfAdaptiveModel, task: Task, rows: Sequence[Row], max_new_tokens: int, class_tokens: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, float]]:
    """Greedy answers with the expert of each prompt's class: answers, decisions, and seconds of both passes.

    Both passes run once over a few rows before the clock starts, so that no time of a first call is measured.
    """
    task = task.for_family(model.family)
    questions, prompts = [task.question(row) for row in rows], [task.prompt(row) for row in rows]
    sampling = Sampling(max_new_tokens, stop=task.stop)
    model.generate_for(questions[:WARM_UP], prompts[:WARM_UP], sampling, class_tokens)
    answers = model.generate_for(questions, prompts, sampling, class_tokens)
    each = (answers.first_seconds + answers.second_seconds) / len(rows)
    texts = [model.tokenizer.decode(encode_prompt(model.tokenizer, prompt)) for prompt in prompts]
    samples = [
        sample(row, text, completion, each)
        for row, text, completion in zip(rows, texts, answers.completions, strict=True)
    ]
    decisions = [
        {"item": row["item"], "class": decision.chosen, "evidence": decision.evidence}
        for row, decision in zip(rows, answers.decisions or (), strict=True)
    ]
    seconds = {"first_seconds": answers.first_seconds, "second_seconds": answers.second_seconds}
    return samples, decisions, seconds
