"""Whatever befalls a run or what it left behind, its numbers are those of an undisturbed one."""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from test_checksums import flip
from test_workflow import copy_project, done_at, planned, redone, snakemake

from conftest import ROOT
from transformer2.checksums import corrupt_files, sha256
from transformer2.provenance import read_json, read_jsonl

pytestmark = pytest.mark.slow

CONFIG = "tests/config/faults.yaml"
RESULTS = Path("results/faults")
NUMBERS = [
    *(f"{RESULTS}/paper_tables/arxiv/{table}.csv" for table in ("table1", "table2")),
    *(f"{RESULTS}/{frame}.csv.gz" for frame in ("alphas", "decisions")),
    f"{RESULTS}/claims.csv",
]
"""Files that every stage which computes has a part in."""
STAGES = {
    "model": (2, 1.5), "data": (1, 0.1), "classes": (1, 0.05), "basis": (2, 0.2), "train": (4, 1.5), "select": (1, 0.1),
    "derive": (1, 0.3), "answer": (3, 1), "adapt": (3, 1), "answer_adapted": (2, 0.3), "score": (2, 0.1),
    "choose": (1, 0.1), "frames": (1, 0.1), "tables": (1, 2), "verdicts": (1, 1),
}  # fmt: skip
"""Command, or stage -> how often a job of it is killed, and how many seconds after its start at most."""
KILLS = 16
"""At least; a job may have ended just before it is to be killed, and then there may be no other one of its stage."""
CLOCKS = ("seconds", "generation_seconds", "tokens_per_second", "first_seconds", "second_seconds")
PLACES = [
    {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"TZ": "America/Los_Angeles", "LC_ALL": "C.UTF-8"},
]
"""Environments that Snakemake is started again in: 26 hours apart, one that knows nothing but ASCII."""


def checkout(folder: Path) -> Path:
    copy_project(folder)
    shutil.copy2(ROOT / CONFIG, folder / "config.yaml")
    return folder


def numbers(folder: Path) -> dict[str, object]:
    """What the files of a run hold, by path, but for times: data, experts, answers, scores, frames, tables."""
    found: dict[str, object] = {}
    for mark in (folder / RESULTS).rglob(".*.sha256"):
        path = mark.with_name(mark.name[1 : -len(".sha256")])
        name = str(path.relative_to(folder / RESULTS))
        if not path.exists() or name.endswith(("timings.csv", "table3.csv", "checkpoint.safetensors", "manifest.json")):
            continue
        if name.startswith("stages/"):  # checksums of files with times
            continue
        if path.suffix in (".safetensors", ".csv", ".gz"):
            found[name] = sha256(path)
        elif path.suffix == ".json":
            found[name] = without_clocks(read_json(path))
        elif path.suffix == ".jsonl":
            found[name] = [without_clocks(row) for row in read_jsonl(path)]
    return found


def all_of(found: dict[str, object]) -> bool:
    return {path.removeprefix(f"{RESULTS}/") for path in NUMBERS} <= set(found)


def without_clocks(row: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in row.items() if key not in CLOCKS}


def differing(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    return sorted(path for path in found if found[path] != expected.get(path))


GATE = """#!/bin/sh
echo "$*" > {waiting}/.$$
mv {waiting}/.$$ {waiting}/$$
while [ -e {waiting}/$$ ]; do sleep 0.02; done
exec {python} "$@"
"""


class Gate:
    """A `python` for jobs that holds back each command at its start, until `open`."""

    def __init__(self, folder: Path, served: Path):
        self.folder, self.waiting = folder, folder / "waiting"
        self.waiting.mkdir(parents=True)
        (folder / "python").write_text(GATE.format(waiting=self.waiting, python=served / "python"))
        (folder / "python").chmod(0o755)

    def open(self) -> set[str]:
        """Lets those that wait begin: their commands, or stages."""
        found = set()
        for file in self.waiting.glob("[0-9]*"):
            words = file.read_text().split()
            command, stage = words[words.index("transformer2") + 1 :][:2]
            found.add(stage if command == "stage" else command)
            file.unlink()
        return found


@contextmanager
def gate_of(folder: Path, served: Path) -> Iterator[Gate]:
    gate = Gate(folder, served)
    try:
        yield gate
    finally:
        shutil.rmtree(gate.waiting)  # nothing waits any longer


class Run:
    """A Snakemake at work in a folder; its jobs are children of the process of `served`."""

    def __init__(self, folder: Path, python: Path, *arguments: str, **environment: str):
        self.log = folder / "run.log"
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
        keep = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}
        keep |= {"TRANSFORMER2_PYTHON": str(python)} | environment
        with open(self.log, "w") as log:
            self.process = psutil.Popen(command, cwd=folder, env=keep, stdout=log, stderr=log)

    def reaches(self, gate: Gate, stages: Collection[str], seconds: float = 300) -> str | None:
        """Waits until a job of one of these stages starts, and names it; None if the run ends before."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            if found := gate.open() & {*stages}:
                return min(found)
            assert time.monotonic() < end, f"no {', '.join(stages)}: {self.log.read_text()[-2000:]}"
            time.sleep(0.02)
        return None

    def kill(self, jobs_too: bool) -> None:
        """Kills Snakemake, and what it started."""
        jobs = []
        with suppress(psutil.NoSuchProcess):  # it has just ended
            jobs = self.process.children(recursive=True)
        end([self.process, *(jobs if jobs_too else [])])
        self.process.wait()
        if jobs_too:
            kill_jobs()


def kill_jobs() -> None:
    """Kills the processes of all jobs; their Snakemake sees that they failed."""
    end(server_of_jobs().children())


def server_of_jobs() -> psutil.Process:
    """The process of `served`."""
    children = psutil.Process().children()
    (found,) = [one for one in children if "transformer2.cli.rehearsal_server" in one.cmdline()]
    return found


def end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@dataclass
class Undisturbed:
    folder: Path
    numbers: dict[str, object]
    second: subprocess.CompletedProcess[str]
    """Of the Snakemake that was started while the first one worked."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, served: Path) -> Undisturbed:
    folder = checkout(tmp_path_factory.mktemp("undisturbed"))
    with gate_of(tmp_path_factory.mktemp("gate") / "bin", served) as gate:
        run = Run(folder, gate.folder)
        assert run.reaches(gate, ["model"])
        second = snakemake(folder)
        assert run.reaches(gate, []) is None
    assert run.process.returncode == 0, run.log.read_text()[-3000:]
    return Undisturbed(folder, numbers(folder), second)


def test_jobs_share_no_lock_that_a_killed_one_could_keep(undisturbed):
    assert [one.path for one in server_of_jobs().memory_maps() if "/sem." in one.path] == []


def test_a_second_snakemake_is_refused_and_disturbs_nothing(undisturbed):
    assert undisturbed.second.returncode != 0
    assert "lock" in undisturbed.second.stderr and "is corrupt" not in undisturbed.second.stderr
    assert planned(snakemake(undisturbed.folder, "-n")) == {}


def test_killed_twenty_times_in_other_places_it_ends_with_the_same_numbers(undisturbed, served, tmp_path):
    """A third of the kills ends Snakemake, half of these with its jobs; the others end jobs alone, which it repeats."""
    folder, chance = checkout(tmp_path), random.Random(0)
    killed: list[str] = []
    done: dict[str, tuple[str, float]] = {}
    with gate_of(tmp_path / "bin", served) as gate:
        run = None
        while left := [stage for stage, (times, _) in STAGES.items() if killed.count(stage) < times]:
            if run is None:
                run = Run(folder, gate.folder, "--retries", "9", "--", *NUMBERS, **PLACES[len(killed) % 2])
            if (stage := run.reaches(gate, left)) is None:
                assert run.process.returncode == 0, run.log.read_text()[-3000:]
                break
            time.sleep(chance.uniform(0, STAGES[stage][1]))
            if len(killed) % 3:
                kill_jobs()
            else:
                run.kill(jobs_too=len(killed) % 2 == 0)  # what lives on without Snakemake works beside the next one
                run = None
            killed.append(stage)
            done = done_at(folder / RESULTS) | done
            if len(killed) == 1:
                assert "LockException" in snakemake(folder, "--", *NUMBERS).stderr
            if run is None:
                unlock(folder)
                gate.open()  # those that were killed there
        if run is not None:
            run.kill(jobs_too=True)
            unlock(folder)
    print("killed:", *killed)
    # Of two jobs that start at once one is named, and the other may end: so a stage or two may be passed by.
    assert len(killed) >= KILLS and len(set(killed)) >= len(STAGES) - 3
    # The rest in processes of their own, as a user has them.
    last = snakemake(folder, "--forcerun", "tables", "--", *NUMBERS, **PLACES[0])
    assert last.returncode == 0, last.stderr[-3000:]
    found = numbers(folder)
    assert differing(found, undisturbed.numbers) == [] and all_of(found)
    assert redone(done, folder / RESULTS) == sorted(done_at(folder / RESULTS).keys() - done.keys()), "nothing twice"
    assert planned(snakemake(folder, "-n", "--", *NUMBERS)) == {}


def unlock(folder: Path) -> None:
    """What `snakemake --unlock` does, in less time."""
    shutil.rmtree(folder / ".snakemake/locks", ignore_errors=True)


def cut(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def lose_last_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def more(path: Path) -> None:
    path.write_text(path.read_text().replace("1", "2", 1))


def test_a_model_that_changed_under_the_cache_is_made_again_with_all_that_came_of_it(undisturbed):
    weights = undisturbed.folder / "results/models/tiny-llama/base/model.safetensors"
    flip(weights)
    jobs = snakemake(undisturbed.folder, "-n")
    assert {"model", "basis", "train", "answer", "adapt", "tables"} <= set(planned(jobs))
    assert "base/model.safetensors is corrupt" in jobs.stdout + jobs.stderr
    flip(weights)  # twice is not at all
    assert planned(snakemake(undisturbed.folder, "-n")) == {}
    config = undisturbed.folder / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("row: llama3-8b", "row: llama3-8b, seed: 9"))
    assert {"model", "basis", "train", "answer"} <= set(planned(snakemake(undisturbed.folder, "-n")))
    config.write_text(text)
    assert planned(snakemake(undisturbed.folder, "-n")) == {}


def test_whatever_is_corrupt_is_named_and_made_again(undisturbed, served):
    folder, results = undisturbed.folder, undisturbed.folder / RESULTS
    (sweep,) = results.glob("sweeps/*/gsm8k/svf/seed0/kl_coefficient-0.0")
    harms = {
        results / "data/math/test.jsonl": lose_last_line,
        results / "generations/tiny-llama/base/gsm8k/seed0.jsonl": lose_last_line,
        results / "scores/tiny-llama/svf-gsm8k/gsm8k/seed0.json": more,
        results / "experts/tiny-llama/gsm8k/svf/seed0/adapter_model.safetensors": cut,
        sweep / "metrics.jsonl": cut,
        folder / "results/models/tiny-llama/basis.safetensors": flip,
        results / "alphas.csv.gz": cut,
        results / "paper_tables/arxiv/table1.csv": more,
        results / "figures/arxiv/table2.csv": cut,
    }
    for path, harm in harms.items():
        harm(path)
    score = f"{RESULTS}/stages/score/tiny-llama/0-of-1.json"
    alone = snakemake(folder, "--force", score, python=served)
    assert alone.returncode != 0 and "data/math/test.jsonl is corrupt: " in alone.stderr + alone.stdout
    run = snakemake(folder, python=served)
    assert run.returncode == 0, run.stderr[-3000:]
    for path in harms:  # the job by itself has made again what it could
        assert f"{path.relative_to(folder)} is corrupt" in alone.stderr + alone.stdout + run.stderr
    assert differing(numbers(folder), undisturbed.numbers) == []
    assert not [*corrupt_files(folder / "results")] and planned(snakemake(folder, "-n")) == {}


def test_files_from_the_future_stop_the_run_until_they_are_dated_back(undisturbed, served):
    """What a machine whose clock is ahead has written is newer than all that is made of it."""
    folder = undisturbed.folder
    ahead = time.time() + 3600
    for path in (*(folder / RESULTS / "data").rglob("*.jsonl"), *(folder / "results/models/tiny-llama/base").iterdir()):
        os.utime(path, (ahead, ahead))
    basis = "results/models/tiny-llama/basis.safetensors"
    stopped = snakemake(folder, basis, python=served)
    assert stopped.returncode != 0 and "clock skew" in stopped.stderr
    (remedy,) = re.findall(r"`(find results .*?)`", (ROOT / "docs/faults.md").read_text())
    subprocess.run(["bash", "-c", remedy], cwd=folder, check=True)
    assert snakemake(folder, basis, python=served).returncode == 0
    assert differing(numbers(folder), undisturbed.numbers) == []


FULL = f"""
set -e
mount -t tmpfs -o size=64m tmpfs "$1/disk"
cp -r "$1/project/." "$1/disk"
cd "$1/disk"
export TRANSFORMER2_PYTHON="$1/bin"
used=$(df --output=used -k . | tail -1)
for more in 300 1500 3000 4200 5000; do
  mount -o remount,size=$((used + more))k .
  if {sys.executable} -m snakemake --cores 2 -- {" ".join(NUMBERS)} > "$1/full-$more.log" 2>&1; then exit 3; fi
  {sys.executable} -m snakemake --unlock
  cp -r results "$1/results-$more"
done
mount -o remount,size=256m .
{sys.executable} -m snakemake --cores 2 -- {" ".join(NUMBERS)}
cp -r results "$1/results"
"""
"""Runs on a disk that is full again and again, each time a little later; in a namespace that may mount disks."""
SERVED_THERE = """
import subprocess, sys
from pathlib import Path
from transformer2.rehearsal.rehearse import server

folder, root, script = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
with server(folder / "socket", root, folder / "bin"):
    sys.exit(subprocess.run(["bash", "-c", script, "bash", folder]).returncode)
"""
"""Runs a script with the process that serves its jobs: one that sees the namespace's disks."""


@pytest.mark.skipif(
    subprocess.run(["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "x", "/mnt"]).returncode != 0,
    reason="this system lets no user mount a disk in a namespace of one's own",
)
def test_on_a_disk_that_is_full_it_stops_and_goes_on_with_the_same_numbers(undisturbed, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "project").mkdir()
    checkout(tmp_path / "project")
    command = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", SERVED_THERE, tmp_path, ROOT, FULL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    logs = {path: path.read_text() for path in tmp_path.glob("full-*.log")}
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(logs) == 5 and all("No space left on device" in log for log in logs.values())
    for results in tmp_path.glob("results*"):
        (results.parent / "of" / results.name).mkdir(parents=True)
        shutil.move(results, results.parent / "of" / results.name / "results")
        assert differing(numbers(results.parent / "of" / results.name), undisturbed.numbers) == [], results.name
    assert all_of(numbers(tmp_path / "of" / "results"))
