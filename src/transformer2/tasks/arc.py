"""ARC (Clark et al. 2018): multiple-choice science questions."""

import re
from collections.abc import Sequence
from functools import partial

from transformer2.tasks.base import Prompt, Row, Score, Split, Task, chat, hub_rows

SYSTEM = (
    "The following are multiple choice questions (with answers). Think step by step and then finish your answer "
    'with "the answer is (X)" where X is the correct letter choice.'
)
OPENING = "Let's think step by step"
LETTERS = "ABCDEFGHIJ"


def prompt(row: Row) -> Prompt:
    options = "".join(f"{letter}. {text}\n" for letter, text in zip(LETTERS, row["choices"]["text"], strict=False))
    return Prompt(chat(SYSTEM, f"{row['question']}\nOptions:\n{options}"), OPENING)


def gold_letter(row: Row) -> str:
    return LETTERS[row["choices"]["label"].index(row["answerKey"])]


def solution(row: Row) -> str:
    letter = gold_letter(row)
    option = row["choices"]["text"][LETTERS.index(letter)]
    return f'. The option that fits is "{option}", so the answer is ({letter}).'


def score(rows: Sequence[Row], completions: Sequence[str]) -> list[Score]:
    found = [re.search(r"answer is \(?([A-J])\)?", c) for c in completions]
    letters = [m.group(1) if m else None for m in found]
    return [Score(letter == r["answerKey"], letter == gold_letter(r), letter) for r, letter in zip(rows, letters, strict=True)]


ARC_EASY = Task(
    name="arc_easy",
    version=1,
    domain="reasoning",
    columns=("question", "choices", "answerKey"),
    hub=partial(hub_rows, "allenai/ai2_arc", "ARC-Easy"),
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
