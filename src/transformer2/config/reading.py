"""From what a user wrote to a checked configuration."""

from pathlib import Path
from typing import Any

from transformer2.config.mistakes import ConfigError
from transformer2.config.parts import Search
from transformer2.config.run import Run
from transformer2.config.section import validated
from transformer2.config.sources import check_folder
from transformer2.config.training import Training
from transformer2.config.yaml_files import read_yaml

NO_RUN = "`run` is missing; a file of --configfile stands alone, it is not merged with config.yaml"
"""What is said of a file that names no run."""


def parse(raw: dict[str, Any]) -> Run:
    """The run that a mapping describes.

    Raises:
        ConfigError: in one line, with the place of the mistake and the nearest valid name.
    """
    return validated(Run, raw)


def parse_search(raw: dict[str, Any]) -> Search:
    """The settings of a search that a mapping describes; ConfigError as `parse`."""
    return validated(Search, raw)


def parse_training(raw: dict[str, Any]) -> Training:
    """The settings of a training that a mapping describes; ConfigError as `parse`."""
    return validated(Training, raw)


def load(file: Path) -> Run:
    """The run that a YAML file describes.

    Raises:
        ConfigError: in one line, with the file, and as `parse`.
    """
    raw = read_yaml(file)
    if "run" not in raw:
        raise ConfigError(f"{file}: {NO_RUN}")
    try:
        return parse(raw)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def check_folders(run: Run) -> None:
    """Looks for the folders that the models and data of a run come from.

    Raises:
        ConfigError: in one line, with the place in the configuration and the folder.
    """
    if run.scores is not None:
        return
    check_folder("data", run.data)
    for name, model in run.models.items():
        check_folder(f"models.{name}.source", model.source, "config.json")
