"""Names that configurations, rules and tables share."""

from typing import Literal

PAPER_MODELS = {
    "llama3-8b": "meta-llama/Meta-Llama-3-8B-Instruct",
    "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3",
    "llama3-70b": "meta-llama/Meta-Llama-3-70B-Instruct",
    "llava-next-8b": "llava-hf/llama3-llava-next-8b-hf",
}
"""Rows of the paper's tables, and the hub models that they are about."""
PAPER_LAYERS = {"llama3-8b": 32, "mistral-7b": 32, "llama3-70b": 80, "llava-next-8b": 32}
"""Decoder layers of these models."""
POCKET_LAYERS = {"llama": 2, "mistral": 2, "llama-deep": 4, "llava-next": 2}
"""Architectures of pocket models, and their decoder layers."""
Tracker = Literal["tensorboard", "trackio", "wandb"]
"""A library that shows training curves."""
PaperModel = Literal["llama3-8b", "mistral-7b", "llama3-70b", "llava-next-8b"]
CLASS_TOKENS = 64
"""Longest reply of the first pass of dispatch, where nothing else is asked for."""
MAIN_BUDGET = "10"
"""Name of the few-shot adaptation of the paper's tables."""
REHEARSAL = "rehearsal:"
"""What a rehearsal puts before a source of data, and before family and source of a model."""
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


MODELS_FOLDER = "models"
"""Folder of the base models of all runs in `results`, where every run has one, too."""
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

CONFIGURATIONS = {
    "vector": ("vector", False),
    "vector-normalised": ("vector", True),
    "layer": ("layer", False),
    "layer-normalised": ("layer", True),
}
"""The four ways to search that Appendix A.4 names -> granularity (one alpha an expert, or one an expert and layer), and
whether the alpha of all experts sum to 1."""
RESERVED = {
    "base": "the model without an expert",
    "uniform": "the mix of experts with equal weights",
    "uniform_mix": "the mix of experts with equal weights",
    "classify": "the task of the classification expert",
    **dict.fromkeys(STRATEGIES, "a way of two-pass inference"),
    **dict.fromkeys(CONFIGURATIONS, "a way to search"),
}
"""Names that the workflow itself gives to adapters and methods, and what has them."""
RESERVED_STARTS = {"few_shot_": "few-shot adaptations", "svf_from_": "experts of another model"}
RESERVED_ENDS = {
    "_on_test": "choices on the test set",
    "_on_shots": "choices on the shots",
    "_labels": "two-pass inference by labels",
    "_last": "last states of trainings",
    "-last": "last states of trainings",
    "_cross": "mixes of the experts of two models",
    "_shuffled": "shuffled experts",
    "-all": "experts trained on shots",
    **{f"-{name}": "mixes of experts" for name in CONFIGURATIONS},
}
"""How such names begin and end."""


def reserved(name: str) -> str | None:
    """What the workflow itself gives a name to; None for a name that is free."""
    starts = (user for start, user in RESERVED_STARTS.items() if name.startswith(start))
    ends = (user for end, user in RESERVED_ENDS.items() if name.endswith(end))
    return RESERVED.get(name) or next(starts, None) or next(ends, None)
