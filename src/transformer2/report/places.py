"""Paths of a run by their place (`paths`), wherever the folder of the run lies."""

from pathlib import Path
from typing import Any

from transformer2.paths import Place


def as_planned(path: Path, folder: Path) -> Path:
    """A path in the folder of a run as the workflow names it: results/<run>/..."""
    return Path("results", folder.name, path.relative_to(folder))


def read(place: Place, path: Path, folder: Path) -> dict[str, str]:
    """The fields of a path in the folder of a run; ValueError if it is not of that place."""
    return place.read(as_planned(path, folder))


def find(place: Place, folder: Path, **fields: Any) -> Path:
    """The path of a place in the folder of a run."""
    return folder / Path(place.of(**(fields | {"run": folder.name}))).relative_to("results", folder.name)
