"""The configuration of a rehearsal: that of the real run with small numbers, other models and other rows."""

from pathlib import Path
from typing import Any

from transformer2.config import Adaptation, Budget, Method, Model, Run, TaskData
from transformer2.config.names import PAPER_MODELS, REHEARSAL
from transformer2.config.parts import Blocks

STEPS = 2
"""Of a training, and iterations of a search."""
BATCH, TOKENS, REST = 4, 3, 4
"""Rows of a training step; tokens of an answer; items that are answered beside the shots."""
SMALL: dict[str, Any] = {"steps": STEPS, "eval_every": 1, "batch_size": BATCH, "micro_batch_tokens": 4096}
POINTS, SEEDS = 2, 2
"""Points of a sweep and seeds: more of them would go the same way."""
PROMPTS = 12
"""Prompts that a classifier is chosen by and tested with."""

FAMILY = {
    PAPER_MODELS["llama3-8b"]: "llama-3",
    PAPER_MODELS["llama3-70b"]: "llama-3-deep",
    PAPER_MODELS["mistral-7b"]: "mistral",
    "Qwen/Qwen2.5-1.5B-Instruct": "qwen2.5",
    "Qwen/Qwen2.5-Math-1.5B-Instruct": "qwen2.5",
}
"""Hub id -> family of `rehearsal.families`."""


def small_run(run: Run) -> Run:
    """The rehearsal of a run: every method, model, task, budget, table and figure of it.

    Training data keep their real sizes; a few items are answered. Two points of a sweep and two seeds are left, since
    more would go the same way.
    """
    if run.scores is not None:
        return run.model_copy(update={"run": _name(run), "scores": str(Path(run.scores).resolve())})
    shots = max((budget.shots for budget in run.adaptation.budgets.values()), default=0) if run.adaptation else 0
    changes = {
        "run": _name(run),
        "seeds": run.seeds[:SEEDS],
        "data": f"{REHEARSAL}{run.data}",
        "models": {name: _model(model) for name, model in run.models.items()},
        "tasks": {name: _items(task, shots) for name, task in run.tasks.items()},
        "unseen": {name: _items(task, shots) for name, task in run.unseen.items()},
        "methods": {name: _method(method) for name, method in run.methods.items()},
        "adaptation": _adaptation(run.adaptation) if run.adaptation else None,
        "engine": "hf",
        "report_to": [],
    }
    return Run.model_validate(run.model_copy(update=changes).model_dump())


def full_data(run: Run) -> Run:
    """The run with its own numbers of items, of made-up rows where its data are on the hub."""
    changes: dict[str, Any] = {"run": _name(run)}
    if run.data == "hub":
        changes["data"] = f"{REHEARSAL}hub"
        for part in ("tasks", "unseen"):
            tasks = getattr(run, part).items()
            changes[part] = {name: task.model_copy(update={"revision": None}) for name, task in tasks}
    elif run.data.startswith("dir:"):
        changes["data"] = _absolute(run.data)
    changes["models"] = {
        name: model.model_copy(update={"source": _absolute(model.source)}) for name, model in run.models.items()
    }
    return run.model_copy(update=changes)


def _absolute(source: str) -> str:
    """A source whose folder, if it is one, is found from everywhere."""
    kind, _, name = source.partition(":")
    return f"dir:{Path(name).resolve()}" if kind == "dir" else source


def differences(run: Run) -> list[str]:
    """What a rehearsal leaves out of a run, a line each."""
    if run.scores is not None:
        return []
    small, lines = small_run(run), []
    if run.engine == "vllm":
        lines.append("vLLM is not rehearsed: transformers' own generation answers in its place")
    if len(run.seeds) > len(small.seeds):
        lines.append(f"seeds: {len(small.seeds)} of {len(run.seeds)}, which go the same way")
    for name, method in run.trained.items():
        points, left = len(method.points()), len(small.trained[name].points())
        if left < points:
            lines.append(f"{name}: {left} of {points} points of its sweep, which go the same way")
    for name, model in small.models.items():
        if model.source.startswith(f"{REHEARSAL}chatml:hub:"):
            lines.append(f"{name}: a Llama with ChatML's template stands in for {run.models[name].source}")
    return lines


def _name(run: Run) -> str:
    return f"{run.run}-rehearsal"


def _model(model: Model) -> Model:
    kind = model.source.partition(":")[0]
    changes: dict[str, Any] = {"gpus": 0, "threads": 1, "mem_mb": 1000, "revision": None}
    changes["basis_blocks"] = min(model.basis_blocks, 2)
    changes["blocks"] = Blocks(**{stage: min(n, 2) for stage, n in model.blocks.model_dump().items()})
    if kind == "pocket":
        changes["pretraining_steps"] = STEPS
    else:
        changes["source"] = f"{REHEARSAL}{_family(model)}:{_absolute(model.source)}"
    return model.model_copy(update=changes)


def _family(model: Model) -> str:
    """The family of `rehearsal.families` that a model is of; of a language model that is not known, ChatML's."""
    kind, _, name = model.source.partition(":")
    if model.backbone is not None:
        return "llava-next"
    return "folder" if kind == "dir" else FAMILY.get(name, "chatml")


def _items(task: TaskData, shots: int) -> TaskData:
    few = {"validation": REST, "test": shots + REST, "max_new_tokens": TOKENS, "revision": None}
    return task.model_copy(update=few)


def _seeds(own: int | None) -> int | None:
    return None if own is None else min(own, SEEDS)


def _method(method: Method) -> Method:
    """The method with few steps, and two points of its sweep, which differ in the first setting that has two values."""
    sweep, points = {}, 1
    for key, values in method.sweep.items():
        if key not in SMALL:
            sweep[key] = values[: POINTS // points]
            points *= len(sweep[key])
    changes = {"settings": method.settings | SMALL, "sweep": sweep, "seeds": _seeds(method.seeds)}
    return method.model_copy(update=changes)


def _on_shots(method: Method) -> Method:
    """A method that is trained on shots, which never chooses by an evaluation."""
    settings = method.settings | SMALL | {"eval_every": STEPS}
    return method.model_copy(update={"settings": settings})


def _adaptation(adaptation: Adaptation) -> Adaptation:
    cem = adaptation.cem.model_copy(update={"population": BATCH, "elites": 2, "iterations": STEPS})
    changes = {
        "seeds": _seeds(adaptation.seeds),
        "classifier": _method(adaptation.classifier),
        "prompts": adaptation.prompts.model_copy(
            update={"validation": PROMPTS, "test": PROMPTS, "max_new_tokens": TOKENS}
        ),
        "class_tokens": TOKENS,
        "cem": cem,
        "trained": {name: _on_shots(method) for name, method in adaptation.trained.items()},
        "budgets": {name: _budget(budget) for name, budget in adaptation.budgets.items()},
    }
    return adaptation.model_copy(update=changes)


def _budget(budget: Budget) -> Budget:
    return budget if budget.iterations is None else budget.model_copy(update={"iterations": 1})
