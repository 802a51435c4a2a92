"""Commands that run something: models, data, training, answers, scores, frames, exports, checks."""

import os
from pathlib import Path
from typing import Annotated

import typer

from transformer2 import config as configuration
from transformer2.checksums import corrupt_files, record_checksums, sha256, verified
from transformer2.cli.options import (
    ENGINES,
    PAPER_TABLES,
    TRACKERS,
    EngineName,
    Experts,
    File,
    Gpus,
    RiskyCode,
    Rows,
    Text,
    Threads,
    Tokens,
    app,
    identity_of,
    json_option,
    named,
    one_of,
    start_torch,
)  # fmt: skip
from transformer2.grid import IDENTITY
from transformer2.provenance import atomic_path, folder_checksums, manifest, read_json, write_jsonl
from transformer2.scoring import task_of
from transformer2.stages import work
from transformer2.stages.blocks import WITH_MODEL, Stages
from transformer2.stages.steps import STAGES


@app.command()
def model(
    source: Text, out: File, revision: str | None = None, seed: int = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="of a pretraining")] = None,
    backbone: Annotated[Path | None, typer.Option(help="folder of the language model of pocket:llava-next")] = None,
    threads: Threads = 1,
) -> None:  # fmt: skip
    """Get (or pretrain) a base model as a transformers folder."""
    from transformer2.models import fetch

    start_torch(threads)
    out.mkdir(parents=True, exist_ok=True)
    with manifest(out / "manifest.json", source=source, seed=seed, steps=steps) as facts:
        if backbone:
            facts["backbone"] = read_json(backbone / "manifest.json")["sha256"]
        facts |= fetch(source, out, revision=revision, seed=seed, steps=steps, backbone=backbone)
        facts["sha256"] = record_checksums(out)


@app.command()
def data(
    task: Text, split: Text, source: Text, out: File,
    limit: Annotated[int | None, typer.Option(min=1, help="rows, chosen at random; all without it")] = None,
    revision: Annotated[str | None, typer.Option(help="commit on the hub; the task's own without it")] = None,
) -> None:  # fmt: skip
    """Write one split of a task in the data set's own columns, and its pictures to an archive beside it."""
    from transformer2.data import choose_rows
    from transformer2.rows import write_rows

    with manifest(out.with_suffix(".manifest.json"), task=task, split=split, source=source, limit=limit) as facts:
        chosen = choose_rows(task_of(task), source, split, limit, revision=revision)
        n = write_rows(out, chosen.rows, pictures="image" in task_of(task).columns)
        facts |= chosen.facts | {"rows": n, "sha256": sha256(out)}


@app.command()
def basis(
    model: File, out: File, dtype: str = "float32", threads: Threads = 1,
    block: Annotated[int, typer.Option(help="which block of layers, from 0")] = 0,
    blocks: Annotated[int, typer.Option(help="into how many blocks of layers the work is divided")] = 1,
    device: Annotated[str, typer.Option(help="cpu | cuda: where; cuda takes a free GPU")] = "cpu",
) -> None:  # fmt: skip
    """Decompose every matrix of the decoder layers (or of one block of them), once for a model."""
    from safetensors import SafetensorError

    from transformer2.models import check_model, dtype_of, reading
    from transformer2.svf.basis import decoder_matrices, write_basis

    one_of("device", device, ("cpu", "cuda"))
    start_torch(threads, 1 if device == "cuda" else None)
    check_model(model)
    of_type = dtype_of(dtype)
    facts = {"model": str(model), "dtype": dtype, "block": block, "blocks": blocks, "device": device}
    with manifest(out.with_suffix(".manifest.json"), **facts) as record, reading(model, SafetensorError):
        with atomic_path(out) as temporary:
            record["matrices"] = write_basis(decoder_matrices(model, of_type, block, blocks), temporary, device)
        record["sha256"] = sha256(out)


@app.command()
def join_bases(blocks: list[Path], out: File) -> None:
    """Join the bases of all blocks of a model's layers into one file."""
    from transformer2.svf.basis import join_bases

    with manifest(out.with_suffix(".manifest.json"), blocks=[str(file) for file in blocks]) as record:
        with atomic_path(out) as temporary:
            record["matrices"] = join_bases([verified(file) for file in blocks], temporary)
        record["sha256"] = sha256(out)


@app.command()
def train(
    model: File, task: Text, train: File, validation: File, settings: Text, out: File,
    basis: Path | None = None, dtype: str = "float32", seed: int = 0, batch_rows: Rows = 64, threads: Threads = 1,
    shots: Annotated[int | None, typer.Option(min=1, help="take the task's own choice of n rows of each file")] = None,
    engine: EngineName = "hf", gpus: Gpus = None, allow_unsandboxed_code: RiskyCode = False,
    gradient_checkpointing: Annotated[bool, typer.Option(help="keep less for the backward pass, compute more")] = False,
    report_to: Annotated[list[str], typer.Option(help=f"send curves to {' | '.join(TRACKERS)}; repeated")] = [],  # noqa: B006
) -> None:  # fmt: skip
    """Train one expert; `settings` is JSON: the keys of `config.Training`, `layers` and `max_new_tokens`."""
    start_torch(threads, gpus)
    one_of("engine", engine, ENGINES)
    for tracker in report_to:
        one_of("tracker", tracker, TRACKERS)
    with manifest(out / "manifest.json") as facts:
        facts |= work.train(
            model=model, task=task, train=train, validation=validation, settings=json_option("--settings", settings),
            out=out, basis=basis, dtype=dtype, seed=seed, batch_rows=batch_rows, shots=shots, engine=engine,
            gpus=gpus or 1, gradient_checkpointing=gradient_checkpointing,
            allow_unsandboxed_code=allow_unsandboxed_code, report_to=report_to,
        )  # fmt: skip


@app.command()
def select(candidates: list[Path], out: File) -> None:
    """Choose the expert with the best validation among the points of a sweep."""
    work.select(candidates=candidates, out=out)


@app.command()
def kit(expert: Experts, out: File) -> None:
    """Copy experts into subfolders of one folder, each under its name: what --experts takes."""
    from transformer2.experts import read_expert

    experts = named(expert)
    for folder in experts.values():
        read_expert(folder)
    work.bundle(experts=experts, out=out)


@app.command()
def carry_over(expert: File, out: File) -> None:
    """Make an expert of a language model one of the vision-language model that is built around it."""
    work.carry_over(expert=expert, out=out)


@app.command()
def generate(
    model: File, task: Text, data: File, out: File, expert: Path | None = None, basis: Path | None = None,
    dtype: str = "float32", max_new_tokens: Tokens = None, batch_rows: Rows = 64, threads: Threads = 1,
    engine: EngineName = "hf", gpus: Gpus = None,
    best: Annotated[Path | None, typer.Option(help="an expert whose answers are taken if it is the same one")] = None,
    best_answers: Annotated[Path | None, typer.Option(help="its answers to the same data")] = None,
) -> None:  # fmt: skip
    """Answer every item of a split greedily, with the base model or with an expert."""
    start_torch(threads, gpus)
    one_of("engine", engine, ENGINES)
    with manifest(out.with_suffix(".manifest.json")) as facts:
        facts |= work.answer(
            model=model, task=task, data=data, out=out, expert=expert, basis=basis, dtype=dtype,
            max_new_tokens=max_new_tokens, batch_rows=batch_rows, engine=engine, gpus=gpus or 1, best=best,
            best_answers=best_answers,
        )  # fmt: skip


@app.command()
def classes(rows: Annotated[list[str], typer.Option(help="<task>=<file with its rows>, repeated")], split: Text,
            out: File, limit: Annotated[int | None, typer.Option(min=1)] = None, seed: int = 0) -> None:  # fmt: skip
    """Write the rows of one split of the task `classify`: prompts of other tasks, and everyday requests."""
    from transformer2.rows import read_rows
    from transformer2.tasks.classify import labelled

    files = named(rows)
    with manifest(out.with_suffix(".manifest.json"), split=split, seed=seed, limit=limit) as facts:
        read = [(of := task_of(task), read_rows(of, file)) for task, file in files.items()]
        made = labelled(read, split, limit, seed)
        write_jsonl(out, made)
        facts |= {"rows": len(made), "sha256": sha256(out)}


@app.command()
def export(
    expert: File, model: File, out: File, form: Annotated[str, typer.Option("--as", help="adapter | merged | lora")],
    rank: Annotated[int | None, typer.Option(help="of the LoRA")] = None, basis: Path | None = None,
    hub_id: Annotated[str | None, typer.Option(help="of the base model, where its source does not say it")] = None,
    dtype: str = "float32", threads: Threads = 1, templates: Path = PAPER_TABLES / "templates",
) -> None:  # fmt: skip
    """Write an expert for others, with a model card: as a PEFT adapter, as merged weights, or as a LoRA of rank k."""
    from transformer2.export import FORMS
    from transformer2.export import export as write

    start_torch(threads)
    one_of("form", form, FORMS)
    facts = {"expert": str(expert), "model": str(model), "form": form, "rank": rank}
    with manifest(out.with_name(f"{out.name}.manifest.json"), **facts) as record:
        written = write(expert, model, out, form, rank, basis, hub_id, dtype, templates)  # type: ignore[arg-type]
        record["inputs"] = {"expert": sha256(expert / "adapter_model.safetensors")}
        record |= {"error": written.get("error"), "sha256": folder_checksums(out)}
    for name, part in written.get("matrices", {}).items():
        print(f"{name}: rank {part['rank']}, error {part['error']:.2%} of the change of the weight")
    print(f"{out}: {form}" + (f" of rank {written['rank']}, error {written['error']:.2%} in all" if written else ""))


@app.command()
def score(
    task: Text, data: File, answers: File, out: File, identity: Text, allow_unsandboxed_code: RiskyCode = False
) -> None:
    """Score answers; `identity` is JSON: what the file says of itself (grid.IDENTITY)."""
    who = identity_of(identity, IDENTITY)
    work.score(
        task=task, data=data, answers=answers, out=out, identity={key: who[key] for key in IDENTITY},
        allow_unsandboxed_code=allow_unsandboxed_code,
    )  # fmt: skip


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help=" | ".join(STAGES))], run: File, model: Text,
    block: Annotated[int, typer.Option(min=0)] = 0, blocks: Annotated[int, typer.Option(min=1)] = 1,
    threads: Threads = 1, gpus: Gpus = None,
) -> None:  # fmt: skip
    """Work through a stage of a run, or one of the blocks of it, in one process: what is done already is left alone."""
    from transformer2.stages.runner import run_stage

    stages = Stages(configuration.load(run))
    one_of("stage", name, STAGES)
    one_of("model", model, tuple(stages.models_of(name)))
    if block >= blocks:
        raise ValueError(f"--block {block} of {blocks}: the last one is {blocks - 1}")
    if name in WITH_MODEL:
        start_torch(threads, gpus)
    steps = stages.block(name, model, block, blocks)
    run_stage(steps, Path(stages.record(name, model, block, blocks)))


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="of results")] = Path("results")) -> None:
    """Read every file of a folder and name those that no longer hold what was written to them."""
    wrong = list(corrupt_files(folder, thorough=True))
    for file, what in wrong:
        os.utime(file)  # snakemake reads long files only if they have another time than when they were written
        print(f"{file} is corrupt: {what}")
    recorded = sum(1 for _ in folder.rglob(".*.sha256"))
    if not recorded:
        raise ValueError(f"no file in {folder} has a checksum beside it: is it a folder of results?")
    if wrong:
        raise ValueError(f"{len(wrong)} of {recorded} files in {folder} are corrupt; snakemake makes them again")
    print(f"all {recorded} files with a checksum in {folder} hold what was written to them")
