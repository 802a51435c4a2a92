# What all rules share: the checked configuration, its stages and contents, and what a job is given.
import json
import re
import shlex
import sys
from functools import cache
from os import environ, pathsep
from os.path import relpath
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.current_basedir).parents[1]
sys.path.insert(0, str(ROOT / "src"))
# Jobs use the package from src/ and the Python that runs Snakemake, or with --use-conda that of their environment. For
# them Snakemake drops PYTHONPATH, so every command says it anew, before what else it names (`pip install --target`). And
# while an environment is active, conda puts another one in its place in PATH, which may be behind the launcher's: so
# none is. Snakemake formats the prefix: braces are doubled.
_source = shlex.quote(str(ROOT / "src")).replace("{", "{{").replace("}", "}}")
shell.prefix(
    f"set -euo pipefail; export PYTHONPATH={_source}${{{{PYTHONPATH:+:$PYTHONPATH}}}}; "
)
# A rehearsal has a Python of its own, which computes in a process that has everything imported.
python_folder = environ.get("TRANSFORMER2_PYTHON", Path(sys.executable).parent)
environ["PATH"] = f"{python_folder}{pathsep}{environ['PATH']}"
environ.pop("CONDA_SHLVL", None)
# Whatever the locale: libraries open files without saying how they are written.
environ["PYTHONUTF8"] = "1"
environ["PYTHONUNBUFFERED"] = "1"  # the log of a job that was killed has its last words

# Not its names: Snakemake has a `parse` of its own.
from transformer2 import config as configuration
from transformer2 import code_digest, paths
from transformer2.provenance import atomic_write
from transformer2.report.contents import Contents
from transformer2.reproduce import imported_scores, ledger
from transformer2.reproduce.inventory import illustrated_model, illustration_files
from transformer2.seals import damaged, made_with
from transformer2.stages.runner import settings_digest
from transformer2.stages.blocks import Stages
from transformer2.stages.steps import ALL_MODELS
from transformer2.tasks import TASKS

# ---- The configuration: config.yaml, or the files of --configfile, which stand alone

CONFIG_FILES = workflow.overwrite_configfiles or ["config.yaml"]
try:
    for given in CONFIG_FILES:  # Snakemake takes the last of two equal keys
        configuration.read_yaml(Path(given))
except configuration.ConfigError as error:
    raise WorkflowError(f"configuration: {error}")

if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


try:
    if "run" not in config:
        raise configuration.ConfigError(
            f"{relpath(CONFIG_FILES[0])}: {configuration.NO_RUN}"
        )
    RUN = configuration.parse(config)
    configuration.check_folders(RUN)
except configuration.ConfigError as error:
    raise WorkflowError(f"configuration: {error}")

# Here and not in a job: Snakemake deletes the outputs of a job before it runs.
try:
    imported_scores.check(RUN, Path("results") / RUN.run, ROOT / "paper_tables")
except ValueError as error:
    raise WorkflowError(f"scores: {error}")
try:
    LEDGER = ledger.read_all(ROOT / "paper_tables")
except ValueError as error:
    raise WorkflowError(f"ledger: {error}")
LEDGER_FILES = sorted(map(relpath, (ROOT / "paper_tables").rglob("*.yaml")))

STAGES = Stages(RUN)
CONTENTS = Contents.of(RUN, LEDGER)
ENGINE_ENV = f"../../envs/{'vllm' if RUN.engine == 'vllm' else 'core'}.yaml"
"""Environment of the rules that an engine of one's choice answers in."""
SETTINGS = RUN.model_dump_json(indent=1)
"""The resolved configuration."""
RUN_FILE = paths.RUN.of(run=RUN.run)


def one_of(names):
    """The expression that matches these names, and nothing where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    run=one_of([RUN.run]),
    model=one_of([*RUN.models, ALL_MODELS]),
    task=one_of(RUN.data_of),
    split="train|validation|test",
    block=r"\d+",
    blocks=r"\d+",


# Commands read the configuration from a file. It is no input of theirs: a stage looks itself at what a change of it means,
# and the settings that other rules depend on are their parameters.
onstart:
    if not Path(RUN_FILE).is_file() or Path(RUN_FILE).read_text() != SETTINGS:
        atomic_write(Path(RUN_FILE), SETTINGS)


# ---- What jobs are given


def code(command):
    """Digest of the code that a command runs, as a parameter of its rule: an edit redoes the steps that run it, no others.

    It is no input: scheduling looks at every input of every waiting job after every job that ends.
    """

    def digest(wildcards):
        unused = {"score"} if command in ("model", "data", "classes") else set()
        without = unused_modules(command, wildcards)
        return code_digest.digest(command, wildcards.get("task"), without, unused)

    return digest


def unused_modules(command, wildcards):
    """Modules that the code of a command could import and that this job has no use for."""
    modules = []
    if "task" in wildcards.keys() and not TASKS[wildcards.task].runs_code:
        modules.append("sandbox")
    made_here = {
        "model": lambda: RUN.models[wildcards.model].source.startswith("pocket:"),
        "data": lambda: RUN.data == "pocket",
    }
    if command in made_here and not made_here[command]():
        modules.append("pocket")
    if command in ("tables", "verdicts", "report", "crate"):
        modules.append("tasks")  # the grid reads their domains alone
    return modules


def of_model(field):
    """A setting of the model of a job."""
    return lambda wildcards: getattr(RUN.models[wildcards.model], field)


def megabytes(least, attempt):
    """Memory of a job: more at the second and third attempt, no more after them, which are for time limits."""
    return least * min(attempt, 3)


def memory(wildcards, attempt):
    """Megabytes of a job with a model."""
    return megabytes(RUN.models[wildcards.model].mem_mb, attempt)


def option(name, value):
    """`--name value`, or nothing where there is no value; as words, which commands quote."""
    return [] if value is None else [f"--{name}", str(value)]


# ---- Stages: one process loads a model and works through many steps; Snakemake sees a record of what it made


def record_of(stage):
    """The record of a block of a stage, with wildcards."""
    return paths.RECORD.pattern.replace("{stage}", stage)


def log_of(stage):
    return record_of(stage).replace(".json", ".log")


def benchmark_of(stage):
    return record_of(stage).replace(".json", ".benchmark.tsv")


def inputs_of(stage):
    """What a stage of a model needs. If one of its own results is missing, it is done again."""

    def inputs(wildcards):
        record = record_of(stage).format(**wildcards)
        missing = [path for path in results_of(record) if not path.exists()]
        if missing and Path(record).exists():
            logger.warning(f"{missing[0]} is missing: it is made again.")
            redo(record)
        return STAGES.inputs(stage, wildcards.model)

    return inputs


def results_of(record):
    """The files that the steps behind a record make."""
    return [path for step in STAGES.behind(record) for path in step.outputs]


def settings_of(stage):
    """Digest of the settings and the code of a block of a stage: a change lets its process look what is to be done."""
    return lambda wildcards: settings_digest(
        STAGES.behind(record_of(stage).format(**wildcards))
    )


@cache
def redo_damaged(wildcards):
    """No input of `all`, but work for it: a result that no longer holds what was written to it is made again.

    Without a target alone; a job by itself does not read a damaged file, either, and says so.
    """
    made_in = {
        str(path): record
        for record in STAGES.all_records()
        for path in results_of(record)
    }
    folders = [Path("results/models") / name for name in RUN.models]
    for folder in [Path("results") / RUN.run, *folders]:
        for file, what in damaged(folder):
            logger.warning(f"{file} is damaged ({what}): it is made again.")
            record = made_in.get(str(file))
            redo(*([record] if record else made_with(file)))
    return []


def redo(*files):
    """Has files made again. Snakemake offers no other way to ask for that while it reads the rules."""
    workflow.dag.forcefiles.update(map(str, files))


# ---- What the report is made of


def shown(name, caption, category, **labels):
    """An output that Snakemake's report shows."""
    return report(
        f"results/{{run}}/{name}",
        caption=f"../report/{caption}.rst",
        category=category,
        **labels,
    )


def illustrated(wildcards):
    """What the schematic figures are drawn from: a model, the record of its experts, and data."""
    files = illustration_files(RUN)
    return [
        files.model,
        *STAGES.records("select", illustrated_model(RUN)),
        files.data,
    ]


def templates(name):
    """The templates of this name, and what they include."""
    return sorted(map(relpath, ROOT.glob(f"paper_tables/templates/{name}.*")))


def command():
    """How this run was called for: the files and settings that replace those of config.yaml."""
    files = [shlex.quote(relpath(file)) for file in workflow.overwrite_configfiles]
    settings = [
        shlex.quote(f"{name}={value if isinstance(value, str) else json.dumps(value)}")
        for name, value in workflow.config_settings.config.items()
    ]
    return " ".join(
        ["snakemake --cores all"]
        + (["--configfile", *files] if files else [])
        + (["--config", *settings] if settings else [])
    )
