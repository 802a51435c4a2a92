"""A step of a run: files made of files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformer2 import code_digest


@dataclass(frozen=True)
class Step:
    """Files made of files: a call of a function of `work`."""

    work: str
    """Name of the function."""
    of: Mapping[str, str]
    """What it is about: model, task, adapter or method, seed, ..."""
    arguments: Mapping[str, Any]
    manifest: Path
    inputs: tuple[Path, ...]
    """Files and folders whose content decides the result."""
    outputs: tuple[Path, ...]
    together: str = ""
    """Steps with the same word here follow each other in one block."""
    modules_unused: tuple[str, ...] = field(default=(), compare=False)
    besides: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """More arguments, which decide nothing of the result: the step is not done again when they change."""

    @property
    def name(self) -> str:
        return " ".join([self.work, *(str(value) for value in self.of.values())])

    @property
    def group(self) -> str:
        """Of the steps that follow each other in one block: this one alone, as a rule."""
        return self.together or self.name

    @property
    def code(self) -> str:
        """Digest of the code that it runs."""
        unused = {"score"} if self.work in ("answer", "dispatch") else set()
        return code_digest.digest(f"stages.work.{self.work}", self.of.get("task"), self.modules_unused, unused)
