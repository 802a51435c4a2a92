"""The parts of a run: models, data, transfer and self-adaptation."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from transformer2.config.names import CLASS_TOKENS, CONFIGURATIONS, MAIN_BUDGET, PAPER_MODELS, REHEARSAL, PaperModel
from transformer2.config.section import (
    Alpha,
    Batch,
    Count,
    FreeName,
    Iterations,
    Name,
    Real,
    Reward,
    Section,
    Seed,
    Several,
    Some,
    Tokens,
    Whole,
)  # fmt: skip
from transformer2.config.sources import ModelSource, Revision, layers
from transformer2.config.training import Method

Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
"""Of a repository."""


class Transfer(Section):
    """Experts of another model, put onto this one (Section 4.3, Analysis 4)."""

    experts_of: str
    """Name of the model whose experts they are."""
    shuffles: Whole = Field(default=3, ge=1, le=1000)
    """How many shuffles of every expert are tried beside the ordered one."""
    mapping: Literal["resampled"] | None = None
    """For a model of another depth or width, where null is an error: resampled interpolates every z linearly over the
    relative index of the singular values, and takes it from the layer of the same relative depth (ours, not the
    papers')."""


class Blocks(Section):
    """How many processes share the steps of a stage of a model. Each of them loads the model once, may run beside the
    others, and is a job of its own on a cluster."""

    train: Whole = Field(default=1, ge=1, le=1000)
    """Trainings: every point of every sweep."""
    answer: Whole = Field(default=1, ge=1, le=1000)
    """Answers, of the base model and the experts, and again of what adaptation made."""
    adapt: Whole = Field(default=1, ge=1, le=1000)
    """Dispatch, few-shot searches, and trainings on shots."""
    score: Whole = Field(default=1, ge=1, le=1000)
    """Scores, which need no model."""


class Model(Section):
    """A base model: where it comes from, and which row of the paper's tables it fills if it fills one."""

    source: ModelSource
    """pocket:<architecture> | hub:<id> | wheel:<package>==<version> | dir:<folder>"""
    revision: Revision | None = None
    """Commit of the hub repository."""
    backbone: str | None = None
    """Of a vision-language model: the model of this run that is its language model, or stands in for it. It is trained
    on the tasks about pictures, and adapted to the unseen one with the experts of its backbone."""
    row: PaperModel | None = None
    """The row that it fills; a model that is not that row's own is named as a stand-in everywhere. A model without it
    is ours alone: every table that it has scores for shows it in rows of its own, beside no number of the paper."""
    seed: Seed = 0
    """Of the pretraining of a pocket model."""
    pretraining_steps: Count | None = None
    """Of a pocket model; null is the architecture's own number."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    """Whether a decoder layer keeps only its input in training and runs again in the backward pass: less memory for
    more time, and the same gradients."""
    strategies: Several[Literal["prompt", "cls", "few-shot"]] = ["prompt", "cls", "few-shot"]
    """Ways of self-adaptation to try (the papers' 70B rows have only the first)."""
    reward_wrong: Reward | None = None
    """Reward of a wrong answer in place of the methods' own."""
    svf_layers: Literal["all", "half"] = "all"
    """half adapts the upper half of the layers (the text does not say which: the upper one saves the most memory)."""
    basis_blocks: Whole = Field(default=1, ge=1, le=1000)
    """Into how many jobs the decomposition of its matrices is divided, by layers."""
    blocks: Blocks = Blocks()
    """Into how many processes each of its stages is divided."""
    generation_batch: Batch | None = None
    """Prompts that it answers side by side; null is the run's number."""
    gpus: Whole = Field(default=0, ge=0, le=1000)
    mem_mb: Whole = Field(default=1500, ge=100, le=10**8)
    """Memory that a job with this model asks for."""
    threads: Whole = Field(default=1, ge=1, le=1000)
    """CPU threads that a job with this model asks for."""
    transfer: Transfer | None = None
    """Experts of another model to try on this one; null tries none."""

    @model_validator(mode="after")
    def _settings_of_the_source(self) -> "Model":
        kind = self.source.partition(":")[0]
        if self.revision is not None and kind != "hub":
            raise ValueError(f"revision: only a model of the hub has one, and this one is {self.source}")
        if self.pretraining_steps is not None and kind != "pocket":
            raise ValueError(
                f"pretraining_steps: only a pocket model is pretrained here, and this one is {self.source}"
            )
        if self.backbone is not None and kind == "pocket" and self.source != "pocket:llava-next":
            raise ValueError(f"backbone: {self.source} is a language model; only a vision-language model has one")
        if (known := layers(self.source)) is not None and self.basis_blocks > known:
            raise ValueError(f"basis_blocks: {self.basis_blocks} blocks of {known} layers; at most one for each layer")
        return self

    @property
    def standin(self) -> bool:
        """Whether it fills the row of another model."""
        if self.row is None:
            return False
        real = self.source.split(":", 2)[-1] if self.source.startswith(REHEARSAL) else self.source
        return real != f"hub:{PAPER_MODELS[self.row]}"


class CEM(Section):
    """The cross-entropy method over alpha. The papers give the iterations; the rest is the released code's, but for
    the smallest deviation and the patience, which it does not have."""

    population: Whole = Field(default=32, ge=2, le=10**5)
    elites: Whole = Field(default=6, ge=1, le=10**5)
    iterations: Iterations = 100
    initial_mean: Alpha | None = None
    """Of alpha; null is 1/K, the uniform mix."""
    initial_std: Real = Field(default=0.5, gt=0, le=100)
    smallest_std: Real = Field(default=0.02, ge=0, le=100)
    """Floor of the deviation: with few shots the elite can agree by chance."""
    patience: Count = 10
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
    max_new_tokens: Tokens = 512


class Budget(Section):
    """One few-shot adaptation: how many shots, how long a search, for which models and tasks."""

    shots: Whole = Field(ge=1, le=10**5)
    iterations: Iterations | None = None
    """Of the search; null is that of `cem`."""
    rows: Some[Name] | None = None
    """Rows whose models are adapted: the paper's, and models that have no `row` by their names; null is all."""
    tasks: Some[str] | None = None
    """Unseen tasks; null is all."""


class TaskData(Section):
    """How much of a task is used; null is all of it. Fewer items are a seeded random choice, never the first ones.

    All of validation is the released code's half of the training split; of TextVQA these are 17,301 items, so the
    paper's run sets 500 (docs/data.md)."""

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None
    max_new_tokens: Tokens | None = None
    """Longest answer in tokens; null is the task's own."""
    revision: Commit | None = None
    """Commit of the data set on the hub; null is the task's own (docs/data.md)."""


class Adaptation(Section):
    """Self-adaptation on the unseen tasks (Section 3.2)."""

    seeds: Count | None = None
    """Of how many of the run's seeds the experts are adapted, from the first one on; null is all."""
    experts: str = "svf"
    """Method whose experts are picked and mixed."""
    compared: Several[str] = ["lora"]
    """Methods whose experts are tried on the unseen tasks as they are."""
    classifier: Method
    """How the classification expert is trained."""
    prompts: TaskData
    """Prompts that it is trained on, chosen by, and tested with: all classes together, equal parts of each. A class
    that has fewer gives all, and is drawn more often; null takes every prompt."""
    class_tokens: Tokens = CLASS_TOKENS
    """Longest reply of the first pass."""
    configurations: Some[Literal["vector", "vector-normalised", "layer", "layer-normalised"]] = list(CONFIGURATIONS)  # pyright: ignore
    cem: CEM = CEM()
    score: Literal["strict", "lenient"] = "strict"
    """Which score the search follows."""
    trained: dict[FreeName, Method] = {}
    """Methods that are trained on the shots themselves, all of them in each batch, instead of a search over mixes
    (Table 8): once for each budget without an own number of iterations."""
    budgets: dict[FreeName, Budget] = {MAIN_BUDGET: Budget(shots=10)}
    """Few-shot adaptations by name; "10" is the main one, whose shots also choose among the `compared` experts."""

    @field_validator("budgets")
    @classmethod
    def _main_budget(cls, budgets: dict[str, Budget]) -> dict[str, Budget]:
        if MAIN_BUDGET not in budgets:
            raise ValueError(f"the main budget, named {MAIN_BUDGET!r}, is missing")
        return budgets
