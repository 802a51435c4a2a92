"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real data sets (`<task>/<split>.jsonl[.gz]`); tests that need it skip where it is missing."""
    folder = Path(os.environ.get("T2_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set T2_DATA to a folder laid out as <task>/<split>.jsonl")
    return folder
