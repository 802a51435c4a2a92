"""Classification of prompts into code, math, reasoning and others: the first pass of dispatch (Section 3.2 A and B).

As a task it trains and tests the classification expert z^c by the loop that trains every other expert. Its rows are
prompts of the training tasks with their domains, and everyday requests as "others": training rows come from their
training splits, validation from their validation splits, held-out rows from their test splits. (The released code
trains on test prompts of GSM8K and ARC-Challenge and has no others.)
"""

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from transformer2.config.names import CLASS_TOKENS
from transformer2.config.sizes import OTHERS, shares
from transformer2.tasks import everyday
from transformer2.tasks.base import Prompt, Row, Score, Split, Task, Text, chat

CLASSES = ("code", "math", "reasoning", "others")

SYSTEM = """\
Analyze the given question and classify it into one of four categories: 'code', 'math', 'reasoning', or 'others'. \
Follow these guidelines:

1. Code: Questions asking for programming solutions, functions, algorithms, or anything that a program answers.
2. Math: Questions involving mathematical calculations, formulas, or word problems with a number as their answer.
3. Reasoning: Questions requiring logical thinking, knowledge of science, or a choice among given statements.
4. Others: Questions not clearly fit into above categories.

Instructions:
- Consider the primary focus, skills, and knowledge required to answer the question.
- If a question spans multiple categories, choose the most dominant one.
- Provide your final classification within \\boxed{} notation. Example: \\boxed{reasoning}

Format your response as follows:
Classification: \\boxed{category}
"""
"""The adaptation prompt. Its frame is that of Figure 3; what the figure leaves out ("...") is in our words."""
ANSWER = "Classification: \\boxed{%s}"


def adaptation_prompt(text: str) -> Prompt:
    """The prompt that asks a model for the class of a text, without the template of the text's task."""
    return Prompt(chat(SYSTEM, text))


def read_class(reply: str) -> str:
    """The class in the first \\boxed{} of a reply, in any case and spacing; anything else is "others"."""
    box = re.search(r"\\boxed\{([^}]*)\}", reply)
    name = re.sub(r"^\\text\{|[\s'\"]", "", box[1]).lower() if box else OTHERS
    return name if name in CLASSES else OTHERS


def strict_class(reply: str) -> str:
    """As the released code reads it: the first \\boxed{}, letter by letter."""
    box = re.search(r"\\boxed\{([^}]*)\}", reply)
    return box[1] if box and box[1] in CLASSES else OTHERS


def labelled(
    task_rows: Iterable[tuple[Task, Sequence[Row]]], split: str, limit: int | None, seed: int = 0
) -> list[Row]:
    """Rows of one split: prompts of the given tasks by domain, and everyday requests.

    Classes of unequal size get a `weight` on each row, with a mean of 1: training draws rows by it, and validation
    averages with it, so that every class counts the same.

    Args:
        task_rows: rows of that split of each training task.
        split: of the everyday requests.
        limit: rows in all, divided as `shares` does; None takes every prompt.
        seed: of the choice and the order.

    Raises:
        ValueError: see `shares`.
    """
    pools: dict[str, list[Row]] = {OTHERS: everyday.rows(split)}
    for task, rows in task_rows:
        pools.setdefault(task.domain, []).extend({"text": task.question(row), "class": task.domain} for row in rows)
    each = shares({name: len(pool) for name, pool in pools.items()}, limit)
    rng = random.Random(seed)
    chosen = [row for name in sorted(pools) for row in rng.sample(pools[name], each[name])]
    rng.shuffle(chosen)
    if len(set(each.values())) > 1:
        weights = {name: len(chosen) / len(each) / n for name, n in each.items()}
        chosen = [row | {"weight": weights[row["class"]]} for row in chosen]
    return [row | {"item": f"classify/{split}/{i}"} for i, row in enumerate(chosen)]


def _score(row: Row, completion: str) -> Score:
    chosen = read_class(completion)
    return Score(strict_class(completion) == row["class"], chosen == row["class"], chosen)


def score(rows: Sequence[Row], completions: Sequence[str]) -> list[Score]:
    """Strict: `strict_class`. Lenient: `read_class`."""
    return [_score(row, completion) for row, completion in zip(rows, completions, strict=True)]


def label_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens with which all four answers begin, and the first token in which each differs.

    Raises:
        ValueError: two answers differ only later: this tokenizer needs the generated answer.
    """
    answers = [tokenizer(ANSWER % name, add_special_tokens=False).input_ids for name in CLASSES]
    common = next(i for i, column in enumerate(zip(*answers, strict=False)) if len(set(column)) > 1)
    firsts = [answer[common] for answer in answers]
    if len(set(firsts)) < len(CLASSES):
        raise ValueError("with this tokenizer two class labels begin with the same token: use first pass 'generation'")
    return answers[0][:common], firsts


TASK = Task(
    name="classify",
    version=1,
    domain=OTHERS,
    columns={"text": Text, "class": Literal["code", "math", "reasoning", "others"]},
    source=None,
    splits={name: Split(name) for name in ("train", "validation", "test")},
    prompt=lambda row: adaptation_prompt(row["text"]),
    question=lambda row: row["text"],
    solution=lambda row: ANSWER % row["class"],
    score=score,
    stop=(),
    max_new_tokens=CLASS_TOKENS,
)
