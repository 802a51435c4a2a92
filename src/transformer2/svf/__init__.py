"""Singular value fine-tuning as a PEFT method. Importing this package makes PEFT know it."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from .config import PEFT_TYPE, SVFConfig
from .model import SVFModel

# peft.utils.register_peft_method takes only names of its own enum; its tables are keyed by strings all the same.
PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = SVFConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = SVFModel  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = SVFModel.prefix  # type: ignore[index]

__all__ = ["SVFConfig", "SVFModel"]
