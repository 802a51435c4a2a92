"""A server that answers as the hub does, for models and data sets: the list of files, and each file."""

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
    """The part of the hub's interface that a download uses. Models lie in <root>/<owner>/<name>, data sets in
    <root>/datasets/<owner>/<name>."""

    root: Path
    log: list[str]
    breaks: bool
    """Whether the connection ends in the middle of each file."""

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        path = self.path.partition("?")[0].removeprefix("/")
        self.log.append(f"{self.command} {path}")
        if path.startswith("api/"):
            path = path.removeprefix("api/").removeprefix("models/")
            kind, path = ("datasets", path.removeprefix("datasets/")) if path.startswith("datasets/") else ("", path)
            owner, name, *rest = path.split("/")
            folder, revision = self.root / kind / owner / name, rest[1] if rest else "main"
            if not folder.is_dir():
                return self._fail(401, "RepoNotFound")
            if revision not in ("main", COMMIT):
                return self._fail(404, "RevisionNotFound")
            files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            names = {str(file.relative_to(folder)): file.stat().st_size for file in files}
            if rest and rest[0] == "tree":
                tree = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in names.items()]
                return self._answer(json.dumps(tree).encode(), body)
            facts = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            return self._answer(json.dumps(facts).encode(), body)
        kind, path = ("datasets", path.removeprefix("datasets/")) if path.startswith("datasets/") else ("", path)
        owner, name, _, _, name_of_file = path.split("/", 4)
        if name == "gated":
            return self._fail(401, "GatedRepo")
        self._send(self.root / kind / owner / name / name_of_file, body)

    def _fail(self, status: int, code: str) -> None:
        self._head(status, {"X-Error-Code": code}, 0)

    def _answer(self, data: bytes, body: bool) -> None:
        self._head(200, {}, len(data))
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
def serve(root: Path, breaks: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Address of a hub that serves a folder, and the list of what it is asked for."""
    handler: Any = type("OfTest", (Hub,), {"root": root, "log": [], "breaks": breaks})
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
