"""What does no tensor work imports neither torch nor transformers, and the help is there at once.

One process imports the command line and then forks for each command, so that a whole run of this file costs as little
as the commands themselves.
"""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from transformer2 import cli
from transformer2.config import load
from transformer2.grid import IDENTITY
from transformer2.provenance import write_json, write_jsonl
from transformer2.training.selection import ADAPTER_FILES, LAST

LIGHT = (
    "audit", "check", "choose", "classes", "crate", "data", "explain", "figures", "frames", "import_scores", "plan",
    "record", "report", "schema", "score", "select", "stage", "tables", "verdicts", "verify",
)  # fmt: skip
"""Commands that do no tensor work, by the names of their functions."""
HEAVY = ("torch", "transformers", "peft", "vllm")
CLEAN = {"error": None, "heavy": []}
FACTOR = 20
"""CPU seconds of the help in those of an empty Python, which takes 0.02 s where the help takes 0.3 s."""

FORKS = """
import json, os, sys
from importlib import import_module
from transformer2.cli import app

def run(work, report):
    error = None
    try:
        app(work["arguments"], standalone_mode=False) if "arguments" in work else [*map(import_module, work["modules"])]
    except BaseException as caught:
        error = repr(caught)
    with open(report, "w") as file:
        json.dump({"error": error, "heavy": [name for name in work["heavy"] if name in sys.modules]}, file)

for number, work in enumerate(json.load(sys.stdin)):
    if not (child := os.fork()):
        sys.stdout = open(os.devnull, "w")
        run(work, f"{sys.argv[1]}/report{number}.json")
        os._exit(0)
    os.waitpid(child, 0)
"""


def heavy_imports(works: list[dict], folder: Path) -> list[dict]:
    """For each command (its `arguments`) or list of `modules`: what went wrong, and which heavy libraries it loaded."""
    given = json.dumps([work | {"heavy": HEAVY} for work in works])
    command = [sys.executable, "-c", FORKS, str(folder)]
    subprocess.run(command, input=given, text=True, check=True, cwd=ROOT, env=environment(), timeout=300)
    return [json.loads((folder / f"report{number}.json").read_text()) for number in range(len(works))]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src")}


def modules_of_commands() -> dict[str, list[str]]:
    """Command -> the modules of this package that its function imports when it is called."""
    found = {}
    for file in Path(cli.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any("app.command" in ast.unparse(d) for d in node.decorator_list):
                inside = [child for child in ast.walk(node) if isinstance(child, ast.ImportFrom)]
                names = [f"{one.module}.{alias.name}" for one in inside for alias in one.names]
                found[node.name] = sorted({_module(name) for name in names if name.startswith("transformer2.")})
    return found


def _module(name: str) -> str:
    """The module itself where a name is one, else the module that it is taken from."""
    path = ROOT / "src" / name.replace(".", "/")
    return name if path.is_dir() or path.with_suffix(".py").exists() else name.rpartition(".")[0]


def test_commands_without_tensors_load_modules_without_torch(tmp_path):
    of_command = modules_of_commands()
    assert not set(LIGHT) - of_command.keys(), "commands that are no more"
    (together,) = heavy_imports([{"modules": sorted({m for name in LIGHT for m in of_command[name]})}], tmp_path)
    if together != CLEAN:  # which command is it?
        results = heavy_imports([{"modules": of_command[name]} for name in LIGHT], tmp_path)
        assert {name: result for name, result in zip(LIGHT, results, strict=True) if result != CLEAN} == {}
    assert together == CLEAN


@pytest.mark.slow
def test_a_command_with_tensors_would_be_noticed(tmp_path):
    (result,) = heavy_imports([{"modules": ["transformer2.rollout.batching"]}], tmp_path)
    assert result == CLEAN | {"heavy": ["torch"]}


def inputs(folder: Path) -> None:
    """A few answers of two tasks, two points of a sweep, and a run whose scores were measured elsewhere."""
    rows = {
        "gsm8k": {"question": "1 + 1?", "answer": "2 #### 2"},
        "math": {"problem": "$1+1$?", "solution": r"\boxed{2}", "level": "Level 1", "type": "Algebra"},
    }
    for task, row in rows.items():
        item = f"{task}/test/0"
        write_jsonl(folder / f"{task}.jsonl", [{"item": item} | row])
        answer = {"item": item, "completion": r"#### 2 \boxed{\frac{4}{2}}", "token_ids": [1], "finish_reason": "stop"}
        write_jsonl(folder / f"{task}-answers.jsonl", [answer])
    for point in ("one", "two"):
        for state in ("", LAST):
            for name in ADAPTER_FILES:
                (folder / point / state).mkdir(parents=True, exist_ok=True)
                (folder / point / state / name).write_text("z")
        validation = {"best_validation": 0.5, "last_validation": 0.5, "settings": {"select": "best"}}
        write_json(folder / point / "training.json", validation)
    base = {"model": "a", "row": "llama3-8b", "method": "base", "task": "gsm8k", "correct": 5, "n": 10}
    write_json(folder / "scores.json", {"scores": [base, base | {"method": "svf", "trained_on": "gsm8k"}]})
    run = load(ROOT / "config.yaml").model_copy(update={"run": "mine", "scores": str(folder / "scores.json")})
    write_json(folder / "results/mine/run.json", run.model_dump(mode="json"))


def works(folder: Path) -> list[dict]:
    """Commands with arguments for what `inputs` makes, each after those that it needs."""
    scoring = []
    for task in ("gsm8k", "math"):
        identity = json.dumps(dict.fromkeys(IDENTITY, ""))
        files = [f"--data={folder / task}.jsonl", f"--answers={folder / task}-answers.jsonl"]
        scoring.append(["score", f"--task={task}", *files, f"--out={folder / task}.json", f"--identity={identity}"])
    run = f"--run={folder / 'results/mine/run.json'}"
    commands = [
        ["--help"],
        ["check", "--configfile=config.yaml"],
        ["schema", "--check"],
        ["data", "--task=gsm8k", "--split=test", "--source=pocket", "--limit=2", f"--out={folder / 'pocket.jsonl'}"],
        ["select", str(folder / "one"), str(folder / "two"), f"--out={folder / 'expert'}"],
        *scoring,
        ["frames", run],
        ["tables", run, "--only=arxiv/table1"],
        ["figures", run, "--only=arxiv/table1"],
        ["verdicts", run],
        ["audit", f"--out={folder / 'audit'}"],
        ["verify", str(folder)],
    ]
    return [{"arguments": arguments} for arguments in commands]


@pytest.mark.slow
def test_commands_without_tensors_run_without_torch(tmp_path):
    inputs(tmp_path)
    commands = works(tmp_path)
    results = heavy_imports(commands, tmp_path)
    assert [(w["arguments"], r) for w, r in zip(commands, results, strict=True) if r != CLEAN] == []


@pytest.mark.slow
def test_the_page_of_a_run_is_made_without_torch(tmp_path):
    inputs(tmp_path)
    run = tmp_path / "results/mine"
    (run / "frames.benchmark.tsv").write_text("s\tmax_rss\n1.0\t100\n")
    last = ["record", f"--run={run}/run.json", "--command=snakemake", f"--out={tmp_path / 'record.md'}"]
    names = ("frames", "tables", "figures", "verdicts", "report")
    commands = [*([name, f"--run={run}/run.json"] for name in names), last]
    assert heavy_imports([{"arguments": arguments} for arguments in commands], tmp_path) == [CLEAN] * len(commands)
    assert (run / "report.html").is_file() and (tmp_path / "record.md").is_file()
    assert not (tmp_path / ".record.md.sha256").exists(), "checksums are for the files of runs"


def cpu_seconds(*arguments: str) -> float:
    """Of a Python started with these arguments: the least of a few starts."""
    measured = []
    for _ in range(4):
        before = os.times()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment(), cwd=ROOT)
        after = os.times()
        measured.append(after.children_user + after.children_system - before.children_user - before.children_system)
        time.sleep(0.05)
    return min(measured)


@pytest.mark.parametrize("arguments", [("--help",), ("score", "--help")], ids=" ".join)
def test_the_help_is_there_at_once(arguments):
    assert cpu_seconds("-m", "transformer2", *arguments) < FACTOR * max(cpu_seconds("-c", "pass"), 0.02)
