"""What the sections of a configuration have in common, and mistakes in them as one line each."""

import difflib
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError


class ConfigError(ValueError):
    """A mistake in a configuration, in one line."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def slug(name: str) -> str:
    if not name or not all(c.isascii() and (c.isalnum() or c in "-._") for c in name):
        raise ValueError(f"{name!r} names files: use letters, digits, '-', '.' and '_' only")
    return name


Slug = Annotated[str, AfterValidator(slug)]
"""A name that may name files."""


def validated(section: type[Section], raw: dict[str, Any]) -> Any:
    """The section that a mapping describes.

    Raises:
        ConfigError: in one line, with the place of the mistake and the nearest valid name.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(mistake, section) for mistake in error.errors())) from None


def unknown(what: str, name: str, valid: Any) -> str:
    """One line that names what is unknown and the nearest valid name."""
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"unknown {what} {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(sorted(valid))}"
    )


def _explain(mistake: Any, root: type[Section]) -> str:
    place = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        parent: Any = root
        for part in mistake["loc"][:-1]:
            field = parent.model_fields.get(part) if parent else None
            parent = _section_of(field.annotation) if field else parent
        return f"{place}: {unknown('key', str(mistake['loc'][-1]), parent.model_fields)}"
    return f"{place}: {mistake['msg'].removeprefix('Value error, ')}" + (
        f" (got {mistake['input']!r})" if not mistake["msg"].startswith("Value error") else ""
    )


def _section_of(annotation: Any) -> type[Section]:
    """The section inside `dict[..., Section]` or `Section | None`."""
    inside = getattr(annotation, "__args__", (annotation,))
    return next((part for part in inside if isinstance(part, type) and issubclass(part, Section)), annotation)
