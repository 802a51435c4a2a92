"""Models from the hub, by a server that answers as the hub does: what comes is whole, and what fails is one line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from helpers import model as tiny_model
from helpers import tokenizer as tiny_tokenizer
from helpers import vision_model
from transformer2.models import load_model, load_tokenizer
from transformer2.provenance import read_json

COMMIT = "0123456789abcdef0123456789abcdef01234567"

pytestmark = pytest.mark.slow


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that a download uses: the list of files, and each file."""

    root: Path
    log: list[str]

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        path = self.path.partition("?")[0].removeprefix("/")
        self.log.append(f"{self.command} {path}")
        if path.startswith("api/models/"):
            owner, name, *rest = path.removeprefix("api/models/").split("/")
            folder, revision = self.root / owner / name, rest[1] if rest else "main"
            if not folder.is_dir():
                return self._answer(401, {"X-Error-Code": "RepoNotFound"})
            if revision not in ("main", COMMIT):
                return self._answer(404, {"X-Error-Code": "RevisionNotFound"})
            files = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
            if rest[0] == "tree":
                tree = [{"type": "file", "path": file, "size": 1, "oid": "0" * 40} for file in files]
                return self._answer(200, {}, json.dumps(tree).encode(), body)
            facts = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            return self._answer(200, {}, json.dumps(facts).encode(), body)
        owner, name, _, _, file = path.split("/", 4)
        if name == "gated":
            return self._answer(401, {"X-Error-Code": "GatedRepo"})
        data = (self.root / owner / name / file).read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(data).hexdigest()}"'}
        return self._answer(200, headers, data, body)

    def _answer(self, status: int, headers: dict[str, str], data: bytes = b"", body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of a hub, and the folder <owner>/<name> that it serves."""
    handler: Any = type("OfTest", (Hub,), {"root": tmp_path / "hub", "log": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", tmp_path / "hub"
    server.shutdown()
    server.server_close()


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
    own = {"HF_ENDPOINT": hub[0], "HF_HOME": str(out.parent / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | own
    command = [sys.executable, "-m", "transformer2", "model", "--source", source, "--out", str(out), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


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
