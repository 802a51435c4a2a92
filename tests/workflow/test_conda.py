"""`--use-conda`: the environments of envs/ are made from nothing, every command of a run works with what its rule's
environment holds, and the tables are those of a run without it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name
from test_workflow import copy_project, planned, snakemake

import local_conda
from conftest import ROOT

PYTHON = "{}.{}".format(*sys.version_info)
ASKED = re.search(r"python =(\S+)", (ROOT / "envs/core.yaml").read_text())
needs_their_python = pytest.mark.skipif(
    not ASKED or ASKED[1] != PYTHON,
    reason=f"envs/ ask for Python {ASKED and ASKED[1]}, and all that the stand-in for conda has is {PYTHON}",
)
TABLES = [f"results/tiny/paper_tables/arxiv/{table}.csv" for table in ("table1", "table2", "figure5")]
SCORES = "results/tiny/scores/tiny-llama/svf-gsm8k/gsm8k/seed0.json"
RECORD = "results/tiny/stages/score/tiny-llama/0-of-1.json"
# Python reads this module at its start, wherever it finds it.
WITNESS = """
import json, sys
from importlib.util import find_spec
from pathlib import Path

if sys.orig_argv[1:3] == ["-m", "transformer2"]:
    seen = [name for name in ("torch", "matplotlib", "snakemake") if find_spec(name)]
    with Path(__file__).with_name("witness.jsonl").open("a") as file:
        command = " ".join(sys.orig_argv[3:5] if sys.orig_argv[3] == "stage" else sys.orig_argv[3:4])
        file.write(json.dumps([command, sys.prefix, seen]) + "\\n")
"""


def configuration() -> str:
    """The smallest run, cut down to one method, one configuration of the search, and two tasks and an unseen one."""
    tiny = yaml.safe_load((ROOT / "tests/config/tiny.yaml").read_text())
    models = {
        "tiny-llama": tiny["models"]["tiny-llama"] | {"strategies": ["prompt", "few-shot"]},
        "tiny-llava": tiny["models"]["tiny-llava"] | {"strategies": [], "basis_blocks": 2},
    }
    kept = {"compared": [], "trained": {}, "configurations": ["vector"], "budgets": {"10": {"shots": 4}}}
    return yaml.safe_dump(
        tiny
        | {"models": models}
        | {"tasks": {name: tiny["tasks"][name] for name in ("gsm8k", "textvqa")}}
        | {"unseen": {"humaneval": tiny["unseen"]["humaneval"]}}
        | {"methods": {"svf": {"settings": tiny["methods"]["svf"]["settings"]}}}
        | {"adaptation": tiny["adaptation"] | kept}
    )


def checkout(folder: Path) -> Path:
    folder.mkdir()
    copy_project(folder)
    (folder / "config.yaml").write_text(configuration())
    return folder


def environments_of_commands(folder: Path) -> dict[str, str]:
    """Command -> environment, as the rules name them."""
    text = "\n".join(path.read_text() for path in (folder / "workflow/rules").glob("*.smk"))
    named = {}
    for rule in re.split(r"^rule ", text, flags=re.M)[1:]:
        environment = re.search(r'conda:\n +(?:"../../envs/(\w+)\.yaml"|ENGINE_ENV)\n', rule)
        command = re.search(r'"[^"\n]*python -m transformer2 ((?:stage )?\S+)', rule)
        if environment and command:
            named[command[1]] = environment[1] or "core"
    return named


def versions(prefix: Path) -> dict[str, str]:
    """Of all that pip installed, but what no lock of pip's has; torch for CPUs or for a GPU is the machine's affair."""
    command = [prefix / "bin/python", "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    found = {canonicalize_name(package["name"]): package["version"].partition("+")[0] for package in listed}
    return {name: version for name, version in found.items() if name not in ("pip", "setuptools")}


@pytest.mark.slow
@needs_their_python
def test_every_command_works_in_its_environment_and_the_tables_are_the_same(tmp_path, monkeypatch):
    # As where README's `.venv` is activated while conda's own environment is active, which it is in most terminals.
    conda = tmp_path / "conda"
    local_conda.make(conda)
    path = [str(Path(sys.executable).parent), str(conda / "bin"), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("CONDA_PREFIX", str(conda))
    monkeypatch.setenv("CONDA_SHLVL", "1")
    monkeypatch.setenv("PIP_CONSTRAINT", str(ROOT / "constraints.txt"))
    monkeypatch.setenv("PIP_NO_COMPILE", "0")  # 0 means that it does not compile: most modules are never imported
    folder = checkout(tmp_path / "run")
    (folder / "src/sitecustomize.py").write_text(WITNESS)
    run = snakemake(folder, "--use-conda")
    assert run.returncode == 0, run.stderr[-3000:]

    prefixes = {path.with_suffix(""): path.read_text() for path in (folder / ".snakemake/conda").glob("*_.yaml")}
    files = {path.read_text(): path.stem for path in (folder / "envs").glob("*.yaml")}
    environments = {str(prefix): files[text] for prefix, text in prefixes.items()}
    assert sorted(environments.values()) == ["core", "report"]
    lock = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    lock = {canonicalize_name(name): version for name, version in lock.items()}
    for prefix in environments:
        installed = versions(Path(prefix))
        assert installed == {name: lock.get(name) for name in installed}

    asked = environments_of_commands(folder)
    witnessed = [json.loads(line) for line in (folder / "src/witness.jsonl").read_text().splitlines()]
    assert {(command, environments.get(prefix, prefix)) for command, prefix, _ in witnessed} == {
        (command, environment) for command, environment in asked.items()
    }
    assert {(environments[prefix], *seen) for _, prefix, seen in witnessed} == {
        ("core", "torch"),
        ("report", "matplotlib"),
    }

    assert planned(snakemake(folder, "-n", "--use-conda")) == {}, "a second run does nothing"
    assert "train" in planned(snakemake(folder, "-n")), "its environment is part of what a result is made from"
    made = {name: (folder / name).read_bytes() for name in (*TABLES, SCORES)}
    tables = snakemake(folder, "--rerun-triggers", "mtime", "--forcerun", "tables", "--", *TABLES)
    for part in ("sweeps", "experts", "generations", "scores"):
        shutil.rmtree(folder / "results/tiny" / part)
    scores = snakemake(folder, "--forceall", "--", RECORD)
    assert tables.returncode == scores.returncode == 0, tables.stderr[-3000:] + scores.stderr[-3000:]
    assert {name: (folder / name).read_bytes() for name in made} == made
    jobs = [json.loads(line)[1] for line in (folder / "src/witness.jsonl").read_text().splitlines()[len(witnessed) :]]
    assert set(jobs) == {sys.prefix} and len(jobs) > 8
