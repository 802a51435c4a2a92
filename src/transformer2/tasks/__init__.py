"""The tasks, by name."""

from importlib import import_module

from transformer2.config import TASK_MODULES, VISION_TASKS
from transformer2.tasks import classify, own
from transformer2.tasks.base import RIGHT, Prompt, Row, Score, Split, Task


def _task(name: str) -> Task:
    """The task of that name in its module of this package."""
    defined = vars(import_module(f"{__name__}.{TASK_MODULES[name]}")).values()
    return next(value for value in defined if isinstance(value, Task) and value.name == name)


BENCHMARKS: dict[str, Task] = {name: _task(name) for name in TASK_MODULES if name not in VISION_TASKS}
"""The papers' text data sets: three that experts are trained on, three that are unseen."""
VISION: dict[str, Task] = {name: _task(name) for name in VISION_TASKS}
"""Those of the vision-language model: one that experts are trained on, one that is unseen."""
TASKS: dict[str, Task] = BENCHMARKS | VISION | {"classify": classify.TASK, "own": own.TASK}

__all__ = ["BENCHMARKS", "RIGHT", "TASKS", "VISION", "Prompt", "Row", "Score", "Split", "Task"]
