"""MATH (Hendrycks et al. 2021): competition problems whose answer is an expression in LaTeX; unseen, so only tested on.

The released code (SakanaAI/self-adaptive-llms@03a41ae) compares by string rules that err on both sides: "1/2" is
\\frac{1}{2} but "0.25" is not \\frac{1}{4}; a number that is off by a factor of 100, or by one part in 10,000, is
right; braces and parentheses count for nothing, so that \\frac{1}{23} is \\frac{12}{3}. `strict` keeps that; `lenient`
asks math-verify. Of the release two things are not kept:

- After its string rules it tries sympy. In the environment that it pins (Hydra's antlr4 is too old for sympy's LaTeX
  parser) that reads only Python expressions, by evaluating what the model wrote, without a time limit.
- A gold and a reply that both state no answer are equal to it. All 5000 test golds state one, so that this never
  counts; here a gold without an answer is an error.
"""

import re
from collections.abc import Sequence
from math import isclose
from operator import itemgetter
from typing import Annotated

from pydantic import AfterValidator

from transformer2.tasks.base import Hub, Prompt, Row, Score, Split, Task, Text, chat
from transformer2.tasks.latex import equal_within_limits

# No space after the comma: as in the released code.
SYSTEM = "Solve the question below by reasoning step by step,and put the final answer within \\boxed{}."
SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
MAX_ANSWER = 250
"""Characters of an answer that is compared by value; the longest gold has 81."""
STATEMENT = re.compile(r"(?i:\banswer(?: is| ?:)):?[\s*]*")
FORMULA = re.compile(r"\$\$?((?:\\.|[^$\\])+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
SENTENCE_END = re.compile(r"\n|\.\s")
BRACKETS = re.compile(r"[{}()]")


def prompt(row: Row) -> Prompt:
    """The problem as user message."""
    return Prompt(chat(SYSTEM, row["problem"]))


def boxes(text: str) -> list[str]:
    """What stands in each complete \\boxed{}, in order; of nested ones the outermost."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for brace in re.finditer(r"\\.|[{}]", text, re.DOTALL):  # an escaped brace is a set's, and none of TeX's
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closing[opened.pop()] = brace.start()
    boxes, end = [], 0
    for box in re.finditer(r"\\boxed\s*\{", text):
        start = box.end() - 1
        if start >= end and start in closing:
            end = closing[start]
            boxes.append(text[start + 1 : end])
    return boxes


def read_answer(completion: str) -> str | None:
    """The answer that a completion states: in the last complete \\boxed{}, else after the last "answer is", "answer:".

    A solution may box several values ("\\boxed{-2} and \\boxed{1}"): the last counts, as in the release.
    """
    if boxed := boxes(completion):
        return _bare(boxed[-1])
    statements = list(STATEMENT.finditer(completion))
    if not statements:
        return None
    tail = completion[statements[-1].end() :]
    formula = FORMULA.match(tail)
    return _bare(formula[0] if formula else SENTENCE_END.split(tail, maxsplit=1)[0])


def _bare(answer: str) -> str | None:
    """Without Markdown's stars, a full stop, and the marks of a formula."""
    answer = answer.rstrip(" \t\n*.").lstrip(" \t\n*")
    formula = FORMULA.fullmatch(answer)
    return (next(filter(None, formula.groups())).strip(" \t\n") if formula else answer) or None


def strict_answer(completion: str) -> str | None:
    """What the released code reads: after the last "The answer is: ", else in the last \\boxed{}, if complete."""
    _, stated, tail = completion.rpartition("The answer is: ")
    return tail.partition(".\n")[0].strip().removesuffix(".").strip() if stated else _last_box(completion)


def _last_box(text: str) -> str | None:
    _, boxed, tail = text.rpartition("\\boxed")
    depth = 0
    for brace in re.finditer(r"[{}]", tail) if boxed and tail.startswith("{") else ():
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return tail[1 : brace.start()]
    return None


def strict_equal(gold: str, answer: str) -> bool:
    """The released code's string rules; where one side has two spaced \\text{}, they compare both as they are."""
    if max(text.count(r"\text{ ") for text in (gold, answer)) < 2:
        gold, answer = _normal(gold), _normal(answer)
    return gold == answer or _alike(gold, answer)


def _normal(text: str) -> str:
    """Without layout, units, degrees, dollar and per cent signs, spaces, and "x="."""
    text = re.sub(r"\n|\\!", "", text).replace("\\\\", "\\")
    text = re.sub(r"\\left|\\right|\^\{\\circ\}|\^\\circ|\\\$", "", re.sub("[td]frac", "frac", text))
    text = text.partition(r"\text{ ")[0].replace(r"\%", "")
    text = re.sub(r"^\.", "0.", text.replace(" .", " 0.").replace("{.", "{0."))
    name, equals, value = text.partition("=")
    if equals and len(name) <= 2 and "=" not in value:
        text = value
    text = text.replace(" ", "")
    return r"\frac{1}{2}" if text == "0.5" else re.sub(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", text)


def _alike(gold: str, answer: str) -> bool:
    """By value if both are numbers; else as texts without brackets, or part by part."""
    expected, given = _number(gold), _number(answer)
    if expected is not None and given is not None:
        return any(isclose(expected, given * factor, rel_tol=1e-4) for factor in (0.01, 1, 100))
    gold, answer = gold.strip(), answer.strip()
    if not gold:
        return False
    square, round_ = (gold[0] + gold[-1] == brackets for brackets in ("[]", "()"))
    outer = "[]()" if (square and answer[:1] != "(") or (round_ and answer[:1] != "[") else ""
    if BRACKETS.sub("", gold.strip(outer)) == BRACKETS.sub("", answer.strip(outer)):
        return True
    parts, others = gold[1:-1].split(","), answer[1:-1].split(",")
    return (
        (square or round_)
        and answer[:1] + answer[-1:] == gold[0] + gold[-1]
        and len(parts) == len(others)
        and all(map(_alike, parts, others))
    )


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def score(rows: Sequence[Row], completions: Sequence[str]) -> list[Score]:
    """Strict: `strict_answer` by `strict_equal`. Lenient: `read_answer` by value, by math-verify."""
    golds = [_gold(row) for row in rows]
    answers = [read_answer(completion) for completion in completions]
    pairs = [
        (gold, answer)
        for (_, gold), answer in zip(golds, answers, strict=True)
        if answer is not None and answer != gold and len(answer) <= MAX_ANSWER
    ]
    equal = dict(zip(pairs, equal_within_limits(pairs), strict=True))
    return [
        Score(
            strict=(stated := strict_answer(completion)) is not None and strict_equal(boxed, stated),
            lenient=answer is not None and (answer == gold or equal.get((gold, answer), False)),
            answer=answer,
        )
        for (boxed, gold), completion, answer in zip(golds, completions, answers, strict=True)
    ]


def with_box(solution: str) -> str:
    """A reference solution.

    Raises ValueError if it boxes no answer. The scorers' own patterns stay out of this: an edit of theirs must not redo
    the data.
    """
    if not re.search(r"\\boxed\s*\S", solution):
        raise ValueError("should have an answer in \\boxed{}")
    return solution


def _gold(row: Row) -> tuple[str, str]:
    """The reference answer as the released code reads it, and as `read_answer` does."""
    boxed, gold = _last_box(row["solution"]), read_answer(row["solution"])
    if boxed is None or gold is None:
        raise ValueError(f"math: the solution of {row.get('item', 'a row')} boxes no answer")
    return boxed, gold


TASK = Task(
    name="math",
    version=1,
    domain="math",
    columns={"problem": Text, "solution": Annotated[Text, AfterValidator(with_box)]},
    source=Hub(
        "EleutherAI/hendrycks_math",
        "21a5633873b6a120296cce3e2df9d5550074f4a3",
        tuple(f"{subject}/{{split}}-*.parquet" for subject in SUBJECTS),
    ),
    splits={"test": Split("test")},
    prompt=prompt,
    question=itemgetter("problem"),
    solution=itemgetter("solution"),
    score=score,
    stop=("Instruction", "Response"),
    max_new_tokens=1024,
    shots_seed=27,
)
