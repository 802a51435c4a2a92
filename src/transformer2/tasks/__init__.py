"""The tasks, by name."""

from transformer2.tasks import arc, classify, gsm8k, humaneval, math, mbpp_pro, own, vqa
from transformer2.tasks.base import RIGHT, Prompt, Row, Score, Split, Task

BENCHMARKS: dict[str, Task] = {
    "gsm8k": gsm8k.TASK,
    "mbpp_pro": mbpp_pro.TASK,
    "arc_easy": arc.ARC_EASY,
    "math": math.TASK,
    "humaneval": humaneval.TASK,
    "arc_challenge": arc.ARC_CHALLENGE,
}
"""The documents' text data sets: three that experts are trained on, three that are unseen."""
VISION: dict[str, Task] = {"textvqa": vqa.TEXTVQA, "okvqa": vqa.OKVQA}
"""Those of the vision-language model: one that experts are trained on, one that is unseen."""
TASKS: dict[str, Task] = BENCHMARKS | VISION | {"classify": classify.TASK, "own": own.TASK}

__all__ = ["BENCHMARKS", "RIGHT", "TASKS", "VISION", "Prompt", "Row", "Score", "Split", "Task"]
