"""The crate of a run against the MUST clauses of its profiles, and how to cite the project.

The clauses are those of RO-Crate 1.1, Workflow RO-Crate 1.0, Process Run Crate 0.5 and Workflow Run Crate 0.5, as
`rocrate-validator validate --profile-identifier workflow-run-crate-0.5` reads them; that tool fetches JSON-LD contexts
from the network and wants other versions of the project's dependencies, so the clauses are written out here.
"""

import hashlib
import json
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import run
from conftest import ROOT
from transformer2.checksums import remove
from transformer2.config import Run
from transformer2.provenance import atomic_write, write_json
from transformer2.report.contents import Contents
from transformer2.report.crate import PROFILES, crate
from transformer2.reproduce.ledger import read_all

STARTED = {"git": "abc", "python": "3.11.7", "packages": {"torch": "2.13.0+cpu"}}
MODELS = list(Run().models)
FILES = (
    "data/gsm8k/test.manifest.json", "generations/toy/base/gsm8k/seed0.manifest.json",
    "generations/toy/base/gsm8k/seed0.jsonl", "experts/toy/gsm8k/svf/seed0/adapter_model.safetensors",
)  # fmt: skip
CONTENTS = Contents((), (), ("scores.csv.gz",), frozenset(map(Path, FILES)))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """What a run leaves behind, as small as can be."""
    folder = tmp_path / "results" / "pocket"
    for model in MODELS:
        facts = {"source": "hub:some/model", "revision": "1" * 40, "sha256": {"model.safetensors": "2" * 64}}
        started = {"started": "2026-01-01T00:00:00Z", "seconds": 5}
        write_json(folder.parent / "models" / model / "base" / "manifest.json", facts | started | STARTED)
    first = {"started": "2026-11-01T10:00:00Z", "seconds": 30.5}
    last = {"started": "2026-11-01T11:00:00Z", "seconds": 59.6}
    write_json(folder / "data/gsm8k/test.manifest.json", first | STARTED)
    write_json(folder / "generations/toy/base/gsm8k/seed0.manifest.json", last | STARTED)
    for name in (
        "scores.csv.gz", "claims.csv", "paper_tables/arxiv/table1.md", "paper_tables/arxiv/table9.md",
        "figures/arxiv/table1.png", "figures/arxiv/table1.png.benchmark.tsv", "generations/toy/base/gsm8k/seed0.jsonl",
        "experts/toy/gsm8k/svf/seed0/adapter_model.safetensors",
    ):  # fmt: skip
        atomic_write(folder / name, f"content of {name}")
    return folder


def packed(results: Path) -> list[Path]:
    """What the rule hands over: frames, claims, tables and figures."""
    names = ("scores.csv.gz", "claims.csv", "paper_tables/arxiv/table1.md", "figures/arxiv/table1.png")
    return [results / name for name in names]


def made(results: Path, **changes: Any) -> Path:
    out = results / "run.crate.zip"
    settings = Run(**changes).model_dump(mode="json")
    crate(results, CONTENTS, packed(results), settings, ROOT, ROOT / "paper_tables", "9.27.1", out)
    return out


def entities(file: Path) -> dict[str, dict[str, Any]]:
    with zipfile.ZipFile(file) as archive:
        metadata = json.loads(archive.read("ro-crate-metadata.json"))
    assert "https://w3id.org/ro/crate/1.1/context" in metadata["@context"]
    found = {entity["@id"]: entity for entity in metadata["@graph"]}
    assert len(found) == len(metadata["@graph"]), "every entity is described once"
    return found


def several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def ids(value: Any) -> list[str]:
    return [entry["@id"] for entry in several(value)]


def test_the_crate_meets_the_must_clauses_of_its_profiles(results):
    found = entities(file := made(results))
    descriptor, root = found["ro-crate-metadata.json"], found["./"]
    # RO-Crate 1.1: the metadata descriptor and the root data entity.
    assert descriptor["@type"] == "CreativeWork" and descriptor["about"] == {"@id": "./"}
    assert "https://w3id.org/ro/crate/1.1" in ids(descriptor["conformsTo"])
    assert root["@type"] == "Dataset" and root["name"] and root["description"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", root["datePublished"])
    assert found[ids(root["publisher"])[0]]["@type"] == "Organization"
    # RO-Crate 1.1: every file is described, is in the crate, and is linked from the root; every link leads somewhere.
    files = {name for name, entity in found.items() if "File" in several(entity["@type"])}
    with zipfile.ZipFile(file) as archive:
        assert set(archive.namelist()) == files | {"ro-crate-metadata.json"}
        for name in files:
            content = archive.read(name)
            assert found[name]["sha256"] == hashlib.sha256(content).hexdigest()
            assert found[name]["contentSize"] == str(len(content)) and found[name]["encodingFormat"]
    assert set(ids(root["hasPart"])) == files
    external = {"https://w3id.org/ro/crate/1.1", *ids(found["Snakefile"]["conformsTo"]), *ids(descriptor["conformsTo"])}
    external |= {"https://doi.org/10.1093/bioinformatics/bts480", "https://snakemake.readthedocs.io"}
    links = [entry for entity in found.values() for value in entity.values() for entry in several(value)]
    assert {link["@id"] for link in links if isinstance(link, dict)} <= set(found) | external
    # Workflow RO-Crate 1.0: the main workflow, its types and language, and the licence of the crate.
    workflow = found[ids(root["mainEntity"])[0]]
    assert workflow["@id"] == "Snakefile"
    assert set(workflow["@type"]) == {"File", "SoftwareSourceCode", "ComputationalWorkflow"}
    language = found[ids(workflow["programmingLanguage"])[0]]
    assert language["@type"] == "ComputerLanguage" and (language["name"], language["version"]) == (
        "Snakemake",
        "9.27.1",
    )
    assert ids(root["license"]) == ["https://spdx.org/licenses/Apache-2.0"]
    # Process Run Crate 0.5 and Workflow Run Crate 0.5: profiles, and an action whose instrument is the workflow.
    assert set(ids(root["conformsTo"])) == set(PROFILES)
    assert all(found[profile]["@type"] == "CreativeWork" for profile in PROFILES)
    (action,) = (entity for entity in found.values() if entity["@type"] == "CreateAction")
    assert ids(action["instrument"]) == ["Snakefile"] and ids(root["mentions"]) == [action["@id"]]
    kinds = {kind for name in ids(action["object"]) + ids(action["result"]) for kind in several(found[name]["@type"])}
    assert kinds == {"File", "CreativeWork"}, "inputs and outputs are files, data sets, collections or creative works"
    assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"


def test_the_crate_says_what_ran_on_what_and_what_came_out(results):
    found = entities(file := made(results))
    (action,) = (entity for entity in found.values() if entity["@type"] == "CreateAction")
    times = (action["startTime"], action["endTime"])
    assert times == ("2026-11-01T10:00:00+00:00", "2026-11-01T11:00:59+00:00"), "of the run, not of the base models"
    model = found[f"#model-{MODELS[0]}"]
    assert (model["version"], model["url"]) == ("1" * 40, "https://huggingface.co/some/model")
    assert found[model["identifier"][1]["@id"]]["value"] == "2" * 64
    assert {"config.yaml", "results/pocket/data/gsm8k/test.manifest.json"} < set(ids(action["object"]))
    outputs = {"SHA256SUMS", *(f"results/pocket/{name}" for name in (
        "scores.csv.gz", "claims.csv", "paper_tables/arxiv/table1.md", "figures/arxiv/table1.png"
    ))}  # fmt: skip
    assert set(ids(action["result"])) == outputs, "no answers, no weights, nothing of an earlier run"
    assert "workflow/rules/report.smk" in ids(found["Snakefile"]["hasPart"])
    software = {name: found[name]["softwareVersion"] for name in ids(found["Snakefile"]["softwareRequirements"])}
    assert software["https://pypi.org/project/torch/2.13.0/#cpu"] == "2.13.0+cpu"
    with zipfile.ZipFile(file) as archive:
        assert yaml.safe_load(archive.read("config.yaml")) == Run().model_dump(mode="json")
        sums = archive.read("SHA256SUMS").decode()
    assert len(sums.splitlines()) == 2
    checked = subprocess.run(
        ["sha256sum", "--check"], input=sums, cwd=results.parents[1], text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_what_an_earlier_configuration_left_is_not_packed(results):
    before = made(results).read_bytes()
    late = {"started": "2027-01-01T00:00:00Z", "seconds": 5}
    write_json(results / "data/math/test.manifest.json", late | STARTED)
    write_json(results / "experts/toy/math/svf/seed0/manifest.json", late | STARTED)
    atomic_write(results / "experts/toy/math/svf/seed0/adapter_model.safetensors", "of an earlier configuration")
    assert made(results).read_bytes() == before


def test_the_same_run_gives_the_same_bytes(results):
    first = made(results).read_bytes()
    assert made(results).read_bytes() == first and len(first) < 200_000


def test_the_command_packs_the_crate(results):
    (results / "run.json").write_text(Run().model_dump_json())
    contents = Contents.of(Run(), read_all(ROOT / "paper_tables"), frozenset())
    pages = {"audit.csv", "audit.md", "claims.csv", "claims.md", "report.html", "illustration.json"}
    pages |= {"coverage.csv", "verdicts.csv", "verdicts.md", "verdicts-pooled.csv"}
    names = {*contents.frames, *contents.table_files(), *contents.figure_files(), *pages}
    for name in names:
        atomic_write(results / name, f"content of {name}")
    done = run("crate", f"--run={results}/run.json", "--snakemake=9.27.1", f"--root={ROOT}")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(results / "run.crate.zip") as archive:
        assert {f"results/pocket/{name}" for name in names} <= set(archive.namelist())


def test_what_is_no_run_is_one_line(results, tmp_path):
    with pytest.raises(ValueError, match="no manifest says what it ran on"):
        made(tmp_path / "results" / "other")
    path = results / "data/gsm8k/test.manifest.json"
    remove(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"test\.manifest\.json is not JSON"):
        made(results)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"test\.manifest\.json has no started"):
        made(results)
    assert not (results / "run.crate.zip").exists()


def test_the_project_can_be_cited():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation) and citation["cff-version"] == "1.2.0"
    assert citation["license"] == "Apache-2.0"
    assert citation["authors"] == [{"name": "The Transformer² reproduction contributors"}]
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text()
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper) and paper["url"] == "https://arxiv.org/abs/2501.06252"
    names = [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]]
    assert names == ["Qi Sun", "Edoardo Cetin", "Yujin Tang"]
