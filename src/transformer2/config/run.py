"""A whole run: its settings, the checks that they fit together, and what follows from them."""

import itertools
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from transformer2.config import default
from transformer2.config.limits import check_sizes, known_items
from transformer2.config.mistakes import unknown
from transformer2.config.names import (
    CLASSIFIER,
    CONFIGURATIONS,
    CROSS,
    MAIN_BUDGET,
    MODELS_FOLDER,
    PAPER_MODELS,
    REHEARSAL,
    TASK_MODULES,
    VISION_TASKS,
    Tracker,
    reserved,
)
from transformer2.config.parts import Adaptation, Budget, Model, TaskData
from transformer2.config.section import Batch, FreeName, Name, Section, Seed, Several, Some, path
from transformer2.config.seeds import check_seeds
from transformer2.config.sources import Container, DataSource
from transformer2.config.training import Method


class Run(Section):
    """A whole run."""

    run: Name = "pocket"
    """Name of the run: its results lie in results/<run>/."""
    seeds: Some[Seed] = Field(default=default.SEEDS, max_length=1000)
    """Every expert is trained once for each, but where a method or the adaptation names fewer."""
    data: DataSource = "pocket"
    """pocket | hub | dir:<folder laid out as <task>/<split>.jsonl[.gz]>"""
    models: dict[Name, Model] = default.MODELS
    tasks: dict[str, TaskData] = default.TASKS
    unseen: dict[str, TaskData] = default.UNSEEN
    """Tasks that no expert is trained on (only `test` of them is used): what experts are adapted to."""
    methods: dict[FreeName, Method] = default.METHODS
    reference: str | None = None
    """A method with which all others are compared in one table and figure, such as the deviations study's `paper`."""
    adaptation: Adaptation | None = default.ADAPTATION
    """Self-adaptation on the unseen tasks; null does without."""
    engine: Literal["hf", "vllm"] = "hf"
    """Which engine answers in evaluation and training of language models (docs/vllm.md). Dispatch, few-shot searches
    and models that take pictures are left to transformers' own generation."""
    generation_batch: Batch = 200
    """Prompts that are answered side by side by transformers' own generation."""
    allow_unsandboxed_code: bool = False
    """Accept the risk of running model-written code with resource limits only where no isolation works."""
    scores: Annotated[str, AfterValidator(path)] | None = None
    """A file of scores measured elsewhere (docs/own-scores.md): tables are rendered from it, and no model is run."""
    report_to: Several[Tracker] = []
    """tensorboard | trackio | wandb: where the curves of trainings are sent while they run (docs/train.md)."""
    container: Container | None = None
    """Image for `--sdm apptainer` (docs/deploy.md); null takes the published one, where that is known."""

    @field_validator("tasks", "unseen")
    @classmethod
    def _known_tasks(cls, tasks: dict[str, TaskData]) -> dict[str, TaskData]:
        for name in tasks:
            if name not in TASK_MODULES:
                raise ValueError(unknown("task", name, TASK_MODULES))
        return tasks

    @field_validator("models", "tasks", "seeds")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if not value:
            raise ValueError("needs at least one entry")
        return value

    @field_validator("models")
    @classmethod
    def _one_model_a_row(cls, models: dict[str, Model]) -> dict[str, Model]:
        first: dict[str, str] = {}
        for name, model in models.items():
            if model.row is None and name in PAPER_MODELS:
                raise ValueError(f"{name} is a row of the paper: set `row: {name}`, or give the model another name")
            if (other := first.setdefault(model.row or name, name)) != name:
                raise ValueError(f"{other} and {name} both fill row {model.row}: one model a row")
        return models

    @field_validator("run")
    @classmethod
    def _not_the_models(cls, run: str) -> str:
        if run == MODELS_FOLDER:
            raise ValueError(f"results/{run} is the folder of all base models; choose another name")
        return run

    @model_validator(mode="after")
    def _revisions_are_of_the_hub(self) -> "Run":
        for part, tasks in (("tasks", self.tasks), ("unseen", self.unseen)):
            for name, task in tasks.items():
                if task.revision and self.data != "hub":
                    raise ValueError(f"{part}.{name}.revision: is for `data: hub`; data is {self.data}")
        return self

    @model_validator(mode="after")
    def _rows_are_known(self) -> "Run":
        known = [*PAPER_MODELS, *(name for name, model in self.models.items() if model.row is None)]
        limited: dict[str, Method | Budget] = {f"methods.{name}": method for name, method in self.methods.items()}
        if self.adaptation is not None:
            limited |= {f"adaptation.trained.{name}": method for name, method in self.adaptation.trained.items()}
            limited |= {f"adaptation.budgets.{name}": budget for name, budget in self.adaptation.budgets.items()}
        for place, part in limited.items():
            for row in part.rows or []:
                if row not in known:
                    raise ValueError(f"{place}.rows: {unknown('row', row, known)}")
        return self

    @model_validator(mode="after")
    def _vision_fits(self) -> "Run":
        for name, model in self.models.items():
            place = f"models.{name}"
            if not (self.tasks_of(name) or self.scores):
                raise ValueError(f"{place}: no task for it (tasks about pictures are only for models with a backbone)")
            if model.backbone is None:
                if model.source == "pocket:llava-next":
                    raise ValueError(
                        f"{place}.backbone: missing; pocket:llava-next is built around another pocket model"
                    )
                continue
            if model.backbone not in self.models or self.models[model.backbone].backbone:
                others = [other for other in self.models if self.models[other].backbone is None]
                raise ValueError(f"{place}.backbone: {unknown('language model', model.backbone, others)}")
            if self.adaptation and set(model.strategies) - {"few-shot"}:
                raise ValueError(f"{place}.strategies: a model with a backbone can only be adapted by few-shot")
            made = self.models[model.backbone].source
            if model.source == "pocket:llava-next" and made.startswith(("hub:", "wheel:")):
                raise ValueError(
                    f"{place}.backbone: pocket:llava-next is built around a pocket model; {model.backbone} is {made}"
                )
            for method in self.adaptation.compared if self.adaptation else []:
                if method in self.methods and {name, model.backbone} & {*self.models_of(method)} == {name}:
                    raise ValueError(
                        f"methods.{method}.rows: name {self.row_of(model.backbone)}, too; on {name} the experts of "
                        f"its backbone {model.backbone} are compared"
                    )
                if method in self.methods and name in self.models_of(method) and not self._carries_over(method):
                    raise ValueError(
                        f"methods.{method}.rows: name rows without {self.row_of(name)}; of what is compared on {name}, "
                        "the experts of its backbone, only svf and lora can be carried over"
                    )
        return self

    def _carries_over(self, method: str) -> bool:
        """Whether experts of a language model can be those of a vision-language model around it."""
        return all(point.adapter in ("svf", "lora") for point in self.methods[method].points().values())

    @model_validator(mode="after")
    def _adaptation_fits(self) -> "Run":
        if self.adaptation is None:
            return self
        for key, names in (("experts", [self.adaptation.experts]), ("compared", self.adaptation.compared)):
            for name in names:
                if name not in self.methods:
                    raise ValueError(f"adaptation.{key}: {unknown('method', name, self.methods)}")
        experts = self.methods[self.adaptation.experts]
        if experts.rows is not None or experts.tasks is not None:
            raise ValueError("adaptation.experts: is picked and mixed for all models; it cannot have rows or tasks")
        for name, method in self.adaptation.trained.items():
            if method.sweep:
                raise ValueError(f"adaptation.trained.{name}: there is no validation data to choose from a sweep by")
            if method.also_on:
                raise ValueError(f"adaptation.trained.{name}.also_on: is for `methods`; shots are of one task")
        for key in ("rows", "tasks", "also_on"):
            if getattr(self.adaptation.classifier, key):
                raise ValueError(f"adaptation.classifier.{key}: is for `methods`; the classifier is trained for all")
        points = self.methods[self.adaptation.experts].points().values()
        if any(point.adapter != "svf" for point in (*points, *self.adaptation.classifier.points().values())):
            raise ValueError(
                "adaptation: experts and classifier must be trained with adapter 'svf'; others cannot be mixed"
            )
        if len({(point.modules, point.layers) for point in points}) > 1:
            raise ValueError(
                "adaptation.experts: experts chosen from a sweep over modules or layers may scale different matrices"
            )
        if not self.unseen:
            raise ValueError("unseen: adaptation needs at least one unseen task (or set adaptation to null)")
        if overlap := set(self.tasks) & set(self.unseen):
            raise ValueError(f"unseen: {min(overlap)} is a training task")
        for name, budget in self.adaptation.budgets.items():
            for task in self.unseen if budget.tasks is None else budget.tasks:
                place = f"adaptation.budgets.{name}"
                if task not in self.unseen:
                    raise ValueError(f"{place}.tasks: {unknown('unseen task', task, self.unseen)}")
                if (n := known_items(self, task, "test")) is not None and n <= budget.shots:
                    raise ValueError(f"{place}.shots: {budget.shots} shots of {n} items of {task} leave none to test")
        return self

    @model_validator(mode="after")
    def _methods_fit(self) -> "Run":
        check_seeds(self)
        if self.reference is not None and self.reference not in self.methods:
            raise ValueError(f"reference: {unknown('method', self.reference, self.methods)}")
        for name, method in self.methods.items():
            if any(point.rollout == "labels" for point in method.points().values()):
                raise ValueError(f"methods.{name}: rollout labels is for adaptation.classifier alone")
            for task in method.tasks or []:
                if task not in self.tasks:
                    raise ValueError(f"methods.{name}.tasks: {unknown('training task', task, self.tasks)}")
            for task in method.also_on:
                if task not in self.unseen:
                    raise ValueError(f"methods.{name}.also_on: {unknown('unseen task', task, self.unseen)}")
        for name, method in self.trained.items():
            self._answers_differ(name, method)
        on_shots = self.adaptation.trained if self.adaptation else {}
        if taken := on_shots.keys() & self.methods.keys():
            raise ValueError(f"adaptation.trained.{min(taken)}: the name is taken; give the method another one")
        named: dict[str, str] = dict.fromkeys(self.trained, "methods")
        for name, budget in itertools.product(on_shots, self.adaptation.budgets if self.adaptation else []):
            place = f"adaptation.trained.{name} with budget {budget}"
            if other := named.get(f"{name}_{budget}"):
                raise ValueError(f"{place}: {name}_{budget} is a name of {other}, too; rename one")
            named[f"{name}_{budget}"] = place
        for name, method in on_shots.items():
            for task in method.tasks or []:
                if task not in self.unseen:
                    raise ValueError(f"adaptation.trained.{name}.tasks: {unknown('unseen task', task, self.unseen)}")
        return self

    def _answers_differ(self, name: str, method: Method) -> None:
        """Checks that several answers to a prompt are asked for only where they can differ."""
        place = f"methods.{name}" if name in self.methods else f"adaptation.trained.{name}"
        place = "adaptation.classifier" if name == CLASSIFIER else place
        for point in method.points().values():
            if point.answers > 1 and point.objective == "next_token":
                raise ValueError(f"{place}: answers is {point.answers}, but next_token samples none; leave answers out")
            if point.answers > 1 and point.rollout == "greedy":
                raise ValueError(
                    f"{place}: answers is {point.answers}, but greedy answers to a prompt are all the same; leave "
                    "answers out, or set rollout: sampled"
                )

    @model_validator(mode="after")
    def _transfers_fit(self) -> "Run":
        for name, model in self.models.items():
            if model.transfer is None:
                continue
            place, other = f"models.{name}.transfer", model.transfer.experts_of
            if other not in self.models:
                raise ValueError(f"{place}.experts_of: {unknown('model', other, self.models)}")
            if other == name:
                raise ValueError(f"{place}.experts_of: {name} already has its own experts; name another model")
            if self.models[other].row is None and (user := reserved(other)):
                raise ValueError(f"{place}.experts_of: {other!r} is a name of {user}; give that model another one")
            if model.backbone or self.models[other].backbone:
                raise ValueError(f"{place}: only from one language model to another, without pictures")
            if self.adaptation is None:
                raise ValueError(f"{place}: without `adaptation` no experts are named that could be transferred")
            if "few-shot" not in model.strategies:
                raise ValueError(f"{place}: it ends in a few-shot search; add few-shot to the strategies of {name}")
        return self

    @model_validator(mode="after")
    def _pocket_data_end(self) -> "Run":
        if self.data != "pocket" or self.scores is not None:
            return self
        splits = [("tasks", task, split) for task in self.tasks for split in ("train", "validation", "test")]
        for part, task, split in splits + [("unseen", task, "test") for task in self.data_of if task in self.unseen]:
            if getattr(getattr(self, part)[task], split) is None:
                raise ValueError(f"{part}.{task}.{split}: missing; pocket data has no end, so say how many rows to use")
        return self

    @model_validator(mode="after")
    def _data_suffice(self) -> "Run":
        if self.scores is None:
            check_sizes(self)
        return self

    @property
    def budgets(self) -> dict[str, Budget]:
        """Few-shot adaptations by name: those of the configuration, and the main one over both models' experts."""
        assert self.adaptation is not None
        rows = [self.row_of(name) for name, model in self.models.items() if model.transfer]
        main = self.adaptation.budgets[MAIN_BUDGET]
        cross = {CROSS: main.model_copy(update={"rows": rows})} if rows else {}
        return self.adaptation.budgets | cross

    def transferred(self, model: str) -> dict[str, list[int]]:
        """Methods of the experts that a model has from another one, with their seeds.

        Ordered experts are those of the first seed that is adapted; a shuffled one's seed is that of its shuffle.
        """
        transfer = self.models[model].transfer
        if transfer is None:
            return {}
        ordered = f"svf_from_{self.row_of(transfer.experts_of)}"
        return {ordered: self.adaptation_seeds[:1], f"{ordered}_shuffled": list(range(transfer.shuffles))}

    def row_of(self, model: str) -> str:
        """The row of the tables that a model fills: one of the paper's, or a row of its own, which has its name."""
        return self.models[model].row or model

    def tasks_of(self, model: str) -> list[str]:
        """Tasks that experts of a model are trained on."""
        return _for(self.models[model], self.tasks)

    def unseen_of(self, model: str) -> list[str]:
        """Tasks that experts are adapted to on a model."""
        return _for(self.models[model], self.unseen)

    @property
    def text_tasks(self) -> list[str]:
        """Training tasks of language models, whose experts are mixed or dispatched to."""
        return [task for task in self.tasks if task not in VISION_TASKS]

    @property
    def trained(self) -> dict[str, Method]:
        """Every method that trains experts: those of the training tasks, the classification expert's, and those that
        are trained on shots."""
        if self.adaptation is None:
            return self.methods
        return self.methods | {CLASSIFIER: self.adaptation.classifier} | self.adaptation.trained

    @property
    def adaptation_seeds(self) -> list[int]:
        """Seeds whose experts are adapted."""
        return self.seeds[: self.adaptation.seeds if self.adaptation else None]

    def seeds_of(self, method: str) -> list[int]:
        """Seeds that a method's experts are trained with."""
        return self.seeds[: self.methods[method].seeds] if method in self.methods else self.adaptation_seeds

    def models_of(self, method: str) -> list[str]:
        """The models that a method is trained for."""
        rows = self.trained[method].rows
        return [name for name in self.models if rows is None or self.row_of(name) in rows]

    def states_of(self, method: str) -> list[str]:
        """The states of a method's trainings that are scored: the best and the last, or only the last where it is the
        expert (`select`)."""
        expert = next(iter(self.trained[method].points().values())).select
        return ["last"] if expert == "last" else ["best", "last"]

    def standin(self, model: str) -> bool:
        """Whether what runs in a row of the paper is another model than the paper's, or is tested on other data."""
        if self.models[model].row is None:
            return False
        return self.models[model].standin or self.data.removeprefix(REHEARSAL) == "pocket"

    @property
    def data_of(self) -> dict[str, TaskData]:
        """How much is used of every task: training tasks, unseen ones, and the classification of prompts."""
        if self.adaptation is None:
            return self.tasks | {name: self.unseen[name] for method in self.methods.values() for name in method.also_on}
        return self.tasks | self.unseen | {"classify": self.adaptation.prompts}

    def batch_rows(self, model: str) -> int:
        """Prompts that a model answers side by side."""
        own = self.models[model].generation_batch
        return self.generation_batch if own is None else own

    def search(self, budget: str, configuration: str, task: str) -> dict[str, Any]:
        """Everything that one few-shot adaptation depends on, as plain data (see `Search`)."""
        assert self.adaptation is not None
        granularity, normalised = CONFIGURATIONS[configuration]
        own = self.budgets[budget].iterations
        iterations = self.adaptation.cem.iterations if own is None else own
        chosen = {"granularity": granularity, "normalised": normalised, "score": self.adaptation.score}
        tokens = self.data_of[task].max_new_tokens
        chosen |= {} if tokens is None else {"max_new_tokens": tokens}
        return self.adaptation.cem.model_dump() | {"iterations": iterations} | chosen

    def settings_of_results(self) -> str:
        """The settings without those that decide nothing of any result, as JSON."""
        return self.model_dump_json(exclude={"report_to", "container"})

    def engine_for(self, model: str, methods: Iterable[str]) -> str:
        """The engine that answers with experts of these methods (none: without an expert).

        vLLM answers for language models: with SVF and LoRA on any number of GPUs, with other adapters on one.
        """
        of_model = self.models[model]
        adapters = {point.adapter for method in methods for point in self.trained[method].points().values()}
        fits = of_model.backbone is None and (of_model.gpus <= 1 or adapters <= {"svf", "lora"})
        return self.engine if fits else "hf"

    def training(self, model: str, method: str, point: str) -> dict[str, Any]:
        """Everything that the training of one expert depends on, as plain data."""
        training = self.trained[method].points()[point]
        of_model = self.models[model]
        reward = {} if of_model.reward_wrong is None else {"reward_wrong": of_model.reward_wrong}
        of_svf = of_model.svf_layers if training.layers is None else training.layers
        return training.model_dump() | reward | {"layers": of_svf if training.adapter == "svf" else "all"}


def _for(model: Model, tasks: Iterable[str]) -> list[str]:
    """Those of the tasks that the model can do: about pictures, or about text."""
    return [task for task in tasks if (task in VISION_TASKS) == (model.backbone is not None)]
