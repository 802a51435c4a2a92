"""Where one cell of a table comes from: from the printed number back to the answers that ours is counted from."""

import math
import shlex
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from transformer2 import config as configuration
from transformer2.config import STRATEGIES, Run
from transformer2.paper import ledger
from transformer2.paper.cells import Cell, adapter, cells
from transformer2.paper.ledger import LedgerTable, entries
from transformer2.paper.measured import read_scores
from transformer2.provenance import read_json, read_jsonl
from transformer2.seals import sha256
from transformer2.statistics import Estimate

INDENT = "  "
SHOWN = 240
"""Characters of a prompt or an answer that are shown."""
BROKEN = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError)
"""What reading a missing or damaged file ends in."""


def explain(cell_id: str, results: Path, folder: Path) -> str:
    """The chain from a cell to the answers that it is counted from, as text.

    Args:
        cell_id: <document>/<table>/<model>/<method>/<column>.
        results: of the run, `results/<run>`.
        folder: of the ledger, `paper_tables`.

    A missing or damaged link of the chain is named in its place. Raises ValueError for a cell that no table has.
    """
    table = _table_of(cell_id, folder)
    cell = next(Cell(entry, None) for entry in entries(table) if entry.id == cell_id)
    run_file, run = _configuration_of(results.name)
    parts = [[cell_id], ["The document", *_indented(_document(table, cell))]]
    try:
        strict, lenient = _measured(table, cell, results)
    except (*BROKEN, EOFError, zlib.error) as error:
        frame = results / "scores.csv.gz"
        parts.append([f"This run, {results}", f"{INDENT}{_fault(frame, error)}"])
        if isinstance(error, FileNotFoundError):
            parts.append(_not_run(cell, results, run_file, run))
        else:
            parts.append(["Made again by", f"{INDENT}{_command([frame], run_file, results.name)}"])
        return _text(parts)
    if strict.ours is None or lenient.ours is None:
        parts.append(_not_run(cell, results, run_file, run))
        return _text(parts)
    parts.append([f"This run, {results}", *_indented(_run(table, strict, lenient))])
    if (elsewhere := results / "scores.manifest.json").is_file():
        parts.append(["The scores were measured elsewhere", *_indented(_link(elsewhere, _elsewhere))])
        return _text(parts)
    files = [results / file for file in strict.ours.files]
    parts[-1] += _indented(_collected(files, strict.ours.correct))
    for seed, file in zip(strict.ours.seeds, files, strict=True):
        parts.append([f"Seed {seed}", *_indented(_chain(file, results, cell.column.task))])
    base = results.parent / "models" / strict.ours.model / "base" / "manifest.json"
    parts.append([f"Base model {strict.ours.model}", *_indented(_link(base, _base_model))])
    parts.append(["Two answers", *_indented(_samples(files[0], results))])
    parts.append(["Scored again by", f"{INDENT}{_command(files, run_file, results.name)}"])
    return _text(parts)


def _text(parts: list[list[str]]) -> str:
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _indented(lines: list[str]) -> list[str]:
    return [f"{INDENT}{line}" for line in lines]


def _table_of(cell_id: str, folder: Path) -> LedgerTable:
    """The table that has the cell; tables of seconds and of hyper-parameters have none.

    Raises:
        ValueError: no table has it; names the nearest cell.
    """
    if not any(folder.glob("*/*.yaml")):
        raise ValueError(f"there is no table in {folder}: name the folder of the ledger with --ledger")
    tables = {entry.id: table for table in ledger.read_all(folder).scores for entry in entries(table)}
    if cell_id not in tables:
        line = configuration.unknown("cell", cell_id, tables)
        if "did you mean" not in line:  # some hundred cells are no help
            line = f"unknown cell {cell_id!r}; a cell is <document>/<table>/<model>/<method>/<column>: {min(tables)}"
        raise ValueError(line)
    return tables[cell_id]


def _configuration_of(name: str) -> tuple[Path | None, Run | None]:
    """The configuration of this project that a run is named in, and the run."""
    for file in [Path("config.yaml"), *sorted(Path("config").glob("*.yaml"))]:
        try:
            run = configuration.load(file)
        except configuration.ConfigError:
            continue  # not the one that this run was made with
        if run.run == name:
            return file, run
    return None, None


def _measured(table: LedgerTable, cell: Cell, results: Path) -> tuple[Cell, Cell]:
    """The cell with what the run measured, scored strictly and leniently; its row alone is counted."""
    alone = table.model_copy(update={"rows": (cell.row,), "columns": (cell.column,)})
    scores = read_scores(results / "scores.csv.gz")
    ((strict,), (lenient,)) = cells(alone, scores, "strict"), cells(alone, scores, "lenient")
    return strict, lenient


# ---- the document, and what the run measured


def _document(table: LedgerTable, cell: Cell) -> list[str]:
    reported, (first, last) = cell.reported, table.source.lines
    if reported.value is None:
        printed = "nothing: only this project has the row"
    else:
        printed = str(reported.value) + (f", normalised {reported.normalised}" if reported.normalised else "")
    lines = [
        f"prints  {printed}",
        f"in      {table.number} of the {table.document} document, section {table.source.section}; "
        f"{table.source.file}, lines {first} to {last}",
        f"row     {table.models[cell.row.model]}: {cell.row.label}",
        f"column  {cell.column.label}, {cell.column.metric}, n = {cell.column.n}",
    ]
    notes = (reported.scan and f"the text file shows {reported.scan}", cell.row.remark, cell.row.note)
    return lines + [f"note    {note}" for note in notes if note]


def _run(table: LedgerTable, strict: Cell, lenient: Cell) -> list[str]:
    ours, loose = strict.ours, lenient.ours
    assert ours is not None and loose is not None
    place = table.models[strict.row.model]
    model = f"{ours.model}, a stand-in for {place}" if ours.standin else f"{ours.model}, which is {place}"
    of = f"{ours.items} items" + (f" with each of {len(ours.seeds)} seeds" if len(ours.seeds) > 1 else "")
    lines = [
        f"model       {model}",
        *([f"state       {ours.state} of each training"] if ours.state else []),
        f"score       {_estimate(ours.score)} %; {ours.correct} right of {of}",
        f"lenient     {_estimate(loose.score)} %; {loose.correct} right",
        f"seeds       {', '.join(map(str, ours.seeds))}",
    ]
    if strict.entry.method != "base":
        p_value = (
            "not tested against the base"
            if math.isnan(ours.p_value)
            else (
                f"p = {ours.p_value:.2g} ({'exact McNemar' if ours.paired else 'independent samples'}, this cell alone)"
            )
        )
        lines.insert(-1, f"normalised  {_estimate(ours.normalised)}; {p_value}")
    return lines


def _collected(files: list[Path], correct: float) -> list[str]:
    """A line if the files of scores have changed since they were put into the frame."""
    try:
        right = round(sum(item["strict"] for file in files for item in read_json(file)["items"]), 6)
    except BROKEN:
        return []  # the chain of each seed says what is wrong
    if right == correct:
        return []
    return [f"DIFFERS     {right} right in the files of scores, {correct} in scores.csv.gz: collect them again"]


def _estimate(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "undefined"
    return f"{estimate.value:.2f} (95 %: {estimate.low:.2f} to {estimate.high:.2f})"


def _elsewhere(record: Any) -> list[str]:
    return [
        f"in {record['file']}, sha256 {_short(record['sha256'])}, read {record['started']}; {_now(record)}",
        "no model was run here: the chain ends at that file",
    ]


def _now(record: Any) -> str:
    return _checked(Path(record["file"]), record["sha256"])


# ---- the chain


def _link(path: Path, describe: Callable[[Any], list[str]]) -> list[str]:
    """What a JSON file says, or one line on what is wrong with it."""
    try:
        return describe(read_json(path))
    except BROKEN as error:
        return [_fault(path, error)]


def _fault(path: Path, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"missing: {path}"
    reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return f"damaged: {path} ({reason})"


def _checked(path: Path, expected: str) -> str:
    """Whether a file still is what a manifest says of it."""
    if not path.is_file():
        return f"missing: {path}"
    return "checksum OK" if (now := sha256(path)) == expected else f"DIFFERS: the file now has sha256 {_short(now)}"


def _short(checksum: str) -> str:
    return checksum[:12]


def _chain(scores: Path, results: Path, task: str) -> list[str]:
    """From one file of scores to the expert."""
    lines = [f"scores   {scores}"]
    lines += _indented(_link(scores, _scored))
    answers, followed = _answers(scores, results)
    lines += followed
    lines += [f"answers  {answers}", *_indented(_link(_manifest(answers), lambda found: _generated(found, answers)))]
    lines += _indented(_link(_manifest(answers), lambda found: _same_data(found, results, task)))
    decisions = answers.with_suffix(".decisions.json")
    if answers.parents[1].name in STRATEGIES:
        lines += [f"dispatch {decisions}", *_indented(_link(decisions, _dispatched))]
    return lines + _link(_manifest(answers), lambda found: list(_weights(found, results)))


def _answers(scores: Path, results: Path) -> tuple[Path, list[str]]:
    """The file of answers behind a file of scores; of a choice among several, that of the chosen one."""
    model, name, *rest = scores.relative_to(results / "scores").parts
    lines = []
    try:
        record = read_json(scores)
        if chosen := record.get("chosen"):
            name = chosen
            source = results.joinpath("scores", model, chosen, *rest)
            lines = [f"chosen   {chosen} by: {record['by']}; {'from' if source.is_file() else 'missing:'} {source}"]
    except BROKEN:
        pass  # the line on the scores has said it
    return results.joinpath("generations", model, name, *rest).with_suffix(".jsonl"), lines


def _manifest(file: Path) -> Path:
    return file.with_suffix(".manifest.json")


def _scored(record: Any) -> list[str]:
    from transformer2.tasks import TASKS

    items, version = record["items"], record["task_version"]
    now = TASKS[record["task"]].version
    stale = "" if now == version else f" (version {now} scores now: score again)"
    right = {which: round(sum(item[which] for item in items), 6) for which in ("strict", "lenient")}
    return [
        f"{right['strict']} of {len(items)} right, leniently {right['lenient']}; "
        f"task {record['task']}, version {version}{stale}"
    ]


def _generated(found: Any, answers: Path) -> list[str]:
    return [
        f"{found['answers']} answers, {found['started']}, commit {found['git'] or 'unknown'}, "
        + ", ".join(f"{name} {found['packages'][name] or 'unknown'}" for name in ("torch", "transformers")),
        f"sha256 {_short(found['sha256'])}: {_checked(answers, found['sha256'])}",
        *([f"those of {found['answers_of']}, the same state"] if found.get("answers_of") else []),
    ]


def _same_data(found: Any, results: Path, task: str) -> list[str]:
    if "data_sha256" not in found:  # the two passes keep none
        return []
    data = results / "data" / task / "test.jsonl"
    return [f"to {data}, sha256 {_short(found['data_sha256'])}: {_checked(data, found['data_sha256'])}"]


def _dispatched(record: Any) -> list[str]:
    classes = Counter(item["class"] for item in record["items"])
    sent = ", ".join(f"{n} to {name}" for name, n in classes.most_common())
    return [
        f"{len(record['items'])} prompts of domain {record['domain']}: {sent}",
        f"first pass {record['first_seconds']:.2f} s, second {record['second_seconds']:.2f} s",
    ]


def _weights(found: Any, results: Path) -> Iterator[str]:
    """The experts that answered, as the manifest of the answers names them."""
    if "experts" in found:
        classifier = _options(found["command"], "--classifier")
        for pair in [*found["experts"], *(f"classification={folder}" for folder in classifier)]:
            name, _, folder = pair.partition("=")
            yield from _expert(_here(folder, results), results, f"of {name}")
    elif found["expert"] is None:
        yield "expert   none: the base model answered"
    elif "mixes" in Path(found["expert"]).parts:
        yield from _mix(_here(found["expert"], results), results)
    else:
        yield from _expert(_here(found["expert"], results), results)


def _here(folder: str, results: Path) -> Path:
    """A folder of the run as it lies now: manifests name it from where the run was made."""
    parts = Path(folder).parts
    start = next((i for i, part in enumerate(parts) if part in ("experts", "mixes", "transfers")), 0)
    return results.joinpath(*parts[start:])


def _options(command: list[str], name: str) -> list[str]:
    return [value for option, value in zip(command, command[1:], strict=False) if option == name]


def _expert(folder: Path, results: Path, of: str = "") -> list[str]:
    head = " ".join(part for part in ("expert  ", of, str(folder)) if part)
    if folder.parent.parent.parent.parent != results / "transfers":
        return [head, *_indented(_link(folder / "selection.json", _selected))]
    try:
        found = read_json(folder / "manifest.json")
        source = _expert(_here(found["expert"], results), results)
        return [head, *_indented([_transferred(found), *source])]
    except BROKEN as error:
        return [head, f"{INDENT}{_fault(folder / 'manifest.json', error)}"]


def _transferred(found: Any) -> str:
    order = "ordered" if found["shuffle"] is None else f"shuffled with seed {found['shuffle']}"
    mapping = f", {found['mapping']}" if found["mapping"] else ""
    return f"z of another model, {order}{mapping}: {found['parameters']:,} z of {found['matrices']} matrices"


def _selected(found: Any) -> list[str]:
    training = found["training"]
    points = ", ".join(f"{name} {value:.3f}" for name, value in found["validation"].items())
    weights = training["inputs"]["model"].get("model.safetensors")
    state = {
        "best": f"best at step {training['best_step']} of {training['step']}",
        "last": f"the last state, after {training['step']} steps",
    }[found["state"]]
    if found["state"] == "best" and training["best_step"] == 0:
        state += ", the start: the expert is untrained"
    if training["collapsed_at"] is not None:
        state += f", collapsed at step {training['collapsed_at']}"
    return [
        f"chosen {found['chosen']} on validation of the {found['state']} states: {points}",
        f"{state}; {training['stopped'] or 'all steps'}; "
        f"{training['trained_parameters']:,} parameters; adapter {training['settings']['adapter']}",
        *([f"trained on base weights with sha256 {_short(weights)}"] if weights else []),
    ]


def _mix(folder: Path, results: Path) -> list[str]:
    searched = folder.parent != results / "mixes" / folder.parent.parent.name / "uniform"
    what = _link(folder / "adaptation.json", _adapted) if searched else ["equal weights, not searched"]
    lines = [f"mix      {folder}", *_indented(what)]
    try:
        pairs = _options(read_json(folder / "manifest.json")["command"], "--expert")
    except BROKEN as error:
        return lines + [f"{INDENT}{_fault(folder / 'manifest.json', error)}"]
    for pair in pairs:
        name, _, expert = pair.partition("=")
        lines += _expert(_here(expert, results), results, f"of {name}")
    return lines


def _adapted(found: Any) -> list[str]:
    alpha = [sum(layers) / len(layers) for layers in found["alpha"]]
    mixed = ", ".join(f"{name} {value:.3f}" for name, value in zip(found["experts"], alpha, strict=True))
    of_layers = " (mean over layers)" if found["granularity"] == "layer" else ""
    return [
        f"alpha {mixed}{of_layers}; {'normalised' if found['normalised'] else 'not normalised'}",
        f"{round(found['accuracy'] * found['shots'])} of {found['shots']} shots right; {found['stopped']}; "
        f"{found['history'][-1]['evaluated']} candidates",
    ]


def _base_model(found: Any) -> list[str]:
    weights = [f"{name} sha256 {_short(value)}" for name, value in found["sha256"].items() if "safetensors" in name]
    return [
        f"source {found['source']}, revision {found.get('revision') or 'none'}, {found['started']}",
        *(weights or [f"{len(found['sha256'])} files, none of them safetensors"]),
    ]


def _samples(scores: Path, results: Path) -> list[str]:
    """The first right answer and the first wrong one, scored strictly."""
    from transformer2.tasks import RIGHT

    answers, _ = _answers(scores, results)
    path = scores
    try:
        items = read_json(scores)["items"]
        path = answers
        texts = {row["item"]: row for row in read_jsonl(answers)}
        lines = []
        for name, right in (("right", True), ("wrong", False)):
            item = next((item for item in items if (item["strict"] >= RIGHT) is right), None)
            if item is None:
                lines.append(f"{name}: none of {len(items)}")
                continue
            row = texts[item["item"]]
            lines += [f"{name}: {item['item']}, read as {item['answer']!r}, {item['finish_reason']}"]
            lines += [
                f"{INDENT}prompt  {_shortened(row['prompt'])}",
                f"{INDENT}answer  {_shortened(row['completion'])}",
            ]
        return lines
    except BROKEN as error:
        return [_fault(path, error)]


def _shortened(text: str) -> str:
    """In one line; the end of a prompt is the question, so the middle is left out."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN // 3]} … {line[-(SHOWN - SHOWN // 3) :]}"


# ---- a cell that was not run, and commands


def _command(files: list[Path], run_file: Path | None, run: str) -> str:
    """`--force` scores again what is up to date; answers that are there are kept."""
    of_run = "" if run_file == Path("config.yaml") else f" --configfile {run_file or f'<configuration of {run}>'}"
    targets = [Path("results", run, *file.parts[file.parts.index(run) + 1 :]) for file in files]
    return f"snakemake --cores all{of_run} --force {shlex.join(map(str, targets))}"


def _not_run(cell: Cell, results: Path, run_file: Path | None, run: Run | None) -> list[str]:
    """That the run has no score for the cell, and what it would need."""
    lines = [f"Not run: {results} has no score for it"]
    if (results / "scores.manifest.json").is_file():
        fields = {
            "row": cell.row.model,
            "method": cell.entry.method,
            "trained_on": cell.entry.trained_on,
            "task": cell.column.task,
        }
        needed = ", ".join(f"{name} {value}" for name, value in fields.items() if value)
        return lines + [f"{INDENT}needs an entry in the file of scores: {needed}"]
    if run is None:
        return lines + [f"{INDENT}config.yaml and config/ have no run named {results.name}"]
    needs = list(_needs(cell, run))
    if needs:
        return lines + [f"{INDENT}needs {need}" for need in needs]
    model = next(name for name, model in run.models.items() if model.row == cell.row.model)
    seeds_of = {"base": run.seeds[:1]} | run.transferred(model)
    seeds = seeds_of.get(cell.entry.method, run.seeds)
    states = run.states_of(cell.entry.method) if cell.entry.method in run.trained else [cell.row.state]
    state = cell.row.state if cell.row.state in states else states[-1]
    name = adapter(cell.entry.method, cell.entry.trained_on, state)
    folder = results / "scores" / model / name / cell.column.task
    files = [folder / f"seed{seed}.json" for seed in seeds]
    return lines + [f"{INDENT}made by {_command(files, run_file, run.run).replace(' --force', '')}"]


def _needs(cell: Cell, run: Run) -> Iterator[str]:
    row, task, method = cell.row.model, cell.column.task, cell.entry.method
    models = [model for model in run.models.values() if model.row == row]
    if not models:
        own = configuration.PAPER_MODELS.get(row)
        yield f"a model with `row: {row}` under `models:`" + (f" (the document's own is hub:{own})" if own else "")
    if task not in run.data_of:
        yield f"{task} under {'`tasks:`' if cell.row.trained_on == 'column task' else '`tasks:` or `unseen:`'}"
    adaptive = {} if run.adaptation is None else _of_adaptation(run)
    transferred = {name for model in run.models if run.models[model].row == row for name in run.transferred(model)}
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
    found: dict[str, Any] = {name: (strategy, None) for name, (strategy, _) in STRATEGIES.items()}
    found["uniform_mix"] = ("few-shot", None)
    for name, budget in run.budgets.items():
        found |= {f"few_shot_{name}{by}": ("few-shot", budget) for by in ("", "_on_test")}
    found |= {f"{name}_{by}": (None, None) for name in adaptation.compared for by in ("on_shots", "on_test")}
    for method, (name, budget) in product(adaptation.trained, run.budgets.items()):
        if budget.iterations is None:
            found[f"{method}_{name}"] = ("few-shot", budget)
    return found
