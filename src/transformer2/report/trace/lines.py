"""Lines of a trace: what a file says, or in one line what is wrong with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformer2.checksums import sha256
from transformer2.provenance import read_json
from transformer2.report.text import checksum

INDENT = "  "
UNREADABLE = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError)
"""What reading a missing or corrupt file ends in."""


def indented(lines: list[str]) -> list[str]:
    return [f"{INDENT}{line}" for line in lines]


def describe_file(path: Path, describe: Callable[[Any], list[str]]) -> list[str]:
    """What a JSON file says, or one line on what is wrong with it."""
    try:
        return describe(read_json(path))
    except UNREADABLE as error:
        return [fault(path, error)]


def fault(path: Path, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"missing: {path}"
    reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return f"corrupt: {path} ({reason})"


def checked(path: Path, expected: str) -> str:
    """Whether a file still is what a manifest says of it."""
    if not path.is_file():
        return f"missing: {path}"
    return "checksum OK" if (now := sha256(path)) == expected else f"DIFFERS: the file now has sha256 {checksum(now)}"
