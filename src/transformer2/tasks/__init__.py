"""The tasks, by name."""

from importlib import import_module

from transformer2.config import TASK_MODULES
from transformer2.tasks import classify, own
from transformer2.tasks.base import Prompt, Row, Score, Split, Task


def _task(name: str, module: str) -> Task:
    """The task of that name in a module of this package."""
    defined = vars(import_module(f"{__name__}.{module}")).values()
    return next(value for value in defined if isinstance(value, Task) and value.name == name)


BENCHMARKS: dict[str, Task] = {name: _task(name, module) for name, module in TASK_MODULES.items()}
"""The data sets of the documents: three that experts are trained on, three that are unseen."""
TASKS: dict[str, Task] = BENCHMARKS | {"classify": classify.TASK, "own": own.TASK}

__all__ = ["BENCHMARKS", "TASKS", "Prompt", "Row", "Score", "Split", "Task"]
