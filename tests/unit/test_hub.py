"""Models and data sets from the hub, by a server that answers as it does: what comes is whole, else it is one line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

import made_up_textvqa
from conftest import ROOT
from helpers import model as tiny_model
from helpers import tokenizer as tiny_tokenizer
from helpers import vision_model
from local_hub import COMMIT, environment, serve
from transformer2.models import load_model, load_tokenizer
from transformer2.provenance import read_json

pytestmark = pytest.mark.slow


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of a hub, and the folder <owner>/<name> that it serves."""
    with serve(tmp_path / "hub") as (address, _):
        yield address, tmp_path / "hub"


def publish(folder: Path, model: Any, words: Any) -> None:
    """A repository as makers publish theirs: with the weights in their own format, too."""
    model.save_pretrained(folder)
    getattr(words, "processor", words).save_pretrained(folder)
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    (folder / "consolidated.safetensors").write_bytes(b"the same again")
    (folder / "README.md").write_text("# A model")


def get(hub: tuple[str, Path], source: str, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`transformer2 model` with that hub."""
    command = [sys.executable, "-m", "transformer2", "model", "--source", source, "--out", str(out), *options]
    return subprocess.run(
        command, env=environment(hub[0], out.parent / "cache"), capture_output=True, text=True, timeout=120
    )


def test_a_language_model_comes_as_its_files_without_what_is_not_read(hub, tmp_path: Path):
    words = tiny_tokenizer()
    published = tiny_model(len(words))
    publish(hub[1] / "org" / "tiny", published, words)
    done = get(hub, "hub:org/tiny", tmp_path / "base", "--revision", COMMIT)
    assert done.returncode == 0, done.stderr[-2000:]
    names = {str(file.relative_to(tmp_path / "base")) for file in (tmp_path / "base").rglob("*") if file.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"README.md", "consolidated.safetensors", "original/params.json"}
    assert read_json(next(tmp_path.rglob("*manifest.json")))["revision"] == COMMIT
    for name, weight in load_model(tmp_path / "base").named_parameters():
        assert torch.equal(weight, published.get_parameter(name)), name
    assert load_tokenizer(tmp_path / "base")("yes").input_ids == words("yes").input_ids
    assert get(hub, "hub:org/tiny", tmp_path / "base").returncode == 0, "again, over the folder that is there"


def test_a_vision_language_model_comes_with_its_processor(hub, tmp_path: Path):
    published, words = vision_model()
    publish(hub[1] / "org" / "seeing", published, words)
    done = get(hub, "hub:org/seeing", tmp_path / "base")
    assert done.returncode == 0, done.stderr[-2000:]
    loaded: Any = load_model(tmp_path / "base")
    assert all(torch.equal(weight, published.get_parameter(name)) for name, weight in loaded.named_parameters())
    assert load_tokenizer(tmp_path / "base").processor.image_processor is not None


SEVERAL = """
import json, sys
from commands import run
for arguments in json.loads(sys.argv[1]):
    done = run(*arguments)
    print(json.dumps([done.returncode, done.stderr]))
"""
"""Runs several commands in one process, which imports for seconds; prints the exit status and the errors of each."""


def test_what_cannot_be_had_is_one_line(hub, tmp_path: Path):
    words = tiny_tokenizer()
    for repository in ("gated", "tiny"):
        publish(hub[1] / "org" / repository, tiny_model(len(words)), words)
    (hub[1] / "org" / "pickled").mkdir()
    (hub[1] / "org" / "pickled" / "config.json").write_text("{}")
    said = {
        "gated": "org/gated is gated: accept its licence at https://huggingface.co/org/gated, and set HF_TOKEN",
        "missing": "the hub has no repository org/missing, or it is private: set HF_TOKEN",
        "tiny": f"org/tiny has no revision {'f' * 40} on the hub",
        "pickled": "org/pickled has no weights in safetensors",
    }
    revision = {"tiny": ["--revision", "f" * 40]}
    commands = [
        ["model", "--source", f"hub:org/{name}", "--out", str(tmp_path / name), *revision.get(name, [])]
        for name in said
    ]
    variables = environment(hub[0], tmp_path / "cache")
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    command = [sys.executable, "-c", SEVERAL, json.dumps(commands)]
    printed = subprocess.run(command, env=variables, capture_output=True, text=True, check=True, timeout=120).stdout
    for (name, line), (status, errors) in zip(said.items(), map(json.loads, printed.splitlines()), strict=True):
        assert status == 2 and line in errors and "Traceback" not in errors, errors
        assert not (tmp_path / name / "config.json").exists()


QUESTIONS = [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(20)]


def publish_gsm8k(root: Path) -> None:
    path = root / "datasets" / "openai" / "gsm8k" / "main" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(QUESTIONS), path)
    (path.parent / "test-00000-of-00001.parquet").write_bytes(b"another split")


def get_rows(
    address: str, out: Path, *options: str, task: str = "gsm8k", **more: str
) -> subprocess.CompletedProcess[str]:
    """`transformer2 data` of a training split with the hub at an address."""
    command, variables = rows_command(address, out, *options, task=task)
    return subprocess.run(command, env=variables | more, capture_output=True, text=True, timeout=120)


def rows_command(address: str, out: Path, *options: str, task: str = "gsm8k") -> tuple[list[str], dict[str, str]]:
    """That command, and its environment."""
    command = [sys.executable, "-m", "transformer2", "data", "--task", task, "--split", "train", "--source", "hub"]
    return [*command, "--out", str(out), *options], environment(address, out.parent / "cache")


def test_a_split_of_a_data_set_comes_at_its_revision_and_again_without_a_network(tmp_path: Path):
    publish_gsm8k(tmp_path / "hub")
    with serve(tmp_path / "hub") as (address, log):
        done = get_rows(address, tmp_path / "train.jsonl", "--revision", COMMIT)
        assert done.returncode == 0, done.stderr[-2000:]
        assert not any("test-00000" in line for line in log), "a split that is not asked for is not fetched"
    first = (tmp_path / "train.jsonl").read_text()
    assert [json.loads(line)["question"] for line in first.splitlines()] == [f"{i}?" for i in range(0, 20, 2)]
    found = read_json(tmp_path / "train.manifest.json")
    assert (found["repository"], found["revision"], found["rows"]) == ("openai/gsm8k", COMMIT, 10)
    done = get_rows(address, tmp_path / "train.jsonl", "--revision", COMMIT, HF_HUB_OFFLINE="1")
    assert done.returncode == 0 and (tmp_path / "train.jsonl").read_text() == first, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("options", "more", "said"),
    [
        (["--revision", "f" * 40], {}, f"openai/gsm8k has no revision {'f' * 40} on the hub: see https://"),
        ([], {}, "openai/gsm8k has no revision 740312add88f781978c0658806c59bc2815b9866 on the hub"),
        (["--revision", COMMIT], {"HF_HUB_OFFLINE": "1"}, "cannot download openai/gsm8k from the hub (Cannot reach"),
    ],
)
def test_a_data_set_that_cannot_be_had_is_one_line(tmp_path: Path, options: list[str], more: dict, said: str):
    publish_gsm8k(tmp_path / "hub")
    with serve(tmp_path / "hub") as (address, _):
        done = get_rows(address, tmp_path / "train.jsonl", *options, **more)
    assert done.returncode == 2 and said in done.stderr, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and not [*tmp_path.glob("train*")]


@pytest.fixture(scope="module", autouse=True)
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A command that asks a hub that does not answer. It tries again for half a minute, while the other tests run."""
    folder = tmp_path_factory.mktemp("unreachable")
    command, variables = rows_command("http://127.0.0.1:9", folder / "train.jsonl", "--revision", COMMIT)
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process:
        yield folder, process
        process.kill()


def test_a_data_set_that_the_hub_does_not_have_is_one_line(tmp_path: Path):
    (tmp_path / "hub").mkdir()
    with serve(tmp_path / "hub") as (address, _):
        done = get_rows(address, tmp_path / "train.jsonl")
    assert "the hub has no repository openai/gsm8k" in done.stderr and "Traceback" not in done.stderr


def test_a_connection_that_breaks_is_one_line_and_the_next_one_serves(tmp_path: Path):
    publish_gsm8k(tmp_path / "hub")
    with serve(tmp_path / "hub", breaks=True) as (address, _):
        done = get_rows(address, tmp_path / "train.jsonl", "--revision", COMMIT)
    assert done.returncode == 2 and "cannot download openai/gsm8k" in done.stderr, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and not [*tmp_path.glob("train*")]
    with serve(tmp_path / "hub") as (address, _):
        assert get_rows(address, tmp_path / "train.jsonl", "--revision", COMMIT).returncode == 0


@pytest.mark.parametrize("group", [100, 6000])
def test_memory_does_not_grow_with_a_data_set_of_pictures(tmp_path: Path, group: int):
    """30 and 120 MB of pictures, in row groups of a hundred and in one: the same peak."""
    peaks = []
    for rows in (1500, 6000):
        made_up_textvqa.write(tmp_path / f"hub{rows}", rows, kilobytes=20, shards=1, group=group)
        found = made_up_textvqa.measure(tmp_path / f"hub{rows}", tmp_path / f"m{rows}", "train", "--revision", COMMIT)
        assert found["rows"] == rows // 2
        peaks.append(found["peak_memory_mb"])
    assert peaks[1] < peaks[0] + 60, peaks  # of 90 MB more


def test_a_hub_that_does_not_answer_is_one_line(unreachable):
    folder, process = unreachable
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and "(data: dir:<folder>)" in said, said[-2000:]
    assert "Traceback" not in said and not [*folder.glob("train*")]
