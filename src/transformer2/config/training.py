"""How experts are trained: every choice, named recipes of choices, and methods that the tables name."""

import itertools
from typing import Any, Literal

from pydantic import Field, model_validator

from transformer2.config.names import PaperModel
from transformer2.config.section import Section, unknown


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
    """Which state is the expert: that of the best evaluation, the start included, or the last one. With `best`, the
    last state is kept and scored beside it."""
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
        if "select" in self.sweep:
            raise ValueError("select cannot be swept; both states of every training are kept (see `settings`)")
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
