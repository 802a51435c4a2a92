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
from transformer2 import code_digest
from transformer2.paper import ledger
from transformer2.seals import damaged, made_with
from transformer2.tasks import TASKS
from transformer2.training.selection import LAST

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
POINTS = {name: method.points() for name, method in RUN.trained.items()}
ADAPT = RUN.adaptation
UNSEEN = {model: RUN.unseen_of(model) if ADAPT else [] for model in RUN.models}
"""Model -> unseen tasks that it is adapted to."""
LANGUAGE_MODELS = [name for name, model in RUN.models.items() if model.backbone is None]
EVERY_TASK = RUN.data_of
BENCHMARKS = [task for task in EVERY_TASK if task != "classify"]
"""Tasks with data of their own."""

# Every file of answers or scores belongs to an adapter: the base model, an expert, a mix of experts, a way to dispatch
# prompts to experts, or the choice of one of several.
TRAINED = [
    (model, method, task)
    for method, settings in RUN.methods.items()
    for model in RUN.models_of(method)
    for task in RUN.tasks_of(model)
    if settings.tasks is None or task in settings.tasks
]
"""(model, method, task) of every expert of a training task."""
ADAPTERS = {"base": ("base", "")}
"""Adapter -> (method, task that it was trained on)."""
STATES = {}
"""Adapter of an expert, or of a choice among experts -> the state of their trainings: best (on validation) or last."""


def of_state(name, state):
    """The name of an adapter in one of the states of its training."""
    return name if state == "best" else f"{name}-{state}"


def add_expert(method, task):
    """Names the expert of a method for a task, in every state that is scored."""
    for state in RUN.states_of(method):
        adapter = of_state(f"{method}-{task}", state)
        ADAPTERS[adapter], STATES[adapter] = (method, task), state


for _, method, task in TRAINED:
    add_expert(method, task)
STRATEGIES = {}
"""Adapter -> (strategy, first pass)."""
MIXES = {}
"""Adapter -> (budget, configuration)."""
FEW_SHOT_TRAINED = {}
"""Adapter -> (budget, method that is trained on its shots)."""
CHOSEN = {}
"""Adapter -> (candidates, shots held out, what the choice is made by)."""
BUDGETS = RUN.budgets if ADAPT else {}
UNIFORM = "uniform"
"""Adapter of the experts with equal weights, on every item."""
TRANSFERRED = {method for model in RUN.models for method in RUN.transferred(model)}
"""Methods whose experts come from another model."""
ADAPTERS |= {
    f"{method}-{task}": (method, task)
    for method in sorted(TRANSFERRED)
    for task in RUN.text_tasks
}


def alone(budget):
    """Whether methods are trained on the shots of a budget: it limits no search, and needs no other model's experts."""
    return budget in ADAPT.budgets and ADAPT.budgets[budget].iterations is None


if ADAPT:
    add_expert("cls", "classify")
    STRATEGIES = configuration.STRATEGIES
    ADAPTERS[UNIFORM] = (UNIFORM, "")
    CHOSEN["uniform_mix"] = ([UNIFORM], BUDGETS["10"].shots, "shots")
    for budget, settings in BUDGETS.items():
        of_budget = {
            f"few_shot_{budget}-{configuration}": (budget, configuration)
            for configuration in ADAPT.configurations
        }
        MIXES |= of_budget
        CHOSEN[f"few_shot_{budget}"] = (list(of_budget), settings.shots, "shots")
        CHOSEN[f"few_shot_{budget}_on_test"] = (list(of_budget), settings.shots, "test")
        for method in ADAPT.trained if alone(budget) else []:
            FEW_SHOT_TRAINED[f"{method}_{budget}-all"] = (budget, method)
            CHOSEN[f"{method}_{budget}"] = (
                [f"{method}_{budget}-all"],
                settings.shots,
                "shots",
            )
    for method in ADAPT.compared:
        for state in RUN.states_of(method):
            compared = [
                of_state(f"{method}-{task}", state)
                for task in RUN.text_tasks
                if RUN.methods[method].tasks is None
                or task in RUN.methods[method].tasks
            ]
            for by, shots in (("test", 0), ("shots", ADAPT.budgets["10"].shots)):
                choice = of_state(f"{method}_on_{by}", state)
                CHOSEN[choice], STATES[choice] = (compared, shots, by), state

ENGINE_ENV = f"../../envs/{'vllm' if RUN.engine == 'vllm' else 'core'}.yaml"
"""Environment of the rules that an engine of one's choice answers in."""
SWEEP = "results/{run}/sweeps/{model}/{task}/{method}/seed{seed}/{point}"
EXPERT = "results/{run}/experts/{model}/{task}/{method}/seed{seed}"
MIX = "results/{run}/mixes/{model}/{task}/{budget}/{configuration}/seed{seed}"
EQUAL = "results/{run}/mixes/{model}/uniform/seed{seed}"
TRANSFER = "results/{run}/transfers/{model}/{task}/{method}/seed{seed}"
KIT = "results/{run}/kits/{model}/seed{seed}"
ANSWERS = "results/{run}/generations/{model}/{adapter}/{task}/seed{seed}"
SCORES = "results/{run}/scores/{model}/{adapter}/{task}/seed{seed}"


def expert(model, task, method, seed, part=""):
    """The trained adapter of one expert: in its selected state, or in the last one (part: last/)."""
    folder = EXPERT.format(
        run=RUN.run, model=model, task=task, method=method, seed=seed
    )
    return f"{folder}/{part}adapter_model.safetensors"


def transferred(model, task, method, seed):
    """The expert of another model, as one of this model."""
    folder = TRANSFER.format(
        run=RUN.run, model=model, task=task, method=method, seed=seed
    )
    return f"{folder}/adapter_model.safetensors"


def is_shuffled(wildcards):
    """Whether the seed of a transferred expert is that of a shuffle."""
    return wildcards.method.endswith("_shuffled")


def adaptive(strategy):
    """Models that try a strategy of self-adaptation."""
    return [
        name
        for name, model in RUN.models.items()
        if ADAPT and strategy in model.strategies
    ]


def mixed():
    """(model, task, budget) of every few-shot adaptation."""
    return [
        (model, task, name)
        for model in adaptive("few-shot")
        for name, budget in BUDGETS.items()
        for task in UNSEEN[model]
        if budget.tasks is None or task in budget.tasks
        if budget.rows is None or RUN.models[model].row in budget.rows
    ]


def trained_on_shots():
    """(model, task, adapter) of every training on shots."""
    return [
        (model, task, f"{method}_{budget}")
        for model, task, budget in mixed()
        for method, settings in ADAPT.trained.items()
        if alone(budget)
        and model in RUN.models_of(method)
        and (settings.tasks is None or task in settings.tasks)
    ]


ALL_EXPERTS = [
    expert(model, task, method, seed)
    for model, method, task in TRAINED
    for seed in RUN.seeds
]
ALL_TIMES = TIMES if adaptive("prompt") else []
ALL_ADAPTATION_FIGURES = [
    figure
    for figure, (_, frame) in ADAPTATION_FIGURES.items()
    if (mixed() if frame == "alphas" else adaptive("prompt") + adaptive("cls"))
]
ALL_SPECTRA = list(SPECTRA)
LEARNING = {
    "arxiv/figure4" if model.row == "llama3-8b" else f"learning-{name}": (
        name,
        "svf",
        "",
    )
    for name, model in RUN.models.items()
    if any(trained[:2] == (name, "svf") for trained in TRAINED)
}
LEARNING |= {
    "arxiv/figure9": (name, method, "--sweep")
    for name, method, _ in TRAINED
    if method == "lora_attention_pg" and RUN.models[name].row == "llama3-8b"
}
"""Figure of learning curves -> (model, method, what is told apart)."""
ALL_LEARNING = list(LEARNING)
ILLUSTRATED = next(
    (name for name in LANGUAGE_MODELS if RUN.models[name].row == "llama3-8b"),
    LANGUAGE_MODELS[0],
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
ALL_KITS = collect(
    f"{KIT}/done", run=RUN.run, model=LANGUAGE_MODELS if ADAPT else [], seed=RUN.seeds
)

if RUN.scores is not None:  # what needs models, or what only they leave behind
    ALL_EXPERTS = ALL_TIMES = ALL_ADAPTATION_FIGURES = ALL_KITS = []
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
    method=one_of(RUN.trained),
    adapter=one_of([*ADAPTERS, *STRATEGIES, *MIXES, *FEW_SHOT_TRAINED, *CHOSEN]),
    budget=one_of(BUDGETS),
    configuration=one_of(
        [*configuration.CONFIGURATIONS, *(ADAPT.trained if ADAPT else [])]
    ),
    split="train|validation|test",
    table=one_of([*TABLES, *TIMES, *SETTINGS]),
    point=r"[\w.,=+-]+",
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
    folders = [Path("results/models") / name for name in RUN.models]
    for folder in [Path("results") / RUN.run, *folders]:
        for file, what in damaged(folder):
            logger.warning(f"{file} is damaged ({what}): it is made again.")
            workflow.dag.forcefiles.update(str(path) for path in made_with(file))
    return []


UNSCORED = ("model", "data", "classes", "generate", "dispatch")
"""Commands that score no answer."""


def code(command):
    """Digest of the code that a command runs, as a parameter of its rule: an edit redoes the steps that run it, no others.

    It is no input: scheduling looks at every input of every waiting job after every job that ends.
    """

    def digest(wildcards):
        task = wildcards.get("task")
        without = unused_modules(command, wildcards)
        unused = {"score"} if command in UNSCORED else set()
        return code_digest.digest(command, task, without, unused)

    return digest


def unused_modules(command, wildcards):
    """Modules that the code of a command could import and that this job has no use for."""
    modules = [] if RUN.engine == "vllm" else ["rollout.vllm", "rollout.vllm_worker"]
    if "task" in wildcards.keys() and not TASKS[wildcards.task].runs_code:
        modules.append("sandbox")
    if command == "model" and not RUN.models[wildcards.model].source.startswith(
        "pocket:"
    ):
        modules.append("pocket")
    if command == "data" and RUN.data != "pocket":
        modules.append("pocket")
    return modules


def pictures(*splits):
    """The pictures that rows of these splits are about, where a task has any."""
    return lambda wildcards: [
        f"results/{RUN.run}/data/{wildcards.task}/{split}.images.zip"
        for split in splits
        if wildcards.task in configuration.VISION_TASKS
    ]


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


def checkpointing(wildcards):
    """How a training of the model keeps what its backward pass needs."""
    recomputes = RUN.models[wildcards.model].gradient_checkpointing
    return "--gradient-checkpointing" if recomputes else ""


def expert_files(wildcards):
    """The expert of an adapter, and the basis that SVF needs; nothing for the base model.

    With the last state of an expert, its best one and the answers of that: they are taken where both are the same.
    """
    if wildcards.adapter == "base":
        return {}
    basis = {"basis": f"results/models/{wildcards.model}/basis.safetensors"}
    if wildcards.adapter in MIXES | FEW_SHOT_TRAINED:
        budget, configuration = (MIXES | FEW_SHOT_TRAINED)[wildcards.adapter]
        folder = MIX.format(budget=budget, configuration=configuration, **wildcards)
        return {"expert": f"{folder}/adapter_model.safetensors"} | basis
    if wildcards.adapter == UNIFORM:
        folder = EQUAL.format(**wildcards)
        return {"expert": f"{folder}/adapter_model.safetensors"} | basis
    method, trained_on = ADAPTERS[wildcards.adapter]
    if method in TRANSFERRED:
        file = transferred(wildcards.model, trained_on, method, wildcards.seed)
        return {"expert": file} | basis
    uses_basis = next(iter(POINTS[method].values())).adapter == "svf"
    one = (wildcards.model, trained_on, method, wildcards.seed)
    files = basis if uses_basis else {}
    if STATES[wildcards.adapter] == "best":
        return files | {"expert": expert(*one)}
    if "best" in RUN.states_of(method):
        best = ANSWERS.format(**dict(wildcards) | {"adapter": f"{method}-{trained_on}"})
        files = files | {"best": expert(*one), "best_answers": f"{best}.jsonl"}
    return files | {"expert": expert(*one, f"{LAST}/")}


def experts_to_adapt(wildcards):
    """The expert of every training task of language models; those of a backbone, carried over."""
    return {
        task: expert(wildcards.model, task, ADAPT.experts, wildcards.seed)
        for task in RUN.text_tasks
    }


def experts_to_mix(wildcards):
    """The experts of a few-shot adaptation: the model's own, and with some budgets those of another model."""
    own = experts_to_adapt(wildcards)
    if wildcards.budget != configuration.CROSS:
        return own
    ordered = next(iter(RUN.transferred(wildcards.model)))
    row = RUN.models[RUN.models[wildcards.model].transfer.experts_of].row
    return own | {
        f"{row}:{task}": transferred(wildcards.model, task, ordered, wildcards.seed)
        for task in RUN.text_tasks
    }


def experts_by_class(wildcards):
    """The expert that answers each class: that of the first training task of its domain."""
    files = {}
    for task, file in experts_to_adapt(wildcards).items():
        files.setdefault(TASKS[task].domain, file)
    return files


def whose_models(standin=lambda name: RUN.models[name].standin):
    """What frames say of each model, as JSON: whether it is a stand-in by itself, or what `standin` says of it."""
    return json.dumps(
        {
            name: {"run": RUN.run, "stands_in_for": model.row, "standin": standin(name)}
            for name, model in RUN.models.items()
        }
    )


def with_prefix(prefix, files):
    return {f"{prefix}{name}": file for name, file in files.items()}


def method_of(adapter):
    """The method whose experts an adapter is made of; nothing for the base model."""
    if adapter in MIXES or adapter == UNIFORM:
        return ADAPT.experts
    if adapter in FEW_SHOT_TRAINED:
        return FEW_SHOT_TRAINED[adapter][1]
    method = ADAPTERS[adapter][0]
    return ADAPT.experts if method in TRANSFERRED else method


def engine(model, methods):
    """`--engine`, where answers come from another engine than transformers' own generation."""
    chosen = RUN.engine_for(model, [name for name in methods if name != "base"])
    return option("engine", None if chosen == "hf" else chosen)


def named_folders(files):
    """`--expert <name>=<folder>` for each expert, as words."""
    return options(
        "expert", [f"{name}={Path(file).parent}" for name, file in files.items()]
    )


def whose(wildcards, **more):
    """What a file of results says of itself: run, model and task, as JSON."""
    model = RUN.models[wildcards.model]
    return json.dumps(
        {
            "run": RUN.run,
            "model": wildcards.model,
            "stands_in_for": model.row,
            "standin": RUN.standin(wildcards.model),
            "task": wildcards.task,
            "seed": int(wildcards.seed),
            **more,
        }
    )


def identity(wildcards):
    """As `whose`, with the method that an adapter belongs to, and the state of its training."""
    state = STATES.get(wildcards.adapter, "")
    name = (
        wildcards.adapter.removesuffix(of_state("", state))
        if state
        else wildcards.adapter
    )
    method, trained_on = ADAPTERS.get(wildcards.adapter, (name, ""))
    return whose(wildcards, method=method, trained_on=trained_on, state=state)


def score_files(models, adapters, tasks, seeds):
    return collect(
        f"{SCORES}.json",
        run=RUN.run,
        model=models,
        adapter=adapters,
        task=tasks,
        seed=seeds,
    )


def transfer_scores():
    """Files of scores of experts that come from another model."""
    return [
        file
        for model in RUN.models
        for method, seeds in RUN.transferred(model).items()
        for trained_on in RUN.text_tasks
        for task in (trained_on, *UNSEEN[model])
        if TASKS[task].domain == TASKS[trained_on].domain
        for file in score_files(model, f"{method}-{trained_on}", task, seeds)
    ]


def all_scores(wildcards):
    """Every file of scores that a table may need.

    The base model on every task (greedy answers know no seed), every expert on the task it was trained on and those it
    is to be scored on besides, in both states of its training; on the unseen tasks the choice among compared experts, the ways of dispatch, few-shot
    adaptation, training on the shots, and the experts with equal weights; experts of another model on their own task
    and the unseen ones of its domain.
    """
    files = []
    for model in RUN.models:
        own = [*RUN.tasks_of(model), *RUN.unseen_of(model)]
        tasks = [task for task in BENCHMARKS if task in own]
        files += score_files(model, "base", tasks, RUN.seeds[0])
    for model, method, task in TRAINED:
        also = [
            other
            for other in RUN.methods[method].also_on
            if other in RUN.unseen_of(model)
        ]
        for state in RUN.states_of(method):
            adapter = of_state(f"{method}-{task}", state)
            files += score_files(model, adapter, [task, *also], RUN.seeds)
    if not ADAPT:
        return files
    for method in ADAPT.compared:
        for state in RUN.states_of(method):
            choices = [of_state(f"{method}_on_{by}", state) for by in ("test", "shots")]
            choices += CHOSEN[choices[0]][0]
            for model in RUN.models_of(method):
                files += score_files(model, choices, UNSEEN[model], RUN.seeds)
    for strategy in ("prompt", "cls"):
        ways = [strategy, f"{strategy}_labels"]
        for model in adaptive(strategy):
            files += score_files(model, ways, UNSEEN[model], RUN.seeds)
    files += score_files(LANGUAGE_MODELS, "base", "classify", RUN.seeds[0])
    classifiers = [of_state("cls-classify", state) for state in RUN.states_of("cls")]
    files += score_files(adaptive("cls"), classifiers, "classify", RUN.seeds)
    for model, task, adapter in trained_on_shots():
        files += score_files(model, adapter, task, RUN.seeds)
    for model, task, budget in mixed():
        both = [f"few_shot_{budget}", f"few_shot_{budget}_on_test"]
        files += score_files(model, both, task, RUN.seeds)
    for model in adaptive("few-shot"):
        files += score_files(model, "uniform_mix", UNSEEN[model], RUN.seeds)
    files += transfer_scores()
    return list(dict.fromkeys(files))  # an expert may be compared and scored besides
