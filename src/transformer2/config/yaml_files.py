"""Reading YAML files strictly: what YAML's own readers let pass (a key twice) is refused with its line."""

from pathlib import Path
from typing import Any

import yaml

from transformer2.config.mistakes import ConfigError, shown

YTE = "__use_yte__"
"""Makes Snakemake read a file as a template of its language YTE, with Python expressions."""


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: in one line with file and line: it is not there, no YAML, no mapping, or has a key twice, of which
            YAML readers keep the last.
    """
    try:
        raw = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=_NoKeyTwice)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise ConfigError(f"no configuration {file}") from None
    except OSError as error:
        raise ConfigError(f"configuration {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{line}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{file} is nested too deeply") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} holds no mapping of settings (got {shown(raw)})")
    if YTE in raw:
        raise ConfigError(f"{file}: {YTE} is not allowed; Snakemake would run expressions in the file as code")
    return raw


class _NoKeyTwice(yaml.SafeLoader):
    """A SafeLoader that refuses a key that stands twice in one mapping; it may replace one that is merged (<<)."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode | None:
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value if node else []:
            if not isinstance(key, yaml.ScalarNode):
                continue
            place = first.setdefault((key.tag, key.value), key.start_mark.index)
            if place != key.start_mark.index:
                raise yaml.MarkedYAMLError(problem=f"{shown(key.value)} is there twice", problem_mark=key.start_mark)
        return node
