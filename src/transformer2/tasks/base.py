"""What a task is: rows of a data set in, prompts and scores out."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

Row = dict[str, Any]
"""One record in the data set's own columns, plus `item`: `<task>/<split>/<index in the whole split>`."""

Picture = bytes | Path | zipfile.Path
"""A picture file: its bytes, or where they are read when the picture is shown."""


def not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("should not be empty")
    return text


Text = Annotated[str, AfterValidator(not_blank)]
"""Type of a column: text that is not empty."""
Texts = Annotated[list[str], Field(min_length=1)]
"""Type of a column: at least one text; a single one may be empty."""


@dataclass(frozen=True)
class Prompt:
    """What a model is asked.

    `messages` go through the model's chat template (with the generation prompt); `text` follows verbatim: the opening
    words of the reply, or the whole prompt of a task that uses no chat template (`messages` empty).
    """

    messages: tuple[dict[str, str], ...] = ()
    text: str = ""
    picture: Picture | None = None
    """Shown before the last message."""


@dataclass(frozen=True)
class Score:
    """Two verdicts on one completion: `strict` by the released code's rules, less what each task's docstring names, and
    `lenient` as a careful reader would judge.

    A verdict is right or wrong, or a share from 0 to 1 where the field's own measure is one (VQA accuracy).
    """

    strict: float
    lenient: float
    answer: str | None
    """What was read from the completion by the lenient rule; None if nothing was."""


RIGHT = 0.5
"""From this share on an answer counts as right where only right and wrong are known: in rewards."""


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face hub."""

    repository: str
    revision: str | None
    """The commit that is read. None where no commit is known: then the newest one is read, and a run's manifest names
    it."""
    files: tuple[str, ...]
    """Patterns of the parquet or JSON-lines files of a source split `{split}`, in the order of their rows."""


@dataclass(frozen=True)
class Release:
    """A file at a fixed address of the web."""

    address: str
    sha256: str
    title: str
    splits: Callable[[bytes], Mapping[str, list[Row]]]
    """The rows of every source split that the file holds."""


@dataclass(frozen=True)
class Split:
    """Where one split comes from: a source split of the data set, or a file `<folder>/<task>/<source>.jsonl[.gz]`."""

    source: str
    rows: slice = field(default_factory=lambda: slice(None))
    """Which rows of the source belong to the split."""


@dataclass(frozen=True)
class Task:
    """A data set with its prompt and its scorers. A change of prompt or scorer raises `version`."""

    name: str
    version: int
    domain: str
    """math | code | reasoning | others: the class that dispatch should give to prompts of this task."""
    columns: Mapping[str, Any]
    """Columns that every row must have, by the data set's own names -> type, as pydantic takes it. Pictures are in the
    column `image`."""
    source: Hub | Release | None
    """Where the data set is downloaded from; None where it is not."""
    splits: dict[str, Split]
    """train, validation, test (those that the task has)."""
    prompt: Callable[[Row], Prompt]
    question: Callable[[Row], str]
    """What the user asks, without the task's template: what dispatch classifies."""
    solution: Callable[[Row], str]
    """The reference completion that follows the prompt: what next-token training learns."""
    score: Callable[[Sequence[Row], Sequence[str]], list[Score]]
    """Scores completions of rows, one each, in order."""
    stop: tuple[str, ...]
    """Strings that end a completion; the string itself is cut off."""
    max_new_tokens: int
    runs_code: bool = False
    """True if scoring executes what the model wrote (needs a working sandbox)."""
    shots_seed: int = 0
    """Seed of the shuffle of the test split whose first items are the few shots; the release's number."""
    unopened: tuple[str, ...] = ()
    """Families of models (`model_type` of their configuration) whose reply the prompt does not open."""

    def for_family(self, family: str) -> "Task":
        """The task as models of a family are asked: those of `unopened` begin their reply, and learn it, from its first
        word."""
        if family not in self.unopened:
            return self
        return replace(
            self,
            prompt=lambda row: replace(self.prompt(row), text=""),
            solution=lambda row: self.prompt(row).text + self.solution(row),
            unopened=(),
        )


def chat(system: str, user: str) -> tuple[dict[str, str], ...]:
    """A system message and the user's question."""
    return ({"role": "system", "content": system}, {"role": "user", "content": user})
