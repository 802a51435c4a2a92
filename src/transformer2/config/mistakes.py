"""The one formatter of mistakes in settings: a line with place, rule and value, and the nearest valid name."""

import difflib
import re
import reprlib
from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

SHOWN = 3
"""Mistakes that a line names; it counts the others."""


class ConfigError(ValueError):
    """A mistake in a configuration, in one line."""


def unknown(what: str, name: str, valid: Iterable[str]) -> str:
    """One line that names what is unknown and the nearest valid name."""
    names = sorted(valid)
    return f"unknown {what} {shown(name)}" + (meant(name, names) or f"; valid are {', '.join(names) or 'none'}")


def meant(text: str, valid: Iterable[str]) -> str:
    """The nearest valid name, as the end of a line; nothing where none is near."""
    near = difflib.get_close_matches(text[:200], list(valid), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """One line on the mistakes that pydantic has in a `root`.

    Unknown keys come first: a missing key is often the typo of another one.
    """
    mistakes = sorted(error.errors(include_url=False), key=lambda mistake: mistake["type"] != "extra_forbidden")
    lines = [_line(mistake, root) for mistake in mistakes[:SHOWN]]
    return "; ".join(lines) + (f"; and {more} more mistakes" if (more := len(mistakes) - SHOWN) > 0 else "")


def shown(value: Any) -> str:
    """A value in at most about 60 characters, without line ends."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    short.maxdict = short.maxlist = short.maxtuple = 4
    short.maxlevel = 2
    return " ".join(short.repr(value).split())


def _line(mistake: Any, root: type[BaseModel]) -> str:
    steps = [step for step in mistake["loc"] if step != "[key]"]  # of a mistake in a key, which is the last step
    place, kind = _place(steps), mistake["type"]
    if kind == "extra_forbidden":
        return f"{place}: {unknown('key', str(steps[-1]), _fields(root, steps[:-1]))}"
    if kind == "missing":
        return f"{place}: missing"
    if kind in ("value_error", "assertion_error"):
        said = str(mistake["ctx"]["error"])
        field = re.match(r"\w+", said)  # a section says of which of its fields it speaks
        of_field = field is not None and field[0] in _fields(root, steps) and said[field.end()] in ".:["
        return f"{place}{'.' if of_field else ': '}{said}" if place else said
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{place}: must be a mapping (got {shown(mistake['input'])})".removeprefix(": ")
    if kind == "string_type" and isinstance(mistake["input"], int | float):
        return f"{place}: must be text; write it in quotes (got {shown(mistake['input'])})"
    must = re.sub(r"^\w+ should", "must", mistake["msg"]).split(", unable to")[0].split(" after validation")[0]
    near = meant(str(mistake["input"]), re.findall(r"'(.*?)'", must)) if kind == "literal_error" else ""
    return f"{place}: {must} (got {shown(mistake['input'])}){near}"


def _place(steps: Iterable[str | int]) -> str:
    """`scores[0].method`: keys with dots, places in lists in brackets."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{_step(step)}" for step in steps).removeprefix(".")


def _step(step: str) -> str:
    return step if len(step) <= 60 and step.isprintable() else shown(step)


def _fields(root: type[BaseModel], parents: list[Any]) -> list[str]:
    """Keys of the section that lies at `parents` in a `root`."""
    section: Any = root
    for step in parents:
        field = section.model_fields.get(step) if isinstance(step, str) else None
        section = _section_in(field.annotation) or section if field else section
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section inside `dict[..., Section]`, `list[Section]` or `Section | None`."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation if issubclass(annotation, BaseModel) else None
    return next((inner for part in get_args(annotation) if (inner := _section_in(part))), None)
