"""ARC (Clark et al. 2018): multiple-choice science questions.

The released code (SakanaAI/self-adaptive-llms@03a41ae) trains on even rows of the train split and validates on odd ones;
ARC's own validation split is not used. It shows every option under a letter but compares with the data set's key, which
is a digit for 97 of the 2376 ARC-Easy test rows: those can never be right (ceiling 95.92 %). `strict` keeps that,
`lenient` maps keys by position.
"""

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
STATEMENT = re.compile(r"(?i:\banswer(?:\s+is|\s*:))\s*")


def prompt(row: Row) -> Prompt:
    """Question and lettered options; the reply is opened.

    The released code opens the reply for Llama only. Here every model gets the opening, so that one prompt serves all.
    """
    options = "".join(f"{letter}. {text}\n" for letter, text in _options(row))
    return Prompt(chat(SYSTEM, f"{row['question']}\nOptions:\n{options}"), OPENING)


def solution(row: Row) -> str:
    """The right option and its letter; ARC has no worked answers."""
    letter = gold_letter(row)
    return f'. The best option is "{dict(_options(row))[letter]}", so the answer is ({letter}).'


def gold_letter(row: Row) -> str:
    """The letter under which the right option is shown, whatever the data set calls it."""
    return LETTERS[row["choices"]["label"].index(row["answerKey"])]


def strict_letter(completion: str) -> str | None:
    """The released code's three patterns, in its order.

    Where none matches it answers by a draw that it seeds anew each time, that is always "A" (of three options "C"):
    about a quarter of all unreadable replies become right. That is not kept: None, which is wrong.
    """
    for pattern in (r"answer is \(?([A-J])\)?", r".*[aA]nswer:\s*([A-J])"):
        if found := re.search(pattern, completion):
            return found.group(1)
    alone = re.findall(r"\b[A-J]\b", completion)
    return alone[-1] if alone else None


def read_letter(completion: str, options: Sequence[str]) -> str | None:
    """The option that a reply settles on.

    The last "answer is" or "answer:" that an option's text or letter follows; else the last "(X)"; else the last letter
    that stands alone (but no article "A"); else the one option whose text the reply holds.
    """
    letters = LETTERS[: len(options)]
    for statement in reversed(list(STATEMENT.finditer(completion))):
        if letter := _stated(completion[statement.end() :], options):
            return letter
    alone = re.findall(rf"\(([{letters}])\)", completion) or re.findall(
        rf"(?<![\w'’])(?!A\s+[a-z])([{letters}])(?![\w'’])", completion
    )
    if alone:
        return alone[-1]
    held = [text for text in options if _holds(completion, text)]
    longest = [text for text in held if not any(text != other and _holds(other, text) for other in held)]
    return letters[options.index(longest[0])] if len(longest) == 1 else None


def _options(row: Row) -> list[tuple[str, str]]:
    """Letter and text of each option."""
    return list(zip(LETTERS, row["choices"]["text"], strict=False))


def _stated(tail: str, options: Sequence[str]) -> str | None:
    """The option that the words after "answer is" begin with: its text, in full, or its letter."""
    letters = LETTERS[: len(options)]
    starts = [text for text in options if len(text) > 1 and re.match(rf"\W*{_pattern(text)}", tail)]
    if starts:
        return letters[options.index(max(starts, key=len))]
    marks = r"(?:\\\w+\{|\W)*"  # quotes, Markdown, \boxed{\text{
    found = re.match(rf"{marks}(?:(?i:option|choice|letter)\b)?{marks}(?:([{letters}])(?![\w'’])|\((?i:([{letters}]))\))", tail)
    return (found.group(1) or found.group(2)).upper() if found else None


def _holds(text: str, option: str) -> bool:
    return re.search(_pattern(option), text) is not None


def _pattern(option: str) -> str:
    """Matches an option's text as whole words, in any case and spacing, without its final full stop."""
    words = r"\s+".join(re.escape(word) for word in option.rstrip(". ").split())
    return rf"(?i:(?<!\w){words}(?!\w))"


def _score(row: Row, completion: str) -> Score:
    letter = read_letter(completion, row["choices"]["text"])
    return Score(strict_letter(completion) == row["answerKey"], letter == gold_letter(row), letter)


def score(rows: Sequence[Row], completions: Sequence[str]) -> list[Score]:
    """Strict: `strict_letter` against the raw key. Lenient: `read_letter` against the key's position."""
    return [_score(row, completion) for row, completion in zip(rows, completions, strict=True)]


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
