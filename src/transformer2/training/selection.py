"""The choice among the points of a sweep, on validation: one for the experts, one for the last states of trainings."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from transformer2.checksums import sha256, verified
from transformer2.provenance import atomic_path, read_json, write_json

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
LAST = "last"
"""Folder, inside that of an expert, with the last state of its training; the expert itself is the selected state."""


def copy_expert(expert: Path, out: Path) -> None:
    """Copies the adapter of one folder into another."""
    for name in ADAPTER_FILES:
        with atomic_path(out / name) as temporary:
            shutil.copyfile(verified(expert / name), temporary)


def same_expert(one: Path, other: Path) -> bool:
    """Whether two folders hold the same adapter, as those of the best and the last state of a training may."""
    sums = [[sha256(verified(folder / name)) for name in ADAPTER_FILES] for folder in (one, other)]
    return sums[0] == sums[1]


def select(candidates: Sequence[Path], out: Path) -> Path:
    """Copies the adapter with the best validation accuracy to `out`, and the best of the last states to `out/last`.

    Each has a `selection.json` that names all candidates. The two may be of different points of the sweep: each point
    is judged by the state that is kept. Ties go to the first candidate: sweeps list the mildest value first.
    """
    results = {folder: read_json(folder / "training.json") for folder in candidates}

    def take(state: str, part: str, to: Path) -> Path:
        """`part` of the best candidate by the validation of its best or last `state`."""
        merits = {folder: results[folder][f"{state}_validation"] for folder in candidates}
        best = max(candidates, key=lambda folder: merits[folder])
        copy_expert(best / part, to)
        points = {folder.name: merit for folder, merit in merits.items()}
        facts = {"chosen": best.name, "state": state, "validation": points, "training": results[best]}
        write_json(to / "selection.json", facts)
        return best

    take("last", LAST, out / LAST)
    return take(results[candidates[0]]["settings"]["select"], "", out)
