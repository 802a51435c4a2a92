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
    start_torch,
)  # fmt: skip
from transformer2.config import CLASSIFIER
from transformer2.config.names import CLASS_TOKENS
from transformer2.grid import IDENTITY
from transformer2.provenance import manifest
from transformer2.stages import work


@app.command()
def dispatch(
    model: File, expert: Experts, task: Text, data: File, out: File, decisions: File, identity: Text,
    classifier: Path | None = None, basis: Path | None = None, first_pass: Text = "generation",
    dtype: str = "float32", max_new_tokens: Tokens = None,
    class_tokens: Annotated[int, typer.Option(min=1)] = CLASS_TOKENS, batch_rows: Rows = 64,
    threads: Threads = 1, gpus: Gpus = None,
) -> None:  # fmt: skip
    """Answer every item of a split in two passes: classify the prompt, then answer with the expert of its class."""
    start_torch(threads, gpus)
    who = identity_of(identity)
    with manifest(out.with_suffix(".manifest.json")) as facts:
        facts |= work.dispatch(
            model=model, experts=named(expert), task=task, data=data, out=out, decisions=decisions, identity=who,
            classifier=classifier, basis=basis, first_pass=one_of("first pass", first_pass, ("generation", "labels")),
            dtype=dtype, max_new_tokens=max_new_tokens, class_tokens=class_tokens, batch_rows=batch_rows,
        )  # fmt: skip


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
    start_torch(threads, gpus)
    chosen, who = json_option("--settings", settings), identity_of(identity)
    folders = experts_of(expert, experts)
    folders.pop(CLASSIFIER, None)  # it answers nothing
    with manifest(out / "manifest.json") as facts:
        facts |= work.adapt(
            model=base_of(folders) if model is None else model, experts=folders, task=task, shots=shots, out=out, n=n,
            settings=chosen, identity=who, basis=basis, dtype=dtype, seed=seed, batch_rows=batch_rows,
            allow_unsandboxed_code=allow_unsandboxed_code,
        )  # fmt: skip
    right = f"{facts['accuracy']:.0%} of {facts['shots']} shots right"
    print(f"{right}; {facts['stopped']}; alpha {facts['alpha']}; saved to {out}")


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
    start_torch(threads, gpus)
    with manifest(out / "manifest.json") as facts:
        facts |= work.mix(model=model, experts=named(expert), out=out, basis=basis, dtype=dtype)


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
    if mapping is not None:
        one_of("mapping", mapping, ("resampled",))
    with manifest(out / "manifest.json") as facts:
        facts |= work.transfer(
            expert=expert, source_basis=source_basis, model=model, basis=basis, out=out, mapping=mapping,
            shuffle=shuffle,
        )  # fmt: skip


@app.command()
def choose(
    candidates: Annotated[list[Path], typer.Argument(help="files of scores")], out: File, identity: Text, by: Text,
    task: Text, data: File, shots: Annotated[int, typer.Option(min=0)] = 0, which: Text = "strict",
    adaptation: list[Path] = [],  # noqa: B006
) -> None:  # fmt: skip
    """Take the scores of the best of several experts, chosen on the few shots or on the test set."""
    who = identity_of(identity, IDENTITY)
    work.choose(
        candidates={path.parents[1].name: path for path in candidates}, out=out,
        by=one_of("way to choose", by, ("shots", "test")), identity={key: who[key] for key in IDENTITY},
        task=task, data=data, shots=shots,
        which=one_of("score", which, ("strict", "lenient")), adaptation=adaptation,
    )  # fmt: skip


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
