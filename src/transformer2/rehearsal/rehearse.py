"""Rehearses a run: Snakemake goes through the real workflow in a temporary folder, with a small configuration."""

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent

import yaml
from tqdm import tqdm

from transformer2 import paths
from transformer2.config import Run
from transformer2.config.limits import SPLITS
from transformer2.rehearsal.client import ENVIRONMENT, LARGE_PAGES, write_client
from transformer2.rehearsal.small import full_data, small_run

PARTS = ("Snakefile", "config.yaml", "config", "workflow", "paper_tables", "envs", "src")
"""What the workflow reads of the project."""
LAST_LINES = 12
"""Of the log of a job that failed."""
START_SECONDS = 120
"""How long the imports of the server may take."""


@dataclass(frozen=True)
class Failure:
    """A job that failed, and the end of its log."""

    rule: str
    wildcards: str
    log: str

    def __str__(self) -> str:
        return f"rule {self.rule} ({self.wildcards}) would fail:\n{indent(self.log, '    ')}"


@dataclass
class Outcome:
    """What a part of a rehearsal did: jobs that ran, of how many; those that failed."""

    done: int = 0
    total: int = 0
    failures: list[Failure] = field(default_factory=list)


def rehearse(run: Run, root: Path, cores: int, keep: Path | None = None) -> Outcome:
    """Goes through all rules of a run; `root` is the project, `keep` a folder that is left with all that was made.

    First come the data with the numbers of items that the run asks for, then the whole grid, small.
    """
    with tempfile.TemporaryDirectory(prefix="transformer2-rehearsal-") as temporary:
        python = Path(temporary) / "bin"
        with server(Path(temporary) / "server", root, python):
            return both_parts(run, root, keep or Path(temporary), python, cores)


def both_parts(run: Run, root: Path, folder: Path, python: Path, cores: int) -> Outcome:
    """As `rehearse`, in `folder`, with the server that the program in the folder `python` calls."""
    full, data = full_data(run), Outcome()
    if run.scores is None:
        data = go_through(full, root, folder / "data", python, cores, data_files(full))
    grid = go_through(small_run(run), root, folder / "grid", python, cores)
    failures = {str(failure): failure for failure in [*data.failures, *grid.failures]}
    return Outcome(data.done + grid.done, data.total + grid.total, list(failures.values()))


def data_files(run: Run) -> list[str]:
    """The files of all rows that a run uses."""
    splits = {task: SPLITS if task in (*run.tasks, "classify") else ("test",) for task in run.data_of}
    return [paths.DATA.of(run=run.run, task=task, split=split) for task in splits for split in splits[task]]


@contextmanager
def server(address: Path, root: Path, python: Path) -> Iterator[None]:
    """The server while inside, and the `python` that calls it in the folder `python`; it ends with all its children."""
    write_client(python / "python", address)
    environment = os.environ | ENVIRONMENT | LARGE_PAGES | {"PYTHONPATH": str(root / "src"), "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "transformer2.cli.rehearsal_server", str(address)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        ) as process,
    ):
        try:
            assert process.stdout
            ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
            if not ready or process.stdout.readline() != b"ready\n":
                errors.seek(0)
                raise RuntimeError(f"the process of the rehearsal does not start:\n{errors.read()}")
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def go_through(run: Run, root: Path, folder: Path, python: Path, cores: int, files: Sequence[str] = ()) -> Outcome:
    """Snakemake's way through the workflow for a run, in the new folder `folder`, to these files or to the end."""
    folder.mkdir(parents=True)
    for part in PARTS:
        (folder / part).symlink_to(root / part)
    (folder / "rehearsal.yaml").write_text(yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False))
    options = ["--cores", str(cores), "--configfile", "rehearsal.yaml"]
    options += ["--keep-going", "--nolock", "--scheduler", "greedy"]
    command = [sys.executable, "-m", "snakemake", *options, *files]
    environment = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}
    environment |= {"TRANSFORMER2_PYTHON": str(python), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout
        said = _follow(process.stdout, folder.name)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    return outcome(said, process.returncode, folder)


def _follow(lines: Iterator[str], what: str) -> str:
    """All that Snakemake says, while a bar shows how far it is and how long it will take."""
    said = []
    with tqdm(desc=f"rehearsing {what}", unit="job", mininterval=0.5 if sys.stderr.isatty() else 20) as bar:
        for line in lines:
            said.append(line)
            if steps := re.match(r"(\d+) of (\d+) steps", line):
                bar.total = int(steps[2])
                bar.update(int(steps[1]) - bar.n)
    return "".join(said)


def outcome(said: str, status: int, folder: Path) -> Outcome:
    """What Snakemake's output tells of its jobs; logs are read in `folder`."""
    steps = re.findall(r"^(\d+) of (\d+) steps", said, re.MULTILINE)
    result = Outcome(int(steps[-1][0]), int(steps[-1][1])) if steps else Outcome()
    wildcards: dict[str, str] = {}
    for block in re.split(r"\n(?=\[|(?:local)?rule |Error in rule )", said):
        facts = dict(re.findall(r"^ {4}(\w+): (.*)$", block, re.MULTILINE))
        if re.match(r"(?:local)?rule ", block):
            wildcards[facts.get("jobid", "")] = facts.get("wildcards", "")
        elif name := re.match(r"Error in rule (\w+):", block):
            result.failures.append(Failure(name[1], wildcards.get(facts["jobid"], ""), _log(facts, folder) or block))
    if status and not result.failures:
        result.failures.append(Failure("Snakefile", "before any job", _last(said)))
    return result


def _log(facts: Mapping[str, str], folder: Path) -> str:
    """The last lines of the log of a job."""
    file = folder / facts.get("log", "").split(" (check")[0]
    return _last(file.read_text(errors="replace")) if file.is_file() else ""


def _last(text: str) -> str:
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return "\n".join(lines[-LAST_LINES:])


def seconds(started: float) -> str:
    """The time since then in words."""
    minutes, rest = divmod(round(time.monotonic() - started), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
