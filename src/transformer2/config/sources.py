"""Where models and data come from, as a configuration says it."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from transformer2.config.mistakes import ConfigError, meant, shown, unknown
from transformer2.config.names import PAPER_LAYERS, PAPER_MODELS, POCKET_LAYERS, REHEARSAL
from transformer2.config.section import path

MODELS_FROM = "pocket:<architecture>, hub:<id>, wheel:<package>==<version> or dir:<folder>"
DATA_FROM = "pocket, hub or dir:<folder>"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
WHEEL = re.compile(r"[A-Za-z0-9][\w.-]{0,99}==[A-Za-z0-9][\w.!+-]{0,99}", re.ASCII)
CONTAINER = re.compile(r"(?:docker|oras|library|shub)://[\w./:@-]+|[^{}\s:]+\.si[fm]g?", re.ASCII)
REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w./-]{0,99}", re.ASCII)


def model_source(text: str) -> str:
    """The text, if a model can come from there; whether it is there, is not looked at.

    Raises:
        ValueError: in one line.
    """
    real = text.split(":", 2)[-1] if text.startswith(REHEARSAL) else text
    kind, colon, rest = real.partition(":")
    if kind == "pocket" and colon:
        if rest not in POCKET_LAYERS:
            raise ValueError(unknown("pocket model", rest, POCKET_LAYERS))
    elif kind == "hub" and colon:
        if not HUB_ID.fullmatch(rest) or ".." in rest:
            raise ValueError(f"{shown(rest)} is no id of the hub, such as {PAPER_MODELS['llama3-8b']}")
    elif kind == "wheel" and colon:
        if not WHEEL.fullmatch(rest):
            raise ValueError(f"{shown(rest)} is no <package>==<version>")
    elif kind == "dir" and colon:
        path(rest)
    else:
        raise ValueError(
            f"{shown(text)} is not {MODELS_FROM}{meant(f'{kind}:', ['pocket:', 'hub:', 'wheel:', 'dir:'])}"
        )
    return text


def data_source(text: str) -> str:
    """The text, if data can come from there; as `model_source`."""
    real = text.removeprefix(REHEARSAL)
    kind, colon, rest = real.partition(":")
    if kind == "dir" and colon:
        path(rest)
    elif real not in ("pocket", "hub"):
        raise ValueError(f"{shown(text)} is not {DATA_FROM}{meant(text, ['pocket', 'hub', 'dir:'])}")
    return text


def container(text: str) -> str:
    """The text, if it may be the image of a container, by address or file; ValueError as `model_source`."""
    if not CONTAINER.fullmatch(text):
        raise ValueError(f"{shown(text)} is no docker://<host>/<name>:<tag>, oras://..., library://... or <file>.sif")
    return text


def revision(text: str) -> str:
    """The text, if it may be a commit, branch or tag of the hub; ValueError as `model_source`."""
    if not REVISION.fullmatch(text):
        raise ValueError(f"{shown(text)} is no commit, branch or tag of the hub")
    return text


ModelSource = Annotated[str, AfterValidator(model_source)]
DataSource = Annotated[str, AfterValidator(data_source)]
Revision = Annotated[str, AfterValidator(revision)]
Container = Annotated[str, AfterValidator(container)]


def layers(source: str) -> int | None:
    """Decoder layers of a model that is known by its source; None for others."""
    kind, _, rest = source.partition(":")
    own = {PAPER_MODELS[row]: count for row, count in PAPER_LAYERS.items()}
    return {"pocket": POCKET_LAYERS, "hub": own}.get(kind, {}).get(rest)


def check_folder(place: str, source: str, holds: str = ".") -> None:
    """Looks for the folder of a `dir:` source, and for what it must hold.

    Raises:
        ConfigError: in one line with the place in the configuration, the folder, and the nearest one that there is.
    """
    kind, _, rest = source.partition(":")
    if kind != "dir":
        return
    folder = Path(rest)
    if not folder.is_dir():
        beside = [other.name for other in folder.parent.glob("*") if other.is_dir()]
        raise ConfigError(f"{place}: there is no folder {Path.cwd() / folder}{meant(folder.name, beside)}")
    if not (folder / holds).exists():
        raise ConfigError(f"{place}: there is no {holds} in {Path.cwd() / folder}")
