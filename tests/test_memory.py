"""Peak memory of each path on a small random Llama, within 15 % of the formulas that `transformer2 plan` uses."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import memory
from transformer2.planning.costs import Size

SIZE = Size(layers=4, hidden=768, key_value=256, intermediate=2688, vocabulary=8000)
TWIN = Size(layers=2, hidden=256, key_value=128, intermediate=512, vocabulary=400)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_that_of_the_formulas(tmp_path: Path):
    for name in ("model", "twin"):
        (tmp_path / name).mkdir()
    work = memory.Work(str(tmp_path / "model"), SIZE, "float32", 6, 96, 32, threads=1, steps=2)
    twin = replace(work, folder=str(tmp_path / "twin"), size=TWIN, rows=2, prompt=8, answer=8)
    found = memory.measure(work, twin, list(memory.PATHS)).set_index("path")
    ratio = found["measured / formula"]
    assert ratio.between(0.85, 1.15).all(), found.to_string()
    saved = found["measured"]["SVF"] - found["measured"]["SVF, checkpointing"]
    assert saved > 0.1, "activations of three of the four layers"
