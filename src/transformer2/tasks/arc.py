"""ARC (Clark et al. 2018): multiple-choice science questions. ARC-Easy is trained on, ARC-Challenge is unseen.

The released code (SakanaAI/self-adaptive-llms@03a41ae) trains on even rows of ARC-Easy's train split and validates on
odd rows; ARC's own validation splits are not used. It shows every option under a letter but compares with the data
set's key, which is a digit for 97 of the 2376 ARC-Easy test rows and 22 of the 1172 of ARC-Challenge: those can never
be right (ceilings 95.92 % and 98.12 %). `strict` keeps that, `lenient` maps keys by position.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo
from typing_extensions import TypedDict

from transformer2.tasks.base import Hub, Prompt, Row, Score, Split, Task, Text, chat

SYSTEM = (
    "The following are multiple choice questions (with answers). Think step by step and then finish your answer "
    'with "the answer is (X)" where X is the correct letter choice.'
)
OPENING = "Let's think step by step"
UNOPENED = ("mistral",)
"""Families of models whose reply the prompt does not open. The released code has two, and opens only Llama's replies;
families that it does not know are asked as Llama is."""
LETTERS = "ABCDEFGHIJ"
REVISION = "210d026faf9955653af8916fad021475a3f00453"
STATEMENT = re.compile(r"(?i:\banswer(?: is| ?:))")
LONGEST_STATEMENT = 500
"""Characters after "answer is" in which the answer must lie."""


class Options(TypedDict):
    """The column `choices`: texts of the options, and the data set's own labels of them."""

    text: Annotated[list[Text], Field(min_length=2, max_length=len(LETTERS))]
    label: list[str]


def one_label_each(options: Options) -> Options:
    """Options of which every one has a label of its own.

    Raises ValueError if one has not.
    """
    labels = options["label"]
    if len(labels) != len(options["text"]) or len({*labels}) != len(labels):
        raise ValueError("should have one label for each text, all of them different")
    return options


def among_labels(key: str, row: ValidationInfo) -> str:
    """The key of the right option.

    Raises ValueError if no option has that label.
    """
    options = row.data.get("choices")  # missing if it is wrong itself
    if options and key not in options["label"]:
        raise ValueError(f"should be one of {', '.join(options['label'])}")
    return key


COLUMNS = {
    "question": Text,
    "choices": Annotated[Options, AfterValidator(one_label_each)],
    "answerKey": Annotated[Text, AfterValidator(among_labels)],
}


def prompt(row: Row) -> Prompt:
    """Question and lettered options; the reply is opened (but for the families of `UNOPENED`)."""
    return Prompt(chat(SYSTEM, question(row)), OPENING)


def question(row: Row) -> str:
    """The question and its options under letters."""
    options = "".join(f"{letter}. {text}\n" for letter, text in _options(row))
    return f"{row['question']}\nOptions:\n{options}"


def solution(row: Row) -> str:
    """The right option and its letter; ARC has no worked answers."""
    letter = gold_letter(row)
    return f". The best option is {dict(_options(row))[letter]}, so the answer is ({letter})."


def gold_letter(row: Row) -> str:
    """The letter under which the right option is shown, whatever the data set calls it."""
    return LETTERS[row["choices"]["label"].index(row["answerKey"])]


def strict_letter(completion: str) -> str | None:
    """What the released code's three patterns find, in its order.

    The first "answer is X"; else, on the first line with an "answer: X", the last of them; else the last lone A to J.

    Where none matches it answers by a draw that it seeds anew each time, that is always "A" (of three options "C"):
    about a quarter of all unreadable replies become right. That is not kept: None, which is wrong.
    """
    if stated := re.search(r"answer is \(?([A-J])", completion):
        return stated.group(1)
    if labelled := list(re.finditer(r"[aA]nswer:(?=\s*([A-J]))", completion)):
        line_end = completion.find("\n", labelled[0].start())
        return [m for m in labelled if line_end < 0 or m.start() < line_end][-1].group(1)
    letters = re.findall(r"\b[A-J]\b", completion)
    return letters[-1] if letters else None


def read_letter(completion: str, options: Sequence[str]) -> str | None:
    """The option that a reply settles on.

    The last "answer is" or "answer:" that an option's text or letter follows; else the last "(X)"; else the last letter
    that stands alone (but no article "A"); else the one option whose text the reply holds.
    """
    letters = LETTERS[: len(options)]
    for statement in reversed(list(STATEMENT.finditer(completion))):
        if letter := _stated(completion[statement.end() : statement.end() + LONGEST_STATEMENT], options):
            return letter
    standing = re.findall(rf"\(([{letters}])\)", completion) or re.findall(
        rf"(?<![\w'’°])(?!A\s+[a-z])([{letters}])(?![\w'’])", completion
    )
    if standing:
        return standing[-1]
    patterns = _patterns(options)
    held = [i for i, pattern in enumerate(patterns) if re.search(pattern, completion)]
    longest = [i for i in held if not any(i != j and re.search(patterns[i], options[j]) for j in held)]
    return letters[longest[0]] if len(longest) == 1 else None


def _options(row: Row) -> list[tuple[str, str]]:
    """Letter and text of each option."""
    return list(zip(LETTERS, row["choices"]["text"], strict=False))


def _stated(tail: str, options: Sequence[str]) -> str | None:
    """The option that the words after "answer is" begin with: its text, in full, or its letter."""
    letters = LETTERS[: len(options)]
    texts = [i for i, pattern in enumerate(_patterns(options)) if re.match(rf"\W*{pattern}", tail)]
    texts = [i for i in texts if len(options[i]) > 1]  # a text of one letter is not told from an option's letter
    if texts:
        return letters[max(texts, key=lambda i: len(options[i]))]
    marks = r"(?:\\\w+\{|\W)*"  # quotes, Markdown, \boxed{\text{
    named = re.match(rf"{marks}(?:(?i:option|choice|letter)\b)?{marks}([{letters}])(?![\w'’])", tail)
    bracketed = re.match(rf"\W*\(([{letters}])\)", tail, re.IGNORECASE)
    label = named or bracketed
    return label.group(1).upper() if label else None


def _patterns(options: Sequence[str]) -> list[str]:
    """For each option a pattern of its text: whole words, any spacing, no final full stop.

    In any case too, unless options differ only by case (the genotypes "Rr" and "rr").
    """
    any_case = len({text.casefold() for text in options}) == len(options)
    words = [r"\s+".join(map(re.escape, text.rstrip(". ").split())) for text in options]
    return [rf"(?{'i' * any_case}:(?<!\w){text}(?!\w))" for text in words]


def _score(row: Row, completion: str) -> Score:
    letter = read_letter(completion, row["choices"]["text"])
    return Score(strict_letter(completion) == row["answerKey"], letter == gold_letter(row), letter)


def score(rows: Sequence[Row], completions: Sequence[str]) -> list[Score]:
    """Strict: `strict_letter` against the raw key. Lenient: `read_letter` against the key's position."""
    return [_score(row, completion) for row, completion in zip(rows, completions, strict=True)]


ARC_EASY = Task(
    name="arc_easy",
    version=2,
    domain="reasoning",
    columns=COLUMNS,
    source=Hub("allenai/ai2_arc", REVISION, ("ARC-Easy/{split}-*.parquet",)),
    splits={
        "train": Split("train", slice(0, None, 2)),
        "validation": Split("train", slice(1, None, 2)),
        "test": Split("test"),
    },
    prompt=prompt,
    question=question,
    solution=solution,
    score=score,
    stop=("Instruction", "Response"),
    max_new_tokens=512,
    unopened=UNOPENED,
)
ARC_CHALLENGE = replace(
    ARC_EASY,
    name="arc_challenge",
    source=Hub("allenai/ai2_arc", REVISION, ("ARC-Challenge/{split}-*.parquet",)),
    splits={"test": Split("test")},
    shots_seed=38,
)
