# What all rules share: the checked configuration, its stages and contents, and what a job is given.
import json
import re
import shlex
import sys
from functools import cache
from os import PathLike, environ, pathsep
from os.path import relpath
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The project, where the workflow lies in a folder: beside its results, or elsewhere and used as a module. Of a module
# that Snakemake takes from a repository (github(...)) there are single files in its cache, and the package is the
# installed one.
SOURCE = workflow.current_basedir
IN_FOLDER = isinstance(SOURCE, PathLike)
ROOT = Path(SOURCE).absolute().parents[1] if IN_FOLDER else Path()
"""The project; without one the folder of the results, whose Snakefile names the repository."""
if IN_FOLDER:
    sys.path.insert(0, str(ROOT / "src"))
try:
    import transformer2
except ModuleNotFoundError as error:
    if error.name != "transformer2":
        raise
    raise WorkflowError(
        f"the package of the workflow is not installed beside Snakemake: pip install"
        f" 'transformer2 @ git+https://{SOURCE.host}/{SOURCE.repo}@{SOURCE.ref}'"
    )
PACKAGE = Path(transformer2.__file__).parent


def package_folder():
    """A folder with the package alone: src/, or one with a link to an installed package, whose neighbours are none of
    the business of jobs in environments of conda."""
    if IN_FOLDER:
        return PACKAGE.parent
    link = Path(".snakemake/transformer2/transformer2").absolute()
    if not link.exists() or not link.samefile(PACKAGE):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(PACKAGE)
    return link.parent


# Jobs use the package from there and the Python that runs Snakemake, or with --use-conda that of their environment. For
# them Snakemake drops PYTHONPATH, so every command says it anew, before what else it names (`pip install --target`). And
# while an environment is active, conda puts another one in its place in PATH, which may be behind the launcher's: so
# none is. Snakemake formats the prefix: braces are doubled.
_source = shlex.quote(str(package_folder())).replace("{", "{{").replace("}", "}}")
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
from transformer2 import code_digest, paths, trackers
from transformer2.provenance import atomic_write
from transformer2.report.contents import Contents
from transformer2.reproduce import imported_scores, ledger
from transformer2.reproduce.inventory import illustrated_model, illustration_files
from transformer2.checksums import corrupt_files, made_with
from transformer2.stages.blocks import Stages
from transformer2.stages.keys import settings_digest
from transformer2.stages.steps import ALL_MODELS
from transformer2.tasks import TASKS

# ---- The configuration: of the caller of a module, or config.yaml, or the files of --configfile, which stand alone

IS_MODULE = workflow.modifier.skip_configfile
CONFIG_FILES = workflow.overwrite_configfiles or ["config.yaml"]
OWN_FILES = [] if IS_MODULE else CONFIG_FILES
try:
    for given in OWN_FILES:  # Snakemake takes the last of two equal keys
        configuration.read_yaml(Path(given))
except configuration.ConfigError as error:
    raise WorkflowError(f"configuration: {error}")

if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


try:
    if "run" not in config:
        raise configuration.ConfigError(
            "`run` is missing in the config of the module"
            if IS_MODULE
            else f"{relpath(CONFIG_FILES[0])}: {configuration.NO_RUN}"
        )
    RUN = configuration.parse(config)
    configuration.check_folders(RUN)
    trackers.check(RUN.report_to)
except (configuration.ConfigError, trackers.MissingLibrary) as error:
    raise WorkflowError(f"configuration: {error}")

PAPER_TABLES = (PACKAGE / "paper_tables").resolve()
"""The ledger and its templates, of the project or of the installed package."""

# Here and not in a job: Snakemake deletes the outputs of a job before it runs.
try:
    imported_scores.check(RUN, Path("results") / RUN.run, PAPER_TABLES)
except ValueError as error:
    raise WorkflowError(f"scores: {error}")
try:
    LEDGER = ledger.read_all(PAPER_TABLES)
except ValueError as error:
    raise WorkflowError(f"ledger: {error}")
LEDGER_FILES = sorted(map(relpath, PAPER_TABLES.rglob("*.yaml")))
PAPER_RUN = relpath((PACKAGE / "config" / "paper.yaml").resolve())
"""The configuration that has all that the papers report."""

STAGES = Stages(RUN)
CONTENTS = Contents.of(RUN, LEDGER, STAGES.results())
ENGINE_ENV = f"../../envs/{'vllm' if RUN.engine == 'vllm' else 'core'}.yaml"
"""Environment of the rules that an engine of one's choice answers in."""
SETTINGS = RUN.model_dump_json(indent=1)
"""The resolved configuration."""
SETTINGS_OF_RESULTS = RUN.settings_of_results()
"""The same without what decides nothing of any result."""
RUN_FILE = paths.RUN.of(run=RUN.run)


def one_of(names):
    """The expression that matches these names, and nothing where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def image():
    """The image of the containers that --sdm apptainer runs jobs in: the one of the configuration, or the one that is
    published with the release that a module was deployed from. None where nobody knows any.
    """
    cuda = "-cuda" if any(model.gpus for model in RUN.models.values()) else ""
    known = None if IN_FOLDER else SOURCE.tag
    published = (
        f"docker://ghcr.io/{SOURCE.repo.lower()}:{known}{cuda}" if known else None
    )
    found = RUN.container or published
    wanted = [one.name for one in workflow.deployment_settings.deployment_method]
    if found is None and "APPTAINER" in wanted:
        raise WorkflowError(
            "configuration: container is missing: --sdm apptainer needs an image (docs/deploy.md)"
        )
    return found


wildcard_constraints:
    run=one_of([RUN.run]),
    model=one_of([*RUN.models, ALL_MODELS]),
    task=one_of(RUN.data_of),
    split="train|validation|test",
    block=r"\d+",
    blocks=r"\d+",


# Commands read the configuration from a file. It is no input of theirs: a stage looks itself at what a change of it means,
# and the settings that other rules depend on are their parameters.
def settings_at_start(wildcards):
    """No input, but has the configuration written when the first job begins; not in a dry run, nor without the lock."""
    write_at_start()
    return []


@cache
def write_at_start():
    # Snakemake drops the `onstart` of a module, and has one at most; when inputs are asked for, it is known.
    begin = workflow._onstart

    def start(log):
        if not Path(RUN_FILE).is_file() or Path(RUN_FILE).read_text() != SETTINGS:
            atomic_write(Path(RUN_FILE), SETTINGS)
        begin(log)

    workflow._onstart = start


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
    if command in ("tables", "verdicts", "crate"):
        modules.append("tasks")  # the grid reads their domains alone
    return modules


def of_model(field):
    """A setting of the model of a job."""
    return lambda wildcards: getattr(RUN.models[wildcards.model], field)


def megabytes(least, attempt):
    """Memory of a job: more at the second and third attempt, no more after them, which are for time limits."""
    return least * min(attempt, 3)


def at_least(least):
    """`megabytes` as a resource."""
    return lambda wildcards, attempt: megabytes(least, attempt)


def memory(wildcards, attempt):
    """Megabytes of a job with a model."""
    return megabytes(RUN.models[wildcards.model].mem_mb, attempt)


def option(name, value):
    """`--name value`, or nothing where there is no value; as words, which commands quote."""
    return [] if value is None else [f"--{name}", str(value)]


def base_of_backbone(wildcards):
    """The language model that a stand-in which takes pictures is built around; nothing for other models."""
    of_model = RUN.models[wildcards.model]
    if of_model.source != "pocket:llava-next":
        return []
    return paths.BASE.of(model=of_model.backbone)


def blocks_of_basis(wildcards):
    """The blocks of layers whose decompositions make a basis."""
    n = RUN.models[wildcards.model].basis_blocks
    return [
        paths.BASIS_BLOCK.of(model=wildcards.model, block=block, blocks=n)
        for block in range(n)
    ]


def rows_of_tasks(wildcards, input):
    """The option `--rows` for each task with text."""
    words = [option("rows", f"{task}={input[task]}") for task in RUN.text_tasks]
    return [word for pair in words for word in pair]


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
        write_at_start()
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
def redo_corrupt(wildcards):
    """No input of `all`, but work for it: a result that no longer holds what was written to it is made again.

    Without a target alone; a job by itself does not read a corrupt file, either, and says so.
    """
    made_in = {
        str(path): record
        for record in STAGES.all_records()
        for path in results_of(record)
    }
    folders = [Path("results/models") / name for name in RUN.models]
    for folder in [Path("results") / RUN.run, *folders]:
        for file, what in corrupt_files(folder):
            logger.warning(f"{file} is corrupt ({what}): it is made again.")
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


def workflow_files():
    """The Snakefile and what it includes."""
    patterns = ("Snakefile", "workflow/Snakefile", "workflow/**/*.smk")
    return sorted(relpath(file) for pattern in patterns for file in ROOT.glob(pattern))


def templates(name):
    """The templates of this name, and what they include."""
    return sorted(map(relpath, PAPER_TABLES.glob(f"templates/{name}.*")))


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
