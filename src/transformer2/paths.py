"""Every place under `results/`, once: the pattern that the workflow uses, and the reading of it back."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """A path with fields in braces, such as `results/{run}/scores.csv.gz`."""

    pattern: str

    def __str__(self) -> str:
        return self.pattern

    def of(self, **fields: object) -> str:
        """The path with all of its fields filled in. Raises KeyError if one is missing."""
        return self.pattern.format(**fields)

    def read(self, path: Path | str) -> dict[str, str]:
        """The fields of a path, whatever folder `results/` lies in.

        Raises:
            ValueError: the path does not follow the pattern.
        """
        match = self._expression.fullmatch(Path(path).as_posix())
        if match is None:
            raise ValueError(f"{path} is not a path of the form {self.pattern}")
        return match.groupdict()

    def fits(self, path: Path | str) -> bool:
        """Whether a path follows the pattern."""
        return self._expression.fullmatch(Path(path).as_posix()) is not None

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        fields = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(self.pattern))
        return re.compile(f"(?:.*/)?{fields}")


BASE = Place("results/models/{model}/base")
BASIS = Place("results/models/{model}/basis.safetensors")
BASIS_BLOCK = Place("results/models/{model}/basis/{block}-of-{blocks}.safetensors")

DATA = Place("results/{run}/data/{task}/{split}.jsonl")
PICTURES = Place("results/{run}/data/{task}/{split}.images.zip")
SWEEP = Place("results/{run}/sweeps/{model}/{task}/{method}/seed{seed}/{point}")
EXPERT = Place("results/{run}/experts/{model}/{task}/{method}/seed{seed}")
MIX = Place("results/{run}/mixes/{model}/{task}/{budget}/{configuration}/seed{seed}")
UNIFORM_MIX = Place("results/{run}/mixes/{model}/uniform/seed{seed}")
TRANSFER = Place("results/{run}/transfers/{model}/{task}/{method}/seed{seed}")
EXPERT_BUNDLE = Place("results/{run}/kits/{model}/seed{seed}")
ANSWERS = Place("results/{run}/generations/{model}/{adapter}/{task}/seed{seed}.jsonl")
DECISIONS = Place("results/{run}/generations/{model}/{adapter}/{task}/seed{seed}.decisions.json")
SCORES = Place("results/{run}/scores/{model}/{adapter}/{task}/seed{seed}.json")
RECORD = Place("results/{run}/stages/{stage}/{model}/{block}-of-{blocks}.json")
"""What a stage made, and from what: one file for Snakemake to see."""
IMPORTED = Place("results/{run}/scores.manifest.json")
"""Where the scores of a run came from that were measured elsewhere."""
RUN = Place("results/{run}/run.json")
"""The resolved configuration."""
WEIGHTS = "adapter_model.safetensors"
"""Of an expert, in its folder."""


def is_data(path: Path | str) -> bool:
    """Whether a file holds rows of a task, or their pictures."""
    return DATA.fits(path) or PICTURES.fits(path)
