"""The tasks, by name."""

from transformer2.tasks import arc, gsm8k, mbpp_pro
from transformer2.tasks.base import Prompt, Row, Score, Split, Task

TASKS: dict[str, Task] = {"gsm8k": gsm8k.TASK, "mbpp_pro": mbpp_pro.TASK, "arc_easy": arc.ARC_EASY}

__all__ = ["TASKS", "Prompt", "Row", "Score", "Split", "Task"]
