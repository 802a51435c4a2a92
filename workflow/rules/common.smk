# What all rules share: the validated configuration, names, and which code each stage runs.
import json
import re
import shlex
import sys
from functools import cache
from os import environ, pathsep
from os.path import relpath
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
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

from transformer2 import (
    config as configuration,
)  # not its names: Snakemake has a `parse` of its own
from transformer2 import code_digest, paths
from transformer2.grid import Grid
from transformer2.reproduce import ledger
from transformer2.provenance import atomic_write
from transformer2.seals import damaged, made_with
from transformer2.stages.runner import settings_digest
from transformer2.stages.steps import ALL_MODELS, Stages
from transformer2.tasks import TASKS

CONFIG_FILES = workflow.overwrite_configfiles or ["config.yaml"]
"""The files that the configuration is read from: config.yaml, or those that `--configfile` names, which stand alone."""
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
if RUN.scores is not None:
    from transformer2 import elsewhere

    try:
        elsewhere.check_folder(Path("results") / RUN.run)
        elsewhere.read(Path(RUN.scores), RUN.run, ROOT / "paper_tables")
    except ValueError as error:
        raise WorkflowError(f"scores: {error}")
elif (Path("results") / RUN.run / "scores.manifest.json").exists():
    raise WorkflowError(
        f"run: results/{RUN.run} holds scores that were measured elsewhere; choose another `run`, or delete it"
    )

ADAPTATION_FIGURES = {
    "arxiv/figure6": ("confusion", "decisions"),
    "arxiv/figure7": ("weights", "alphas"),
    "convergence": ("convergence", "alphas"),
}
"""Figure -> (what it shows, the frame that it is drawn from)."""
SPECTRUM_FIGURES = {"llama3-8b": "arxiv/figure10", "mistral-7b": "arxiv/figure11"}
"""Row of the documents' tables -> figure of its model's singular values."""
SPECTRA = {
    SPECTRUM_FIGURES.get(model.row, f"spectrum-{name}"): name
    for name, model in RUN.models.items()
}
"""Figure -> model."""
try:
    LEDGER = ledger.read_all(ROOT / "paper_tables")
except ValueError as error:
    raise WorkflowError(f"ledger: {error}")
LEDGER_FILES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "paper_tables").rglob("*.yaml")
)
TABLES = [f"{table.document}/{table.name}" for table in LEDGER.scores]
"""Tables of scores."""
TIMES = [f"{table.document}/{table.name}" for table in LEDGER.times]
"""Tables of seconds."""
SETTINGS = [f"{table.document}/{table.name}" for table in LEDGER.settings]
"""Tables of hyper-parameters."""
STAGES = Stages(RUN)
GRID = STAGES.grid
ADAPT = RUN.adaptation
EVERY_TASK = RUN.data_of

ENGINE_ENV = f"../../envs/{'vllm' if RUN.engine == 'vllm' else 'core'}.yaml"
"""Environment of the rules that an engine of one's choice answers in."""
ALL_EXPERTS = [
    GRID.expert(one.model, one.task, one.method, seed)
    for one in GRID.trained
    for seed in RUN.seeds
]
ALL_TIMES = TIMES if GRID.adaptive("prompt") else []
DISPATCHING = GRID.adaptive("prompt") + GRID.adaptive("cls")
ALL_ADAPTATION_FIGURES = [
    figure
    for figure, (_, frame) in ADAPTATION_FIGURES.items()
    if (GRID.searches if frame == "alphas" else DISPATCHING)
]
ALL_SPECTRA = list(SPECTRA)
LEARNING = {
    "arxiv/figure4" if model.row == "llama3-8b" else f"learning-{name}": (
        name,
        "svf",
        "",
    )
    for name, model in RUN.models.items()
    if any(one[:2] == (name, "svf") for one in GRID.trained)
}
LEARNING |= {
    "arxiv/figure9": (name, method, "--sweep")
    for name, method, _ in GRID.trained
    if method == "lora_attention_pg" and RUN.models[name].row == "llama3-8b"
}
"""Figure of learning curves -> (model, method, what is told apart)."""
ALL_LEARNING = list(LEARNING)
ILLUSTRATED = next(
    (name for name in GRID.language_models if RUN.models[name].row == "llama3-8b"),
    GRID.language_models[0],
)
"""The model that schematic figures show."""
SCHEMATICS = {
    "arxiv/figure1": "overview",
    "arxiv/figure2": "method",
    "arxiv/figure3": "adaptation_prompt",
    "arxiv/figure8": "sample",
}
"""Figure -> what it shows, of self-adaptation and of a sample of GSM8K."""
ALL_SCHEMATICS = list(SCHEMATICS) if ADAPT and "gsm8k" in RUN.tasks else []
STUDY = ["study"] if RUN.reference else []
ADAPT_RECORDS, EXPERT_RECORDS, SCORE_RECORDS = (
    [record for model in RUN.models for record in STAGES.records(stage, model)]
    for stage in ("adapt", "select", "score")
)
DERIVED_RECORDS = [
    record for model in RUN.models for record in STAGES.records("derive", model)
]
SCORE_RECORDS += STAGES.records("choose", ALL_MODELS)

if RUN.scores is not None:  # what needs models, or what only they leave behind
    ALL_EXPERTS = ALL_TIMES = ALL_ADAPTATION_FIGURES = []
    ALL_SPECTRA = ALL_LEARNING = ALL_SCHEMATICS = []
ALL_TABLES = TABLES + ALL_TIMES + (SETTINGS if RUN.scores is None else [])
ALL_FIGURES = TABLES + ALL_ADAPTATION_FIGURES + ALL_SPECTRA + ALL_LEARNING
ALL_FIGURES += ALL_SCHEMATICS + STUDY


def one_of(names):
    """The expression that matches these names, and nothing where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    run=one_of([RUN.run]),
    model=one_of(RUN.models),
    task=one_of(EVERY_TASK),
    split="train|validation|test",
    table=one_of([*TABLES, *TIMES, *SETTINGS]),
    seed=r"\d+",
    block=r"\d+",
    blocks=r"\d+",


def templates(name):
    """The templates of this name, and what they include."""
    folder = ROOT / "paper_tables" / "templates"
    return sorted(str(path.relative_to(ROOT)) for path in folder.glob(f"{name}.*"))


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


@cache
def redo_damaged(wildcards):
    """No input of `all`, but work for it: a result that no longer holds what was written to it is made again.

    Without a target alone; a job by itself does not read a damaged file, either, and says so.
    """
    made_in = {str(path): record for record in STAGES.all_records() for path in steps_outputs(record)}
    folders = [Path("results/models") / name for name in RUN.models]
    for folder in [Path("results") / RUN.run, *folders]:
        for file, what in damaged(folder):
            logger.warning(f"{file} is damaged ({what}): it is made again.")
            again = [made_in[str(file)]] if str(file) in made_in else made_with(file)
            workflow.dag.forcefiles.update(map(str, again))
    return []


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
    if command == "model" and not RUN.models[wildcards.model].source.startswith(
        "pocket:"
    ):
        modules.append("pocket")
    if command == "data" and RUN.data != "pocket":
        modules.append("pocket")
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


def options(name, values):
    """`--name value` for each value, as words."""
    return [word for value in values for word in option(name, value)]


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
        if Path(record).exists():
            missing = [path for path in steps_outputs(record) if not path.exists()]
            if missing:
                logger.warning(f"{missing[0]} is missing: it is made again.")
                workflow.dag.forcefiles.add(record)
        return STAGES.inputs(stage, wildcards.model)

    return inputs


def steps_outputs(record):
    """The files that the steps of a block make."""
    names = paths.RECORD.read(record)
    return [path for step in steps_of(names) for path in step.outputs]


def steps_of(names):
    block, blocks = int(names["block"]), int(names["blocks"])
    return STAGES.block(names["stage"], names["model"], block, blocks)


def settings_of(stage):
    """Digest of the settings and the code of a block of a stage: a change lets its process look what is to be done."""
    return lambda wildcards: settings_digest(
        steps_of({"stage": stage, **dict(wildcards)})
    )


def run_file(wildcards):
    """The resolved configuration, which is written when a run starts."""
    return paths.RUN.of(run=wildcards.run)


def whose_models(standin=lambda name: RUN.models[name].standin):
    """What frames say of each model, as JSON: whether it is a stand-in by itself, or what `standin` says of it."""
    return json.dumps(
        {
            name: {"run": RUN.run, "stands_in_for": model.row, "standin": standin(name)}
            for name, model in RUN.models.items()
        }
    )


def named_folders(files):
    """`--expert <name>=<folder>` for each expert, as words."""
    return options(
        "expert", [f"{name}={Path(file).parent}" for name, file in files.items()]
    )
