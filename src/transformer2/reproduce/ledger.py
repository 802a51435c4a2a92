"""The ledger: numbers that the papers report, one YAML file a table under `paper_tables/<document>/`."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from transformer2.config import MODULES, Training, explain, read_yaml, unknown


def _quoted(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f'quote the number ("{value}"), so that it keeps the digits of the paper')
    return value


AsPrinted = Annotated[Decimal, BeforeValidator(_quoted)]
"""A number with exactly the digits that the paper prints: 49.50, not 49.5."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Entry):
    """Where the table stands: section of the paper, and first and last line in its text file."""

    section: str
    file: str
    lines: tuple[PositiveInt, PositiveInt]


class Reported(_Entry):
    """One cell as the paper prints it; without a value, a cell that only we have."""

    value: AsPrinted | None = None
    normalised: AsPrinted | None = None
    method: str | None = None
    """Whose scores of ours stand beside the number, where that is not the row's method."""
    scan: str | None = None
    """What the text file shows instead, where the scan slipped; no fault of the paper."""


class Column(_Entry):
    task: str
    label: str
    metric: str
    n: PositiveInt
    """Items of the paper's test set."""
    name: str = Field(default_factory=lambda column: column["task"])
    """Key of the column's cells; the task, unless several columns share one."""
    trained_on: str | None = None
    """What the experts of this column learnt, where that is not its own task."""


class Trained(_Entry):
    """What a row trains; its number of parameters follows from the model's shapes (`parameters`)."""

    adapter: Literal["svf", "lora", "ia3"]
    modules: tuple[str, ...]
    """Projections, or names of sets of them (`config.MODULES`)."""
    rank: PositiveInt | None = None
    """Of LoRA."""


State = Literal["best", "last"]


class Row(_Entry):
    model: str
    """Slug of the paper's model, or name of an own one: a key of `LedgerTable.models`."""
    method: str
    label: str
    remark: str = ""
    """How ours is measured, in a few words, where the label does not say it; printed below the label."""
    note: str | None = None
    """The same at length, printed under the table."""
    shots: int = 0
    """Items of each test set that the method adapts or chooses on; its scores leave them out."""
    parameters: AsPrinted | None = None
    """Millions of trained parameters that the paper prints for the row."""
    trains: Trained | None = None
    trained_on: Literal["nothing", "column task"] = "nothing"
    """Which scores belong here: those of no single training task, or those of the expert that learnt the column's task,
    or what the column names in its place."""
    state: State = "best"
    """Which state of a training the row is about: that of the best validation, as the experts of the paper, or the last
    one, where the row shows what a training led to."""
    cells: dict[str, Reported | None]
    """By name of the column; null where nothing can stand."""
    own: bool = False
    """Whether it is of a model of a run that stands for no row of the paper (`own_models`), not of the ledger."""


class _Table(_Entry):
    """`document` and `name` are the folder and file of the ledger: arxiv, table1."""

    document: str
    name: str
    number: str
    caption: str
    source: Source

    @property
    def id(self) -> str:
        """<document>/<name>"""
        return f"{self.document}/{self.name}"


Kind = TypeVar("Kind", bound=_Table)
Entity = TypeVar("Entity", bound=_Entry)


class LedgerTable(_Table):
    """One table of accuracies of one paper."""

    kind: Literal["scores"] = "scores"
    columns: tuple[Column, ...]
    models: dict[str, str]
    """Name that the paper gives each model, by slug, in the order of the table."""
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


class Entry(NamedTuple):
    """One cell of a ledger table."""

    id: str
    """<document>/<table>/<model>/<method>/<column>"""
    row: Row
    column: Column
    reported: Reported

    @property
    def method(self) -> str:
        """Whose scores of ours stand beside the number."""
        return self.reported.method or self.row.method

    @property
    def trained_on(self) -> str:
        """The task whose expert the cell is about, or nothing."""
        return (self.column.trained_on or self.column.task) if self.row.trained_on == "column task" else ""


def entries(table: LedgerTable) -> list[Entry]:
    """Every cell where something can stand, row by row."""
    return [
        Entry(
            f"{table.id}/{row.model}/{reported.method or row.method}/{column.name}",
            row,
            column,
            reported,
        )
        for row in table.rows
        for column in table.columns
        if (reported := row.cells[column.name]) is not None
    ]


class TimeRow(_Entry):
    """What the paper prints of one task: seconds of the first and the second pass, and their ratio in percent."""

    task: str
    label: str
    n: PositiveInt
    """Items of the paper's test set."""
    first: AsPrinted
    second: AsPrinted
    ratio: AsPrinted
    scan: str | None = None
    """As in `Reported`."""


class TimeTable(_Table):
    """A table of the seconds that two-pass inference takes."""

    kind: Literal["times"]
    strategies: dict[str, str]
    """Ways to dispatch that are timed here, and what the table calls them."""
    rows: tuple[TimeRow, ...]


class Setting(_Entry):
    """One hyper-parameter of one method: the value that the paper prints, or those that it swept."""

    method: str
    """A key of `SettingsTable.methods`, and the method of ours that it is compared with."""
    label: str
    values: tuple[AsPrinted, ...] = Field(min_length=1)
    setting: str
    """Which of our settings it is: a field of `config.Training`, or init_variance."""
    scan: str | None = None
    """As in `Reported`."""


class Shape(_Entry):
    """Sizes of a decoder-only model: layers, and features of its matrices."""

    layers: PositiveInt
    hidden: PositiveInt
    key_value: PositiveInt
    """Output features of the key and value projections."""
    intermediate: PositiveInt
    vocabulary: PositiveInt

    def matrix(self, module: str) -> tuple[int, int]:
        """(inputs, outputs) of a projection."""
        return {
            "q_proj": (self.hidden, self.hidden),
            "k_proj": (self.hidden, self.key_value),
            "v_proj": (self.hidden, self.key_value),
            "o_proj": (self.hidden, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }[module]


class SettingsTable(_Table):
    """A table of hyper-parameters."""

    kind: Literal["settings"]
    methods: dict[str, str]
    """What the paper calls the settings of each method."""
    rows: tuple[Setting, ...]

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        if len({(row.method, row.label) for row in self.rows}) < len(self.rows):
            raise ValueError("two rows have the same method and label")
        for row in self.rows:
            if row.method not in self.methods:
                raise ValueError(f"row of method {row.method}, which is not one of {', '.join(self.methods)}")
            if row.setting not in (*Training.model_fields, "init_variance"):
                raise ValueError(f"row {row.label}: {unknown('setting', row.setting, Training.model_fields)}")
        return self


class Margin(_Entry):
    """`paper_tables/margins.yaml`: how near two gains are to count as the same, in percentage points, and why."""

    margin: float = Field(gt=0, lt=100)
    why: str = Field(min_length=1)


def read_margin(path: Path) -> Margin:
    """The frozen margin; ValueError as `read`."""
    return _checked(path, Margin, read_yaml(path))


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


@dataclass(frozen=True)
class Ledger:
    """Everything that the papers report, and the shapes of their models."""

    scores: tuple[LedgerTable, ...]
    times: tuple[TimeTable, ...]
    settings: tuple[SettingsTable, ...]
    shapes: dict[str, Shape]
    """By slug of the paper's model."""
    margin: float
    """How near two gains are to count as the same, in percentage points."""


def read_all(folder: Path) -> Ledger:
    """Every table under `paper_tables/`, `models.yaml` and `margins.yaml` there; ValueError as `read`."""
    kinds: dict[str, list[Path]] = {"scores": [], "times": [], "settings": []}
    for path in sorted(folder.glob("*/*.yaml")):
        kind = read_yaml(path).get("kind", "scores")
        if kind not in kinds:
            raise ValueError(f"{path}: {unknown('kind', kind, kinds)}")
        kinds[kind].append(path)
    models = folder / "models.yaml"
    shapes = read_yaml(models)
    return Ledger(
        scores=tuple(map(read, kinds["scores"])),
        times=tuple(map(read_times, kinds["times"])),
        settings=tuple(map(read_settings, kinds["settings"])),
        shapes={slug: _checked(models, Shape, shape) for slug, shape in shapes.items()},
        margin=read_margin(folder / "margins.yaml").margin,
    )


def rows_by_id(ledger: Ledger) -> dict[str, Row]:
    """Every row of the tables of scores, by <document>/<table>/<model>/<method>."""
    return {f"{table.id}/{row.model}/{row.method}": row for table in ledger.scores for row in table.rows}


def parameters(trained: Trained, shape: Shape) -> int:
    """How many numbers are trained: SVF has one a singular value, LoRA two factors a matrix, IA3 one an output feature
    of a projection of attention and one an input feature of `down_proj` (as in PEFT)."""
    total = 0
    for module in dict.fromkeys(name for names in trained.modules for name in MODULES.get(names, (names,))):
        inputs, outputs = shape.matrix(module)
        if trained.adapter == "svf":
            total += min(inputs, outputs)
        elif trained.adapter == "lora":
            assert trained.rank
            total += trained.rank * (inputs + outputs)
        else:
            total += inputs if module == "down_proj" else outputs
    return shape.layers * total


def _read(path: Path, kind: type[Kind]) -> Kind:
    entries = read_yaml(path)
    return _checked(path, kind, {"document": path.parent.name, "name": path.stem} | entries)


def _checked(path: Path, kind: type[Entity], entries: dict[str, Any]) -> Entity:
    try:
        return kind(**entries)
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error, kind)}") from None
