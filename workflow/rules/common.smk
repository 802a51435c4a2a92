# What all rules share: the validated configuration, names, and which code each stage runs.
import json
import sys
from os import environ, pathsep
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
SOURCE = ROOT / "src" / "transformer2"
sys.path.insert(0, str(ROOT / "src"))
# Jobs use the package from src/ and the Python that runs Snakemake, unless a conda environment puts its own first.
environ["PYTHONPATH"] = str(ROOT / "src")
environ["PATH"] = f"{Path(sys.executable).parent}{pathsep}{environ['PATH']}"

from transformer2 import (
    config as configuration,
)  # not its names: Snakemake has a `parse` of its own

try:
    RUN = configuration.parse(config)
except configuration.ConfigError as error:
    raise WorkflowError(f"configuration: {error}")

TABLES = sorted(
    str(path.relative_to(ROOT / "paper_tables").with_suffix(""))
    for path in (ROOT / "paper_tables").glob("*/*.yaml")
)
POINTS = {name: method.points() for name, method in RUN.methods.items()}
ADAPTERS = {"base": ("base", "")} | {
    f"{method}-{task}": (method, task) for method in RUN.methods for task in RUN.tasks
}
"""Adapter of a path -> (method, task that it was trained on)."""

SWEEP = "results/{run}/sweeps/{model}/{task}/{method}/seed{seed}/{point}"
EXPERT = "results/{run}/experts/{model}/{task}/{method}/seed{seed}"
ALL_EXPERTS = [
    f"{EXPERT}/adapter_model.safetensors".format(
        run=RUN.run, model=model, task=task, method=method, seed=seed
    )
    for model in RUN.models
    for task in RUN.tasks
    for method in RUN.methods
    for seed in RUN.seeds
]
ANSWERS = "results/{run}/generations/{model}/{adapter}/{task}/seed{seed}"
SCORES = "results/{run}/scores/{model}/{adapter}/{task}/seed{seed}"


wildcard_constraints:
    run=RUN.run,
    model="|".join(RUN.models),
    task="|".join(RUN.tasks),
    method="|".join(RUN.methods) or "none",
    adapter="|".join(ADAPTERS),
    split="train|validation|test",
    table="|".join(TABLES),
    format="svg|png",
    point=r"[\w.,=+-]+",
    seed=r"\d+",


def code(*patterns):
    """Modules of the package as inputs: an edit redoes the stages that run them, and no other."""

    def files(wildcards):
        names = [pattern.format(**task_module(wildcards)) for pattern in patterns]
        return sorted(
            str(path.relative_to(ROOT)) for name in names for path in SOURCE.glob(name)
        )

    return files


def task_module(wildcards):
    return (
        {"task": configuration.TASK_MODULES[wildcards.task]}
        if "task" in wildcards.keys()
        else {}
    )


def of_model(field):
    """A setting of the model of a job."""
    return lambda wildcards: getattr(RUN.models[wildcards.model], field)


def of_task(field):
    """A setting of the task of a job."""
    return lambda wildcards: getattr(RUN.tasks[wildcards.task], field)


def memory(wildcards, attempt):
    """Megabytes; twice as many at the second attempt."""
    return RUN.models[wildcards.model].mem_mb * attempt


def option(name, value):
    """`--name value`, or nothing where there is no value."""
    return "" if value is None else f"--{name} {value}"


def expert_files(wildcards):
    """The expert of an adapter, and the basis that SVF needs; nothing for the base model."""
    method, trained_on = ADAPTERS[wildcards.adapter]
    if method == "base":
        return {}
    folder = EXPERT.format(
        run=wildcards.run,
        model=wildcards.model,
        task=trained_on,
        method=method,
        seed=wildcards.seed,
    )
    files = {"expert": f"{folder}/adapter_model.safetensors"}
    if next(iter(POINTS[method].values())).adapter == "svf":
        files["basis"] = f"results/models/{wildcards.model}/basis.safetensors"
    return files


def identity(wildcards):
    """What a file of scores says of itself."""
    method, trained_on = ADAPTERS[wildcards.adapter]
    model = RUN.models[wildcards.model]
    return json.dumps(
        {
            "run": RUN.run,
            "model": wildcards.model,
            "stands_in_for": model.row,
            "standin": model.standin,
            "method": method,
            "trained_on": trained_on,
            "task": wildcards.task,
            "seed": int(wildcards.seed),
        }
    )


def all_scores(wildcards):
    """The base model on every task (greedy answers know no seed), and every expert on the task it was trained on."""
    base = collect(
        f"{SCORES}.json",
        run=RUN.run,
        model=RUN.models,
        adapter="base",
        task=RUN.tasks,
        seed=RUN.seeds[0],
    )
    experts = [
        f"{SCORES}.json".format(
            run=RUN.run,
            model=model,
            adapter=f"{method}-{task}",
            task=task,
            seed=seed,
        )
        for model in RUN.models
        for method in RUN.methods
        for task in RUN.tasks
        for seed in RUN.seeds
    ]
    return base + experts
