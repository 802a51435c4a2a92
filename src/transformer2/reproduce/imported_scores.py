"""Scores that were measured elsewhere, in one JSON file, as the frame that tables are made of (docs/own-scores.md)."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError, model_validator

from transformer2 import paths
from transformer2.config import PAPER_MODELS, Run, explain, unknown
from transformer2.reproduce import ledger
from transformer2.reproduce.frames import COLUMNS, UNPAIRED
from transformer2.reproduce.own_models import with_rows

COMPUTED = ("data", "sweeps", "experts", "generations", "mixes", "scores")
"""Folders of a run that was computed here."""
MANIFEST = Path(paths.IMPORTED.pattern).name
"""Says of a run that its scores were measured elsewhere, and in which file."""

Name = Annotated[str, Field(min_length=1)]
Count = Annotated[StrictInt, Field(ge=0)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Scores(_Entry):
    """What one model with one method scored on one task: the verdict on each item, or counts alone."""

    model: Name
    """Its hub id, or a name."""
    row: Name | None = None
    """The row of the paper's tables that it fills; a model without it is ours alone, and has rows of its own."""
    method: Name
    trained_on: str = ""
    """The task that the expert learnt; empty for methods without a training task of their own."""
    state: Literal["", "best", "last"] = ""
    """Which state of its training the expert is, where two are scored: best on validation, or last."""
    task: Name
    seed: Count = 0
    items: dict[str, StrictBool] | None = None
    """Item -> right by the strict score."""
    items_lenient: dict[str, StrictBool] | None = None
    """Item -> right by the lenient score; as strict where absent."""
    correct: Count | None = None
    """Right answers by the strict score, of `n`."""
    correct_lenient: Count | None = None
    n: Count | None = None

    @model_validator(mode="after")
    def _counted_or_listed(self) -> Self:
        counts = ("correct", "n", "correct_lenient")
        given = [name for name in counts if getattr(self, name) is not None]
        if self.items is None:
            if self.items_lenient is not None:
                raise ValueError("items_lenient: needs items")
            if missing := [name for name in counts[:2] if name not in given]:
                raise ValueError(f"{missing[0]}: missing; give items, or both correct and n")
            assert self.n is not None
            if self.n == 0:
                raise ValueError("n: no item was scored")
            for name in given:
                if getattr(self, name) > self.n:
                    raise ValueError(f"{name}: {getattr(self, name)} right of {self.n}")
            return self
        if given:
            raise ValueError(f"{given[0]}: is counted from items; give one of the two")
        if not self.items:
            raise ValueError("items: no item was scored")
        if reserved := [item for item in self.items if UNPAIRED in item]:
            raise ValueError(f"items: {reserved[0]!r} has {UNPAIRED} in its name, which stands for counts alone")
        if self.items_lenient is not None and self.items_lenient.keys() != self.items.keys():
            other = min(self.items_lenient.keys() ^ self.items.keys())
            raise ValueError(f"items_lenient: must have the items of items; {other!r} is in one of them alone")
        return self

    @property
    def place(self) -> str:
        """The row of the tables that it fills: one of the paper's, or its model's own."""
        return self.row or self.model

    def verdicts(self) -> list[tuple[str, bool, bool]]:
        """(item, strict, lenient) of every item; of counts alone, items without a name of which the first are right."""
        if self.items is not None:
            lenient = self.items_lenient or self.items
            return [(item, right, lenient[item]) for item, right in self.items.items()]
        assert self.n is not None and self.correct is not None
        lenient_correct = self.correct if self.correct_lenient is None else self.correct_lenient
        return [(f"{self.task}{UNPAIRED}{i}", i < self.correct, i < lenient_correct) for i in range(self.n)]


class File(_Entry):
    """A whole file."""

    scores: list[Scores] = Field(min_length=1)


class _Object(dict[str, Any]):
    """A JSON object that remembers a key that it has twice."""

    twice: str | None = None


def read(path: Path, run: str, tables: Path) -> pd.DataFrame:
    """The scores of a file as a frame with the columns of `frames.COLUMNS`, one row an item.

    Args:
        path: of the JSON file, which `File` describes.
        run: the name of the run.
        tables: folder of the ledger, `paper_tables`: every score must belong to one of its cells.

    Raises:
        ValueError: in one line with file, entry and field.
    """
    entries = _parsed(path).scores
    try:
        _check(entries, tables)
    except _Mistake as mistake:
        raise ValueError(f"{path}: {mistake}") from None
    parts = [_frame(entry, run) for entry in entries]
    return pd.concat(parts, ignore_index=True).reindex(columns=list(COLUMNS))


def check(run: Run, results: Path, paper_tables: Path) -> None:
    """Raises ValueError if the scores that a run names cannot be read, or if its folder holds a run of the other kind:
    one that was computed here, where scores were measured elsewhere, or the reverse."""
    if run.scores is not None:
        check_folder(results)
        read(Path(run.scores), run.run, paper_tables)
    elif (results / MANIFEST).exists():
        raise ValueError(f"{results} holds scores that were measured elsewhere: choose another `run`, or delete it")


def check_folder(results: Path) -> None:
    """Raises ValueError if the folder of a run holds one that was computed here."""
    if present := [name for name in COMPUTED if (results / name).exists()]:
        raise ValueError(f"{results} holds a run that was computed here ({results / present[0]}): choose another `run`")


# ---- the file


class _Mistake(Exception):
    """A mistake in one entry: its index, the field, what is wrong."""

    def __init__(self, index: int, field: str, reason: str) -> None:
        super().__init__(f"scores[{index}].{field}: {reason}")


def _parsed(path: Path) -> File:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
    except FileNotFoundError:
        raise ValueError(f"there is no file of scores {path}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error.msg} in line {error.lineno}") from None
    except (UnicodeDecodeError, RecursionError):
        raise ValueError(f"{path} is not JSON") from None
    if not isinstance(raw, dict):
        raise ValueError(f'{path}: must be an object, {{"scores": [...]}}')
    try:
        for index, entry in enumerate(raw["scores"] if isinstance(raw.get("scores"), list) else []):
            _refuse_twice(index, entry)
        return File.model_validate(raw)
    except _Mistake as mistake:
        raise ValueError(f"{path}: {mistake}") from None
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error, File)}") from None


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        made.twice = next(name for name in names if names.count(name) > 1)
    return made


def _refuse_twice(index: int, entry: Any) -> None:
    """JSON readers keep the last of several values under one key: a verdict would be lost."""
    if not isinstance(entry, _Object):
        return
    if entry.twice is not None:
        raise _Mistake(index, entry.twice, "is there twice")
    for field, value in entry.items():
        if isinstance(value, _Object) and value.twice is not None:
            raise _Mistake(index, field, f"{value.twice!r} is there twice")


# ---- the entries against the ledger, and against each other


def _check(entries: list[Scores], tables: Path) -> None:
    own = {entry.model for entry in entries if entry.row is None}
    places = _places(tables, own)
    for index, entry in enumerate(entries):
        if entry.row in own:
            raise _Mistake(index, "row", f"{entry.row!r} is a model without a row of the paper; leave its `row` out")
        _check_place(index, entry, places)
    seen: dict[tuple[Any, ...], int] = {}
    states: dict[tuple[Any, ...], int] = {}
    models: dict[str, tuple[int, str]] = {}
    rows: dict[str, tuple[int, str]] = {}
    for index, entry in enumerate(entries):
        key = (entry.place, entry.method, entry.trained_on, entry.state, entry.task, entry.seed)
        if key in seen:
            raise _Mistake(index, "seed", f"the same row, method, task and seed as scores[{seen[key]}]")
        seen[key] = index
        place = (entry.place, entry.method, entry.trained_on, entry.task)
        first = states.setdefault((*place, bool(entry.state)), index)
        if (other := states.get((*place, not entry.state))) is not None:
            raise _Mistake(index, "state", f"is given in one of scores[{min(first, other)}] and scores[{index}] alone")
        first, model = models.setdefault(entry.place, (index, entry.model))
        if model != entry.model:
            reason = f"{entry.model!r} fills row {entry.place}, as {model!r} does in scores[{first}]: one model a row"
            raise _Mistake(index, "model", reason)
        first, row = rows.setdefault(entry.model, (index, entry.place))
        if row != entry.place:
            reason = f"{entry.model!r} fills row {row} in scores[{first}]; give it another name for row {entry.place}"
            raise _Mistake(index, "model", reason)
    _check_items(entries)


def _places(tables: Path, own: set[str]) -> dict[tuple[str, str, str, str], int]:
    """(row, method, trained on, task) of every cell of the ledger, and of models without a row of the paper -> items of
    the paper's test set."""
    beside = with_rows(ledger.read_all(tables), own)
    return {
        (entry.row.model, entry.method, entry.trained_on, entry.column.task): entry.column.n
        for table in beside.scores
        for entry in ledger.entries(table)
    }


def _check_place(index: int, entry: Scores, places: dict[tuple[str, str, str, str], int]) -> None:
    """Whether some cell shows the entry; the first field that fits none is named."""
    if entry.row is None and entry.model in PAPER_MODELS:
        reason = f"missing; {entry.model} is a row of the paper: name it here, or give the model another name"
        raise _Mistake(index, "row", reason)
    chosen: tuple[str, ...] = ()
    for field, position in (("row", 0), ("method", 1), ("task", 3), ("trained_on", 2)):
        value = entry.place if field == "row" else getattr(entry, field)
        every = {place[position] for place in places}
        fitting = {place[position] for place in places if _fits(place, chosen)}
        if field != "trained_on" and value not in every:
            raise _Mistake(index, field, unknown(field, value, every))
        if value not in fitting:
            where = " ".join(chosen)
            valid = ", ".join(repr(name) for name in sorted(fitting))
            raise _Mistake(index, field, f"no table has {where} with {field} {value!r}; it has {valid}")
        chosen += (value,)
    n = places[(entry.place, entry.method, entry.trained_on, entry.task)]
    counted = entry.n if entry.items is None else len(entry.items)
    assert counted is not None
    if counted > n:
        raise _Mistake(index, _field(entry), f"{counted} items of {entry.task}, of which the paper has {n}")


def _fits(place: tuple[str, str, str, str], chosen: Iterable[str]) -> bool:
    row, method, trained_on, task = place
    return all(value == expected for value, expected in zip((row, method, task, trained_on), chosen, strict=False))


def _check_items(entries: list[Scores]) -> None:
    """Whether seeds have the same items, and a base model every item of the methods that are compared with it."""
    groups: dict[tuple[str, ...], list[tuple[int, Scores]]] = defaultdict(list)
    for index, entry in enumerate(entries):
        groups[(entry.place, entry.method, entry.trained_on, entry.state, entry.task)].append((index, entry))
    for (row, method, _, _, task), group in groups.items():
        first, items = group[0][0], _items(group[0][1])
        for index, entry in group[1:]:
            if _items(entry) != items:
                raise _Mistake(index, _field(entry), f"not the items of scores[{first}], another seed of the same")
        base = groups.get((row, "base", "", "", task))
        if method == "base" or base is None:
            continue
        paired = all(entry.items is not None for _, entry in (group[0], base[0]))
        if paired and (absent := items - _items(base[0][1])):
            reason = f"the base model, scores[{base[0][0]}], has no {min(absent)!r}"
            raise _Mistake(first, "items", reason)
        seeds = [sorted(entry.seed for _, entry in part) for part in (base, group)]
        if len(base) > 1 and seeds[0] != seeds[1]:
            reason = f"seeds {seeds[1]}, but its base model has {seeds[0]}; one of the base is enough"
            raise _Mistake(first, "seed", reason)


def _items(entry: Scores) -> set[str]:
    return {item for item, _, _ in entry.verdicts()}


def _field(entry: Scores) -> str:
    return "n" if entry.items is None else "items"


def _frame(entry: Scores, run: str) -> pd.DataFrame:
    standin = entry.row is not None and entry.model != PAPER_MODELS.get(entry.row)
    verdicts = pd.DataFrame(entry.verdicts(), columns=["item", "strict", "lenient"])
    return verdicts.assign(
        run=run, model=entry.model, stands_in_for=entry.row or "", standin=standin,
        method=entry.method, trained_on=entry.trained_on, state=entry.state, task=entry.task, seed=entry.seed,
        read=None, new_tokens=None, finish_reason="",
    )  # fmt: skip
