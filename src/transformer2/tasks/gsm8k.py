"""GSM8K (Cobbe et al. 2021): grade-school word problems whose answer is one number.

The released code (SakanaAI/self-adaptive-llms@03a41ae) trains on even rows of the train split and validates on odd
rows. Its number pattern knows neither thousands separators nor signs: it misreads 16 of the 1319 test golds ("2,125" as
125, "-10" as 10) and a reply "1,200" to the gold 1200. `strict` keeps that; `lenient` reads numbers as people do.
"""

import logging
import re
from collections.abc import Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Annotated

from pydantic import AfterValidator

from transformer2.tasks.base import Hub, Prompt, Row, Score, Split, Task, Text, chat

SYSTEM = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"

NUMBER = r"(?:(?<![\w)\]}])-)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
_OPERAND = rf"(?:\d*\\[dt]?frac\{{{NUMBER}\}}\{{{NUMBER}\}}|{NUMBER})"
EXPRESSION = re.compile(rf"{_OPERAND}(?:\s*(?:[-+*/]|\\times|\\cdot|\\div)\s*{_OPERAND})*", re.ASCII)
"""Flat arithmetic. Brackets and powers stay out: math-verify may take minutes over a hostile line of them."""
MAX_EXPRESSION = 80
MARKED = re.compile(r"\s*([^A-Za-z\n]*\d[^\n]*|\\[^\n]*)")
"""What follows "####" if it is an answer; a Markdown heading such as "#### Step 2" is none."""
BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")


def prompt(row: Row) -> Prompt:
    """The Alpaca sentence as system message, the question as user message."""
    return Prompt(chat(SYSTEM, row["question"]))


def solution(row: Row) -> str:
    """The official worked answer, calculator marks `<<16-3=13>>` kept (as in the paper's LoRA sample, Figure 8)."""
    return row["answer"]


def strict_number(text: str) -> float | None:
    """The last match of the released code's number pattern."""
    numbers = re.findall(r"\d*\.?\d+", text)
    return float(numbers[-1]) if numbers else None


def read_answer(completion: str) -> str | None:
    """The answer that a completion states: after the last "####", else in the last \\boxed{}, else its last number."""
    text = re.sub(r"\\?\$|€|£|\\[!,]", "", completion.replace("{,}", ",").replace("−", "-").replace("×", "*"))
    marked = [m.group(1) for part in text.split("####")[1:] if (m := MARKED.match(part))] or BOXED.findall(text)
    if not marked:
        return (re.findall(NUMBER, text, re.ASCII) or [None])[-1]
    result = marked[-1].rpartition("=")[2].strip().rstrip(".")  # of "5 + 13 = 18" the right-hand side
    if len(result) <= MAX_EXPRESSION and EXPRESSION.fullmatch(result):
        return result
    return (re.findall(NUMBER, result, re.ASCII) or [None])[0]  # of "18 eggs in 3 days" the 18


def equal(gold: str, answer: str) -> bool:
    """Whether an answer from `read_answer` has the value of a plain number; math-verify judges arithmetic."""
    gold, answer = gold.replace(",", ""), answer.replace(",", "")
    if re.fullmatch(NUMBER, answer, re.ASCII):
        return Decimal(answer) == Decimal(gold)
    from math_verify import parse, verify  # brings sympy, which most runs never need

    # No time limits: they work on the main thread only, and EXPRESSION admits nothing that takes long.
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of that once
    expression = parse(f"\\boxed{{{answer}}}", parsing_timeout=0)
    return verify(parse(gold, parsing_timeout=0), expression, timeout_seconds=0)


def with_number(answer: str) -> str:
    """A reference answer.

    Raises ValueError if it states no number. The scorers' own patterns stay out of this: an edit of theirs must not
    redo the data.
    """
    if not re.search(r"####.*\d", answer):
        raise ValueError("should end in #### and a number")
    return answer


def _score(row: Row, completion: str) -> Score:
    gold, answer = read_answer(row["answer"]), read_answer(completion)
    if gold is None:
        raise ValueError(f"gsm8k: the answer of {row.get('item', 'a row')} has no number after '####'")
    return Score(
        strict=strict_number(completion) == strict_number(row["answer"]),
        lenient=answer is not None and equal(gold, answer),
        answer=answer,
    )


def score(rows: Sequence[Row], completions: Sequence[str]) -> list[Score]:
    """Strict: last number by the released pattern, on both sides. Lenient: `read_answer`, compared by value."""
    return [_score(row, completion) for row, completion in zip(rows, completions, strict=True)]


TASK = Task(
    name="gsm8k",
    version=1,
    domain="math",
    columns={"question": Text, "answer": Annotated[Text, AfterValidator(with_number)]},
    source=Hub("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", ("main/{split}-*.parquet",)),
    splits={
        "train": Split("train", slice(0, None, 2)),
        "validation": Split("train", slice(1, None, 2)),
        "test": Split("test"),
    },
    prompt=prompt,
    question=itemgetter("question"),
    solution=solution,
    score=score,
    stop=("Instruction", "Response"),
    max_new_tokens=512,
)
