"""The ledger: numbers that the documents report, one YAML file a table under `paper_tables/<document>/`."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError, model_validator


def _quoted(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f'quote the number ("{value}"), so that it keeps the digits of the document')
    return value


AsPrinted = Annotated[Decimal, BeforeValidator(_quoted)]
"""A number with exactly the digits that the document prints: 49.50, not 49.5."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Entry):
    """Where the table stands: section of the document, and first and last line in its text file."""

    section: str
    file: str
    lines: tuple[PositiveInt, PositiveInt]


class Reported(_Entry):
    """One cell as the document prints it; without a value, a cell that only we have."""

    value: AsPrinted | None = None
    normalised: AsPrinted | None = None
    method: str | None = None
    """Whose scores of ours stand beside the number, where that is not the row's method."""
    scan: str | None = None
    """What the text file shows instead, where the scan slipped; no fault of the document."""
    note: str | None = None
    """What is wrong with the document's own number; printed under the table."""


class Column(_Entry):
    task: str
    label: str
    metric: str
    n: PositiveInt
    """Items of the document's test set."""
    name: str = Field(default_factory=lambda column: column["task"])
    """Key of the column's cells; the task, unless several columns share one."""
    trained_on: str | None = None
    """What the experts of this column learnt, where that is not its own task."""


class Row(_Entry):
    model: str
    """Slug of the document's model: a key of `LedgerTable.models`."""
    method: str
    label: str
    remark: str = ""
    """How ours is measured, in a few words, where the label does not say it; printed below the label."""
    note: str | None = None
    """The same at length, printed under the table."""
    parameters: AsPrinted | None = None
    """Millions of trained parameters that the document prints for the row."""
    trained_on: Literal["nothing", "column task"] = "nothing"
    """Which scores belong here: those of no single training task, or those of the expert that learnt the column's task,
    or what the column names in its place."""
    cells: dict[str, Reported | None]
    """By name of the column; null where nothing can stand."""


class _Table(_Entry):
    """`document` and `name` are the folder and file of the ledger: arxiv, table1."""

    document: str
    name: str
    number: str
    caption: str
    source: Source


Kind = TypeVar("Kind", bound=_Table)


class LedgerTable(_Table):
    """One table of accuracies of one document."""

    columns: tuple[Column, ...]
    models: dict[str, str]
    """Name that the document gives each model, by slug, in the order of the table."""
    rows: tuple[Row, ...]

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        names = [column.name for column in self.columns]
        if len({(row.model, row.method) for row in self.rows}) < len(self.rows):
            raise ValueError("two rows have the same model and method")
        for row in self.rows:
            if row.model not in self.models:
                raise ValueError(f"row of model {row.model}, which is not one of {', '.join(self.models)}")
            if list(row.cells) != names:
                raise ValueError(f"row {row.model}/{row.method}: cells {list(row.cells)} for columns {names}")
        return self


class TimeRow(_Entry):
    """What the document prints of one task: seconds of the first and the second pass, and their ratio in percent."""

    task: str
    label: str
    n: PositiveInt
    """Items of the document's test set."""
    first: AsPrinted
    second: AsPrinted
    ratio: AsPrinted
    scan: str | None = None
    """As in `Reported`."""


class TimeTable(_Table):
    """A table of the seconds that two-pass inference takes."""

    strategies: dict[str, str]
    """Ways to dispatch that are timed here, and what the table calls them."""
    rows: tuple[TimeRow, ...]


class Setting(_Entry):
    """One hyper-parameter of one method: the value that the document prints, or those that it swept."""

    method: str
    """A key of `SettingsTable.methods`."""
    label: str
    values: tuple[AsPrinted, ...] = Field(min_length=1)
    scan: str | None = None
    """As in `Reported`."""


class SettingsTable(_Table):
    """A table of hyper-parameters; no page is rendered from it."""

    methods: dict[str, str]
    """What the document calls the settings of each method."""
    rows: tuple[Setting, ...]

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        if len({(row.method, row.label) for row in self.rows}) < len(self.rows):
            raise ValueError("two rows have the same method and label")
        for row in self.rows:
            if row.method not in self.methods:
                raise ValueError(f"row of method {row.method}, which is not one of {', '.join(self.methods)}")
        return self


def read(path: Path) -> LedgerTable:
    """Reads and checks `paper_tables/<document>/<table>.yaml`, a table of accuracies.

    Raises:
        ValueError: a key is unknown or missing or a value does not fit; one line with file, place and reason.
    """
    return _read(path, LedgerTable)


def read_times(path: Path) -> TimeTable:
    """As `read`, for a table of times."""
    return _read(path, TimeTable)


def read_settings(path: Path) -> SettingsTable:
    """As `read`, for a table of hyper-parameters."""
    return _read(path, SettingsTable)


def _read(path: Path, kind: type[Kind]) -> Kind:
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return kind(document=path.parent.name, name=path.stem, **entries)
    except ValidationError as error:
        raise ValueError(f"{path}: {_first_fault(error)}") from None


def _first_fault(error: ValidationError) -> str:
    """In one line; an unknown key comes before the missing one that it may stand for."""
    fault = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    place = ".".join(str(step) for step in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {place}"
    reason = fault["msg"].removeprefix("Value error, ")
    return f"{place}: {reason}" if place else reason
