"""uv.lock and constraints.txt: two ways to the same versions, from public addresses."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name

COMPANIONS = {
    "click": "uvicorn", "httpx2": "huggingface_hub", "jsonschema": "snakemake", "markupsafe": "jinja2",
    "numpy": "scipy", "packaging": "pytest", "psutil": "snakemake", "starlette": "fastapi",
    "tokenizers": "transformers", "typing_extensions": "pydantic",
}  # fmt: skip
"""Packages that are imported and come with one that is declared."""
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


def name_of(requirement: str) -> str:
    return canonicalize_name(re.match(r"[\w.-]+", requirement)[0])  # type: ignore[index]


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = (name for extra in project["optional-dependencies"].values() for name in extra)
    return {name_of(requirement) for requirement in (*project["dependencies"], *extras)}


def test_both_files_name_the_same_versions():
    lock = locked()
    different = {
        name: (version, lock[name]) for name, version in pinned().items() if lock.get(name, {version}) != {version}
    }
    assert not different, "make uv.lock again: bash tests/lock.sh"
    assert len(pinned().keys() & lock.keys()) > 50


def test_every_dependency_of_the_project_is_in_the_lock():
    assert not declared() - locked().keys(), "make uv.lock again: bash tests/lock.sh"


def test_every_package_that_is_imported_is_declared_or_comes_with_one_that_is():
    imported: set[str] = set()
    for file in (
        file for folder in ("src", "tests", "benchmarks", "examples") for file in (ROOT / folder).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.partition(".")[0])
    packages = packages_distributions()
    undeclared = {
        name
        for name in imported - sys.stdlib_module_names
        if name in packages and not {canonicalize_name(package) for package in packages[name]} & declared()
    }
    assert undeclared == COMPANIONS.keys()
    for name, package in COMPANIONS.items():
        assert canonicalize_name(package) in declared()
        assert canonicalize_name(name) in {name_of(requirement) for requirement in requires(package) or []}


def test_the_lock_names_public_addresses_alone():
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    assert {urlsplit(address).hostname for address in re.findall(r"https?://[^\"\s]+", text)} == PUBLIC
    assert "file:" not in text and "path =" not in text
