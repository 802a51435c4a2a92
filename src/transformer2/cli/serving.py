"""The command that serves a self-adaptive model."""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from transformer2.cli.options import (
    ExpertFolder,
    Experts,
    Gpus,
    Rows,
    Threads,
    app,
    base_of,
    experts_of,
    one_of,
    start_torch,
)  # fmt: skip
from transformer2.config import CLASSIFIER
from transformer2.tasks.classify import CLASSES


@app.command()
def serve(
    expert: Experts = [], experts: ExpertFolder = None,  # noqa: B006
    model: Annotated[Path | None, typer.Option(help="the base model; the one that the experts name without it")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="prompt | cls: who gives each prompt its class; prompt without it")
    ] = None,
    weights: Annotated[
        list[str], typer.Option(help="<expert>=<number>, repeated: one mix (or expert) for all prompts, not by class")
    ] = [],  # noqa: B006
    basis: Path | None = None,
    first_pass: Annotated[str, typer.Option(help="generation | labels")] = "generation",
    dtype: str = "float32", host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one")] = 8000,
    batch_rows: Rows = 64,
    queue: Annotated[int, typer.Option(min=1, help="requests that may wait; more are refused (429)")] = 256,
    threads: Threads = 1, gpus: Gpus = None,
) -> None:  # fmt: skip
    """Answer chats at an OpenAI-compatible endpoint, with the expert or mix that fits (docs/serve.md)."""
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise ValueError(f"serve needs {missing[0]}: pip install 'transformer2[serve]'")
    folders = experts_of(expert, experts)
    classifier = folders.pop(CLASSIFIER, None)
    mix = numbers(weights, list(folders))
    if mix and strategy:
        raise ValueError("--weights answer every prompt alike and --strategy by its class: give one of them")
    chosen = one_of("strategy", strategy or "prompt", ("prompt", "cls"))
    if chosen == "cls" and classifier is None:
        raise ValueError(f"strategy 'cls' needs a classification expert: --expert {CLASSIFIER}=<folder>")
    if not mix and (strange := [name for name in folders if name not in CLASSES]):
        raise ValueError(
            f"{strange[0]!r} is none of the classes {', '.join(CLASSES)}, so no prompt would get this expert: name it "
            f"after its class, or use it for all prompts with --weights {strange[0]}=1"
        )
    first = one_of("first pass", first_pass, ("generation", "labels"))

    from transformer2.serving.server import serve

    start_torch(threads, gpus)
    serve(
        base_of(folders) if model is None else model, folders, strategy="few-shot" if mix else chosen,
        weights=mix or None, classifier=classifier if chosen == "cls" else None, basis=basis, first_pass=first,
        dtype=dtype, batch_rows=batch_rows, queue=queue, host=host, port=port,
    )  # fmt: skip


def numbers(pairs: list[str], experts: list[str]) -> dict[str, float]:
    """`<expert>=<number>` options as a mapping; ValueError if one is no such pair, or they are all zero."""
    weights: dict[str, float] = {}
    for pair in pairs:
        name, _, text = pair.rpartition("=")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not name or not math.isfinite(number):
            raise ValueError(f"{pair!r} is not <expert>=<number>")
        if name in weights:
            raise ValueError(f"the weight of {name} is given twice: {weights[name]} and {number}")
        weights[one_of("expert", name, tuple(experts))] = number
    if weights and not any(weights.values()):
        raise ValueError("all weights are 0: z' = 0 would delete the matrices that the experts scale")
    return weights
