"""How far every reported number and claim has come: a ladder with counts, and a square for each."""

import re
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
    command: str
    """That does so; empty where there is not one."""


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
        Step(Mark(rung, *SIGNS[rung], meaning), by_kind["number"][rung], by_kind["claim"][rung], *further[rung])
        for rung, meaning in RUNGS.items()
    ]
    return Covered(_summary(records), steps, _groups(records))


def _summary(records: Sequence[Record]) -> str:
    """How many have come at least as far as each rung."""
    numbers = [LADDER.index(one["state"]) for one in records if one["kind"] == "number"]  # type: ignore[arg-type]
    reached = [sum(level >= rung for level in numbers) for rung in range(len(LADDER))]
    _, coded, rehearsed, measured, real, reproduced = reached
    return (
        f"Of {len(numbers)} printed numbers, {coded} {text.are(coded)} coded and {rehearsed} {text.are(rehearsed)} "
        f"rehearsed. {measured} {text.were(measured)} measured by this run, {real} of them with a real model. "
        f"{reproduced} {text.are(reproduced)} reproduced."
    )


def _groups(records: Sequence[Record]) -> list[Group]:
    of_group: dict[str, list[Record]] = {}
    for record in sorted(records, key=_order):
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


def _order(record: Record) -> tuple[bool, str, bool, list[str | int]]:
    """The papers' tables by their numbers, what is no table, then claims as they are."""
    if record["kind"] == "claim":
        return True, "", False, []
    parts = re.split(r"(\d+)", record["id"].split("/")[1])
    numbered: list[str | int] = [int(part) if part.isdigit() else part for part in parts]
    return False, record["document"], parts[0] != "table", numbered


def _label(record: Record) -> str:
    """Which cell it is, within its table, and how far it has come."""
    name = record["id"] if record["kind"] == "claim" else record["id"].split("/", 2)[-1]
    said = f"{name}: {record['state']}"
    if record["state"] != "run on a real model" or not record["verdict"]:
        return said
    seeds = f", {text.seeds(int(record['seeds']))}" if int(record["seeds"]) else ""
    return f"{said}; verdict: {record['verdict']}{seeds}"


def _further(gpu_hours: float) -> dict[Rung, tuple[str, str]]:
    """Rung -> what it takes to go one further, and the command that does it."""
    hours = f"about {float(f'{gpu_hours:.2g}'):,.0f} GPU-hours on H100 GPUs"
    return {
        "not coded": ("Add its model, method or task to a configuration, as docs/extending.md says.", ""),
        "coded": (
            "Put it into config/paper.yaml, and go through that in minutes on a CPU.",
            "python -m transformer2 rehearse --configfile config/paper.yaml",
        ),
        "rehearsed": (
            "Run the default configuration, which has it on stand-ins and needs no GPU.", "snakemake --cores all",
        ),
        "run on stand-ins": (
            f"Run the papers' own models: by the plan, all of config/paper.yaml takes {hours}. Smaller real models are "
            "in config/one-gpu.yaml and config/smollm2.yaml; docs/own-scores.md says how to import scores.",
            "snakemake --workflow-profile profiles/slurm --configfile config/paper.yaml",
        ),
        "run on a real model": (
            f"Run the paper's own model with {SEEDS} seeds or more; the gain must be significant and within the margin "
            "of the paper's (docs/verdicts.md). Scores of a base and seconds end here: no verdict is on them.",
            "snakemake --workflow-profile profiles/slurm --configfile config/paper.yaml --config seeds='[0, 1, 2]'",
        ),
        "reproduced": ("", ""),
    }  # fmt: skip
