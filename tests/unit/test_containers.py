"""Images for `--sdm apptainer`: their versions are those of the environments, and they are published where the
workflow looks for them."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "containers").glob("*.Dockerfile"))
ENVIRONMENTS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "envs").glob("*.yaml")}


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_has_the_python_and_the_versions_of_the_environments(file):
    text = file.read_text()
    (python,) = {part for made in ENVIRONMENTS.values() for part in made["dependencies"] if "python" in part}
    assert re.findall(r"^FROM (\S+?)-slim", text, re.M) == [python.replace("python =", "python:")]
    installs = re.findall(r"(?:uv )?pip install .*", text)
    assert [line for line in installs if "uv==" not in line] == [
        line for line in installs if "--constraint constraints.txt" in line
    ]
    assert len(installs) == 2
    pins = {pin for made in ENVIRONMENTS.values() for pin in made["dependencies"][-1]["pip"]}
    lock = set(map(canonicalize_name, (ROOT / "constraints.txt").read_text().splitlines()))
    assert {pin for pin in pins if canonicalize_name(pin) not in lock} == {"vllm==0.32.0"}
    assert 'vllm = ["vllm==0.32.0"]' in (ROOT / "pyproject.toml").read_text() and ("vllm]" in text) == (
        "cuda" in file.stem
    )


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.stem)
def test_what_an_image_copies_is_in_its_context(file):
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", file.read_text(), re.M) for name in line.split()}
    assert copied == kept and all((ROOT / name).exists() for name in copied)


def test_images_are_published_where_the_workflow_looks_for_them():
    published = (ROOT / ".github/workflows/containers.yml").read_text()
    kinds = yaml.safe_load(published)["jobs"]["image"]["strategy"]["matrix"]["include"]
    assert {kind["kind"]: kind["suffix"] for kind in kinds} == {"cpu": "", "cuda": "-cuda"}
    assert {file.name for file in DOCKERFILES} == {f"{kind['kind']}.Dockerfile" for kind in kinds}
    assert "name=ghcr.io/${GITHUB_REPOSITORY,,}:${GITHUB_REF_NAME" in published
    rules = (ROOT / "workflow/rules/common.smk").read_text()
    assert 'f"docker://ghcr.io/{SOURCE.repo.lower()}:{known}{cuda}"' in rules
    hosts = re.findall(r"[\w.-]+\.(?:io|com|org)/", "".join(file.read_text() for file in DOCKERFILES) + published)
    assert set(hosts) <= {"ghcr.io/"}
