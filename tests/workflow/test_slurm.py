"""The workflow on a real SLURM of one node: jobs that are preempted, timed out or cancelled, a drained node, and
Snakemake itself killed cost no work and change no result."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open
from test_workflow import copy_project, planned, snakemake

from conftest import ROOT
from transformer2.provenance import read_json, read_jsonl

MISSING = [
    name
    for name in ("munged", "slurmctld", "slurmd", "sbatch")
    if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
]
needs_slurm = pytest.mark.skipif(
    bool(MISSING), reason=f"no {', '.join(MISSING)} here: install Debian's slurm-wlm and munge"
)
PROFILE, DEFAULT_PROFILE = (("--workflow-profile", f"profiles/{name}") for name in ("slurm", "default"))
NODE = ("--cores", "2", "--slurm-init-seconds-before-status-checks", "2")
SITE = ("--default-resources", "slurm_account=lab", "slurm_partition=main", "--set-resources", "train:gpu_model=fake")
STEPS = 100
POINTS = {rate: f"results/tiny/sweeps/tiny-llama/gsm8k/lora/seed0/learning_rate-{rate}" for rate in ("0.001", "0.002")}
BLOCKS = [f"results/tiny/stages/train/tiny-llama/{block}-of-2" for block in range(len(POINTS))]
"""Where the records and logs of the trainings are: each point of the sweep is a block of its own."""
SCORES = ["results/tiny/stages/score/tiny-llama/0-of-1.json"]


def configuration(gpus: int) -> str:
    """The smallest run, cut down to one model, one task and one method, whose trainings are long enough to be hit."""
    tiny = yaml.safe_load((ROOT / "tests/config/tiny.yaml").read_text())
    settings = {"batch_size": 8, "steps": STEPS, "eval_every": 1, "patience": STEPS}
    lora = {"recipe": "paper-lora", "settings": settings, "sweep": {"learning_rate": [float(rate) for rate in POINTS]}}
    return yaml.safe_dump(
        tiny
        | {"models": {"tiny-llama": tiny["models"]["tiny-llama"] | {"gpus": gpus, "blocks": {"train": 2}}}}
        | {"tasks": {"gsm8k": tiny["tasks"]["gsm8k"]}, "methods": {"lora": lora}, "unseen": {}, "adaptation": None}
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("checkout"))
    (folder / "config.yaml").write_text(configuration(gpus=1))
    return folder


@dataclass
class Job:
    """A job that Snakemake submitted: `what` is its rule and wildcards."""

    id: str
    what: str
    state: str
    account: str
    partition: str
    gpus: str
    megabytes: int
    restarts: int


class Cluster:
    """The SLURM of tests/slurm.sh."""

    def __init__(self, folder: Path):
        self.folder = folder
        started = subprocess.run(["bash", ROOT / "tests/slurm.sh", "up", folder], capture_output=True, text=True)
        assert started.returncode == 0, started.stderr
        path = [str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]
        self.environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}
        self.processes: list[subprocess.Popen] = []
        self.environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": os.pathsep.join(path)}

    def down(self) -> None:
        for process in self.processes:
            process.kill()
        subprocess.run(["bash", ROOT / "tests/slurm.sh", "down", self.folder], check=True)

    def __call__(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def jobs(self) -> list[Job]:
        """All that were ever submitted, in that order: this SLURM forgets none of them while the tests run."""
        jobs = []
        for line in self("scontrol", "show", "jobs", "--oneliner").splitlines():
            facts = dict(re.findall(r"(\S+?)=(\S*)", line))
            if facts.get("Comment"):
                what = facts["Comment"].removeprefix("rule_").replace("_wildcards", "")
                of_job = [facts.get(key, "") for key in ("JobState", "Account", "Partition", "TresPerJob")]
                numbers = int(facts["MinMemoryNode"].removesuffix("M")), int(facts["Restarts"])
                jobs.append(Job(facts["JobId"], what, *of_job, *numbers))
        return sorted(jobs, key=lambda job: int(job.id))

    def trainings(self, state: str = "RUNNING") -> dict[str, Job]:
        """Those in a state, by sweep point."""
        trainings = [job for job in self.jobs() if job.what.startswith("train_") and job.state == state]
        return {list(POINTS)[int(job.what.split("_")[-2])]: job for job in trainings}

    def stop(self, job: Job) -> None:
        """Halts what a job runs: SLURM looks at time limits every half minute, when a short training is long over."""
        lines = self("scontrol", "listpids", job.id).splitlines()[1:]
        for pid in {int(line.split()[0]) for line in lines}:
            if pid > 0 and b"transformer2\0stage\0train" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGSTOP)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.down()


class Run:
    """Snakemake at work in a folder; what it says goes to the file `log`."""

    def __init__(self, checkout: Path, slurm: Cluster, name: str):
        self.checkout, self.log = checkout, checkout / f"{name}.log"
        command = [sys.executable, "-m", "snakemake", *PROFILE, *NODE, *SITE, "--", *SCORES]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, cwd=checkout, env=slurm.environment, stdout=log, stderr=subprocess.STDOUT
            )
        slurm.processes.append(self.process)

    def wait_for(self, what: str, condition: Callable[[], object], seconds: float = 600) -> None:
        """Until it holds; Snakemake must be alive meanwhile, unless it was killed before."""
        dead, end = self.process.poll() is not None, time.monotonic() + seconds
        while not condition():
            ended = not dead and self.process.poll() is not None
            assert not ended and time.monotonic() < end, f"no {what}: {self.log.read_text()[-3000:]}"
            time.sleep(0.2)

    def step(self, point: str) -> int:
        """Of the checkpoint of a training, -1 if there is none."""
        path = self.checkout / POINTS[point] / "checkpoint.safetensors"
        if not path.exists():
            return -1
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["facts"])["progress"]["step"]

    def resumed(self, point: str) -> int:
        """The step that a training said to go on from, -1 if it said nothing."""
        log = self.checkout / f"{BLOCKS[list(POINTS).index(point)]}.log"
        found = re.search(r"resuming from step (\d+)", log.read_text()) if log.exists() else None
        return int(found[1]) if found else -1

    def at_work(self, steps: dict[str, int]) -> bool:
        """Whether every training went on from at least this step, and has left a later checkpoint since."""
        return all(self.resumed(p) >= step and self.step(p) > self.resumed(p) for p, step in steps.items())

    def steps(self) -> dict[str, int]:
        return {point: self.step(point) for point in POINTS}


def results(checkout: Path) -> dict[str, object]:
    """All that trainings leave behind but times: experts as bytes, summaries, and what every step and answer was."""
    found: dict[str, object] = {}
    for point, folder in POINTS.items():
        path = checkout / folder
        found[f"{point} expert"] = (path / "adapter_model.safetensors").read_bytes()
        found[f"{point} summary"] = read_json(path / "training.json")
        found[f"{point} validation"] = read_jsonl(path / "validation.jsonl")
        clocks = ("seconds", "generation_seconds", "tokens_per_second")
        found[f"{point} steps"] = [
            {key: value for key, value in line.items() if key not in clocks}
            for line in read_jsonl(path / "metrics.jsonl")
        ]
    return found


def restart_commands() -> str:
    """What docs/slurm.md says to do after Snakemake was killed, but for the new start itself."""
    page = (ROOT / "docs/slurm.md").read_text()
    block = re.search(r"## Snakemake itself was killed.*?```bash\n(.*?)```", page, re.S)
    assert block
    *before, start = block[1].strip().splitlines()
    assert start.startswith("snakemake --workflow-profile profiles/slurm")
    return "\n".join(before)


@pytest.mark.slow
def test_the_profile_limits_no_job_to_the_gpus_of_one_machine(checkout):
    (checkout / "tests/config/gpus.yaml").write_text(configuration(gpus=4))
    arguments = ("-n", "--configfile", "tests/config/gpus.yaml", "--", *SCORES)
    local, submitted = (snakemake(checkout, *options, *arguments) for options in (DEFAULT_PROFILE, PROFILE))
    asked = ["gpu=4" in line for line in submitted.stdout.splitlines() if " resources: " in line]
    assert planned(local) == planned(submitted) and "gpu=4" not in local.stdout
    assert sum(asked) == 3 and len(asked) == 10, "two blocks of trainings and one of answers"


@pytest.mark.slow
@needs_slurm
def test_whatever_kills_jobs_or_snakemake_nothing_is_lost_and_nothing_computed_twice(checkout, monkeypatch, slurm):
    run = Run(checkout, slurm, "first")
    run.wait_for("trainings", lambda: min(run.steps().values()) > 2)

    # Preemption: another partition takes the node, SLURM queues the trainings again, Snakemake does nothing.
    preempted = slurm.trainings()
    asked = {(job.account, job.partition, job.gpus) for job in preempted.values()}
    assert len(preempted) == 2 and asked == {("lab", "main", "gres:gpu:fake:1")}
    slurm("sbatch", "--wait", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=true")
    steps = run.steps()
    assert set(slurm.trainings("PENDING")) == set(POINTS)
    for job in preempted.values():
        slurm("scontrol", "update", f"jobid={job.id}", "starttime=now")  # SLURM itself waits for two minutes
    run.wait_for("training after preemption", lambda: run.at_work(steps))
    assert {job.id: job.restarts for job in slurm.trainings().values()} == {job.id: 1 for job in preempted.values()}

    # The node is drained, one training reaches its time limit, one is cancelled: Snakemake submits both again, with
    # more memory, and they wait until the node is back.
    timed_out, cancelled = (preempted[point] for point in POINTS)
    slurm("scontrol", "update", "nodename=localhost", "state=drain", "reason=test")
    slurm.stop(timed_out)
    slurm("scontrol", "update", f"jobid={timed_out.id}", "endtime=now+1")
    slurm("scancel", cancelled.id)
    run.wait_for("jobs that wait", lambda: set(slurm.trainings("PENDING")) == set(POINTS))
    ended = {timed_out.id: "TIMEOUT", cancelled.id: "CANCELLED"}
    assert {job.id: job.state for job in slurm.jobs() if job.id in ended} == ended and not slurm.trainings()
    steps = run.steps()
    slurm("scontrol", "update", "nodename=localhost", "state=resume")
    run.wait_for("training after a retry", lambda: run.at_work(steps))
    assert [job.megabytes for job in slurm.trainings().values()] == [2 * timed_out.megabytes] * 2

    # Snakemake is killed while jobs run: they go on, are cancelled as the page says, and go on in the next run.
    run.process.send_signal(signal.SIGKILL)
    run.process.wait()
    left = slurm.trainings()
    assert set(left) == set(POINTS)
    subprocess.run(["bash", "-ec", restart_commands()], cwd=checkout, env=slurm.environment, check=True)
    run.wait_for("end of both", lambda: not slurm.trainings())
    steps = run.steps()
    assert min(steps.values()) > 0
    again = Run(checkout, slurm, "second")
    again.wait_for("training in the second run", lambda: again.at_work(steps))

    # Killed once more, with a job that is left to end: the next run takes what it made.
    answers = "answer_tiny_tiny-llama_0_1"
    again.wait_for("answers", lambda: any(job.what == answers and job.state == "RUNNING" for job in slurm.jobs()))
    again.process.send_signal(signal.SIGKILL)
    again.process.wait()
    again.wait_for("end of the answers", lambda: {job.what: job.state for job in slurm.jobs()}[answers] == "COMPLETED")
    assert not (checkout / SCORES[0]).exists()
    subprocess.run([sys.executable, "-m", "snakemake", "--unlock"], cwd=checkout, env=slurm.environment, check=True)
    last = Run(checkout, slurm, "third")
    assert last.process.wait(timeout=600) == 0, last.log.read_text()[-3000:]

    # Nothing is left to do, and every job ran once, but for the trainings, which were each ended twice.
    assert planned(snakemake(checkout, "-n", "--", *SCORES)) == {}
    states: dict[str, list[str]] = {}
    for job in slurm.jobs():
        states.setdefault(job.what, []).append(job.state)
    first, second = (f"train_tiny_tiny-llama_{block}_2" for block in range(len(POINTS)))
    assert states.pop(first) == ["TIMEOUT", "CANCELLED", "COMPLETED"]
    assert states.pop(second) == ["CANCELLED", "CANCELLED", "COMPLETED"]
    once = ["data_data", "model_tiny-llama", "basis_tiny-llama", answers]
    assert states == dict.fromkeys([*once, "score_tiny_tiny-llama_0_1"], ["COMPLETED"])

    # The same trainings undisturbed, without SLURM: bit for bit the same.
    disturbed = results(checkout)
    assert all(again.resumed(point) >= steps[point] > 0 for point in POINTS)
    for folder in POINTS.values():
        shutil.rmtree(checkout / folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # cards that no driver knows, as SLURM's
    local = snakemake(checkout, "--resources", "gpu=2", "--", *(f"{block}.json" for block in BLOCKS))
    assert local.returncode == 0, local.stderr[-3000:]
    assert all(again.resumed(point) == -1 for point in POINTS)
    undisturbed = results(checkout)
    assert [key for key in disturbed if disturbed[key] != undisturbed[key]] == []
