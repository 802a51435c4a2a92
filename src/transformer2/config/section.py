"""The common parts of all sections of a configuration: types of names, paths and numbers, and reading."""

import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from transformer2.config.mistakes import ConfigError, explain, shown
from transformer2.config.names import reserved

LONGEST_NAME = 64
NAME = re.compile(r"^[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_-])?$")
PATH = re.compile(r"(?!-)[^{}<>*?\x00-\x1f\x7f]+")
"""Braces, angle brackets and wildcards mean something to Snakemake, a leading minus to every command."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def name(text: str) -> str:
    """The text, if it may name a folder.

    Raises:
        ValueError: in one line, which says what a name may be.
    """
    if len(text) > LONGEST_NAME:
        raise ValueError(f"{shown(text)} has {len(text)} characters; names have at most {LONGEST_NAME}")
    if not NAME.fullmatch(text):
        raise ValueError(
            f"{shown(text)} cannot name files: use letters, digits, '_', '-' and '.', with no '-' or '.' at the start, "
            "and no '.' at the end"
        )
    return text


def free_name(text: str) -> str:
    """The text, if it is a `name` that the workflow does not give to something of its own; ValueError as `name`."""
    if user := reserved(name(text)):
        raise ValueError(f"{text!r} is a name of {user}; choose another one")
    return text


def path(text: str) -> str:
    """The text, if commands and Snakemake take it for a path as it stands; ValueError as `name`."""
    if not PATH.fullmatch(text) or len(text) > 4096:
        raise ValueError(
            f"{shown(text)} is no path for Snakemake: it must not begin with '-' or have one of {{ }} < > * ? or a "
            "control character"
        )
    return text


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number (got {value})")
    return value


def _no_repetition(values: list[Any]) -> list[Any]:
    if repeated := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ValueError(f"{shown(repeated[0])} is there twice")
    return values


Entry = TypeVar("Entry")
_SCHEMA = Field(json_schema_extra={"pattern": NAME.pattern, "maxLength": LONGEST_NAME})
Name = Annotated[str, AfterValidator(name), _SCHEMA]
"""A name that may name files."""
FreeName = Annotated[str, AfterValidator(free_name), _SCHEMA]
"""A name that may name files, and adapters made from it."""
Several = Annotated[list[Entry], AfterValidator(_no_repetition)]
"""Entries without repetition."""
Some = Annotated[list[Entry], Field(min_length=1), AfterValidator(_no_repetition)]
"""At least one entry, without repetition."""

# Values of --config are text, so text that is a number is one; `true` is not 1.
Whole = Annotated[int, BeforeValidator(_no_truth)]
Real = Annotated[float, BeforeValidator(_no_truth), Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**9), BeforeValidator(_no_truth)]
Seed = Annotated[int, Field(ge=0, lt=2**32), BeforeValidator(_no_truth)]
Tokens = Annotated[int, Field(ge=1, le=10**6), BeforeValidator(_no_truth)]
Batch = Annotated[int, Field(ge=1, le=10**6), BeforeValidator(_no_truth)]
Iterations = Annotated[int, Field(ge=1, le=10**5), BeforeValidator(_no_truth)]
Alpha = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False), BeforeValidator(_no_truth)]
Start = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False), BeforeValidator(_no_truth)]
Reward = Annotated[float, Field(ge=-100, lt=1, allow_inf_nan=False), BeforeValidator(_no_truth)]
"""Of a wrong answer; a right one has 1."""


def validated(section: type[Section], raw: Any) -> Any:
    """The section that a mapping describes.

    Raises:
        ConfigError: in one line, with the place of the mistake and the nearest valid name.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, section)) from None
