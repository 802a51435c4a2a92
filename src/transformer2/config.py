"""The configuration of a run: the one source of its defaults, of config.yaml and of the JSON schema.

`Run()` is the default run on stand-in models; `python -m transformer2 schema` writes config.yaml and
workflow/schemas/config.schema.json from the classes below.
"""

import difflib
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

PAPER_MODELS = {
    "llama3-8b": "meta-llama/Meta-Llama-3-8B-Instruct",
    "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3",
    "llama3-70b": "meta-llama/Meta-Llama-3-70B-Instruct",
    "llava-next-8b": "llava-hf/llama3-llava-next-8b-hf",
}
"""Rows of the paper's tables, and the hub models that they are about."""
PaperModel = Literal["llama3-8b", "mistral-7b", "llama3-70b", "llava-next-8b"]
TASK_MODULES = {
    "gsm8k": "gsm8k",
    "mbpp_pro": "mbpp_pro",
    "arc_easy": "arc",
    "math": "math",
    "humaneval": "humaneval",
    "arc_challenge": "arc",
    "textvqa": "vqa",
    "okvqa": "vqa",
}
"""Tasks, and the module of `transformer2.tasks` that defines each."""
VISION_TASKS = ("textvqa", "okvqa")
"""Tasks about pictures: for vision-language models, which do no others."""
MODULES = {
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "attention_qv": ("q_proj", "v_proj"),
    "mlp_attention_qv": ("gate_proj", "up_proj", "down_proj", "q_proj", "v_proj"),
    "ia3": ("k_proj", "v_proj", "down_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}


CLASSIFIER = "cls"
"""Name of the classification expert: as a method that is trained, and among the experts of a model."""
CROSS = "10_cross"
"""Name of the few-shot adaptation that mixes the experts of both models of a transfer."""
STRATEGIES = {
    "prompt": ("prompt", "generation"),
    "prompt_labels": ("prompt", "labels"),
    "cls": ("cls", "generation"),
    "cls_labels": ("cls", "labels"),
}
"""Ways of two-pass inference -> strategy (the base model or the classification expert classifies) and first pass (it
writes its answer, or one forward pass compares the labels)."""


class ConfigError(ValueError):
    """A mistake in a configuration, in one line."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Training(Section):
    """How one expert is trained. The defaults are the text's choices for SVF (Section 3.2, Appendix A.1, Table 6)."""

    adapter: Literal["svf", "lora", "dora", "ia3", "vera", "tinylora"] = "svf"
    objective: Literal["policy_gradient", "next_token"] = "policy_gradient"
    modules: Literal["mlp", "attention", "attention_qv", "mlp_attention_qv", "ia3", "all"] = "all"
    """Matrices to adapt; attention_qv is the two-matrix attention of Table 4 (0.16M for SVF, 6.82M for LoRA), ia3 what
    IA3 scales in its own paper: keys, values, and what enters the MLP's last matrix."""

    parametrisation: Literal["linear", "sigmoid_nuclear"] = "linear"
    """SVF: linear trains z itself; sigmoid_nuclear is the released code's."""
    init_mean: float | None = None
    """SVF: mean of the trained vector at the start; null is the value that gives z = 1."""
    init_std: float = 1e-3**0.5
    """SVF: its standard deviation at the start; the text states a variance of 1e-3."""
    rank: int = 16
    """Of LoRA, DoRA and VeRA, and of the SVD that TinyLoRA keeps."""
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    projection: int = 64
    """TinyLoRA: length of the trained vector of a matrix."""

    rollout: Literal["sampled", "greedy"] = "sampled"
    """How the policy answers in training: at temperature 1, or greedily (the released code)."""
    reward: Literal["lenient", "strict"] = "strict"
    """Which score gives the reward +1; strict is the released code's scorer, and so the paper's."""
    reward_wrong: float = -1.0
    """Reward of a wrong answer: -1 for language tasks, -0.1 for vision (Appendix A.1)."""
    kl_coefficient: float = Field(0.0, ge=0)
    """Lambda of Eq. (1); 0 is off."""
    kl: Literal["policy_to_base", "base_to_policy"] = "policy_to_base"
    """Eq. (1) has KL(policy || base); the released code has KL(base || policy)."""
    loss: Literal["sum", "mean"] = "sum"
    """Over the tokens of one answer; Eq. (1) has the log-probability of the answer, that is the sum."""

    optimizer: Literal["adamw_cosine", "adam_constant"] = "adamw_cosine"
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    """Of AdamW; the text names none, this is PyTorch's default."""
    clip_norm: float = Field(1e-3, gt=0)
    batch_size: int = Field(256, gt=0)
    steps: int = Field(200, gt=0)
    eval_every: int = Field(10, gt=0)
    """Steps between two evaluations on the validation half."""
    select: Literal["best", "last"] = "best"
    """Which state is the expert: that of the best evaluation, or the last one."""
    patience: int = Field(5, gt=0)
    """Evaluations without a better one after which training stops early."""
    micro_batch_tokens: int = Field(8192, gt=0)
    """Tokens of one forward and backward pass, padding included."""


RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    "release": {
        "modules": "mlp",
        "parametrisation": "sigmoid_nuclear",
        "init_mean": 0.1,
        "init_std": 0.01,
        "rollout": "greedy",
        "kl": "base_to_policy",
        "optimizer": "adam_constant",
        "weight_decay": 0.0,
        "patience": 10**6,
    },
    "paper-lora": {
        "adapter": "lora",
        "objective": "next_token",
        "modules": "attention_qv",
        "learning_rate": 5e-5,
        "clip_norm": 1.0,
        "loss": "mean",
    },
    "paper-ia3": {
        "adapter": "ia3",
        "objective": "next_token",
        "modules": "ia3",
        "learning_rate": 5e-2,
        "clip_norm": 1.0,
        "loss": "mean",
    },
}
"""Named sets of choices, as differences from `Training`'s defaults: `paper` is what the text says of SVF, `release`
what the released code does, `paper-lora` what the text says of its LoRA baseline, `paper-ia3` what it says of IA3
(Appendix B.2: the learning rate)."""


class Method(Section):
    """A way to train experts: a recipe, what differs from it, and what is swept and chosen on validation."""

    recipe: Literal["paper", "release", "paper-lora", "paper-ia3"] = "paper"
    settings: dict[str, Any] = {}
    """Training settings that differ from the recipe's."""
    sweep: dict[str, list[Any]] = {}
    """Training settings with the values to try; every combination is trained, the best on validation is the expert."""
    rows: list[PaperModel] | None = None
    """Rows of the paper's tables whose models are trained; null is all."""
    tasks: list[str] | None = None
    """Training tasks; null is all."""
    also_on: list[str] = []
    """Unseen tasks that its experts are scored on as they are."""

    @model_validator(mode="after")
    def _check(self) -> "Method":
        for key in (*self.settings, *self.sweep):
            if key not in Training.model_fields:
                raise ValueError(unknown("training setting", key, Training.model_fields))
        if empty := [key for key, values in self.sweep.items() if not values]:
            raise ValueError(f"the sweep over {empty[0]} has no value; remove it or name at least one")
        self.points()
        return self

    def points(self) -> dict[str, Training]:
        """Every point of the sweep by its slug."""
        shared = RECIPES[self.recipe] | self.settings
        combinations = [
            dict(zip(self.sweep, values, strict=True)) for values in itertools.product(*self.sweep.values())
        ]
        return {
            "_".join(f"{key}-{value}" for key, value in point.items()) or "single": Training(**(shared | point))
            for point in combinations
        }


class Transfer(Section):
    """Experts of another model, put onto this one (Section 4.3, Analysis 4)."""

    experts_of: str
    """Name of the model whose experts they are."""
    shuffles: int = Field(default=3, gt=0)
    """How many shuffles of every expert are tried beside the ordered one."""
    mapping: Literal["resampled"] | None = None
    """For a model of another depth or width, where null is an error: resampled interpolates every z linearly over the
    relative index of the singular values, and takes it from the layer of the same relative depth (ours, not the
    documents')."""


class Model(Section):
    """A base model: where it comes from and which row of the paper's tables it fills."""

    source: str
    """pocket:<architecture> | hub:<id> | wheel:<package>==<version> | dir:<folder>"""
    revision: str | None = None
    """Commit of the hub repository."""
    backbone: str | None = None
    """Of a vision-language model: the model of this run that is its language model, or stands in for it. It is trained
    on the tasks about pictures, and adapted to the unseen one with the experts of its backbone."""
    row: PaperModel
    """The row that it fills; a model that is not that row's own is named as a stand-in everywhere."""
    seed: int = 0
    """Of the pretraining of a pocket model."""
    pretraining_steps: int | None = None
    """Of a pocket model; null is the architecture's own number."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    strategies: list[Literal["prompt", "cls", "few-shot"]] = ["prompt", "cls", "few-shot"]
    """Ways of self-adaptation to try (the documents' 70B rows have the first alone)."""
    reward_wrong: float | None = None
    """Reward of a wrong answer in place of the methods' own."""
    svf_layers: Literal["all", "half"] = "all"
    """half adapts the upper half of the layers (the text does not say which: the upper one saves the most memory)."""
    gpus: int = 0
    mem_mb: int = 1500
    """Memory that a job with this model asks for."""
    threads: int = 1
    """CPU threads that a job with this model asks for."""
    transfer: Transfer | None = None
    """Experts of another model to try on this one; null tries none."""

    @property
    def standin(self) -> bool:
        return self.source != f"hub:{PAPER_MODELS[self.row]}"


class CEM(Section):
    """The cross-entropy method over alpha. The documents give the iterations; the rest is the released code's, but for
    the smallest deviation and the patience, which it does not have."""

    population: int = Field(default=32, gt=1)
    elites: int = Field(default=6, gt=0)
    iterations: int = Field(default=100, gt=0)
    initial_mean: float | None = Field(default=None, gt=0)
    """Of alpha; null is 1/K, the uniform mix."""
    initial_std: float = Field(default=0.5, gt=0)
    smallest_std: float = Field(default=0.02, ge=0)
    """Floor of the deviation: with few shots the elite can agree by chance."""
    patience: int = Field(default=10, gt=0)
    """Iterations without a better candidate after which the search has converged."""

    @model_validator(mode="after")
    def _elite_is_part(self) -> "CEM":
        if self.elites > self.population:
            raise ValueError(f"{self.elites} elites in a population of {self.population}")
        return self


class Search(CEM):
    """One few-shot search: what is searched, and how a candidate is scored."""

    granularity: Literal["vector", "layer"] = "vector"
    """One alpha an expert, or one an expert and decoder layer."""
    normalised: bool = True
    """Whether the alpha of all experts sum to 1."""
    score: Literal["strict", "lenient"] = "lenient"
    max_new_tokens: int = Field(default=512, gt=0)


class Budget(Section):
    """One few-shot adaptation: how many shots, how long a search, for which models and tasks."""

    shots: int = Field(gt=0)
    iterations: int | None = Field(default=None, gt=0)
    """Of the search; null is that of `cem`."""
    rows: list[PaperModel] | None = None
    """Rows of the paper's tables whose models are adapted; null is all."""
    tasks: list[str] | None = None
    """Unseen tasks; null is all."""


class TaskData(Section):
    """How much of a task is used; null is all of it. Fewer items are a seeded random choice, never the first ones."""

    train: int | None = None
    validation: int | None = None
    test: int | None = None
    max_new_tokens: int | None = None
    """Longest answer in tokens; null is the task's own."""


def _slug(name: str) -> str:
    if not name or not all(c.isascii() and (c.isalnum() or c in "-._") for c in name):
        raise ValueError(f"{name!r} names files: use letters, digits, '-', '.' and '_' only")
    return name


CONFIGURATIONS = {
    "vector": ("vector", False),
    "vector-normalised": ("vector", True),
    "layer": ("layer", False),
    "layer-normalised": ("layer", True),
}
"""The four ways to search that Appendix A.4 names -> granularity (one alpha an expert, or one an expert and layer), and
whether the alpha of all experts sum to 1."""


class Adaptation(Section):
    """Self-adaptation on the unseen tasks (Section 3.3)."""

    experts: str = "svf"
    """Method whose experts are picked and mixed."""
    compared: list[str] = ["lora"]
    """Methods whose experts are tried on the unseen tasks as they are."""
    classifier: Method
    """How the classification expert is trained."""
    prompts: TaskData
    """Prompts that it is trained on, chosen by, and tested with; all classes together, a quarter of each."""
    class_tokens: int = Field(default=64, gt=0)
    """Longest reply of the first pass."""
    configurations: list[Literal["vector", "vector-normalised", "layer", "layer-normalised"]] = list(CONFIGURATIONS)  # pyright: ignore
    cem: CEM = CEM()
    score: Literal["strict", "lenient"] = "strict"
    """Which score the search follows."""
    trained: dict[str, Method] = {}
    """Methods that are trained on the shots themselves, all of them in each batch, instead of a search over mixes
    (Table 8): once for each budget without an own number of iterations."""
    budgets: dict[str, Budget] = {"10": Budget(shots=10)}
    """Few-shot adaptations by name; "10" is the main one, whose shots also choose among the `compared` experts."""

    @field_validator("budgets")
    @classmethod
    def _main_budget(cls, budgets: dict[str, Budget]) -> dict[str, Budget]:
        if "10" not in budgets:
            raise ValueError("the main budget, named '10', is missing")
        return {_slug(name): budget for name, budget in budgets.items()}


Slug = Annotated[str, AfterValidator(_slug)]

# Of the default run.
POCKET_RL: dict[str, Any] = {"learning_rate": 0.02, "steps": 12, "eval_every": 4, "batch_size": 128}
POCKET_NEXT_TOKEN: dict[str, Any] = {"steps": 20, "eval_every": 10, "batch_size": 64}
ABLATION: dict[str, Any] = {"rows": ["llama3-8b"], "tasks": ["gsm8k"], "also_on": ["math"]}
ON_SHOTS: dict[str, Any] = {"rows": ["llama3-8b"], "tasks": ["arc_challenge"]}


class Run(Section):
    """A whole run."""

    run: Slug = "pocket"
    """Name of the run: its results lie in results/<run>/."""
    seeds: list[int] = [0]
    """Every expert is trained once for each."""
    data: str = "pocket"
    """pocket | hub | dir:<folder laid out as <task>/<split>.jsonl[.gz]>"""
    models: dict[Slug, Model] = {
        "pocket-llama": Model(source="pocket:llama", row="llama3-8b"),
        "pocket-mistral": Model(
            source="pocket:mistral", row="mistral-7b", seed=1, transfer=Transfer(experts_of="pocket-llama")
        ),
        "pocket-llama-deep": Model(
            source="pocket:llama-deep", row="llama3-70b", seed=2, svf_layers="half", strategies=["prompt"]
        ),
        "pocket-llava": Model(
            source="pocket:llava-next", backbone="pocket-llama", row="llava-next-8b", seed=3, svf_layers="half",
            reward_wrong=-0.1, strategies=["few-shot"],
        ),
    }  # fmt: skip
    tasks: dict[str, TaskData] = {
        "gsm8k": TaskData(train=600, validation=200, test=400, max_new_tokens=48),
        "mbpp_pro": TaskData(train=600, validation=200, test=400, max_new_tokens=48),
        "arc_easy": TaskData(train=600, validation=200, test=400, max_new_tokens=48),
        "textvqa": TaskData(train=600, validation=200, test=400, max_new_tokens=8),
    }
    unseen: dict[str, TaskData] = {
        "math": TaskData(test=400, max_new_tokens=48),
        "humaneval": TaskData(test=400, max_new_tokens=48),
        "arc_challenge": TaskData(test=400, max_new_tokens=48),
        "okvqa": TaskData(test=400, max_new_tokens=8),
    }
    """Tasks that no expert is trained on (only `test` of them is used): what experts are adapted to."""
    methods: dict[Slug, Method] = {
        "svf": Method(settings=POCKET_RL, sweep={"kl_coefficient": [0.0, 0.1]}),
        "lora": Method(
            recipe="paper-lora",
            settings=POCKET_NEXT_TOKEN,
            sweep={"learning_rate": [5e-4, 2e-3], "clip_norm": [1e-3, 1.0]},
        ),
        # Table 4; its LoRA on next tokens is the one above.
        "svf_mlp_pg": Method(settings=POCKET_RL | {"modules": "mlp"}, sweep={"kl_coefficient": [0.0, 0.1]}, **ABLATION),
        "svf_attention_pg": Method(
            settings=POCKET_RL | {"modules": "attention_qv"}, sweep={"kl_coefficient": [0.0, 0.1]}, **ABLATION
        ),
        "svf_mlp_attention_pg": Method(
            settings=POCKET_RL | {"modules": "mlp_attention_qv"}, sweep={"kl_coefficient": [0.0, 0.1]}, **ABLATION
        ),
        "svf_attention_ntp": Method(
            settings=POCKET_NEXT_TOKEN
            | {"learning_rate": 0.02, "objective": "next_token", "modules": "attention_qv", "loss": "mean"},
            **ABLATION,
        ),
        "lora_attention_pg": Method(
            recipe="paper-lora",
            settings=POCKET_RL | {"objective": "policy_gradient", "loss": "sum"},
            sweep={"learning_rate": [2e-4, 5e-4, 2e-3, 5e-3, 2e-2, 5e-2]},
            **ABLATION,
        ),
        "lora_mlp_attention_ntp": Method(
            recipe="paper-lora",
            settings=POCKET_NEXT_TOKEN | {"modules": "mlp_attention_qv"},
            sweep={"learning_rate": [5e-4, 2e-3]},
            **ABLATION,
        ),
        # Table 7, and two methods that it does not have.
        "dora": Method(
            recipe="paper-lora",
            settings=POCKET_NEXT_TOKEN | {"adapter": "dora"},
            sweep={"learning_rate": [5e-4, 2e-3]},
            rows=["llama3-8b"],
        ),
        "ia3": Method(
            recipe="paper-ia3",
            settings=POCKET_NEXT_TOKEN,
            sweep={"learning_rate": [5e-2, 2e-1]},
            rows=["llama3-8b"],
        ),
        "vera": Method(
            recipe="paper-lora",
            settings=POCKET_NEXT_TOKEN | {"adapter": "vera", "rank": 64},
            sweep={"learning_rate": [1e-2, 5e-2]},
            rows=["llama3-8b"],
        ),
        "tinylora": Method(
            recipe="paper-lora",
            settings=POCKET_NEXT_TOKEN | {"adapter": "tinylora", "rank": 2, "modules": "all"},
            sweep={"learning_rate": [1e-2, 5e-2]},
            rows=["llama3-8b"],
        ),
    }
    reference: str | None = None
    """A method with which all others are compared in one table and figure, such as the deviations study's `paper`."""
    adaptation: Adaptation | None = Adaptation(
        compared=["lora", "dora", "ia3", "vera", "tinylora"],
        classifier=Method(settings=POCKET_RL),
        trained={
            f"ia3_{steps}": Method(
                recipe="paper-ia3", settings={"steps": steps, "eval_every": steps, "select": "last"}, **ON_SHOTS
            )
            for steps in (100, 1000)
        },
        prompts=TaskData(train=216, validation=164, test=140, max_new_tokens=16),
        class_tokens=16,
        cem=CEM(population=16, elites=4, iterations=20, patience=4),
        budgets={
            "10": Budget(shots=10),
            "3": Budget(shots=3, rows=["llama3-8b"], tasks=["arc_challenge"]),
            "5": Budget(shots=5, rows=["llama3-8b"], tasks=["arc_challenge"]),
            "20": Budget(shots=20, rows=["llama3-8b"], tasks=["arc_challenge"]),
            "light": Budget(shots=3, iterations=2, rows=["llama3-8b"], tasks=["arc_challenge"]),
        },
    )
    """Self-adaptation on the unseen tasks; null does without."""
    generation_batch: int = 200
    """Prompts that are answered side by side."""
    allow_unsandboxed_code: bool = False
    """Accept the risk of running model-written code with resource limits alone where no isolation works."""
    scores: str | None = None
    """A file of scores measured elsewhere (docs/own-scores.md): tables are rendered from it, and no model is run."""

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

    @field_validator("methods")
    @classmethod
    def _not_base(cls, methods: dict[str, Method]) -> dict[str, Method]:
        for name in STRATEGIES:
            if name in methods:
                raise ValueError(f"{name!r} is a way of two-pass inference; give the method another name")
        if "base" in methods:
            raise ValueError("'base' is the model without an expert; give the method another name")
        return methods

    @model_validator(mode="after")
    def _vision_fits(self) -> "Run":
        for name, model in self.models.items():
            place = f"models.{name}"
            if not (self.tasks_of(name) or self.scores):
                raise ValueError(f"{place}: no task for it (tasks about pictures are for models with a backbone alone)")
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
                raise ValueError(f"{place}.strategies: a model with a backbone can be adapted by few-shot alone")
            for method in self.adaptation.compared if self.adaptation else []:
                if method in self.methods and name in self.models_of(method) and not self._carries_over(method):
                    raise ValueError(
                        f"methods.{method}.rows: name rows without {model.row}; of what is compared on {name}, the "
                        "experts of its backbone, svf and lora alone can be carried over"
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
        points = self.methods[self.adaptation.experts].points().values()
        if any(point.adapter != "svf" for point in (*points, *self.adaptation.classifier.points().values())):
            raise ValueError(
                "adaptation: experts and classifier must be trained with adapter 'svf'; others cannot be mixed"
            )
        if len({point.modules for point in points}) > 1:
            raise ValueError(
                "adaptation.experts: experts chosen from a sweep over modules may scale different matrices"
            )
        if not self.unseen:
            raise ValueError("unseen: adaptation needs at least one unseen task (or set adaptation to null)")
        if overlap := set(self.tasks) & set(self.unseen):
            raise ValueError(f"unseen: {min(overlap)} is a training task")
        for name, budget in self.adaptation.budgets.items():
            for task in budget.tasks or self.unseen:
                place = f"adaptation.budgets.{name}"
                if task not in self.unseen:
                    raise ValueError(f"{place}.tasks: {unknown('unseen task', task, self.unseen)}")
                if (n := self.unseen[task].test) is not None and n <= budget.shots:
                    raise ValueError(f"{place}.shots: {budget.shots} shots of {n} items of {task} leave none to test")
        return self

    @model_validator(mode="after")
    def _methods_fit(self) -> "Run":
        if self.reference is not None and self.reference not in self.methods:
            raise ValueError(f"reference: {unknown('method', self.reference, self.methods)}")
        for name, method in self.methods.items():
            for task in method.tasks or []:
                if task not in self.tasks:
                    raise ValueError(f"methods.{name}.tasks: {unknown('training task', task, self.tasks)}")
            for task in method.also_on:
                if task not in self.unseen:
                    raise ValueError(f"methods.{name}.also_on: {unknown('unseen task', task, self.unseen)}")
        return self

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
            if model.backbone or self.models[other].backbone:
                raise ValueError(f"{place}: from one language model to another alone, without pictures")
            if self.adaptation is None:
                raise ValueError(f"{place}: without `adaptation` no experts are named that could be transferred")
            if "few-shot" not in model.strategies:
                raise ValueError(f"{place}: it ends in a few-shot search; add few-shot to the strategies of {name}")
            if CROSS in self.adaptation.budgets:
                raise ValueError(f"adaptation.budgets.{CROSS}: {place} uses this name; give the budget another one")
            if taken := self.methods.keys() & self.transferred(name).keys():
                raise ValueError(f"methods.{min(taken)}: {place} uses this name; give the method another one")
        return self

    @property
    def budgets(self) -> dict[str, Budget]:
        """Few-shot adaptations by name: those of the configuration, and the main one over both models' experts."""
        assert self.adaptation is not None
        rows = [model.row for model in self.models.values() if model.transfer]
        main = self.adaptation.budgets["10"]
        cross = {CROSS: main.model_copy(update={"rows": rows})} if rows else {}
        return self.adaptation.budgets | cross

    def transferred(self, model: str) -> dict[str, list[int]]:
        """Methods of the experts that a model has from another one, with their seeds.

        Ordered experts are those of the run's first seed; the seeds of shuffled ones are those of the shuffle.
        """
        transfer = self.models[model].transfer
        if transfer is None:
            return {}
        ordered = f"svf_from_{self.models[transfer.experts_of].row}"
        return {ordered: self.seeds[:1], f"{ordered}_shuffled": list(range(transfer.shuffles))}

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

    def models_of(self, method: str) -> list[str]:
        """The models that a method is trained for."""
        rows = self.trained[method].rows
        return [name for name, model in self.models.items() if rows is None or model.row in rows]

    def standin(self, model: str) -> bool:
        """Whether what runs in the model's row is another model than the paper's, or is tested on other data."""
        return self.models[model].standin or self.data == "pocket"

    @property
    def data_of(self) -> dict[str, TaskData]:
        """How much is used of every task: training tasks, unseen ones, and the classification of prompts."""
        if self.adaptation is None:
            return self.tasks | {name: self.unseen[name] for method in self.methods.values() for name in method.also_on}
        return self.tasks | self.unseen | {"classify": self.adaptation.prompts}

    def search(self, budget: str, configuration: str, task: str) -> dict[str, Any]:
        """Everything that one few-shot adaptation depends on, as plain data (see `adaptation.few_shot.adapt`)."""
        assert self.adaptation is not None
        granularity, normalised = CONFIGURATIONS[configuration]
        iterations = self.budgets[budget].iterations or self.adaptation.cem.iterations
        chosen = {"granularity": granularity, "normalised": normalised, "score": self.adaptation.score}
        tokens = self.data_of[task].max_new_tokens
        chosen |= {"max_new_tokens": tokens} if tokens else {}
        return self.adaptation.cem.model_dump() | {"iterations": iterations} | chosen

    def training(self, model: str, method: str, point: str) -> dict[str, Any]:
        """Everything that the training of one expert depends on, as plain data."""
        training = self.trained[method].points()[point]
        of_model = self.models[model]
        reward = {} if of_model.reward_wrong is None else {"reward_wrong": of_model.reward_wrong}
        return training.model_dump() | reward | {"layers": of_model.svf_layers if training.adapter == "svf" else "all"}


def _for(model: Model, tasks: Iterable[str]) -> list[str]:
    """Those of the tasks that the model can do: about pictures, or of text alone."""
    return [task for task in tasks if (task in VISION_TASKS) == (model.backbone is not None)]


def parse(raw: dict[str, Any]) -> Run:
    """The run that a mapping describes.

    Raises:
        ConfigError: in one line, with the place of the mistake and the nearest valid name.
    """
    return _validated(Run, raw)


def parse_search(raw: dict[str, Any]) -> Search:
    """The settings of a search that a mapping describes; ConfigError as `parse`."""
    return _validated(Search, raw)


def _validated(section: type[Section], raw: dict[str, Any]) -> Any:
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(mistake, section) for mistake in error.errors())) from None


def load(path: Path) -> Run:
    """The run that a YAML file describes; ConfigError as `parse`."""
    try:
        raw = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise ConfigError(f"no configuration {path}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return parse(raw or {})


def unknown(what: str, name: str, valid: Any) -> str:
    """One line that names what is unknown and the nearest valid name."""
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"unknown {what} {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(sorted(valid))}"
    )


def _explain(mistake: Any, root: type[Section]) -> str:
    place = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        parent: Any = root
        for part in mistake["loc"][:-1]:
            field = parent.model_fields.get(part) if parent else None
            parent = _section_of(field.annotation) if field else parent
        return f"{place}: {unknown('key', str(mistake['loc'][-1]), parent.model_fields)}"
    return f"{place}: {mistake['msg'].removeprefix('Value error, ')}" + (
        f" (got {mistake['input']!r})" if not mistake["msg"].startswith("Value error") else ""
    )


def _section_of(annotation: Any) -> type[Section]:
    """The section inside `dict[..., Section]` or `Section | None`."""
    inside = getattr(annotation, "__args__", (annotation,))
    return next((part for part in inside if isinstance(part, type) and issubclass(part, Section)), annotation)


def default_yaml() -> str:
    """config.yaml: the default run with the meaning of each key."""
    data = Run().model_dump()
    data["models"] = {name: model.model_dump(exclude_defaults=True) for name, model in Run().models.items()}
    data["methods"] = {name: method.model_dump(exclude_defaults=True) for name, method in Run().methods.items()}
    assert (adaptation := Run().adaptation)
    data["adaptation"] |= {
        "classifier": adaptation.classifier.model_dump(exclude_defaults=True),
        "trained": {name: method.model_dump(exclude_defaults=True) for name, method in adaptation.trained.items()},
    }
    parts = [
        "# yaml-language-server: $schema=workflow/schemas/config.schema.json",
        "# The default run. Written by `python -m transformer2 schema` from src/transformer2/config.py: edit that.",
    ]
    for key, field in Run.model_fields.items():
        flow = None if isinstance(data[key], dict | list) else False
        block = yaml.safe_dump({key: data[key]}, sort_keys=False, default_flow_style=flow, width=110).rstrip()
        parts += [f"\n# {field.description}" if field.description else "", block]
    return "\n".join(parts) + "\n"


def json_schema() -> str:
    schema = Run.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=1) + "\n"
