"""What a task is: rows of a data set in, prompts and scores out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
"""One record in the data set's own columns, plus `item`: `<task>/<split>/<index in the whole split>`."""


@dataclass(frozen=True)
class Prompt:
    """What a model is asked.

    `messages` go through the model's chat template (with the generation prompt); `text` follows verbatim: the opening
    words of the reply, or the whole prompt of a task that uses no chat template (`messages` empty).
    """

    messages: tuple[dict[str, str], ...] = ()
    text: str = ""
    picture: str | None = None
    """A picture file in base64, shown before the last message."""


@dataclass(frozen=True)
class Score:
    """Two verdicts on one completion: `strict` as the released code scores, `lenient` as a careful reader would.

    A verdict is right or wrong, or a share from 0 to 1 where the field's own measure is one (VQA accuracy).
    """

    strict: float
    lenient: float
    answer: str | None
    """What was read from the completion by the lenient rule; None if nothing was."""


RIGHT = 0.5
"""From this share on an answer counts as right where only right and wrong are known: in rewards."""


@dataclass(frozen=True)
class Split:
    """Where one split comes from: a split of the hub data set, or a file `<folder>/<task>/<source>.jsonl[.gz]`."""

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
    columns: tuple[str, ...]
    """Columns that every row must have; the data set's own names."""
    hub: Callable[[str], list[Row]]
    """Downloads the rows of a source split, by its name."""
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


def hub_rows(path: str, config: str | None, split: str) -> list[Row]:
    """All rows of a split of a data set on the Hugging Face hub, as `datasets.load_dataset` names them."""
    from datasets import load_dataset

    return load_dataset(path, config, split=split).to_list()


def chat(system: str, user: str) -> tuple[dict[str, str], ...]:
    """A system message and the user's question."""
    return ({"role": "system", "content": system}, {"role": "user", "content": user})
