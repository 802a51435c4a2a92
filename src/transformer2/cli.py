"""One thin command for each step of the workflow; every one of them runs by hand too (`--help`)."""

import json
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from transformer2 import config as configuration
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


def _scored_task(name: str, allow_unsandboxed_code: bool) -> Any:
    """The task; one that runs code is tied to the isolation that works here, found before anything is generated."""
    task = _task(name)
    if not task.runs_code:
        return task
    return replace(task, score=partial(task.score, isolation=detect(accept_unsandboxed=allow_unsandboxed_code)))


@app.command()
def model(
    source: Text, out: File, revision: str | None = None, seed: int = 0, steps: int | None = None, threads: Threads = 1
) -> None:
    """Get (or pretrain) a base model as a transformers folder."""
    from transformer2.models import fetch

    _start_torch(threads)
    out.mkdir(parents=True, exist_ok=True)
    with manifest(out / "manifest.json", source=source, seed=seed, steps=steps) as facts:
        facts |= fetch(source, out, revision=revision, seed=seed, steps=steps)
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
    allow_unsandboxed_code: RiskyCode = False,
) -> None:  # fmt: skip
    """Train one expert; `settings` is JSON: the keys of `config.Training`, `layers` and `max_new_tokens`."""
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
        rows = read_jsonl(train), read_jsonl(validation)
        trainer = Trainer(expert, engine, tokenizer, the_task, *rows, chosen, seed, out, inputs)
        facts["progress"] = asdict(trainer.run())
        trainer.save()


@app.command()
def select(candidates: list[Path], out: File) -> None:
    """Choose the expert with the best validation among the points of a sweep."""
    from transformer2.training.selection import select

    select(candidates, out)


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
def score(
    task: Text, data: File, answers: File, out: File, identity: Text, allow_unsandboxed_code: RiskyCode = False
) -> None:
    """Score answers; `identity` is JSON: what the file says of itself (evaluation.IDENTITY)."""
    from transformer2.evaluation import IDENTITY, score_answers

    who = json.loads(identity)
    the_task = _scored_task(task, allow_unsandboxed_code)
    items = score_answers(the_task, read_jsonl(data), read_jsonl(answers))
    write_json(out, {key: who[key] for key in IDENTITY} | {"task_version": the_task.version, "items": items})


@app.command()
def collect(scores: list[Path], out: File) -> None:
    """Put the scores of a run into one tidy frame."""
    from transformer2.evaluation import collect

    print(f"{collect(scores, out)} scored answers")


@app.command()
def table(ledger: File, scores: File, out: File) -> None:
    """Render one table of the documents: reported beside measured."""
    from transformer2.paper.tables import render

    for path in render(ledger, scores, out):
        print(path)


@app.command()
def figure(ledger: File, scores: File, out: File) -> None:
    """Draw one table of the documents: reported beside measured; the format is that of the suffix."""
    from transformer2.paper.figures import draw

    draw(ledger, scores, out)


@app.command()
def record(run: File, command: Text, out: File) -> None:
    """Keep what a finished run (results/<run>) measured as a Markdown page."""
    from transformer2.paper.record import record

    record(run, command, out)


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
