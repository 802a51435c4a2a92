"""The wheel works where no checkout is: it holds what its commands read."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Folder of the programs of an environment that holds the built wheel, and the packages that it depends on.

    These are the ones of this environment, which saves their download; the release workflow installs a wheel in an
    empty environment.
    """
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("src", "paper_tables", "config"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("*.egg-info"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", made, source]
    subprocess.run(build, check=True)
    place = made / "environment"
    venv.create(place, with_pip=True)
    packages = next(place.glob("lib/python*/site-packages"))
    # A path in a .pth file is searched, its own .pth files are not read: so no editable install of this checkout is.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheel = next(made.glob("transformer2-*.whl"))
    subprocess.run([place / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    shutil.rmtree(source)
    return place / "bin"


def output(program: Path, *arguments: str, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_installed_wheel_audits_the_papers_outside_of_a_checkout(installed, tmp_path):
    place = output(installed / "python", "-c", "import transformer2; print(transformer2.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(installed.parent)
    assert "audit" in output(installed / "transformer2", "--help", cwd=tmp_path)
    assert "findings" in output(installed / "transformer2", "audit", "--out", "found/audit", cwd=tmp_path)
    assert (tmp_path / "found" / "audit.md").stat().st_size > 1000


@pytest.mark.slow
def test_an_installed_wheel_holds_every_file_of_the_ledger_and_the_tuner(installed, tmp_path):
    package = next(installed.parent.glob("lib/python*/site-packages/transformer2"))
    here = {path.relative_to(ROOT / "paper_tables") for path in (ROOT / "paper_tables").rglob("*") if path.is_file()}
    assert here == {
        path.relative_to(package / "paper_tables") for path in (package / "paper_tables").rglob("*") if path.is_file()
    }
    of_paper = (package / "config/paper.yaml").read_text()
    assert of_paper == (ROOT / "config/paper.yaml").read_text() and not (package / "config/paper.yaml").is_symlink()
    program = "import transformer2.svf; from peft import PeftConfig; print(transformer2.svf.SVFConfig().peft_type)"
    assert output(installed / "python", "-c", program, cwd=tmp_path) == "SVF\n"
