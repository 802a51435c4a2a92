"""The tables and figures of a run: which there are, what each shows, and the frames that it reads.

All of it follows from the configuration and the ledger; nothing here draws, so that planning a run stays quick.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from transformer2.config import Run, unknown
from transformer2.grid import Grid
from transformer2.reproduce.inventory import ILLUSTRATED_TASK, frame_files, illustrated_model
from transformer2.reproduce.ledger import Ledger

TABLE_FORMATS = ("md", "tex", "html", "csv")
FIGURE_FORMATS = ("pdf", "svg", "png", "csv")
GAINS = "-gains"
"""What the name of a table's forest plot has after that of the table."""


@dataclass(frozen=True)
class Table:
    name: str
    """<document>/<table>"""
    kind: Literal["scores", "times", "settings"]
    frames: tuple[str, ...]
    """Names of `frames.Frames` that it reads."""


@dataclass(frozen=True)
class Kind:
    """What the figures of one kind have in common."""

    frames: tuple[str, ...]
    """Names of `frames.Frames` that they read."""
    group: str
    """Heading of Snakemake's report."""
    caption: str
    """Its text there: a file of workflow/report/."""
    shows: str = ""
    """What a reader who does not see the picture is told."""


KINDS = {
    "table": Kind(("scores",), "Tables as pictures", "figure"),
    "gains": Kind(
        ("scores",), "Gains, the paper's and ours", "gains",
        "Forest plot, one line for each cell: hollow diamonds are the paper's gains over the base, dots this run's, "
        "lines 95 % intervals; the right edge has the verdict. The table of all cells has the same numbers.",
    ),
    "power": Kind(
        (), "Gains, the paper's and ours", "power",
        "Dots, one row for each test set: the gains that the papers print, and bands in which so many items show none.",
    ),
    "confusion": Kind(
        ("decisions",), "Self-adaptation", "adaptation_figure",
        "Matrices of shares: to which class the prompts of each domain were sent, one for each model and strategy.",
    ),
    "weights": Kind(
        ("alphas",), "Self-adaptation", "adaptation_figure",
        "Stacked bars: the share of each expert in the best mix, for each model, task and configuration of the search.",
    ),
    "convergence": Kind(
        ("alphas",), "Self-adaptation", "adaptation_figure",
        "Lines over iterations: accuracy of the best mix on the shots, and the deviation that the search draws with.",
    ),
    "spectrum": Kind(
        ("spectra",), "Singular values", "spectrum",
        "Lines over layers, one panel for each type of matrix: the share that its top r singular values hold.",
    ),
    "learning": Kind(
        ("curves", "scores"), "Learning curves", "learning",
        "Lines over updates, one panel for each task: accuracy on validation; the best and the last state are marked.",
    ),
    "sweep": Kind(
        ("curves", "scores"), "Learning curves", "learning",
        "Lines over updates: accuracy on validation, by learning rate of the sweep.",
    ),
    "overview": Kind(
        ("illustration",), "The method", "schematic",
        "Schema: experts are trained once for each task, then each prompt is answered in two passes.",
    ),
    "method": Kind(
        ("illustration",), "The method", "schematic",
        "Schema: training by reinforcement learning, and three ways to adapt.",
    ),
    "adaptation prompt": Kind(
        ("illustration",), "The method", "schematic",
        "Text: the prompt that asks a model for the class of a prompt, as it is sent.",
    ),
    "sample": Kind(
        ("illustration",), "The method", "schematic",
        "Text: a sample of next-token training, with its solution in blue.",
    ),
    "study": Kind(
        ("scores",), "Methods compared", "study",
        "Dot plot: the difference of every method from the reference, with 95 % intervals, one colour for each task.",
    ),
}  # fmt: skip
"""Kind of a figure -> what it reads and shows."""


@dataclass(frozen=True)
class Figure:
    name: str
    """Of its files, without the ending: arxiv/figure6."""
    kind: str
    """A key of `KINDS`."""
    title: str
    model: str = ""
    """That it shows, if it shows one."""
    method: str = ""
    """That it shows, or with which all others are compared."""

    @property
    def about(self) -> Kind:
        return KINDS[self.kind]

    @property
    def formats(self) -> tuple[str, ...]:
        return (*FIGURE_FORMATS, "md") if self.kind == "study" else FIGURE_FORMATS


Item = TypeVar("Item", Table, Figure)


def tables_of(run: Run, ledger: Ledger) -> list[Table]:
    """The tables of accuracies, of seconds where prompts were dispatched, and of hyper-parameters where a run has any.

    A run whose scores were measured elsewhere has tables of accuracies alone.
    """
    frames = ("scores", "experts") if "experts.csv" in frame_files(run) else ("scores",)
    tables = [Table(table.id, "scores", frames) for table in ledger.scores]
    if run.scores is not None:
        return tables
    if Grid(run).adaptive("prompt"):
        tables += [Table(table.id, "times", ("timings",)) for table in ledger.times]
    return tables + [Table(table.id, "settings", ()) for table in ledger.settings]


def figures_of(run: Run, ledger: Ledger) -> list[Figure]:
    """A figure for each table of accuracies, and those of the paper that the run has something to show in."""
    named = {table.id: f"{table.number} ({table.document})" for table in ledger.scores}
    figures = [Figure(id, "table", title) for id, title in named.items()]
    figures += [Figure(f"{id}{GAINS}", "gains", f"Gains in {title}") for id, title in named.items()]
    figures.append(Figure(f"printed{GAINS}", "power", "What the papers' own gains can show"))
    if run.scores is None:
        figures += [*_of_adaptation(run), *_of_models(run), *_of_learning(run), *_schematics(run)]
    if run.reference:
        figures.append(Figure("study", "study", "Methods compared", method=run.reference))
    return figures


def _of_adaptation(run: Run) -> list[Figure]:
    frames, figures = frame_files(run), []
    if "decisions.csv.gz" in frames:
        figures.append(Figure("arxiv/figure6", "confusion", "Figure 6 (arxiv)"))
    if "alphas.csv.gz" in frames:
        figures.append(Figure("arxiv/figure7", "weights", "Figure 7 (arxiv)"))
        figures.append(Figure("convergence", "convergence", "Convergence of the search"))
    return figures


def _of_models(run: Run) -> list[Figure]:
    """The singular values of every model."""
    numbers = {"llama3-8b": 10, "mistral-7b": 11}
    figures = []
    for name in run.models:
        number = numbers.get(run.row_of(name))
        file, title = f"spectrum-{name}", f"Singular values, as Figure 10: {name}"
        if number:
            file, title = f"arxiv/figure{number}", f"Figure {number} (arxiv)"
        figures.append(Figure(file, "spectrum", title, model=name))
    return figures


def _of_learning(run: Run) -> list[Figure]:
    """How the SVF experts of every model were learnt, and LoRA with policy gradient on the paper's main model."""
    trained, figures = {(model, method) for model, method, _ in Grid(run).trained}, []
    for name, model in run.models.items():
        file, title = f"learning-{name}", f"Learning curves, as Figure 4: {name}"
        if model.row == "llama3-8b":
            file, title = "arxiv/figure4", "Figure 4 (arxiv)"
        if (name, "svf") in trained:
            figures.append(Figure(file, "learning", title, name, "svf"))
    for name, model in run.models.items():
        if model.row == "llama3-8b" and (name, "lora_attention_pg") in trained:
            figures.append(Figure("arxiv/figure9", "sweep", "Figure 9 (arxiv)", name, "lora_attention_pg"))
    return figures


def _schematics(run: Run) -> list[Figure]:
    """Figures of self-adaptation, shown with a sample of GSM8K."""
    if not (run.adaptation and ILLUSTRATED_TASK in run.tasks):
        return []
    kinds = {1: "overview", 2: "method", 3: "adaptation prompt", 8: "sample"}
    return [
        Figure(f"arxiv/figure{n}", kind, f"Figure {n} (arxiv)", illustrated_model(run)) for n, kind in kinds.items()
    ]


@dataclass(frozen=True)
class Contents:
    """What a run has to show now; its folder may hold more, of an earlier configuration."""

    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    frames: tuple[str, ...]
    """Their files, in the folder of the run."""
    results: frozenset[Path]
    """Experts, mixes, answers and scores with their manifests, and those of data: files and whole folders, in the
    folder of the run (`Stages.results`)."""

    @classmethod
    def of(cls, run: Run, ledger: Ledger, results: frozenset[Path]) -> "Contents":
        return cls(tuple(tables_of(run, ledger)), tuple(figures_of(run, ledger)), tuple(frame_files(run)), results)

    def find(self, folder: Path, pattern: str) -> list[Path]:
        """The `results` that are in the folder of the run and match a pattern, in order."""
        found = {path: path.relative_to(folder) for path in folder.glob(pattern)}
        return sorted(path for path, name in found.items() if not self.results.isdisjoint([name, *name.parents]))

    def reads(self, frame: str) -> bool:
        """Whether a figure reads a frame (of `frames.Frames`)."""
        return any(frame in figure.about.frames for figure in self.figures)

    def table_files(self, *formats: str) -> list[str]:
        """In the folder of the run, in these formats or all."""
        return [f"paper_tables/{table.name}.{kind}" for table in self.tables for kind in formats or TABLE_FORMATS]

    def figure_files(self, *formats: str) -> list[str]:
        """As `table_files`; the formats of a figure among these."""
        return [
            f"figures/{figure.name}.{kind}"
            for figure in self.figures
            for kind in figure.formats
            if kind in formats or not formats
        ]


def chosen(what: str, items: Sequence[Item], only: Sequence[str]) -> list[Item]:
    """Those items that `only` names, or all if it names none; ValueError for a name that there is not."""
    by_name = {item.name: item for item in items}
    if strange := [name for name in only if name not in by_name]:
        raise ValueError(unknown(what, strange[0], by_name))
    return [by_name[name] for name in only] or list(items)
