"""The plan of a run: the steps that are still to be done, and what each will cost."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformer2 import paths
from transformer2.config import PAPER_MODELS, Run
from transformer2.config.sizes import ITEMS, available, class_sizes
from transformer2.provenance import read_json
from transformer2.reproduce.ledger import Ledger
from transformer2.stages.blocks import Stages
from transformer2.stages.keys import contents, key_in_manifest, key_of
from transformer2.stages.steps import STAGES, Step
from transformer2.tasks import TASKS

from . import costs, engines
from .costs import Adapted, Size
from .machines import MACHINES, Machine

TOKENS = {
    "gsm8k": (90, 120), "mbpp_pro": (106, 49), "arc_easy": (110, 17), "math": (110, 221), "humaneval": (321, 60),
    "arc_challenge": (121, 19), "textvqa": (2200, 4), "okvqa": (2200, 4), "classify": (220, 8),
}  # fmt: skip
"""Task -> mean tokens of a prompt and of a reference answer, counted on 150 items each with SmolLM2's tokenizer; those
about pictures are LLaVA-NeXT's usual number of tiles."""
NOT_ESTIMATED = "not estimated"
QWEN_1_5B = Size(28, 1536, 256, 8960, 151936, tied=True)
SIZES = {"hub:Qwen/Qwen2.5-1.5B-Instruct": QWEN_1_5B, "hub:Qwen/Qwen2.5-Math-1.5B-Instruct": QWEN_1_5B}
"""Models of `config/one-gpu.yaml`, as their config.json has them."""
WITH_MODEL_RULES = ("train", "train_on_shots", "answer", "dispatch", "adapt", "mix")
"""Kinds of steps that run a model."""
REPORT = ("frames", "illustrate", "tables", "figures", "verdicts", "html_report", "crate")
"""Rules that come after the stages."""


@dataclass(frozen=True)
class Job:
    """One step of a run: its rule, what it is about, the GPUs that its process asks for, and who answers."""

    rule: str
    of: Mapping[str, str]
    gpus: int = 0
    engine: str = "hf"

    @property
    def model(self) -> str:
        return self.of.get("model", "")

    @property
    def kind(self) -> tuple[str, ...]:
        """Jobs of one kind take about as long as each other."""
        names = ("model", "method", "task", "budget", "configuration")
        return (self.rule, *(self.of.get(name, "") for name in names))


@dataclass(frozen=True)
class Cost:
    """Seconds of one job, memory of one of its GPUs in GB (None: it uses none), bytes on disk."""

    seconds: float
    gpu_gb: float | None = None
    disk: float = 0.0


@dataclass
class Line:
    """All jobs of one rule and model."""

    rule: str
    model: str
    jobs: int = 0
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    gpu_gb: float | None = None
    disk: float = 0.0
    how: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Loads:
    """How often a model is loaded: once for every step, if each had a process of its own, and as the stages are."""

    steps: int
    processes: int
    engine_steps: int
    """Steps that vLLM answers in."""
    engines: int


def job_of(step: Step, run: Run) -> Job:
    """A step of a stage as a job."""
    rule = "train_on_shots" if step.work == "train" and "budget" in step.of else step.work
    gpus = run.models[step.of["model"]].gpus if rule in WITH_MODEL_RULES else 0
    return Job(rule, step.of, gpus, step.arguments.get("engine", "hf"))


def is_done(step: Step) -> bool:
    """Whether the results of a step are there, made of what there is now."""
    try:
        return key_in_manifest(step) == key_of(step, contents(step))
    except (FileNotFoundError, ValueError):  # an input is missing or corrupt
        return False


def jobs(stages: Stages) -> tuple[list[Job], dict[tuple[str, ...], float], Loads]:
    """The jobs that a run still has to do, the mean seconds of each kind that was done before, and loads of models."""
    run = stages.run
    models = run.models if run.scores is None else {}
    to_do = [Job("model", {"model": name}) for name in models if not _there(paths.BASE.of(model=name), "manifest.json")]
    for name, model in models.items():
        if not _there(paths.BASIS.of(model=name)):
            rule = "basis" if model.basis_blocks == 1 else "basis_block"
            to_do += [Job(rule, {"model": name})] * model.basis_blocks
    seconds: dict[tuple[str, ...], list[float]] = {}
    loads = [0, 0, 0, 0]
    for stage in STAGES:
        for model in stages.models_of(stage):
            n = stages.blocks(stage, model)
            for block in range(n):
                left = []
                for step in stages.block(stage, model, block, n):
                    if (took := _seconds(step)) is not None:
                        seconds.setdefault(job_of(step, run).kind, []).append(took)
                    left += [] if is_done(step) else [step]
                to_do += [job_of(step, run) for step in left]
                loads = [sum(pair) for pair in zip(loads, _loads(left), strict=True)]
    if not _there(f"results/{run.run}", "report.html"):
        files = [path for step in _steps(stages) for path in step.inputs if paths.is_data(path)]
        missing = {path for path in files if not path.exists()}
        to_do += [Job("data", {}) for _ in missing] + [Job(rule, {}) for rule in REPORT]
    means = {kind: sum(all_) / len(all_) for kind, all_ in seconds.items()}
    return to_do, means, Loads(*loads)


def _seconds(step: Step) -> float | None:
    """How long a step took when it was done; None if its manifest is missing or corrupt."""
    try:
        return read_json(step.manifest)["seconds"]
    except (FileNotFoundError, ValueError):
        return None


def _there(*parts: str) -> bool:
    return Path(*parts).is_file()


def _steps(stages: Stages) -> Iterator[Step]:
    for stage in STAGES:
        for model in stages.models_of(stage):
            yield from stages.steps(stage, model)


def _loads(steps: Sequence[Step]) -> list[int]:
    """Loads of a model, and starts of vLLM, for each step and for the block of them."""
    loading = [step for step in steps if step.work in WITH_MODEL_RULES]
    engines = [step for step in loading if step.arguments.get("engine") == "vllm"]
    return [len(loading), int(bool(loading)), len(engines), int(bool(engines))]


def sizes(run: Run, ledger: Ledger, folder: Path) -> dict[str, Size]:
    """Sizes of the run's models: of the papers' own by the ledger, of `SIZES`, of others by the config.json in
    `folder` (results/models) once they are there."""
    known = {}
    of_papers = {f"hub:{id}": row for row, id in PAPER_MODELS.items()}
    shapes = ledger.shapes | {"llava-next-8b": ledger.shapes["llama3-8b"]}  # its language model
    for name, model in run.models.items():
        file = folder / name / "base" / "config.json"
        if model.source in of_papers:
            tower = costs.VISION_TOWER if model.backbone else 0
            known[name] = Size(**shapes[of_papers[model.source]].model_dump(), tower=tower)
        elif model.source in SIZES:
            known[name] = SIZES[model.source]
        elif file.is_file():
            known[name] = _size(read_json(file))
    return known


def _size(config: Mapping[str, Any]) -> Size:
    text = config.get("text_config", config)
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    return Size(
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        key_value=head * text["num_key_value_heads"],
        intermediate=text["intermediate_size"],
        vocabulary=text["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
    )


class Estimator:
    """What a job costs on one kind of GPU, by formula."""

    def __init__(self, run: Run, of_models: Mapping[str, Size], machine: Machine):
        self.run, self.sizes, self.machine = run, of_models, machine

    def cost(self, job: Job) -> Cost | None:
        """The cost of a job; None where the sizes of its model are not known yet.

        Jobs that use no model take ten seconds: starting Python, reading, writing.
        """
        with_model = {
            "model": self._model, "basis": self._basis, "basis_block": self._basis, "train": self._train,
            "train_on_shots": self._train_on_shots, "answer": self._answer, "dispatch": self._dispatch,
            "adapt": self._adapt, "mix": self._mix,
        }  # fmt: skip
        if job.rule not in with_model:
            return Cost(10.0)
        if job.model not in self.sizes:
            return None
        return with_model[job.rule](job, self.sizes[job.model], self._bytes(job.model))

    def _bytes(self, model: str) -> int:
        return {"float32": 4, "bfloat16": 2}[self.run.models[model].dtype]

    def _items(self, task: str, split: str) -> int:
        limit = getattr(self.run.data_of[task], split)
        if task == "classify":
            sizes = class_sizes(self.run.text_tasks, split, self._items)
            full = limit if sizes is None else sum(sizes.values())
        else:
            full = available(task, split) if self.run.data != "pocket" and task in ITEMS else limit
        return full if limit is None else min(limit, full)

    def _longest(self, task: str) -> int:
        of_run = self.run.data_of[task].max_new_tokens
        return TASKS[task].max_new_tokens if of_run is None else of_run

    def _gpus(self, model: str) -> int:
        return max(self.run.models[model].gpus, 1)

    def _adapted(self, model: str, settings: dict[str, Any]) -> Adapted:
        n = self.sizes[model].layers
        return Adapted(settings["adapter"], settings["modules"], n - n // 2 if settings["layers"] == "half" else n)

    def _experts(self, model: str) -> Adapted:
        """What the experts scale that adaptation mixes or dispatches to."""
        assert self.run.adaptation is not None
        method = self.run.adaptation.experts
        return self._adapted(model, self.run.training(model, method, next(iter(self.run.trained[method].points()))))

    def _answers_of(self, job: Job, n: int, adapted: Adapted, b: int, training: bool = False) -> Cost:
        """The cost of `n` answers by the engine of a job, with one expert or none."""
        task = job.of["task"]
        if job.engine == "hf":
            return self._answers(job.model, task, n, adapted, b)
        size, (prompt, reference) = self.sizes[job.model], TOKENS[task]
        longest, gpus = self._longest(task), self._gpus(job.model)
        seconds = engines.answering_seconds(size, adapted, n, prompt, longest, b, self.machine, gpus, training)
        memory = engines.answering_gb(size, adapted, prompt, longest, b, gpus, training)
        return Cost(seconds, memory, n * 8.0 * (prompt + reference))

    def _answers(
        self, model: str, task: str, n: int, adapted: Adapted, b: int, experts: int = 1, longest: int | None = None,
        scored: bool = False,
    ) -> Cost:  # fmt: skip
        size, prompt = self.sizes[model], TOKENS[task][0]
        longest = self._longest(task) if longest is None else longest
        rows = min(self.run.batch_rows(model), n)
        slower = costs.factored(size, adapted) if experts > 1 else 1.0
        seconds = costs.answering_seconds(size, n, rows, prompt, longest, b, self.machine, slower)
        memory = costs.answering_gb(size, adapted, rows, prompt, longest, b, experts, scored, self._gpus(model))
        return Cost(seconds, memory, n * 8.0 * (prompt + TOKENS[task][1]))

    def _model(self, job: Job, size: Size, b: int) -> Cost:
        weights = costs.weight_bytes(size, 2)  # as the hub has them
        return Cost(weights / costs.DOWNLOAD, None, weights)

    def _basis(self, job: Job, size: Size, b: int) -> Cost:
        whole, blocks = Adapted("svf", "all", size.layers), self.run.models[job.model].basis_blocks
        return Cost(costs.basis_seconds(size) / blocks, None, costs.basis_bytes(size, whole, b) / blocks)

    def _answer(self, job: Job, size: Size, b: int) -> Cost:
        adapted = Adapted("svf", "all", 0) if job.of["adapter"] == "base" else self._experts_or_all(job.model)
        task = job.of["task"]
        return self._answers_of(job, self._items(task, "test"), adapted, b)

    def _experts_or_all(self, model: str) -> Adapted:
        return self._experts(model) if self.run.adaptation else Adapted("svf", "all", self.sizes[model].layers)

    def _dispatch(self, job: Job, size: Size, b: int) -> Cost:
        assert self.run.adaptation is not None
        task, adapted = job.of["task"], self._experts(job.model)
        n = self._items(task, "test")
        first = self._answers(job.model, "classify", n, adapted, b, 4, self.run.adaptation.class_tokens)
        second = self._answers(job.model, task, n, adapted, b, 4)
        return Cost(first.seconds + second.seconds, max(first.gpu_gb or 0, second.gpu_gb or 0), second.disk)

    def _adapt(self, job: Job, size: Size, b: int) -> Cost:
        assert self.run.adaptation is not None
        task, budget = job.of["task"], self.run.budgets[job.of["budget"]]
        search = self.run.adaptation.cem
        once = self._answers(
            job.model, task, search.population * budget.shots, self._experts(job.model), b, 4, None, True
        )
        iterations = search.iterations if budget.iterations is None else budget.iterations
        return Cost(once.seconds * iterations, once.gpu_gb, 1e6)

    def _mix(self, job: Job, size: Size, b: int) -> Cost:
        memory = costs.answering_gb(size, self._experts(job.model), 1, 1, 1, b, 4, gpus=self._gpus(job.model))
        return Cost(60.0, memory, 4.0 * 2 * size.layers * size.hidden)

    def _train(self, job: Job, size: Size, b: int) -> Cost:
        return self._training(job, size, b, self._items(job.of["task"], "validation"))

    def _train_on_shots(self, job: Job, size: Size, b: int) -> Cost:
        return self._training(job, size, b, 0)

    def _training(self, job: Job, size: Size, b: int, validation: int) -> Cost:
        model, task = job.model, job.of["task"]
        method = job.of.get("method") or job.of["configuration"]
        point = job.of.get("point") or "single"
        settings = self.run.training(model, method, point)
        adapted, (prompt, reference) = self._adapted(model, settings), TOKENS[task]
        batch = settings["batch_size"]
        if validation == 0:
            batch = self.run.budgets[job.of["budget"]].shots
        answers, answer = Cost(0.0), float(reference)
        if settings["objective"] == "policy_gradient":
            answers = self._answers_of(job, batch, adapted, b, training=True)
            answer = engines.SHARE_OF_LONGEST * self._longest(task)
        kl, recomputed = settings["kl_coefficient"] > 0, self.run.models[model].gradient_checkpointing
        all_tokens, micro_batch = batch * (prompt + answer), settings["micro_batch_tokens"]
        operations = costs.learning_operations(size, adapted, all_tokens, batch * answer, micro_batch, kl, recomputed)
        learning = operations / self.machine.compute
        team = self._gpus(model) if job.engine == "vllm" else 1
        if team > 1:
            passes = 2 + kl + recomputed
            learning = engines.team_seconds(size, adapted, all_tokens, learning, micro_batch, passes, b, team)
        seconds = settings["steps"] * (answers.seconds + learning)
        memory = answers.gpu_gb or 0.0
        if validation:
            evaluation = self._answers_of(job, validation, adapted, b, training=True)
            seconds += (settings["steps"] // settings["eval_every"] + 1) * evaluation.seconds
            memory = max(memory, evaluation.gpu_gb or 0.0)
        trained = costs.trained_numbers(size, settings, adapted.layers)
        tokens = max(micro_batch, prompt + int(answer))
        pieces = self._gpus(model) if team == 1 else 1
        learned = costs.training_gb(size, adapted, tokens, tokens, trained, b, kl, recomputed, pieces)
        learned = learned if team == 1 else engines.team_gb(learned, size, adapted, b, team)
        learned += costs.CONTEXT_GB if job.engine == "vllm" else 0  # what it keeps asleep
        disk = 4.0 * trained + settings["steps"] * batch * 8.0 * answer
        return Cost(seconds, max(memory, learned), disk)


def whole_gpu_hours(run: Run, ledger: Ledger) -> float:
    """GPU-hours of all steps of a run on H100 GPUs, by formula alone, whatever of it has been done."""
    estimator = Estimator(run, sizes(run, ledger, Path()), MACHINES["h100"])
    return sum(line.gpu_hours for line in lines([job_of(step, run) for step in _steps(Stages(run))], estimator, {}))


def lines(jobs: Iterable[Job], estimator: Estimator, seconds: Mapping[tuple[str, ...], float]) -> list[Line]:
    """Cost of the jobs by rule and model; where jobs of a kind were measured, their mean goes before the formula."""
    by_kind: dict[tuple[str, str], Line] = {}
    for job in jobs:
        line = by_kind.setdefault((job.rule, job.model), Line(job.rule, job.model))
        line.jobs += 1
        cost = estimator.cost(job)
        took = seconds.get(job.kind)
        if cost is None and took is None:
            line.how.add(NOT_ESTIMATED)
            continue
        line.how.add("measured" if took is not None else "formula")
        of_job = took if took is not None else (cost.seconds if cost else 0.0)
        line.gpu_hours += of_job * job.gpus / 3600
        line.cpu_hours += 0.0 if job.gpus else of_job / 3600
        if cost is not None:
            line.disk += cost.disk
            if cost.gpu_gb is not None and job.gpus:
                line.gpu_gb = max(line.gpu_gb or 0.0, cost.gpu_gb)
    return list(by_kind.values())
