"""A release is of the version that the package and the changelog name; its checks can be run by hand."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CHANGELOG = """# Changelog

## 0.12.0 (2027-01-01)

- Newer.

## 0.2.0 (2026-12-01)

- One.
- Two.

## 0.1.0 (2026-11-01)

- Older.
"""


def step(word: str) -> str:
    """The command of the release workflow with this word in the step's name."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    (command,) = (one["run"] for one in jobs["release"]["steps"] if word in one.get("name", ""))
    return command


def test_the_changelog_begins_with_the_version_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == version


def test_the_notes_of_a_release_are_the_changelog_of_its_version_alone(tmp_path):
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    command = step("notes").replace("/tmp/notes.md", "notes.md")
    environment = os.environ | {"GITHUB_REF_NAME": "v0.2.0"}
    subprocess.run(["bash", "-ec", command], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "notes.md").read_text().strip() == "- One.\n- Two."


def test_the_script_runs_every_check_of_ci_but_that_of_the_lock():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    checks = [one["run"] for one in jobs["checks"]["steps"] if not one.get("run", "uv").startswith("uv")]
    script = (ROOT / "tests/run.sh").read_text().splitlines()
    assert len(checks) == 6
    assert all(any(line.startswith(check) for line in script) for check in checks)
