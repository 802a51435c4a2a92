"""The work of each kind of step: files in, files out. Each function returns facts for the manifest of its results.

Models, tokenizers and engines are loaded once a process (`loaded.lend_base`), so that a stage can call these functions
one after another. Libraries that run models are imported inside: scoring and choosing need none of them.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer2 import config as configuration
from transformer2 import trackers
from transformer2.checksums import remove, sha256
from transformer2.config.names import CLASS_TOKENS
from transformer2.provenance import exclusive_lock, read_json, read_jsonl, write_json, write_jsonl
from transformer2.scoring import scored_task, task_of
from transformer2.tasks import Task

Facts = dict[str, Any]


def train(
    *, model: Path, task: str, train: Path, validation: Path, settings: Mapping[str, Any], out: Path,
    basis: Path | None = None, dtype: str = "float32", seed: int = 0, batch_rows: int = 64, shots: int | None = None,
    engine: str = "hf", gpus: int = 1, gradient_checkpointing: bool = False, allow_unsandboxed_code: bool = False,
    report_to: Sequence[str] = (),
) -> Facts:  # fmt: skip
    """Trains one expert: at one point of a sweep, or on `shots` few shots of each file.

    Args:
        model: folder of the base model.
        task: that the expert is trained on.
        train: rows to train on.
        validation: rows of the validation half.
        settings: keys of `config.Training`, `layers` and `max_new_tokens` (missing or None: the task's own).
        out: folder of the expert, of its last state, logs and checkpoint.
        basis: decomposition of the model's matrices, for SVF.
        dtype: that the model runs in.
        seed: of the adapter's start and of all draws.
        batch_rows: prompts that are answered side by side.
        shots: use the task's own choice of so many rows.
        engine: hf | vllm, which answers.
        gpus: of vLLM; where it has several, they train together, too, in one process each.
        gradient_checkpointing: keep less for the backward pass, compute more.
        allow_unsandboxed_code: run model-written code where no isolation works.
        report_to: libraries that the curves are sent to (`trackers.curves`).

    Raises:
        ValueError: a setting is unknown or cannot be, a file cannot be read, a library is not installed.
    """
    from transformer2.models import family
    from transformer2.stages.training import train_expert, train_in_team

    trackers.check(report_to)
    the_task = scored_task(task, allow_unsandboxed_code).for_family(family(model))
    chosen = training_settings(settings, the_task.max_new_tokens)
    out.mkdir(parents=True, exist_ok=True)
    inputs = {
        "model": read_json(model / "manifest.json")["sha256"],
        "train": sha256(train),
        "validation": sha256(validation),
    }
    arguments: dict[str, Any] = {
        "model": model, "task": task, "train": train, "validation": validation, "settings": chosen, "out": out,
        "inputs": inputs | {"shots": shots}, "basis": basis, "dtype": dtype, "seed": seed, "batch_rows": batch_rows,
        "shots": shots, "engine": engine, "gpus": gpus, "gradient_checkpointing": gradient_checkpointing,
        "allow_unsandboxed_code": allow_unsandboxed_code, "report_to": list(report_to),
    }  # fmt: skip
    together = engine == "vllm" and gpus > 1
    with exclusive_lock(out / ".lock"):
        progress = train_in_team(gpus, arguments) if together else train_expert(**arguments)
    facts = {"task": task, "seed": seed, "settings": chosen.model_dump(), "inputs": inputs, "engine": engine}
    facts |= {"gradient_checkpointing": gradient_checkpointing, "progress": progress}
    return facts | ({"processes": gpus} if together else {})


def training_settings(given: Mapping[str, Any], max_new_tokens: int) -> configuration.TaskTraining:
    """The settings of a training with all defaults: the keys of `config.Training`, and `max_new_tokens`, whose default
    is the number given here.

    Raises:
        ValueError: a key is unknown, or a value cannot be.
    """
    rest = dict(given)
    tokens = rest.pop("max_new_tokens", None)
    if tokens is not None and not (type(tokens) is int and tokens > 0):
        raise ValueError(f"--settings: max_new_tokens is {tokens!r}; it must be a whole number of at least 1")
    chosen = configuration.parse_training(rest).model_dump()
    return configuration.TaskTraining(**chosen, max_new_tokens=max_new_tokens if tokens is None else tokens)


def select(*, candidates: Sequence[Path], out: Path) -> Facts:
    """Copies the expert with the best validation among the points of a sweep."""
    from transformer2.training.selection import select

    select(candidates, out)
    return {}


def carry_over(*, expert: Path, out: Path) -> Facts:
    """Makes an expert of a language model one of the vision-language model that is built around it."""
    from transformer2.models import carry_over

    carry_over(expert, out)
    return {}


def transfer(
    *, expert: Path, source_basis: Path, model: Path, basis: Path, out: Path, mapping: str | None = None,
    shuffle: int | None = None,
) -> Facts:  # fmt: skip
    """Puts an SVF expert of one model onto another one (Section 4.3); see `transfer.transfer`."""
    from transformer2.transfer import transfer

    made = transfer(expert, source_basis, model, basis, out, mapping, shuffle)
    facts = {"expert": str(expert), "mapping": mapping, "shuffle": shuffle}
    return facts | made | {"sha256": sha256(out / "adapter_model.safetensors")}


def mix(*, model: Path, experts: Mapping[str, Path], out: Path, basis: Path | None, dtype: str = "float32") -> Facts:
    """Mixes experts with equal weights, without a search, and saves the mix as an expert that PEFT loads."""
    import torch

    from transformer2.adaptation.model import SelfAdaptiveModel
    from transformer2.models import save_expert
    from transformer2.stages.loaded import lend_base

    alpha = [1 / len(experts)] * len(experts)
    with lend_base(model, dtype) as (base, tokenizer):
        adaptive = SelfAdaptiveModel.on_base(base, tokenizer, model, experts, "few-shot", basis=basis)
        adaptive.engine.mix("default", list(experts), torch.tensor(alpha))
        save_expert(adaptive.engine.model, out, selected_adapters=["default"])
    return {"experts": {name: str(folder) for name, folder in experts.items()}, "alpha": alpha}


def bundle(*, experts: Mapping[str, Path], out: Path) -> Facts:
    """Copies experts into subfolders of one folder, each under its name: what `transformer2 ask --experts` takes."""
    from transformer2.training.selection import copy_expert

    for path in out.glob("*/adapter_config.json"):
        if path.parent.name not in experts:
            shutil.rmtree(path.parent)
    for name, folder in experts.items():
        copy_expert(folder, out / name)
    return {}


def adapt(
    *, model: Path, experts: Mapping[str, Path], task: str, shots: Path, out: Path, n: int | None,
    settings: Mapping[str, Any], identity: Mapping[str, Any], basis: Path | None = None, dtype: str = "float32",
    seed: int = 0, batch_rows: int = 200, allow_unsandboxed_code: bool = False,
) -> Facts:  # fmt: skip
    """Searches the mix of experts that answers a few shots best (CEM), and saves it as an expert that PEFT loads.

    Args:
        model: folder of the base model, or its id where the hub's cache holds it.
        experts: folder of each expert, by name.
        task: how the shots are asked and scored.
        shots: rows of the task.
        out: folder of the mix, with `adaptation.json`: the course of the search.
        n: use the task's own choice of so many rows; None: all.
        settings: of `config.Search`.
        identity: what `adaptation.json` says of itself.
        basis: decomposition of the model's matrices; without it they are decomposed now.
        dtype: that the model runs in.
        seed: of the search.
        batch_rows: answers that are generated side by side.
        allow_unsandboxed_code: run model-written code where no isolation works.
    """
    from transformer2.adaptation.choice import shots as shots_of
    from transformer2.adaptation.model import SelfAdaptiveModel
    from transformer2.models import save_expert
    from transformer2.rows import read_rows
    from transformer2.stages.loaded import lend_base

    the_task = scored_task(task, allow_unsandboxed_code)
    rows = read_rows(the_task, shots)
    rows = rows if n is None else shots_of(the_task, rows, n)
    with lend_base(model, dtype) as (base, tokenizer):
        adaptive = SelfAdaptiveModel.on_base(
            base, tokenizer, model, experts, "few-shot", basis=basis, batch_rows=batch_rows
        )
        with exclusive_lock(out / ".lock"):
            result = adaptive.adapt(rows, the_task, seed, out / "candidates.jsonl", **settings)
            save_expert(adaptive.engine.model, out, selected_adapters=["default"])
            facts = {"experts": list(experts), "alpha": result.alpha.tolist(), "stopped": result.stopped}
            facts |= {"accuracy": result.score[0], "loglik": result.history[-1]["best_loglik"], "shots": len(rows)}
            write_json(out / "adaptation.json", dict(identity) | facts | {"history": result.history})
            remove(out / "candidates.jsonl")
    folders = {name: str(folder) for name, folder in experts.items()}
    return {"task": task, "seed": seed, "settings": dict(settings)} | facts | {"experts": folders}


def answer(
    *, model: Path, task: str, data: Path, out: Path, expert: Path | None = None, basis: Path | None = None,
    dtype: str = "float32", max_new_tokens: int | None = None, batch_rows: int = 64, engine: str = "hf", gpus: int = 1,
    best: Path | None = None, best_answers: Path | None = None,
) -> Facts:  # fmt: skip
    """Answers every item of a split greedily, with the base model or with an expert.

    Args:
        model: folder of the base model.
        task: how the rows are asked.
        data: rows of the task.
        out: file of the answers.
        expert: folder; None: the base model answers.
        basis: decomposition of the model's matrices, for SVF.
        dtype: that the model runs in.
        max_new_tokens: of an answer at most; None: the task's own number.
        batch_rows: prompts that are answered side by side.
        engine: hf | vllm.
        gpus: of vLLM.
        best: an expert whose answers, in `best_answers`, are copied if it is the same as `expert`.
        best_answers: its answers to the same rows.
    """
    from transformer2.evaluation import answer
    from transformer2.experts import check_base
    from transformer2.models import family
    from transformer2.rows import read_rows
    from transformer2.stages.loaded import answering_engine
    from transformer2.training.selection import same_expert

    the_task, rows = task_of(task).for_family(family(model)), read_rows(task_of(task), data)
    facts: Facts = {"model": str(model), "task": task, "expert": None if expert is None else str(expert)}
    facts |= {"data_sha256": sha256(data), "engine": engine}
    if expert:
        check_base(expert, model)
    if expert and best and best_answers and same_expert(expert, best):
        return facts | {"answers_of": str(best)} | _write_answers(read_jsonl(best_answers), out)
    tokens = the_task.max_new_tokens if max_new_tokens is None else max_new_tokens
    with answering_engine(engine, model, expert, basis, dtype, gpus, batch_rows) as (answering, tokenizer):
        slice_rows = len(rows) if engine == "vllm" else batch_rows  # vLLM batches by itself
        answers = list(answer(answering, tokenizer, the_task, rows, tokens, slice_rows))
    return facts | {"answers_of": None} | _write_answers(answers, out)


def _write_answers(answers: Sequence[Mapping[str, Any]], out: Path) -> Facts:
    """Writes answers; returns what their manifest says of them."""
    write_jsonl(out, map(dict, answers))
    tokens = sum(len(answer["token_ids"]) for answer in answers)
    return {"answers": len(answers), "new_tokens": tokens, "sha256": sha256(out)}


def dispatch(
    *, model: Path, experts: Mapping[str, Path], task: str, data: Path, out: Path, decisions: Path,
    identity: Mapping[str, Any], classifier: Path | None = None, basis: Path | None = None,
    first_pass: Any = "generation", dtype: str = "float32", max_new_tokens: int | None = None,
    class_tokens: int = CLASS_TOKENS, batch_rows: int = 64,
) -> Facts:  # fmt: skip
    """Answers every item of a split in two passes: classifies the prompt, then answers with the expert of its class."""
    from transformer2.adaptation.model import SelfAdaptiveModel
    from transformer2.adaptation.two_passes import answer_in_two_passes
    from transformer2.rows import read_rows
    from transformer2.stages.loaded import lend_base

    the_task, rows = task_of(task), read_rows(task_of(task), data)
    with lend_base(model, dtype) as (base, tokenizer):
        adaptive = SelfAdaptiveModel.on_base(
            base, tokenizer, model, experts, "cls" if classifier else "prompt", classifier=classifier, basis=basis,
            first_pass=first_pass, batch_rows=batch_rows,
        )  # fmt: skip
        tokens = the_task.max_new_tokens if max_new_tokens is None else max_new_tokens
        answers, chosen, seconds = answer_in_two_passes(adaptive, the_task, rows, tokens, class_tokens)
    write_jsonl(out, answers)
    write_json(decisions, dict(identity) | {"domain": the_task.domain} | seconds | {"items": chosen})
    facts = {"model": str(model), "task": task, "classifier": None if classifier is None else str(classifier)}
    facts |= {"experts": {name: str(folder) for name, folder in experts.items()}, "data_sha256": sha256(data)}
    return facts | seconds | {"answers": len(answers), "sha256": sha256(out)}


def score(
    *,
    task: str,
    data: Path,
    answers: Path,
    out: Path,
    identity: Mapping[str, Any],
    allow_unsandboxed_code: bool = False,
) -> Facts:
    """Scores answers; `identity` is what the file says of itself (`grid.IDENTITY`)."""
    from transformer2.rows import read_rows
    from transformer2.scoring import score_answers

    the_task = scored_task(task, allow_unsandboxed_code)
    items = score_answers(the_task, read_rows(the_task, data, pictures=False), read_jsonl(answers))
    write_json(out, dict(identity) | {"task_version": the_task.version, "items": items})
    return {"task": task, "data_sha256": sha256(data), "answers_sha256": sha256(answers), "sha256": sha256(out)}


def choose(
    *, candidates: Mapping[str, Path], out: Path, identity: Mapping[str, Any], by: Any, task: str, data: Path,
    shots: int = 0, which: Any = "strict", adaptation: Sequence[Path] = (),
) -> Facts:  # fmt: skip
    """Takes the scores of the best of several experts, chosen on the few shots or on the test set.

    Args:
        candidates: file of scores of each expert, by name.
        out: file of the chosen scores.
        identity: what it says of itself (`grid.IDENTITY`).
        by: shots | test.
        task: that was answered.
        data: its rows.
        shots: so many of them are the few shots, which no score counts.
        which: strict | lenient.
        adaptation: `adaptation.json` of each candidate that was searched: likelihoods break ties.
    """
    from transformer2.adaptation.choice import choose
    from transformer2.adaptation.choice import shots as shots_of
    from transformer2.rows import read_rows

    records = {name: read_json(path) for name, path in candidates.items()}
    the_task: Task = task_of(task)
    rows = read_rows(the_task, data, pictures=False)
    held_out = [row["item"] for row in shots_of(the_task, rows, shots)] if shots else []
    logliks = [read_json(path)["loglik"] for path in adaptation] or [0.0] * len(records)
    tie_breaks = {name: -float("inf") if value is None else value for name, value in zip(records, logliks, strict=True)}
    items = {name: record["items"] for name, record in records.items()}
    best, rest = choose(items, held_out, by, tie_breaks, which)
    version = records[best]["task_version"]
    facts = {"task_version": version, "chosen": best, "by": by, "which": which}
    write_json(out, dict(identity) | facts | {"items": rest})
    return facts
