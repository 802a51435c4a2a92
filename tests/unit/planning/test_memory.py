"""Peak memory of each path on a small random Llama, within 15 % of the formulas that `transformer2 plan` uses."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import memory
from conftest import ROOT
from transformer2.planning.costs import Size

SIZE = Size(layers=4, hidden=768, key_value=256, intermediate=2688, vocabulary=8000)
TWIN = Size(layers=2, hidden=256, key_value=128, intermediate=512, vocabulary=400)


DOCUMENTED = [
    memory.Work("", SIZE, "float32", 6, 96, 32, 1, 2),
    memory.Work("", Size(4, 1024, 256, 3584, 8000), "bfloat16", 8, 128, 64, 2, 2),
    memory.Work("", Size(16, 2048, 512, 8192, 128256, tied=True), "float32", 4, 192, 64, 2, 1),
]
"""The models of the table in docs/plan.md, in its order."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_that_of_the_formulas(tmp_path: Path):
    for name in ("model", "twin"):
        (tmp_path / name).mkdir()
    work = replace(DOCUMENTED[0], folder=str(tmp_path / "model"))
    twin = replace(work, folder=str(tmp_path / "twin"), size=TWIN, rows=2, prompt=8, answer=8)
    found = memory.measure(work, twin, list(memory.PATHS)).set_index("path")
    ratio = found["measured / formula"]
    assert ratio.between(0.85, 1.15).all(), found.to_string()
    saved = found["measured"]["SVF"] - found["measured"]["SVF, checkpointing"]
    assert saved > 0.1, "activations of three of the four layers"


def test_what_the_docs_say_was_measured_is_within_15_percent_of_todays_formulas():
    rows = [line.strip("| \n").split(" | ") for line in (ROOT / "docs/plan.md").read_text().splitlines()]
    rows = [row for row in rows if row[0] in memory.PATHS and len(row) > 7]  # other tables have the same names
    assert [row[0] for row in rows] == list(memory.PATHS)
    for path, *cells in rows:
        for i, work in enumerate(DOCUMENTED):
            measured, formula = cells[3 * i], memory.PATHS[path][1](work)
            if measured != "not run":
                assert float(cells[3 * i + 1]) == pytest.approx(formula, rel=0.01)
                assert float(measured) == pytest.approx(formula, rel=0.15)
