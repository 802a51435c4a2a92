"""How far every reported number and claim has come: a ladder with counts, and a square for each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformer2.report import text
from transformer2.report.page.marks import Mark
from transformer2.report.page.records import Record, read
from transformer2.reproduce.coverage import LADDER, RUNGS, SEEDS, Rung

COLUMNS = ("kind", "id", "document", "place", "state", "seeds", "verdict")
SIGNS: dict[Rung, tuple[str, str]] = {
    "not coded": ("○", "none"), "coded": ("◔", "none"), "rehearsed": ("◑", "none"),
    "run on stand-ins": ("◕", "doubtful"), "run on a real model": ("●", "other"), "reproduced": ("✓", "good"),
}  # fmt: skip
"""Sign and tone of each rung."""


@dataclass(frozen=True)
class Step:
    """A rung of the ladder, with what stands on it."""

    mark: Mark
    numbers: int
    claims: int
    further: str
    """What it takes to go one rung up; empty on the last."""


@dataclass(frozen=True)
class Square:
    level: int
    """Of `LADDER`."""
    label: str


@dataclass(frozen=True)
class Group:
    """The squares of a table, or of the claims of a paper."""

    title: str
    counts: str
    squares: list[Square]


@dataclass(frozen=True)
class Covered:
    summary: str
    steps: list[Step]
    groups: list[Group]


def coverage(path: Path, gpu_hours: float) -> Covered:
    """What the page shows of `coverage.csv`; `gpu_hours` are those of config/paper.yaml, by the plan.

    Raises:
        ValueError: as `records.read`, or there is nothing in it.
    """
    records = read(path, COLUMNS, {"state": LADDER, "kind": ("number", "claim")})
    if not records:
        raise ValueError(f"{path}: no number and no claim; delete the file to make it again")
    by_kind = {kind: Counter(one["state"] for one in records if one["kind"] == kind) for kind in ("number", "claim")}
    further = _further(gpu_hours)
    steps = [
        Step(Mark(rung, *SIGNS[rung], meaning), by_kind["number"][rung], by_kind["claim"][rung], further.get(rung, ""))
        for rung, meaning in RUNGS.items()
    ]
    return Covered(_summary(records), steps, _groups(records))


def _summary(records: Sequence[Record]) -> str:
    """How many have come at least as far as each rung."""
    numbers = [LADDER.index(one["state"]) for one in records if one["kind"] == "number"]  # type: ignore[arg-type]
    reached = [f"{sum(level >= rung for level in numbers)} {name}" for rung, name in enumerate(LADDER) if rung]
    return f"Of {len(numbers)} printed numbers, {text.listed(reached)}."


def _groups(records: Sequence[Record]) -> list[Group]:
    of_group: dict[str, list[Record]] = {}
    for record in records:
        title = f"{record['place']} ({record['document']})"
        if record["kind"] == "claim":
            title = f"Claims of {text.paper(record['document'])}"
        of_group.setdefault(title, []).append(record)
    groups = []
    for title, ones in of_group.items():
        states = Counter(one["state"] for one in ones)
        counts = ", ".join(f"{states[rung]} {rung}" for rung in LADDER if states[rung])
        squares = [Square(LADDER.index(one["state"]), _label(one)) for one in ones]  # type: ignore[arg-type]
        groups.append(Group(title, counts, squares))
    return groups


def _label(record: Record) -> str:
    """Which cell it is, within its table, and how far it has come."""
    name = record["id"] if record["kind"] == "claim" else record["id"].split("/", 2)[-1]
    said = f"{name}: {record['state']}"
    if record["state"] != "run on a real model" or not record["verdict"]:
        return said
    seeds = f", {text.seeds(int(record['seeds']))}" if int(record["seeds"]) else ""
    return f"{said}; verdict: {record['verdict']}{seeds}"


def _further(gpu_hours: float) -> dict[Rung, str]:
    """Rung -> what it takes to go one further."""
    hours = f"about {float(f'{gpu_hours:.2g}'):,.0f}"
    return {
        "not coded": "Add its model, method or task to a configuration (docs/extending.md).",
        "coded": "Put it into config/paper.yaml and go through that in minutes on a CPU: "
        "python -m transformer2 rehearse --configfile config/paper.yaml",
        "rehearsed": "Run the default configuration, config.yaml, which has it on stand-ins and needs no GPU: "
        "snakemake --cores all",
        "run on stand-ins": f"Run config/paper.yaml, all of which takes {hours} GPU-hours on H100 GPUs by the plan: "
        "snakemake --workflow-profile profiles/slurm --configfile config/paper.yaml. Smaller real models have "
        "config/one-gpu.yaml and config/smollm2.yaml; scores that you have are read as docs/own-scores.md says.",
        "run on a real model": f"Run the paper's own model with {SEEDS} seeds or more (seeds: [0, 1, 2] in "
        "config/paper.yaml); the gain must be significant and within the margin of the paper's (docs/verdicts.md). "
        "Scores of a base and seconds end here: no verdict is on them.",
    }
