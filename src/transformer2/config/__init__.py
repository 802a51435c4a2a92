"""The configuration of a run: the one source of its defaults, of config.yaml and of the JSON schema.

`Run()` is the default run on stand-in models; `python -m transformer2 schema` writes config.yaml and
workflow/schemas/config.schema.json from these classes.
"""

from transformer2.config.files import default_yaml, json_schema
from transformer2.config.mistakes import ConfigError, explain, shown, unknown
from transformer2.config.names import (
    CLASSIFIER,
    CONFIGURATIONS,
    CROSS,
    MODULES,
    PAPER_MODELS,
    STRATEGIES,
    TASK_MODULES,
    VISION_TASKS,
    PaperModel,
    Tracker,
)
from transformer2.config.parts import CEM, Adaptation, Budget, Model, Search, TaskData, Transfer
from transformer2.config.reading import NO_RUN, check_folders, load, parse, parse_search, parse_training
from transformer2.config.run import Run
from transformer2.config.training import RECIPES, Method, TaskTraining, Training
from transformer2.config.yaml_files import read_yaml

__all__ = [
    "CEM", "CLASSIFIER", "CONFIGURATIONS", "CROSS", "MODULES", "NO_RUN", "PAPER_MODELS", "RECIPES", "STRATEGIES",
    "TASK_MODULES", "VISION_TASKS", "Adaptation", "Budget", "ConfigError", "Method", "Model", "PaperModel", "Run",
    "Search", "TaskData", "TaskTraining", "Tracker", "Training", "Transfer", "check_folders", "default_yaml", "explain",
    "json_schema", "load", "parse", "parse_search", "parse_training", "read_yaml", "shown", "unknown",
]  # fmt: skip
