"""Commands that adapt: to the class of a prompt, to a few shots, from one model to another."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from transformer2.cli.options import (
    ExpertFolder,
    Experts,
    File,
    Gpus,
    RiskyCode,
    Rows,
    Text,
    Threads,
    Tokens,
    app,
    base_of,
    experts_of,
    identity_of,
    json_option,
    named,
    one_of,
    rows_of,
    scored_task,
    start_torch,
    task_of,
)  # fmt: skip
from transformer2.config import CLASSIFIER
from transformer2.provenance import (
    alone,
    manifest,
    read_json,
    write_json,
    write_jsonl,
)
from transformer2.seals import remove, sha256


@app.command()
def dispatch(
    model: File, expert: Experts, task: Text, data: File, out: File, decisions: File, identity: Text,
    classifier: Path | None = None, basis: Path | None = None, first_pass: Text = "generation",
    dtype: str = "float32", max_new_tokens: Tokens = None, class_tokens: Annotated[int, typer.Option(min=1)] = 64,
    batch_rows: Rows = 64,
    threads: Threads = 1, gpus: Gpus = None,
) -> None:  # fmt: skip
    """Answer every item of a split in two passes: classify the prompt, then answer with the expert of its class."""
    from transformer2.adaptation.model import SelfAdaptiveModel
    from transformer2.evaluation import answer_in_two_passes

    start_torch(threads, gpus)
    who = identity_of(identity)
    the_task, rows, experts = task_of(task), rows_of(task_of(task), data), named(expert)
    with manifest(out.with_suffix(".manifest.json"), model=str(model), task=task, experts=expert) as record:
        adaptive = SelfAdaptiveModel.from_pretrained(
            model, experts, "cls" if classifier else "prompt", classifier=classifier, basis=basis,
            first_pass=one_of("first pass", first_pass, ("generation", "labels")), dtype=dtype, batch_rows=batch_rows,
        )  # fmt: skip
        tokens = the_task.max_new_tokens if max_new_tokens is None else max_new_tokens
        answers, found, seconds = answer_in_two_passes(adaptive, the_task, rows, tokens, class_tokens)
        write_jsonl(out, answers)
        write_json(decisions, who | {"domain": the_task.domain} | seconds | {"items": found})
        record |= seconds | {"answers": len(answers), "sha256": sha256(out)}


@app.command()
def adapt(
    shots: Annotated[Path, typer.Option(help="rows of the task; of your own: {prompt, answer}")],
    out: File, model: Path | None = None, expert: Experts = [], experts: ExpertFolder = None,  # noqa: B006
    task: str = "own", n: Annotated[int | None, typer.Option(min=1, help="use the task's own choice of n rows")] = None,
    settings: Annotated[str, typer.Option(help="JSON: config.CEM, granularity, normalised, score")] = "{}",
    basis: Path | None = None, dtype: str = "float32", seed: int = 0, batch_rows: Rows = 200, identity: str = "{}",
    threads: Threads = 1, gpus: Gpus = None, allow_unsandboxed_code: RiskyCode = False,
) -> None:  # fmt: skip
    """Search the mix of experts that answers a few shots best (CEM), and save it as an expert that PEFT loads."""
    from transformer2.adaptation.choice import shots as shots_of
    from transformer2.adaptation.model import SelfAdaptiveModel
    from transformer2.models import save_expert

    start_torch(threads, gpus)
    chosen, who = json_option("--settings", settings), identity_of(identity)
    the_task = scored_task(task, allow_unsandboxed_code)
    rows = rows_of(the_task, shots)
    folders = experts_of(expert, experts)
    folders.pop(CLASSIFIER, None)  # it answers nothing
    rows = rows if n is None else shots_of(the_task, rows, n)
    with manifest(out / "manifest.json", task=task, seed=seed, settings=chosen) as facts:
        base = base_of(folders) if model is None else model
        adaptive = SelfAdaptiveModel.from_pretrained(
            base, folders, "few-shot", basis=basis, dtype=dtype, batch_rows=batch_rows
        )
        with alone(out / ".lock"):
            result = adaptive.adapt(rows, the_task, seed, out / "candidates.jsonl", **chosen)
            remove(out / "candidates.jsonl")
        save_expert(adaptive.engine.model, out, selected_adapters=["default"])
        found = {"experts": list(folders), "alpha": result.alpha.tolist(), "stopped": result.stopped}
        found |= {"accuracy": result.score[0], "loglik": result.history[-1]["best_loglik"], "shots": len(rows)}
        write_json(out / "adaptation.json", who | found | {"history": result.history})
        facts |= found
    print(f"{result.score[0]:.0%} of {len(rows)} shots right; {result.stopped}; alpha {found['alpha']}; saved to {out}")


@app.command()
def mix(
    model: File,
    expert: Experts,
    out: File,
    basis: Path | None = None,
    dtype: str = "float32",
    threads: Threads = 1,
    gpus: Gpus = None,
) -> None:
    """Mix experts with equal weights, without a search, and save the mix as an expert that PEFT loads."""
    import torch

    from transformer2.adaptation.model import SelfAdaptiveModel
    from transformer2.models import save_expert

    start_torch(threads, gpus)
    folders = named(expert)
    alpha = [1 / len(folders)] * len(folders)
    with manifest(out / "manifest.json", experts=expert, alpha=alpha):
        adaptive = SelfAdaptiveModel.from_pretrained(model, folders, "few-shot", basis=basis, dtype=dtype)
        adaptive.engine.mix("default", list(folders), torch.tensor(alpha))
        save_expert(adaptive.engine.model, out, selected_adapters=["default"])


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
        one_of("mapping", mapping, ("resampled",))
    facts = {"expert": str(expert), "mapping": mapping, "shuffle": shuffle}
    with manifest(out / "manifest.json", **facts) as record:
        record |= transfer(expert, source_basis, model, basis, out, mapping, shuffle)
        record["sha256"] = sha256(out / "adapter_model.safetensors")


@app.command()
def choose(
    candidates: Annotated[list[Path], typer.Argument(help="files of scores")], out: File, identity: Text, by: Text,
    task: Text, data: File, shots: Annotated[int, typer.Option(min=0)] = 0, which: Text = "strict",
    adaptation: list[Path] = [],  # noqa: B006
) -> None:  # fmt: skip
    """Take the scores of the best of several experts, chosen on the few shots or on the test set."""
    from transformer2.adaptation.choice import choose
    from transformer2.adaptation.choice import shots as shots_of
    from transformer2.frames import IDENTITY

    who = identity_of(identity, IDENTITY)
    records = {str(path.parents[1].name): read_json(path) for path in candidates}
    the_task, rows = task_of(task), rows_of(task_of(task), data, pictures=False)
    held_out = [row["item"] for row in shots_of(the_task, rows, shots)] if shots else []
    logliks = [read_json(path)["loglik"] for path in adaptation] or [0.0] * len(records)
    tie_breaks = {name: -float("inf") if value is None else value for name, value in zip(records, logliks, strict=True)}
    items = {name: record["items"] for name, record in records.items()}
    one_of("way to choose", by, ("shots", "test"))
    best, rest = choose(items, held_out, by, tie_breaks, one_of("score", which, ("strict", "lenient")))  # type: ignore[arg-type]
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
    model: Path | None = None, basis: Path | None = None, dtype: str = "float32",
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 512, threads: Threads = 1,
) -> None:  # fmt: skip
    """Answer one prompt with the expert of its class, word by word as it is written."""
    from transformers import TextStreamer

    from transformer2.adaptation.model import SelfAdaptiveModel

    start_torch(threads)
    folders = experts_of([], experts)
    classifier = folders.pop(CLASSIFIER, None)
    if strategy == "cls" and classifier is None:
        raise ValueError(f"strategy 'cls' needs the folder {experts}/{CLASSIFIER} with a classification expert")
    base = base_of(folders) if model is None else model
    adaptive = SelfAdaptiveModel.from_pretrained(
        base, folders, one_of("strategy", strategy, ("prompt", "cls")), basis=basis, dtype=dtype,
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
