"""The choice among the points of a sweep, on validation."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from transformer2.provenance import read_json, whole_file, write_json
from transformer2.seals import intact

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def copy_expert(expert: Path, out: Path) -> None:
    """Copies the adapter of one folder into another."""
    for name in ADAPTER_FILES:
        with whole_file(out / name) as temporary:
            shutil.copyfile(intact(expert / name), temporary)


def select(candidates: Sequence[Path], out: Path) -> Path:
    """Copies the adapter with the best validation accuracy to `out`, with `selection.json` that names all candidates.

    Ties go to the first candidate: sweeps name the mildest value first.
    """
    results = {folder: read_json(folder / "training.json") for folder in candidates}
    best = max(candidates, key=lambda folder: results[folder]["best_validation"])
    copy_expert(best, out)
    points = {folder.name: results[folder]["best_validation"] for folder in candidates}
    write_json(out / "selection.json", {"chosen": best.name, "validation": points} | {"training": results[best]})
    return best
