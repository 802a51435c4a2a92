"""Fixtures that every test may use."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from transformer2.sandbox import Outcome, Program
from transformer2.tasks import code

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real data sets (`<task>/<split>.jsonl[.gz]`); tests that need it skip where it is missing."""
    folder = Path(os.environ.get("T2_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set T2_DATA to a folder laid out as <task>/<split>.jsonl")
    return folder


@pytest.fixture(scope="session")
def paper() -> Path:
    """Folder with the texts of both documents; tests that need it skip where it is missing."""
    folder = Path(os.environ.get("T2_PAPER", ROOT.parent / "shared" / "paper"))
    if not folder.is_dir():
        pytest.skip(f"no texts of the documents at {folder}; set T2_PAPER to a folder with arxiv.txt and workshop.md")
    return folder


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a `python` whose commands run in children of one process that has everything imported (see
    `cli.rehearsal_server`); Snakemake's jobs take it with `TRANSFORMER2_PYTHON`."""
    from transformer2.rehearsal.rehearse import server

    folder = tmp_path_factory.mktemp("served")
    with server(folder / "socket", ROOT, folder / "bin"):
        yield folder / "bin"


@pytest.fixture(scope="session", autouse=True)
def reported() -> Iterator[None]:
    """What the papers report is read once for all tests: the files of the project do not change."""
    from transformer2.reproduce import ledger

    read_all, once, ours = ledger.read_all, cache(ledger.read_all), ROOT / "paper_tables"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "read_all", lambda folder: once(folder) if folder == ours else read_all(folder))
        yield


@pytest.fixture
def trusted_programs(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """Runs the programs of these tests here, without a sandbox; the list holds them."""
    ran: list[Program] = []

    def run(programs: list[Program], isolation: None) -> list[Outcome]:
        ran.extend(programs)
        return [outcome(program) for program in programs]

    def outcome(program: Program) -> Outcome:
        names: dict[str, object] = {}
        try:
            exec(compile(program.text, "<program>", "exec"), names)
            return Outcome(True, "passed", values=tuple(eval(one, names) for one in program.expressions))
        except (Exception, SystemExit) as error:
            return Outcome(False, "failed", str(error))

    monkeypatch.setattr(code, "run_programs", run)
    monkeypatch.setattr(code, "REMEMBERED", {})
    return ran
