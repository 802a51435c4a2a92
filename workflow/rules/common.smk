# What all rules share: the validated configuration, names, and which code each stage runs.
import json
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
SOURCE = ROOT / "src" / "transformer2"
sys.path.insert(0, str(ROOT / "src"))
# Jobs use the package from src/ and the Python that runs Snakemake, unless a conda environment puts its own first.
os.environ["PYTHONPATH"] = str(ROOT / "src")
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

from transformer2.config import TASK_MODULES, ConfigError, parse

try:
    RUN = parse(config)
except ConfigError as error:
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


wildcard_constraints:
    run=RUN.run,
    model="|".join(RUN.models),
    task="|".join(RUN.tasks),
    method="|".join(RUN.methods) or "none",
    adapter="|".join(ADAPTERS),
    split="train|validation|test",
    table="|".join(TABLES),
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
    return {"task": TASK_MODULES[wildcards.task]} if "task" in wildcards.keys() else {}


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


RISK = "--allow-unsandboxed-code" if RUN.allow_unsandboxed_code else ""
