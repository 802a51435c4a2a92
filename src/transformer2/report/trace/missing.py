"""A cell that a run has no score for: what it would need, and the commands that make files."""

import shlex
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from transformer2 import config as configuration
from transformer2 import grid, paths
from transformer2.config import STRATEGIES, Run
from transformer2.grid import Grid
from transformer2.report import places
from transformer2.report.trace.lines import INDENT
from transformer2.reproduce.cells import Cell
from transformer2.reproduce.imported_scores import MANIFEST


def configuration_of(name: str) -> tuple[Path | None, Run | None]:
    """The configuration of this project that a run is named in, and the run."""
    for file in [Path("config.yaml"), *sorted(Path("config").glob("*.yaml"))]:
        try:
            run = configuration.load(file)
        except configuration.ConfigError:
            continue  # not the one that this run was made with
        if run.run == name:
            return file, run
    return None, None


def command(files: list[Path], results: Path, run_file: Path | None) -> str:
    """The command that makes files of a run again; `--force` scores up-to-date answers again, and keeps them."""
    of_run = (
        "" if run_file == Path("config.yaml") else f" --configfile {run_file or f'<configuration of {results.name}>'}"
    )
    targets = [places.as_planned(file, results) for file in files]
    return f"snakemake --cores all{of_run} --force {shlex.join(map(str, targets))}"


def not_run(cell: Cell, results: Path, run_file: Path | None, run: Run | None) -> list[str]:
    """That the run has no score for the cell, and what it would need."""
    lines = [f"Not run: {results} has no score for it"]
    if (results / MANIFEST).is_file():
        fields = {
            "model" if cell.row.own else "row": cell.row.model,
            "method": cell.entry.method,
            "trained_on": cell.entry.trained_on,
            "task": cell.column.task,
        }
        needed = ", ".join(f"{name} {value}" for name, value in fields.items() if value)
        return lines + [f"{INDENT}needs an entry in the file of scores: {needed}"]
    if run is None:
        return lines + [f"{INDENT}config.yaml and config/ have no run named {results.name}"]
    files = [places.find(paths.SCORES, results, **one._asdict()) for one in _cells_of(cell, run)]
    if not files:
        return lines + [f"{INDENT}needs {need}" for need in _needs(cell, run)]
    return lines + [f"{INDENT}made by {command(files, results, run_file).replace(' --force', '')}"]


def _cells_of(cell: Cell, run: Run) -> list[grid.Cell]:
    """The cells of a run's grid that fill a cell of a table, in the state that its row is about where there are two."""
    of_run = Grid(run)
    filling: dict[str, list[grid.Cell]] = {}
    for one in of_run.cells:
        adapter = of_run.adapters[one.adapter]
        measured = (run.row_of(one.model), adapter.method, adapter.trained_on, one.task)
        if measured == (cell.row.model, cell.entry.method, cell.entry.trained_on, cell.column.task):
            filling.setdefault(adapter.state, []).append(one)
    states = (cell.row.state, "", *filling)
    return next((filling[state] for state in states if state in filling), [])


def _needs(cell: Cell, run: Run) -> Iterator[str]:
    row, task, method = cell.row.model, cell.column.task, cell.entry.method
    models = [model for name, model in run.models.items() if run.row_of(name) == row]
    if not models and cell.row.own:
        yield f"a model named {row}, without a `row`, under `models:`"
    elif not models:
        own = configuration.PAPER_MODELS.get(row)
        yield f"a model with `row: {row}` under `models:`" + (f" (the paper's own is hub:{own})" if own else "")
    if task not in run.data_of:
        yield f"{task} under {'`tasks:`' if cell.row.trained_on == 'column task' else '`tasks:` or `unseen:`'}"
    adaptive = {} if run.adaptation is None else _of_adaptation(run)
    transferred = {name for model in run.models if run.row_of(model) == row for name in run.transferred(model)}
    if method in run.methods or method in transferred or method == "base":
        if method != "base" and cell.entry.trained_on not in run.tasks:
            yield f"an expert of {method} for {cell.entry.trained_on}, which is not under `tasks:`"
    elif method in adaptive:
        strategy, limits = adaptive[method]
        if models and strategy and all(strategy not in model.strategies for model in models):
            yield f"`{strategy}` among the `strategies` of the model of {row}"
        if limits and (limits.rows and row not in limits.rows or limits.tasks and task not in limits.tasks):
            yield f"{row} and {task} in the budget of {method}, under `adaptation: budgets:`"
        if task in run.tasks:
            yield f"{task} under `unseen:` instead of `tasks:`"
    elif method.startswith("svf_from_") or configuration.CROSS in method:
        yield f"method {method}, which this run does not have: `transfer:` in the block of the model of {row}"
    else:
        yield f"method {method}, which this run does not have: " + (
            "`adaptation:`, with a budget of that name"
            if method in STRATEGIES or method.startswith("few_shot")
            else "a block of that name under `methods:`, if the project can train it"
        )


def _of_adaptation(run: Run) -> dict[str, tuple[str | None, configuration.Budget | None]]:
    """Method of self-adaptation -> strategy that a model must have, and the budget that limits rows and tasks."""
    adaptation = run.adaptation
    assert adaptation is not None
    methods: dict[str, Any] = {name: (strategy, None) for name, (strategy, _) in STRATEGIES.items()}
    methods["uniform_mix"] = ("few-shot", None)
    for name, budget in run.budgets.items():
        methods |= {f"few_shot_{name}{by}": ("few-shot", budget) for by in ("", "_on_test")}
    methods |= {f"{name}_{by}": (None, None) for name in adaptation.compared for by in ("on_shots", "on_test")}
    for method, (name, budget) in product(adaptation.trained, run.budgets.items()):
        if budget.iterations is None:
            methods[f"{method}_{name}"] = ("few-shot", budget)
    return methods
