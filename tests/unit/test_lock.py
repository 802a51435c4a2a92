"""uv.lock and constraints.txt: two ways to the same versions, from public addresses."""

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PUBLIC = {"pypi.org", "files.pythonhosted.org"}


def locked() -> dict[str, set[str]]:
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    versions: dict[str, set[str]] = {}
    for package in packages:
        versions.setdefault(package["name"], set()).add(package.get("version", ""))
    return versions


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines if "==" in line)}


def test_both_files_name_the_same_versions():
    lock = locked()
    different = {
        name: (version, lock[name]) for name, version in pinned().items() if lock.get(name, {version}) != {version}
    }
    assert not different, "make uv.lock again: bash tests/lock.sh"
    assert len(pinned().keys() & lock.keys()) > 50


def test_every_dependency_of_the_project_is_in_the_lock():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {canonicalize_name(re.match(r"[\w.-]+", requirement)[0]) for requirement in wanted}  # type: ignore[index]
    assert not names - locked().keys(), "make uv.lock again: bash tests/lock.sh"


def test_the_lock_names_public_addresses_alone():
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    assert {urlsplit(address).hostname for address in re.findall(r"https?://[^\"\s]+", text)} == PUBLIC
    assert "file:" not in text and "path =" not in text
