"""How experts are trained: every choice, named recipes of choices, and methods that the tables name."""

import itertools
import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from transformer2.config.mistakes import unknown
from transformer2.config.section import Batch, Count, Name, Real, Reward, Section, Several, Some, Start, Whole


class Training(Section):
    """How one expert is trained. The defaults are the text's choices for SVF (Section 3.2, Appendix A.1, Table 6)."""

    adapter: Literal["svf", "lora", "dora", "ia3", "vera", "tinylora"] = "svf"
    objective: Literal["policy_gradient", "next_token"] = "policy_gradient"
    modules: Literal["mlp", "attention", "attention_qv", "mlp_attention_qv", "ia3", "all"] = "all"
    """Matrices to adapt; attention_qv is the two-matrix attention of Table 4 (0.16M for SVF, 6.82M for LoRA), ia3 what
    IA3 scales in its own paper: keys, values, and what enters the MLP's last matrix."""

    layers: Literal["all", "half"] | None = None
    """SVF: layers to adapt; half is the upper half, null is what the model says (`svf_layers`)."""
    parametrisation: Literal["linear", "sigmoid_nuclear"] = "linear"
    """SVF: linear trains z itself; sigmoid_nuclear is the released code's."""
    init_mean: Start | None = None
    """SVF: mean of the trained vector at the start; null is the value that gives z = 1."""
    init_std: Real = Field(1e-3**0.5, ge=0, le=100)
    """SVF: its standard deviation at the start; the text states a variance of 1e-3."""
    rank: Whole = Field(16, ge=1, le=10**5)
    """Of LoRA, DoRA and VeRA, and of the SVD that TinyLoRA keeps."""
    lora_alpha: Whole = Field(32, ge=1, le=10**6)
    lora_dropout: Real = Field(0.05, ge=0, lt=1)
    projection: Whole = Field(64, ge=1, le=10**6)
    """TinyLoRA: length of the trained vector of a matrix."""

    rollout: Literal["sampled", "greedy", "labels"] = "sampled"
    """How the policy answers in training: at temperature 1, or greedily (the released code). For the classification
    expert labels draws among the four answers that name a class (ours, for models that never answer so freely)."""
    answers: Whole = Field(1, ge=1, le=1000)
    """Sampled answers to each prompt, all of which `batch_size` counts. With more than one, what an answer is learnt
    with is its reward minus the mean reward of the others (leave-one-out, RLOO), in place of the reward itself."""
    reward: Literal["lenient", "strict"] = "strict"
    """Which score gives the reward +1; strict is the released code's scorer, and so the paper's."""
    reward_wrong: Reward = -1.0
    """Reward of a wrong answer: -1 for language tasks, -0.1 for vision (Appendix A.1)."""
    kl_coefficient: Real = Field(0.0, ge=0, le=1000)
    """Lambda of Eq. (1); 0 is off."""
    kl: Literal["policy_to_base", "base_to_policy"] = "policy_to_base"
    """Eq. (1) has KL(policy || base); the released code has KL(base || policy)."""
    loss: Literal["sum", "mean"] = "sum"
    """Over the tokens of one answer; Eq. (1) has the log-probability of the answer, that is the sum."""

    optimizer: Literal["adamw_cosine", "adam_constant"] = "adamw_cosine"
    learning_rate: Real = Field(2e-3, gt=0, le=100)
    weight_decay: Real = Field(0.01, ge=0, le=100)
    """Of AdamW; the text names none, this is PyTorch's default."""
    clip_norm: Real = Field(1e-3, gt=0, le=10**9)
    batch_size: Batch = 256
    steps: Count = 200
    eval_every: Count = 10
    """Steps between two evaluations on the validation half."""
    select: Literal["best", "last"] = "best"
    """Which state is the expert: that of the best evaluation, the start included, or the last one. With `best`, the
    last state is kept and scored beside it."""
    patience: Count = 5
    """Evaluations without a better one after which training stops early."""
    micro_batch_tokens: Count = 8192
    """Most tokens of one forward and backward pass, padding included. A training halves them where a GPU has too little
    memory; results depend on them by rounding alone, and by which numbers dropout draws."""


class TaskTraining(Training):
    """How one expert is trained on a task, whose answers have at most so many tokens."""

    max_new_tokens: Count


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


MOST_POINTS = 1000
"""Points of one sweep."""
LONGEST_POINT = 200
"""Characters in the name of a point, which is one of a folder."""


def _mapping(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


_SETTINGS: dict[str, Any] = Training.model_json_schema()["properties"]
_SWEEPS = {key: {"type": "array", "items": schema, "minItems": 1} for key, schema in _SETTINGS.items()}


class Method(Section):
    """A way to train experts: a recipe, what differs from it, and what is swept and chosen on validation."""

    recipe: Literal["paper", "release", "paper-lora", "paper-ia3"] = "paper"
    settings: Annotated[dict[str, Any], WithJsonSchema(_mapping(_SETTINGS))] = {}
    """Training settings that differ from the recipe's."""
    sweep: Annotated[dict[str, list[Any]], WithJsonSchema(_mapping(_SWEEPS))] = {}
    """Training settings with the values to try; every combination is trained, the best on validation is the expert."""
    rows: Some[Name] | None = None
    """Rows whose models are trained: the paper's, and models that have no `row` by their names; null is all."""
    tasks: Some[str] | None = None
    """Training tasks; null is all."""
    seeds: Count | None = None
    """With how many of the run's seeds it is trained, from the first one on; null is all."""
    also_on: Several[str] = []
    """Unseen tasks that its experts are scored on as they are."""

    @field_validator("settings")
    @classmethod
    def _are_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        _known(settings)
        valid = Training.model_validate(settings)
        return {key: getattr(valid, key) for key in settings}

    @field_validator("sweep")
    @classmethod
    def _are_sweeps(cls, sweep: dict[str, list[Any]]) -> dict[str, list[Any]]:
        _known(sweep)
        if "select" in sweep:
            raise ValueError("select cannot be swept; both states of every training are kept (see `settings`)")
        for key, values in sweep.items():
            if not values:
                raise ValueError(f"{key} has no value; remove it or name at least one")
        if (count := math.prod(map(len, sweep.values()))) > MOST_POINTS:
            raise ValueError(f"{count} combinations; at most {MOST_POINTS} are trained")
        valid = {
            key: [getattr(Training.model_validate({key: value}), key) for value in values]
            for key, values in sweep.items()
        }
        for key, values in valid.items():
            if repeated := [value for i, value in enumerate(values) if value in values[:i]]:
                raise ValueError(f"{key} has {repeated[0]!r} twice")
        if (longest := max(map(len, _combinations(valid)))) > LONGEST_POINT:
            raise ValueError(f"names of its points would have up to {longest} characters; sweep over fewer settings")
        return valid

    @model_validator(mode="after")
    def _set_once(self) -> "Method":
        if twice := self.settings.keys() & self.sweep.keys():
            raise ValueError(f"sweep.{min(twice)}: is a fixed value of `settings`, too; remove one of them")
        return self

    def points(self) -> dict[str, Training]:
        """Every point of the sweep by its slug."""
        shared = RECIPES[self.recipe] | self.settings
        return {slug: Training(**(shared | point)) for slug, point in _combinations(self.sweep).items()}


def _known(settings: Iterable[str]) -> None:
    for key in settings:
        if key not in Training.model_fields:
            raise ValueError(unknown("training setting", key, Training.model_fields))


def _combinations(sweep: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """Every combination of the values of a sweep by its slug."""
    combinations = [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]
    return {"_".join(f"{key}-{value}" for key, value in point.items()) or "single": point for point in combinations}
