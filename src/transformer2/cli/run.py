"""Commands that run something: models, data, training, answers, scores, frames, exports, checks."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from transformer2 import config as configuration
from transformer2.cli.options import (
    ENGINES,
    PAPER_TABLES,
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
    rows_of,
    scored_task,
    start_torch,
    task_of,
)  # fmt: skip
from transformer2.provenance import (
    alone,
    fingerprint,
    manifest,
    read_json,
    read_jsonl,
    whole_file,
    write_json,
    write_jsonl,
)
from transformer2.seals import damaged, intact, seal_folder, sha256


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
        facts["sha256"] = seal_folder(out)


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
) -> None:  # fmt: skip
    """Decompose every matrix of the decoder layers (or of one block of them), once for a model."""
    from safetensors import SafetensorError

    from transformer2.models import check_model, dtype_of, reading
    from transformer2.svf.basis import block_matrices, write_basis

    start_torch(threads)
    check_model(model)
    of_type = dtype_of(dtype)
    facts = {"model": str(model), "dtype": dtype, "block": block, "blocks": blocks}
    with manifest(out.with_suffix(".manifest.json"), **facts) as record, reading(model, SafetensorError):
        with whole_file(out) as temporary:
            record["matrices"] = write_basis(block_matrices(model, of_type, block, blocks), temporary)
        record["sha256"] = sha256(out)


@app.command()
def join_bases(blocks: list[Path], out: File) -> None:
    """Join the bases of all blocks of a model's layers into one file."""
    from transformer2.svf.basis import join_bases

    with manifest(out.with_suffix(".manifest.json"), blocks=[str(file) for file in blocks]) as record:
        with whole_file(out) as temporary:
            record["matrices"] = join_bases([intact(file) for file in blocks], temporary)
        record["sha256"] = sha256(out)


@app.command()
def train(
    model: File, task: Text, train: File, validation: File, settings: Text, out: File,
    basis: Path | None = None, dtype: str = "float32", seed: int = 0, batch_rows: Rows = 64, threads: Threads = 1,
    shots: Annotated[int | None, typer.Option(min=1, help="take the task's own choice of n rows of each file")] = None,
    engine: EngineName = "hf", gpus: Gpus = None, allow_unsandboxed_code: RiskyCode = False,
    gradient_checkpointing: Annotated[bool, typer.Option(help="keep less for the backward pass, compute more")] = False,
) -> None:  # fmt: skip
    """Train one expert; `settings` is JSON: the keys of `config.Training`, `layers` and `max_new_tokens`."""
    from transformer2.adaptation.choice import shots as shots_of
    from transformer2.models import family, load_model, load_tokenizer, new_expert
    from transformer2.rollout.hf import HFEngine
    from transformer2.training.loop import Trainer
    from transformer2.training.recompute import recompute_layers

    start_torch(threads, gpus)
    the_task = scored_task(task, allow_unsandboxed_code).for_family(family(model))
    chosen = training_settings(settings, the_task.max_new_tokens)
    out.mkdir(parents=True, exist_ok=True)
    inputs = {
        "model": read_json(model / "manifest.json")["sha256"],
        "train": sha256(train),
        "validation": sha256(validation),
    }
    facts = {"task": task, "seed": seed, "settings": chosen, "inputs": inputs, "engine": engine}
    facts |= {"gradient_checkpointing": gradient_checkpointing}
    with alone(out / ".lock"), manifest(out / "manifest.json", **facts) as record:
        tokenizer = load_tokenizer(model)
        expert = new_expert(load_model(model, dtype), chosen, basis if chosen["adapter"] == "svf" else None, seed)
        if gradient_checkpointing:
            recompute_layers(expert)
        if one_of("engine", engine, ENGINES) == "vllm":
            from transformer2.rollout.vllm import BESIDE_TRAINING, VLLMEngine

            answering = VLLMEngine(model, tokenizer, basis, {}, dtype, gpus or 1, BESIDE_TRAINING, policy=expert)
        else:
            answering = HFEngine(expert, tokenizer, batch_rows)
        train_rows, validation_rows = (
            rows_of(the_task, file) if shots is None else shots_of(the_task, rows_of(the_task, file), shots)
            for file in (train, validation)
        )
        trainer = Trainer(
            expert,
            answering,
            tokenizer,
            the_task,
            train_rows,
            validation_rows,
            chosen,
            seed,
            out,
            inputs | {"shots": shots},
        )
        record["progress"] = asdict(trainer.run())
        trainer.save()


def training_settings(text: str, max_new_tokens: int) -> dict[str, Any]:
    """The settings of a training, from JSON: the keys of `config.Training`, and `max_new_tokens` (null or missing: the
    number given here).

    Raises:
        ValueError: it is not JSON, a key is unknown, or a value cannot be.
    """
    given = json_option("--settings", text)
    tokens = given.pop("max_new_tokens", None)
    if tokens is not None and not (type(tokens) is int and tokens > 0):
        raise ValueError(f"--settings: max_new_tokens is {tokens!r}; it must be a whole number of at least 1")
    chosen = configuration.parse_training(given).model_dump()
    return chosen | {"max_new_tokens": max_new_tokens if tokens is None else tokens}


@app.command()
def select(candidates: list[Path], out: File) -> None:
    """Choose the expert with the best validation among the points of a sweep."""
    from transformer2.training.selection import select

    select(candidates, out)


@app.command()
def kit(expert: Experts, out: File) -> None:
    """Copy experts into subfolders of one folder, each under its name: what --experts takes."""
    from transformer2.experts import read_expert
    from transformer2.training.selection import copy_expert

    experts = named(expert)
    for folder in experts.values():
        read_expert(folder)
    for name, folder in experts.items():
        copy_expert(folder, out / name)


@app.command()
def carry_over(expert: File, out: File) -> None:
    """Make an expert of a language model one of the vision-language model that is built around it."""
    from transformer2.models import carry_over

    carry_over(expert, out)


@app.command()
def generate(
    model: File, task: Text, data: File, out: File, expert: Path | None = None, basis: Path | None = None,
    dtype: str = "float32", max_new_tokens: Tokens = None, batch_rows: Rows = 64, threads: Threads = 1,
    engine: EngineName = "hf", gpus: Gpus = None,
    best: Annotated[Path | None, typer.Option(help="an expert whose answers are taken if it is the same one")] = None,
    best_answers: Annotated[Path | None, typer.Option(help="its answers to the same data")] = None,
) -> None:  # fmt: skip
    """Answer every item of a split greedily, with the base model or with an expert."""
    from transformer2.evaluation import answer
    from transformer2.experts import check_base
    from transformer2.models import family, load_expert, load_model, load_tokenizer
    from transformer2.rollout.hf import HFEngine
    from transformer2.training.selection import same_expert

    start_torch(threads, gpus)
    the_task, rows = task_of(task).for_family(family(model)), rows_of(task_of(task), data)
    facts = {"model": str(model), "task": task, "expert": str(expert) if expert else None, "data_sha256": sha256(data)}
    facts |= {"engine": engine}
    same = expert is not None and best is not None and same_expert(expert, best)
    facts |= {"answers_of": str(best) if same else None}
    if expert:
        check_base(expert, model)
    with manifest(out.with_suffix(".manifest.json"), **facts) as record:
        if same and best_answers:
            record |= _write_answers(read_jsonl(best_answers), out)
            return
        tokenizer = load_tokenizer(model)
        if one_of("engine", engine, ENGINES) == "vllm":
            from transformer2.rollout.vllm import VLLMEngine
            from transformer2.svf.basis import singular_values
            from transformer2.transfer import read_z

            if expert and basis is None:
                raise ValueError("an expert on vLLM needs --basis: the bases of its model (transformer2 basis)")
            experts = {"expert": read_z(expert, singular_values(intact(basis)))} if expert and basis else {}
            answering = VLLMEngine(model, tokenizer, basis, experts, dtype, gpus or 1)
            answering.set_expert("expert" if expert else None)
            batch_rows = len(rows)  # it batches by itself
        else:
            base = load_model(model, dtype)
            answering = HFEngine(load_expert(base, expert, basis) if expert else base, tokenizer, batch_rows)
        tokens = the_task.max_new_tokens if max_new_tokens is None else max_new_tokens
        record |= _write_answers(list(answer(answering, tokenizer, the_task, rows, tokens, batch_rows)), out)


def _write_answers(answers: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    """Writes answers; returns what their manifest says of them."""
    write_jsonl(out, answers)
    tokens = sum(len(answer["token_ids"]) for answer in answers)
    return {"answers": len(answers), "new_tokens": tokens, "sha256": sha256(out)}


@app.command()
def classes(rows: Annotated[list[str], typer.Option(help="<task>=<file with its rows>, repeated")], split: Text,
            out: File, limit: Annotated[int | None, typer.Option(min=1)] = None, seed: int = 0) -> None:  # fmt: skip
    """Write the rows of one split of the task `classify`: prompts of other tasks, and everyday requests."""
    from transformer2.tasks.classify import labelled

    files = named(rows)
    with manifest(out.with_suffix(".manifest.json"), split=split, seed=seed, limit=limit) as facts:
        made = labelled([(of := task_of(task), rows_of(of, file)) for task, file in files.items()], split, limit, seed)
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
        found = write(expert, model, out, form, rank, basis, hub_id, dtype, templates)  # type: ignore[arg-type]
        record["inputs"] = {"expert": sha256(expert / "adapter_model.safetensors")}
        record |= {"error": found.get("error"), "sha256": fingerprint(out)}
    for name, part in found.get("matrices", {}).items():
        print(f"{name}: rank {part['rank']}, error {part['error']:.2%} of the change of the weight")
    print(f"{out}: {form}" + (f" of rank {found['rank']}, error {found['error']:.2%} in all" if found else ""))


@app.command()
def score(
    task: Text, data: File, answers: File, out: File, identity: Text, allow_unsandboxed_code: RiskyCode = False
) -> None:
    """Score answers; `identity` is JSON: what the file says of itself (frames.IDENTITY)."""
    from transformer2.frames import IDENTITY
    from transformer2.scoring import score_answers

    who = identity_of(identity, IDENTITY)
    the_task = scored_task(task, allow_unsandboxed_code)
    items = score_answers(the_task, rows_of(the_task, data, pictures=False), read_jsonl(answers))
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
def verify(folder: Annotated[Path, typer.Argument(help="of results")] = Path("results")) -> None:
    """Read every file of a folder and name those that no longer hold what was written to them."""
    found = list(damaged(folder, thorough=True))
    for file, what in found:
        os.utime(file)  # snakemake reads long files only if they have another time than when they were written
        print(f"{file} is damaged: {what}")
    sealed = sum(1 for _ in folder.rglob(".*.sha256"))
    if not sealed:
        raise ValueError(f"there is no sealed file in {folder}: is it a folder of results?")
    if found:
        raise ValueError(f"{len(found)} of {sealed} sealed files in {folder} are damaged; snakemake makes them again")
    print(f"all {sealed} sealed files in {folder} hold what was written to them")
