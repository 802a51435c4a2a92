"""Models from the hub, by a server that answers as the hub does: what comes is whole, and what fails is one line."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

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


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "org/gated",
            [],
            "org/gated is gated: accept its licence at https://huggingface.co/org/gated, and set HF_TOKEN",
        ),
        ("org/missing", [], "the hub has no repository org/missing, or it is private: set HF_TOKEN"),
        ("org/tiny", ["--revision", "f" * 40], f"org/tiny has no revision {'f' * 40} on the hub"),
        ("org/pickled", [], "org/pickled has no weights in safetensors"),
    ],
)
def test_what_cannot_be_had_is_one_line(hub, tmp_path: Path, name: str, options: list[str], said: str):
    words = tiny_tokenizer()
    for repository in ("gated", "tiny"):
        publish(hub[1] / "org" / repository, tiny_model(len(words)), words)
    (hub[1] / "org" / "pickled").mkdir()
    (hub[1] / "org" / "pickled" / "config.json").write_text("{}")
    done = get(hub, f"hub:{name}", tmp_path / "base", *options)
    assert done.returncode == 1 and said in done.stderr, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and not (tmp_path / "base" / "config.json").exists()
