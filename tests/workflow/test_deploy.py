"""The workflow used from elsewhere: as a module in an empty folder, as snakedeploy leaves it, and in containers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from test_workflow import copy_project, planned, snakemake

from conftest import ROOT
from transformer2.provenance import read_json

SMALL = {
    "run": "small",
    "seeds": [0],
    "models": {"toy": {"source": "pocket:llama", "row": "llama3-8b", "pretraining_steps": 5}},
    "tasks": {"gsm8k": {"train": 8, "validation": 4, "test": 6, "max_new_tokens": 8}},
    "unseen": {},
    "methods": {"svf": {"settings": {"batch_size": 4, "steps": 2, "eval_every": 1}}},
    "adaptation": None,
    "report_to": ["tensorboard"],
}
DATA = "results/small/data/gsm8k/test.jsonl"


def deploy(folder: Path, declaration: str, **changes: object) -> Path:
    """An empty folder after `snakedeploy deploy-workflow`, whose configuration was edited."""
    (folder / "workflow").mkdir(parents=True)
    (folder / "workflow" / "Snakefile").write_text(
        "from snakemake.utils import min_version\n\n\n"
        'min_version("6.10.0")\n\n\n'
        'configfile: "config/config.yaml"\n\n\n'
        f"module transformer2:\n    snakefile:\n        {declaration}\n    config:\n        config\n\n\n"
        "use rule * from transformer2\n"
    )
    for name in ("config", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "LICENSE", folder)
    assert yaml.safe_load((folder / "config/config.yaml").read_text())["run"] == "pocket", "the default run comes along"
    (folder / "config/config.yaml").write_text(yaml.safe_dump(SMALL | changes))
    return folder


def files(folder: Path) -> dict[Path, int]:
    """Every file below a folder, but Python's own cache, and when it was written."""
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in found}


@pytest.mark.slow
def test_a_module_in_an_empty_folder_goes_from_models_to_the_page_and_writes_nowhere_else(tmp_path, served):
    source = tmp_path / "elsewhere" / "the source"
    source.mkdir(parents=True)
    copy_project(source)
    folder = deploy(tmp_path / "deployed", f'"{source}/workflow/Snakefile"')
    before = files(source)
    dry = planned(snakemake(folder, "-n"))
    assert dry["train"] == dry["crate"] == 1 and not (folder / "results").exists()

    run = snakemake(folder, python=served, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert run.returncode == 0, run.stderr[-3000:]
    results = folder / "results" / "small"
    assert read_json(results / "run.json")["generation_batch"] == 200, "every default is in it"
    assert (results / "report.html").is_file() and (results / "run.crate.zip").is_file()
    assert [path.parent.name for path in results.glob("sweeps/**/events.out.tfevents.*")] == ["tensorboard"]
    assert files(source) == before and planned(snakemake(folder, "-n")) == {}
    assert {path.name for path in tmp_path.iterdir()} <= {"elsewhere", "deployed", "cache"}
    assert {path.name for path in folder.iterdir()} == {
        ".snakemake", "LICENSE", "config", "profiles", "results", "workflow",
    }  # fmt: skip

    (folder / "config/config.yaml").write_text(yaml.safe_dump(SMALL | {"report_to": []}))
    assert planned(snakemake(folder, "-n")) == {}, "a tracker decides nothing of a result"
    (results / "report.html").unlink()
    again = snakemake(folder, python=served)
    assert again.returncode == 0 and read_json(results / "run.json")["report_to"] == [], again.stderr[-3000:]


@pytest.mark.slow
def test_a_module_of_a_repository_takes_the_installed_package_and_its_rules_from_there(tmp_path):
    source = tmp_path / "hosts" / "someone" / "transformer2"
    source.mkdir(parents=True)
    copy_project(source)
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=1"], ["tag", "v9.9.9"]):
        subprocess.run([*git, *command], check=True)
    snakefile = 'github("someone/transformer2", path="workflow/Snakefile", tag="v9.9.9")'
    folder = deploy(tmp_path / "deployed", snakefile)
    settings = tmp_path / "gitconfig"
    settings.write_text(f'[url "file://{tmp_path}/hosts/"]\n    insteadOf = https://github.com/\n')
    environment = {"GIT_CONFIG_GLOBAL": str(settings), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    made = snakemake(folder, DATA, PYTHONPATH=str(ROOT / "src"), **environment)
    assert made.returncode == 0 and (folder / DATA).is_file(), made.stderr[-3000:]
    assert (folder / ".snakemake/transformer2/transformer2").resolve() == ROOT / "src" / "transformer2"
    assert planned(snakemake(folder, "-n", PYTHONPATH=str(ROOT / "src"), **environment))["train"] == 1

    hidden = tmp_path / "without" / "transformer2"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('none', name='transformer2')")
    said = snakemake(folder, "-n", PYTHONPATH=str(hidden.parent), **environment)
    assert said.returncode == 1
    assert (
        "pip install 'transformer2 @ git+https://github.com/someone/transformer2@v9.9.9'" in said.stderr + said.stdout
    )

    engine = stand_in(tmp_path / "engine")
    environment |= {"PATH": f"{engine.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    (folder / DATA).unlink()
    contained = snakemake(folder, DATA, "--sdm", "apptainer", **environment)
    assert contained.returncode == 0, contained.stderr[-3000:]
    assert "docker://ghcr.io/someone/transformer2:v9.9.9\n" in (engine.parent / "pulled").read_text()


def stand_in(folder: Path) -> Path:
    """An `apptainer` that keeps the addresses of images it is asked for, and runs commands without a container."""
    folder.mkdir()
    program = folder / "apptainer"
    program.write_text(
        "#!/usr/bin/env bash\n"
        'here="$(dirname "$0")"\n'
        'case "$*" in\n'
        '  *--version*) echo "apptainer version 1.4.0" ;;\n'
        '  pull*) echo "$4" >> "$here/pulled"; touch "$3" ;;\n'
        '  *) echo "$*" >> "$here/ran"; exec bash -c "${@: -1}" ;;\n'
        "esac\n"
    )
    program.chmod(0o755)
    (folder / "singularity").symlink_to(program)
    return program


@pytest.mark.slow
def test_jobs_run_in_the_container_of_the_configuration_and_only_where_it_is_asked_for(tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    copy_project(checkout)
    (checkout / "mine.yaml").write_text(yaml.safe_dump(SMALL))
    engine = stand_in(tmp_path / "engine")
    path = f"{engine.parent}{os.pathsep}{os.environ['PATH']}"
    target = (DATA, "--configfile", "mine.yaml")
    without = snakemake(checkout, *target, "-n", "--sdm", "apptainer", PATH=path)
    assert without.returncode == 1 and "container is missing: --sdm apptainer" in without.stderr + without.stdout

    image = "docker://ghcr.io/someone/transformer2:v1"
    given = ("--config", f"container={image}")
    plain = snakemake(checkout, *target, *given, PATH=path)
    assert plain.returncode == 0 and not (engine.parent / "pulled").exists(), plain.stderr[-3000:]
    (checkout / DATA).unlink()
    contained = snakemake(checkout, *target, *given, "--sdm", "apptainer", PATH=path)
    assert contained.returncode == 0, contained.stderr[-3000:]
    assert (engine.parent / "pulled").read_text() == f"{image}\n"
    assert "transformer2 data" in (engine.parent / "ran").read_text()
