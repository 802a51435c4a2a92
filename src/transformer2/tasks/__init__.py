"""The tasks, by name."""

from transformer2.tasks import arc, classify, gsm8k, humaneval, math, mbpp_pro, own
from transformer2.tasks.base import Prompt, Row, Score, Split, Task

BENCHMARKS: dict[str, Task] = {
    "gsm8k": gsm8k.TASK,
    "mbpp_pro": mbpp_pro.TASK,
    "arc_easy": arc.ARC_EASY,
    "math": math.TASK,
    "humaneval": humaneval.TASK,
    "arc_challenge": arc.ARC_CHALLENGE,
}
"""The data sets of the documents: three that experts are trained on, three that are unseen."""
TASKS: dict[str, Task] = BENCHMARKS | {"classify": classify.TASK, "own": own.TASK}

__all__ = ["BENCHMARKS", "TASKS", "Prompt", "Row", "Score", "Split", "Task"]
