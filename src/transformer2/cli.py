"""One thin command for each step of the workflow; every one of them runs by hand too (`--help`)."""

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from transformer2 import config as configuration
from transformer2.config import CLASSIFIER
from transformer2.provenance import (
    atomic_write,
    fingerprint,
    manifest,
    read_json,
    read_jsonl,
    sha256,
    write_json,
    write_jsonl,
)
from transformer2.sandbox import SandboxError, detect

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

File = Annotated[Path, typer.Option()]
Text = Annotated[str, typer.Option()]
Threads = Annotated[int, typer.Option(help="CPU threads of torch.")]
RiskyCode = Annotated[
    bool, typer.Option(help="Run model-written code with resource limits alone where no isolation works.")
]


Experts = Annotated[list[str], typer.Option(help="<name>=<folder of an expert>, repeated")]
ExpertFolder = Annotated[Path | None, typer.Option(help="folder with one subfolder for each expert, named after it")]


def main() -> None:
    """Runs the command line. A mistake that this package found is one line; anything else keeps its traceback."""
    try:
        app()
    except (ValueError, OSError, SandboxError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if Path(frames[-1].filename).is_relative_to(Path(__file__).parent):
            raise SystemExit(f"error: {error}") from None
        raise


def _start_torch(threads: int) -> None:
    """As many threads as Snakemake gave the job, and the fastest float32 products.

    "medium" hands them to oneDNN on a CPU, faster than MKL on AMD processors at the same error (only processors with
    AMX round to bfloat16 inside); on a GPU it allows TF32.
    """
    import torch

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("medium")


def _task(name: str) -> Any:
    from transformer2.tasks import TASKS

    if name not in TASKS:
        raise ValueError(configuration.unknown("task", name, TASKS))
    return TASKS[name]


def _named(pairs: list[str]) -> dict[str, Path]:
    """`<name>=<path>` options as a mapping."""
    found: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r} is not <name>=<path>")
        if name in found:
            raise ValueError(f"{name} is given twice: {found[name]} and {path}")
        found[name] = Path(path)
    return found


def _experts(pairs: list[str], folder: Path | None) -> dict[str, Path]:
    """Experts by name, from `--expert` options or from the subfolders of `--experts`."""
    found = _named(pairs)
    if folder is not None:
        found |= {path.parent.name: path.parent for path in sorted(folder.glob("*/adapter_config.json"))}
    if not found:
        raise ValueError(f"no expert {f'in {folder} ' if folder else ''}(subfolders with an adapter_config.json)")
    return found


def _base_of(folders: dict[str, Path]) -> Path:
    """The base model that the experts name; all must name the same."""
    if missing := [folder for folder in folders.values() if not (folder / "adapter_config.json").is_file()]:
        raise ValueError(f"{missing[0]} holds no expert: there is no adapter_config.json in it")
    bases = {read_json(folder / "adapter_config.json")["base_model_name_or_path"] for folder in folders.values()}
    if len(bases) != 1 or not (base := bases.pop()):
        raise ValueError("the experts do not name one base model: give it with --model")
    return Path(base)


def _shots(path: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = read_jsonl(path)
    if not rows:
        raise ValueError(f"{path} is empty: few-shot adaptation needs at least one shot")
    for number, row in enumerate(rows, 1):
        if missing := [column for column in columns if row.get(column) in (None, "")]:
            raise ValueError(f"{path}, row {number}: no {', '.join(missing)}; it has {', '.join(row)}")
    return rows


def _one_of(what: str, name: str, valid: tuple[str, ...]) -> Any:
    if name not in valid:
        raise ValueError(configuration.unknown(what, name, valid))
    return name


def _scored_task(name: str, allow_unsandboxed_code: bool) -> Any:
    """The task; one that runs code is tied to the isolation that works here, found before anything is generated."""
    task = _task(name)
    if not task.runs_code:
        return task
    return replace(task, score=partial(task.score, isolation=detect(accept_unsandboxed=allow_unsandboxed_code)))


@app.command()
def model(
    source: Text, out: File, revision: str | None = None, seed: int = 0, steps: int | None = None,
    backbone: Annotated[Path | None, typer.Option(help="folder of the language model of pocket:llava-next")] = None,
    threads: Threads = 1,
) -> None:  # fmt: skip
    """Get (or pretrain) a base model as a transformers folder."""
    from transformer2.models import fetch

    _start_torch(threads)
    out.mkdir(parents=True, exist_ok=True)
    with manifest(out / "manifest.json", source=source, seed=seed, steps=steps) as facts:
        if backbone:
            facts["backbone"] = read_json(backbone / "manifest.json")["sha256"]
        facts |= fetch(source, out, revision=revision, seed=seed, steps=steps, backbone=backbone)
        facts["sha256"] = fingerprint(out)


@app.command()
def data(task: Text, split: Text, source: Text, out: File, limit: int | None = None) -> None:
    """Write one split of a task in the data set's own columns."""
    from transformer2.data import read_split

    with manifest(out.with_suffix(".manifest.json"), task=task, split=split, source=source, limit=limit) as facts:
        rows = read_split(_task(task), source, split, limit)
        write_jsonl(out, rows)
        facts |= {"rows": len(rows), "sha256": sha256(out)}


@app.command()
def basis(model: File, out: File, dtype: str = "float32", threads: Threads = 1) -> None:
    """Decompose every matrix of the decoder layers, once for a model."""
    import torch

    from transformer2.svf.basis import decoder_matrices, write_basis

    _start_torch(threads)
    with manifest(out.with_suffix(".manifest.json"), model=str(model), dtype=dtype) as facts:
        facts["matrices"] = write_basis(decoder_matrices(model, getattr(torch, dtype)), out)
        facts["sha256"] = sha256(out)


@app.command()
def train(
    model: File, task: Text, train: File, validation: File, settings: Text, out: File,
    basis: Path | None = None, dtype: str = "float32", seed: int = 0, batch_rows: int = 64, threads: Threads = 1,
    shots: Annotated[int | None, typer.Option(help="take the task's own choice of n rows of either file")] = None,
    allow_unsandboxed_code: RiskyCode = False,
) -> None:  # fmt: skip
    """Train one expert; `settings` is JSON: the keys of `config.Training`, `layers` and `max_new_tokens`."""
    from transformer2.adaptation.choice import shots as shots_of
    from transformer2.models import load_model, load_tokenizer, new_expert
    from transformer2.rollout.hf import HFEngine
    from transformer2.training.loop import Trainer

    _start_torch(threads)
    chosen = json.loads(settings)
    the_task = _scored_task(task, allow_unsandboxed_code)
    chosen["max_new_tokens"] = chosen.get("max_new_tokens") or the_task.max_new_tokens
    out.mkdir(parents=True, exist_ok=True)
    inputs = {
        "model": read_json(model / "manifest.json")["sha256"],
        "train": sha256(train),
        "validation": sha256(validation),
    }
    with manifest(out / "manifest.json", task=task, seed=seed, settings=chosen, inputs=inputs) as facts:
        tokenizer = load_tokenizer(model)
        expert = new_expert(load_model(model, dtype), chosen, basis if chosen["adapter"] == "svf" else None, seed)
        engine = HFEngine(expert, tokenizer, batch_rows)
        train_rows, validation_rows = (
            read_jsonl(file) if shots is None else shots_of(the_task, read_jsonl(file), shots)
            for file in (train, validation)
        )
        trainer = Trainer(
            expert,
            engine,
            tokenizer,
            the_task,
            train_rows,
            validation_rows,
            chosen,
            seed,
            out,
            inputs | {"shots": shots},
        )
        facts["progress"] = asdict(trainer.run())
        trainer.save()


@app.command()
def select(candidates: list[Path], out: File) -> None:
    """Choose the expert with the best validation among the points of a sweep."""
    from transformer2.training.selection import select

    select(candidates, out)


@app.command()
def carry_over(expert: File, out: File) -> None:
    """Make an expert of a language model one of the vision-language model that is built around it."""
    from transformer2.models import carry_over

    carry_over(expert, out)


@app.command()
def generate(
    model: File, task: Text, data: File, out: File, expert: Path | None = None, basis: Path | None = None,
    dtype: str = "float32", max_new_tokens: int | None = None, batch_rows: int = 64, threads: Threads = 1,
) -> None:  # fmt: skip
    """Answer every item of a split greedily, with the base model or with an expert."""
    from transformer2.evaluation import answer
    from transformer2.models import load_expert, load_model, load_tokenizer
    from transformer2.rollout.hf import HFEngine

    _start_torch(threads)
    the_task, rows = _task(task), read_jsonl(data)
    facts = {"model": str(model), "task": task, "expert": str(expert) if expert else None, "data_sha256": sha256(data)}
    with manifest(out.with_suffix(".manifest.json"), **facts) as record:
        tokenizer, base = load_tokenizer(model), load_model(model, dtype)
        engine = HFEngine(load_expert(base, expert, basis) if expert else base, tokenizer, batch_rows)
        answers = list(answer(engine, tokenizer, the_task, rows, max_new_tokens or the_task.max_new_tokens, batch_rows))
        write_jsonl(out, answers)
        record |= {
            "answers": len(answers),
            "new_tokens": sum(len(a["token_ids"]) for a in answers),
            "sha256": sha256(out),
        }


@app.command()
def classes(rows: Annotated[list[str], typer.Option(help="<task>=<file with its rows>, repeated")], split: Text,
            out: File, limit: int | None = None, seed: int = 0) -> None:  # fmt: skip
    """Write the rows of one split of the task `classify`: prompts of other tasks, and everyday requests."""
    from transformer2.tasks.classify import labelled

    files = _named(rows)
    with manifest(out.with_suffix(".manifest.json"), split=split, seed=seed, limit=limit) as facts:
        made = labelled([(_task(task), read_jsonl(file)) for task, file in files.items()], split, limit, seed)
        write_jsonl(out, made)
        facts |= {"rows": len(made), "sha256": sha256(out)}


@app.command()
def dispatch(
    model: File, expert: Experts, task: Text, data: File, out: File, decisions: File, identity: Text,
    classifier: Path | None = None, basis: Path | None = None, first_pass: Text = "generation",
    dtype: str = "float32", max_new_tokens: int | None = None, class_tokens: int = 64, batch_rows: int = 64,
    threads: Threads = 1,
) -> None:  # fmt: skip
    """Answer every item of a split in two passes: classify the prompt, then answer with the expert of its class."""
    from transformer2.adaptation.model import SelfAdaptiveModel
    from transformer2.evaluation import answer_in_two_passes

    _start_torch(threads)
    the_task, rows, experts = _task(task), read_jsonl(data), _named(expert)
    with manifest(out.with_suffix(".manifest.json"), model=str(model), task=task, experts=expert) as record:
        adaptive = SelfAdaptiveModel.from_pretrained(
            model, experts, "cls" if classifier else "prompt", classifier=classifier, basis=basis,
            first_pass=_one_of("first pass", first_pass, ("generation", "labels")), dtype=dtype, batch_rows=batch_rows,
        )  # fmt: skip
        tokens = max_new_tokens or the_task.max_new_tokens
        answers, found, seconds = answer_in_two_passes(adaptive, the_task, rows, tokens, class_tokens)
        write_jsonl(out, answers)
        write_json(decisions, json.loads(identity) | {"domain": the_task.domain} | seconds | {"items": found})
        record |= seconds | {"answers": len(answers), "sha256": sha256(out)}


@app.command()
def adapt(
    shots: Annotated[Path, typer.Option(help="rows of the task; of your own: {prompt, answer}")],
    out: File, model: Path | None = None, expert: Experts = [], experts: ExpertFolder = None,  # noqa: B006
    task: str = "own", n: Annotated[int | None, typer.Option(help="use the task's own choice of n rows")] = None,
    settings: Annotated[str, typer.Option(help="JSON: config.CEM, granularity, normalised, score")] = "{}",
    basis: Path | None = None, dtype: str = "float32", seed: int = 0, batch_rows: int = 200, identity: str = "{}",
    threads: Threads = 1, allow_unsandboxed_code: RiskyCode = False,
) -> None:  # fmt: skip
    """Search the mix of experts that answers a few shots best (CEM), and save it as an expert that PEFT loads."""
    from transformer2.adaptation.choice import shots as shots_of
    from transformer2.adaptation.model import SelfAdaptiveModel

    _start_torch(threads)
    the_task = _scored_task(task, allow_unsandboxed_code)
    rows = _shots(shots, the_task.columns)
    folders = _experts(expert, experts)
    folders.pop(CLASSIFIER, None)  # it answers nothing
    rows = rows if n is None else shots_of(the_task, rows, n)
    with manifest(out / "manifest.json", task=task, seed=seed, settings=json.loads(settings)) as facts:
        base = model or _base_of(folders)
        adaptive = SelfAdaptiveModel.from_pretrained(
            base, folders, "few-shot", basis=basis, dtype=dtype, batch_rows=batch_rows
        )
        result = adaptive.adapt(rows, the_task, seed, out / "candidates.jsonl", **json.loads(settings))
        adaptive.engine.model.save_pretrained(str(out), selected_adapters=["default"])
        found = {"experts": list(folders), "alpha": result.alpha.tolist(), "stopped": result.stopped}
        found |= {"accuracy": result.score[0], "loglik": result.history[-1]["best_loglik"], "shots": len(rows)}
        write_json(out / "adaptation.json", json.loads(identity) | found | {"history": result.history})
        (out / "candidates.jsonl").unlink()
        facts |= found
    print(f"{result.score[0]:.0%} of {len(rows)} shots right; {result.stopped}; alpha {found['alpha']}; saved to {out}")


@app.command()
def mix(
    model: File, expert: Experts, out: File, basis: Path | None = None, dtype: str = "float32", threads: Threads = 1
) -> None:
    """Mix experts with equal weights, without a search, and save the mix as an expert that PEFT loads."""
    import torch

    from transformer2.adaptation.model import SelfAdaptiveModel

    _start_torch(threads)
    folders = _named(expert)
    alpha = [1 / len(folders)] * len(folders)
    with manifest(out / "manifest.json", experts=expert, alpha=alpha):
        adaptive = SelfAdaptiveModel.from_pretrained(model, folders, "few-shot", basis=basis, dtype=dtype)
        adaptive.engine.mix("default", list(folders), torch.tensor(alpha))
        adaptive.engine.model.save_pretrained(str(out), selected_adapters=["default"])


@app.command()
def transfer(
    expert: File, source_basis: File, model: File, basis: File, out: File,
    mapping: Annotated[str | None, typer.Option(help="resampled: for another depth or width, by interpolation")] = None,
    shuffle: Annotated[int | None, typer.Option(help="put every z in an order drawn with this seed")] = None,
) -> None:  # fmt: skip
    """Put an SVF expert of one model onto another one: z by matrix name and index of the singular value.

    `source_basis` is the decomposition of the model that the expert was trained on, `basis` that of `model`
    (`transformer2 basis`). Models with other matrices are refused, with the list of those that do not fit.
    """
    from transformer2.transfer import transfer

    if mapping is not None:
        _one_of("mapping", mapping, ("resampled",))
    facts = {"expert": str(expert), "mapping": mapping, "shuffle": shuffle}
    with manifest(out / "manifest.json", **facts) as record:
        record |= transfer(expert, source_basis, model, basis, out, mapping, shuffle)
        record["sha256"] = sha256(out / "adapter_model.safetensors")


@app.command()
def choose(
    candidates: Annotated[list[Path], typer.Argument(help="files of scores")], out: File, identity: Text, by: Text,
    task: Text, data: File, shots: int = 0, which: Text = "strict", adaptation: list[Path] = [],  # noqa: B006
) -> None:  # fmt: skip
    """Take the scores of the best of several experts, chosen on the few shots or on the test set."""
    from transformer2.adaptation.choice import choose
    from transformer2.adaptation.choice import shots as shots_of
    from transformer2.frames import IDENTITY

    records = {str(path.parents[1].name): read_json(path) for path in candidates}
    held_out = [row["item"] for row in shots_of(_task(task), read_jsonl(data), shots)] if shots else []
    logliks = [read_json(path)["loglik"] for path in adaptation] or [0.0] * len(records)
    tie_breaks = {name: -float("inf") if value is None else value for name, value in zip(records, logliks, strict=True)}
    items = {name: record["items"] for name, record in records.items()}
    _one_of("way to choose", by, ("shots", "test"))
    best, rest = choose(items, held_out, by, tie_breaks, _one_of("score", which, ("strict", "lenient")))  # type: ignore[arg-type]
    who = json.loads(identity)
    version = records[best]["task_version"]
    write_json(
        out,
        {key: who[key] for key in IDENTITY}
        | {"task_version": version, "chosen": best, "by": by, "which": which, "items": rest},
    )


@app.command()
def gather(
    decisions: Annotated[list[Path], typer.Option()] = [], mixes: Annotated[list[Path], typer.Option()] = [],  # noqa: B006
    out: File = Path(),
) -> None:  # fmt: skip
    """Put decisions, seconds and mixing weights of a run into tidy frames."""
    from transformer2.frames import gather

    gather(decisions, mixes, out)


@app.command()
def ask(
    prompt: str, experts: ExpertFolder, strategy: Annotated[str, typer.Option(help="prompt | cls")] = "prompt",
    model: Path | None = None, basis: Path | None = None, dtype: str = "float32", max_new_tokens: int = 512,
    threads: Threads = 1,
) -> None:  # fmt: skip
    """Answer one prompt with the expert of its class, word by word as it is written."""
    from transformers import TextStreamer

    from transformer2.adaptation.model import SelfAdaptiveModel

    _start_torch(threads)
    folders = _experts([], experts)
    classifier = folders.pop(CLASSIFIER, None)
    if strategy == "cls" and classifier is None:
        raise ValueError(f"strategy 'cls' needs the folder {experts}/{CLASSIFIER} with a classification expert")
    base = model or _base_of(folders)
    adaptive = SelfAdaptiveModel.from_pretrained(
        base, folders, _one_of("strategy", strategy, ("prompt", "cls")), basis=basis, dtype=dtype,
        classifier=classifier if strategy == "cls" else None,
    )  # fmt: skip
    streamer: Any = TextStreamer(adaptive.tokenizer, skip_prompt=True, skip_special_tokens=True)
    answers = adaptive.generate([prompt], max_new_tokens, streamer)
    (chosen,) = answers.classes or [None]
    weights = f"expert {chosen}" if chosen in folders else "base weights"
    print(
        f"[class {chosen}: {weights}; first pass {answers.first_seconds:.2f} s, second {answers.second_seconds:.2f} s]",
        file=sys.stderr,
    )


@app.command()
def score(
    task: Text, data: File, answers: File, out: File, identity: Text, allow_unsandboxed_code: RiskyCode = False
) -> None:
    """Score answers; `identity` is JSON: what the file says of itself (frames.IDENTITY)."""
    from transformer2.frames import IDENTITY
    from transformer2.scoring import score_answers

    who = json.loads(identity)
    the_task = _scored_task(task, allow_unsandboxed_code)
    items = score_answers(the_task, read_jsonl(data), read_jsonl(answers))
    write_json(out, {key: who[key] for key in IDENTITY} | {"task_version": the_task.version, "items": items})


@app.command()
def collect(scores: list[Path], out: File) -> None:
    """Put the scores of a run into one tidy frame."""
    from transformer2.frames import collect

    print(f"{collect(scores, out)} scored answers")


@app.command()
def experts(selections: list[Path], out: File) -> None:
    """Put what is known of the experts of a run into one frame."""
    from transformer2.frames import experts

    experts(selections, out)


@app.command()
def table(
    ledger: File, out: File, scores: Path | None = None, timings: Path | None = None, experts: Path | None = None
) -> None:
    """Render one table of the documents: reported beside measured; scores (with the counts of parameters of the
    run's experts), or seconds."""
    from transformer2.paper import tables, times

    if (scores is None) == (timings is None):
        raise ValueError("a table is made of --scores or of --timings: give one of them")
    for path in times.render(ledger, timings, out) if timings else tables.render(ledger, scores, out, experts):  # type: ignore[arg-type]
        print(path)


@app.command()
def settings(ledger: File, run: Text, methods: Text, out: File) -> None:
    """Render a table of hyper-parameters: the document's beside a run's; `methods` is JSON, as in config.yaml."""
    from transformer2.paper.settings import render

    of_run = {name: configuration.Method.model_validate(method) for name, method in json.loads(methods).items()}
    for path in render(ledger, run, of_run, out):
        print(path)


@app.command()
def adaptation_figure(kind: Text, data: File, out: File) -> None:
    """Draw how prompts were classified (confusion), or experts mixed (weights, convergence): files as `figure`."""
    from transformer2.paper import adaptation_figures as figures

    kinds = {"confusion": figures.confusion, "weights": figures.weights, "convergence": figures.convergence}
    kinds[_one_of("figure", kind, tuple(kinds))](data, out)


@app.command()
def spectrum(
    basis: Annotated[list[str], typer.Option(help="<model>=<its basis>, repeated")], whose: Text, out: File
) -> None:  # fmt: skip
    """Say what the top singular values of every matrix hold; `whose` is JSON: run, stands_in_for, standin by model."""
    from transformer2.frames import write_frame
    from transformer2.spectrum import spectra

    write_frame(spectra(_named(basis), json.loads(whose)), out)


@app.command()
def spectrum_figure(spectra: File, model: Text, out: File) -> None:
    """Draw what the top singular values of one model's matrices hold: files as `figure`."""
    from transformer2.paper.spectrum_figures import draw

    draw(spectra, model, out)


@app.command()
def curves(selections: list[Path], whose: Text, out: File) -> None:
    """Put the learning curves of a run into one tidy frame; `whose` as in `spectrum`."""
    from transformer2.frames import curves, write_frame

    write_frame(curves(selections, json.loads(whose)), out)


@app.command()
def learning_figure(
    curves: File, scores: File, model: Text, method: Text, out: File,
    sweep: Annotated[bool, typer.Option(help="Tell the learning rates of the sweep apart.")] = False,
) -> None:  # fmt: skip
    """Draw how the experts of one model and method were learnt: files as `figure`."""
    from transformer2.paper import learning_figures as figures

    (figures.sweep if sweep else figures.learning)(curves, scores, model, method, out)


@app.command()
def illustrate(model: File, expert: Experts, task: Text, data: File, settings: Text, out: File) -> None:
    """Take what the schematic figures show from a run's own objects; `settings` is JSON: what they say besides."""
    from transformer2.illustration import illustration

    write_json(out, illustration(model, _named(expert), task, read_jsonl(data)[0], json.loads(settings)))


@app.command()
def schematic(kind: Text, facts: File, out: File) -> None:
    """Draw a schematic figure (overview, method, adaptation_prompt, sample): files as `figure`."""
    from transformer2.paper import schematics

    kinds = {kind.__name__: kind for kind in (
        schematics.overview, schematics.method, schematics.adaptation_prompt, schematics.sample
    )}  # fmt: skip
    kinds[_one_of("schematic figure", kind, tuple(kinds))](facts, out)


@app.command()
def figure(ledger: File, scores: File, out: File) -> None:
    """Draw one table of the documents, reported beside measured: <out>.pdf, .svg, .png, and the data as .csv."""
    from transformer2.paper.figures import draw

    draw(ledger, scores, out)


@app.command()
def study(scores: File, reference: Text, out: File) -> None:
    """Compare all trained methods of a run with one of them: <out>.md, and a figure with its data."""
    from transformer2.paper.study import study

    study(scores, reference, out)


@app.command()
def audit(out: File, ledger: File = Path("paper_tables")) -> None:
    """Check the documents' numbers against each other: writes <out>.csv and <out>.md."""
    from transformer2.paper.audit import audit

    print(f"{audit(ledger, out)} findings, in {out}.csv and {out}.md")


@app.command()
def claims(frames: list[Path], out: File, ledger: File = Path("paper_tables")) -> None:
    """Judge the documents' sentences by the frames of a run (scores.csv.gz, and of decisions.csv.gz, alphas.csv.gz,
    timings.csv, spectra.csv those that it has): writes <out>.csv and <out>.md."""
    from transformer2.paper.evidence import judge

    print(f"{judge(ledger, frames, out)} claims, in {out}.csv and {out}.md")


@app.command()
def record(run: File, command: Text, out: File) -> None:
    """Keep what a finished run (results/<run>) measured as a Markdown page."""
    from transformer2.paper.record import record

    record(run, command, out)


@app.command()
def explain(cell: str, results: Path | None = None, ledger: Path = Path("paper_tables")) -> None:
    """Follow a cell of a table (arxiv/table1/llama3-8b/svf/gsm8k) back to the answers that it is counted from."""
    from transformer2.paper.explain import explain

    folder = results or Path("results") / configuration.load(Path("config.yaml")).run
    print(explain(cell, folder, ledger), end="")


@app.command()
def crate(run: File, settings: Text, snakemake: Text, out: File, root: Path = Path()) -> None:
    """Pack the provenance and results of a finished run (results/<run>) as a Workflow Run RO-Crate.

    `settings` is JSON: the configuration of the run; `snakemake` is its version, `root` the project.
    """
    from transformer2.paper.crate import crate

    crate(run, configuration.parse(json.loads(settings)).model_dump(mode="json"), root, snakemake, out)


@app.command()
def import_scores(scores: Path, run: Text, out: File, ledger: Path = Path("paper_tables")) -> None:
    """Put scores that were measured elsewhere (docs/own-scores.md) into the tidy frame of a run."""
    from transformer2.elsewhere import MANIFEST, read
    from transformer2.frames import write_frame

    with manifest(out.with_name(MANIFEST), file=str(scores), sha256=sha256(scores)) as facts:
        frame = read(scores, run, ledger)
        write_frame(frame, out)
        facts["rows"] = len(frame)
    print(f"{len(frame)} scored answers")


@app.command()
def report(
    run: File, out: File, command: Text = "snakemake --cores all", templates: Path = Path("paper_tables/templates")
) -> None:
    """Say on one page which of the documents' numbers and claims a run (results/<run>) bears out."""
    from transformer2.paper.report import render

    render(run, templates, command, out)


@app.command()
def schema(
    root: Path = Path(), check: Annotated[bool, typer.Option(help="Only say whether the files are stale.")] = False
) -> None:
    """Write config.yaml and its JSON schema from the configuration classes."""
    targets: dict[str, Callable[[], str]] = {
        "config.yaml": configuration.default_yaml,
        "workflow/schemas/config.schema.json": configuration.json_schema,
    }
    for name, make in targets.items():
        if check and (not (root / name).exists() or (root / name).read_text() != make()):
            raise ValueError(f"{name} is stale: run `python -m transformer2 schema`")
        if not check:
            atomic_write(root / name, make())
