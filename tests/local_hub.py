"""A server that answers as the hub does, for models and data sets: the list of files, each file, and commits."""

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that downloads and commits use. Models lie in <root>/<owner>/<name>, data sets in
    <root>/datasets/<owner>/<name>, another branch than main in <root>/branches/<branch>/..."""

    root: Path
    log: list[str]
    breaks: bool
    """Whether the connection ends in the middle of each file."""
    token: str
    """That writers must show."""
    refuses: str
    """Path whose requests are refused with status 500, as by a hub that breaks down."""

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        path = self.path.partition("?")[0].removeprefix("/")
        self.log.append(f"{self.command} {path}")
        if path == "api/whoami-v2":
            return self._answer(b'{"name": "somebody"}', body) if self._may_write() else self._fail(401, "")
        if path.startswith("api/"):
            path = path.removeprefix("api/").removeprefix("models/")
            kind, path = ("datasets", path.removeprefix("datasets/")) if path.startswith("datasets/") else ("", path)
            owner, name, *rest = path.split("/")
            if not (self.root / kind / owner / name).is_dir():
                return self._fail(401, "RepoNotFound")
            folder = self._folder(f"{kind}/{owner}/{name}", rest[1] if rest else "main")
            if not folder.is_dir():
                return self._fail(404, "RevisionNotFound")
            files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            names = {str(file.relative_to(folder)): file.stat().st_size for file in files}
            if rest and rest[0] == "tree":
                tree = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in names.items()]
                return self._answer(json.dumps(tree).encode(), body)
            facts = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            return self._answer(json.dumps(facts).encode(), body)
        kind, path = ("datasets", path.removeprefix("datasets/")) if path.startswith("datasets/") else ("", path)
        owner, name, _, revision, name_of_file = path.split("/", 4)
        if name == "gated":
            return self._fail(401, "GatedRepo")
        if not (self.root / kind / owner / name).is_dir():
            return self._fail(401, "RepoNotFound")
        file = self._folder(f"{kind}/{owner}/{name}", revision) / name_of_file
        self._send(file, body) if file.is_file() else self._fail(404, "EntryNotFound")

    def _folder(self, repository: str, revision: str) -> Path:
        """Where the files of a revision lie, if there is such a revision."""
        return self.root / ("" if revision in ("main", COMMIT) else f"branches/{revision}") / repository.lstrip("/")

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.token}"

    def do_POST(self) -> None:
        path, sent = self.path.partition("?")[0].removeprefix("/"), self._read()
        self.log.append(f"POST {path}")
        if path == self.refuses:
            return self._fail(500, "")
        if not self._may_write():
            return self._fail(403 if "Authorization" in self.headers else 401, "")
        if path == "api/validate-yaml":
            return self._answer(b"{}", True)
        if path == "api/repos/create":
            return self._create(json.loads(sent))
        if path.endswith(".git/info/lfs/objects/batch"):
            address = f"http://{self.headers['Host']}/lfs/"
            wanted = [
                {**one, "actions": {"upload": {"href": address + one["oid"]}}} for one in json.loads(sent)["objects"]
            ]
            return self._answer(json.dumps({"transfer": "basic", "objects": wanted}).encode(), True)
        repository, action, revision = path.removeprefix("api/models/").rsplit("/", 2)
        if action == "branch":
            if (self.root / "branches" / revision / repository).is_dir():
                return self._fail(409, "")
            shutil.copytree(self.root / repository, self.root / "branches" / revision / repository)
            return self._answer(b"{}", True)
        if action == "preupload":
            large = {one["path"]: one["path"].endswith(".safetensors") for one in json.loads(sent)["files"]}
            modes = [
                {"path": name, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
                for name, lfs in large.items()
            ]
            return self._answer(json.dumps({"files": modes}).encode(), True)
        self._commit(repository, revision, [json.loads(line) for line in sent.splitlines()])

    def do_PUT(self) -> None:
        (self.root / "lfs").mkdir(exist_ok=True)
        (self.root / self.path.removeprefix("/")).write_bytes(self._read())
        self._answer(b"", True)

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        there = (self.root / name).is_dir()
        if not there:
            (self.root / name).mkdir(parents=True)
            self.log.append(f"made {name}, {wanted['visibility']}")
        self._answer(json.dumps({"url": f"http://{self.headers['Host']}/{name}"}).encode(), True, 409 if there else 200)

    def _commit(self, repository: str, revision: str, lines: list[dict[str, Any]]) -> None:
        folder = self._folder(repository, revision)
        for line in lines:
            what, value = line["key"], line["value"]
            if what == "header":
                continue
            file = folder / value["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            if what == "deletedFile":
                file.unlink()
            else:
                lfs = self.root / "lfs" / value.get("oid", "")
                file.write_bytes(lfs.read_bytes() if what == "lfsFile" else base64.b64decode(value["content"]))
        address = f"http://{self.headers['Host']}/{repository}/commit/{COMMIT}"
        self._answer(json.dumps({"commitUrl": address, "commitOid": COMMIT}).encode(), True)

    def _fail(self, status: int, code: str) -> None:
        self._head(status, {"X-Error-Code": code}, 0)

    def _answer(self, data: bytes, body: bool, status: int = 200) -> None:
        self._head(status, {}, len(data))
        if body:
            self.wfile.write(data)

    def _send(self, file: Path, body: bool) -> None:
        tag = sha256(f"{file} {file.stat()}".encode()).hexdigest()
        self._head(200, {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'}, file.stat().st_size)
        if not body:
            return
        with open(file, "rb") as content:
            if self.breaks:
                self.wfile.write(content.read(file.stat().st_size // 2))
                self.close_connection = True
            else:
                shutil.copyfileobj(content, self.wfile)

    def _head(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serve(root: Path, breaks: bool = False, token: str = "", refuses: str = "") -> Iterator[tuple[str, list[str]]]:
    """Address of a hub that serves a folder, and the list of what it is asked for."""
    of_test = {"root": root, "log": [], "breaks": breaks, "token": token, "refuses": refuses}
    handler: Any = type("OfTest", (Hub,), of_test)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.log
    finally:
        server.shutdown()
        server.server_close()


def environment(address: str, cache: Path) -> dict[str, str]:
    """The environment of a command that uses the hub at an address."""
    own = {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | own
