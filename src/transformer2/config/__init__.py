"""The configuration of a run: the one source of its defaults, of config.yaml and of the JSON schema.

`Run()` is the default run on stand-in models; `python -m transformer2 schema` writes config.yaml and
workflow/schemas/config.schema.json from these classes.
"""

from transformer2.config.files import default_yaml, json_schema
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
)
from transformer2.config.parts import CEM, Adaptation, Budget, Model, Search, TaskData, Transfer
from transformer2.config.run import Run, load, parse, parse_search
from transformer2.config.section import ConfigError, unknown
from transformer2.config.training import RECIPES, Method, Training

__all__ = [
    "CEM", "CLASSIFIER", "CONFIGURATIONS", "CROSS", "MODULES", "PAPER_MODELS", "RECIPES", "STRATEGIES", "TASK_MODULES",
    "VISION_TASKS", "Adaptation", "Budget", "ConfigError", "Method", "Model", "PaperModel", "Run", "Search", "TaskData",
    "Training", "Transfer", "default_yaml", "json_schema", "load", "parse", "parse_search", "unknown",
]  # fmt: skip
