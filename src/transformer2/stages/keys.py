"""What a step would be made of, and what its results were made of."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256 as new_hash
from pathlib import Path
from typing import Any

from transformer2.checksums import checksum, corruption
from transformer2.provenance import read_json
from transformer2.stages.step import Step


def key_of(step: Step, read: Mapping[str, Any]) -> str:
    """What a step would be made of with the inputs `read`, see `contents`: 64 hexadecimal digits."""
    return _digest([step.work, step.code, step.arguments, read])


def contents(step: Step) -> dict[str, Any]:
    """Checksums of the inputs of a step, by path.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: an input is corrupt.
    """
    return {str(path): _content(path) for path in step.inputs}


def settings_digest(steps: Sequence[Step]) -> str:
    """Digest of the code and the settings of steps, which changes what they make; their inputs are not read."""
    return _digest([[step.work, step.code, step.arguments] for step in steps])[:16]


def _digest(made_of: Any) -> str:
    return new_hash(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()


def key_in_manifest(step: Step) -> str | None:
    """What the results of a step were made of; None if one of them is missing or corrupt."""
    return None if broken(step) else read_json(step.manifest).get("key")


def broken(step: Step) -> str | None:
    """What is wrong with the results of a step: a file that is missing or corrupt. None if nothing is."""
    for path in (*step.outputs, step.manifest):
        if not path.is_file():
            return f"{path} is missing"
        if what := corruption(path):
            return f"{path} is corrupt: {what}"
    return None


def _content(path: Path) -> Any:
    """Checksums that stand for the content of a file, or of the base model in a folder."""
    if path.is_dir():
        return read_json(path / "manifest.json")["sha256"]
    return checksum(path)
