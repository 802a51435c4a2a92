"""Checksums of the files of a run, each beside its file, so that nothing is counted from a corrupt one.

That of `seed0.json` is in `.seed0.json.sha256`. Files are read through `verified`; the Snakefile looks for
`corrupt_files` before it plans, and has them made again.
"""

import glob
import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

ALWAYS_READ = 2**26
"""Bytes. Longer files, base models for one, are read again only if their time of change is another one."""


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def temporary_path(path: Path, ending: str = "") -> Path:
    """A new name beside `path` that says which process writes there; no other writer, here or elsewhere, has it."""
    host = platform.node().replace(".", "-")
    return path.with_name(f".{path.name}{ending}.{host}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")


def remove_abandoned(path: Path) -> None:
    """Deletes what killed processes of this machine left of `temporary_path(path)`."""
    host = platform.node().replace(".", "-")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        *_, of_host, pid, _, _ = left.name.split(".")
        if of_host != host or not pid.isdecimal() or _is_alive(int(pid)):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)  # of another writer that does the same
        left.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def record_checksum(path: Path, content: Path | None = None) -> str:
    """Records what `path` holds, or will hold once the file `content` is moved there; returns its sha256."""
    content = content or path
    facts = content.stat()
    record = {"sha256": sha256(content), "bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    temporary = temporary_path(path, ".sha256")
    temporary.write_text(json.dumps(record))
    os.replace(temporary, checksum_file(path))
    return record["sha256"]


def checksum(path: Path) -> str:
    """The sha256 of a file, as recorded beside it where it holds what was written to it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is corrupt.
    """
    verified(path)
    mark = checksum_file(path)
    return json.loads(mark.read_text())["sha256"] if mark.is_file() else sha256(path)


def record_checksums(folder: Path) -> dict[str, str]:
    """Records the checksum of every file in a folder (not below it) but manifests, which do so themselves; sha256 by
    name."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "manifest.json"]
    return {path.name: record_checksum(path) for path in files if not path.name.startswith(".")}


def corruption(path: Path, thorough: bool = False) -> str | None:
    """What is wrong with a file, None if nothing is or if no checksum is recorded; `thorough` reads long files too."""
    try:
        record = json.loads(checksum_file(path).read_text())
        facts = path.stat()
    except FileNotFoundError:
        return None
    except ValueError:
        return "its checksum cannot be read"
    if facts.st_size != record["bytes"]:
        return f"it is {facts.st_size} bytes long, {record['bytes']} were written"
    if facts.st_size > ALWAYS_READ and facts.st_mtime_ns == record["mtime_ns"] and not thorough:
        return None
    if (actual := sha256(path)) != record["sha256"]:
        return f"its sha256 is {actual[:12]}…, {record['sha256'][:12]}… was written"
    return None


def verified(path: Path) -> Path:
    """The path of a file, or of a folder of files, that hold what was written to them (or have no checksum).

    Raises:
        ValueError: one does not.
    """
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if what := corruption(file):
            raise ValueError(f"{file} is corrupt: {what}; start snakemake again, which makes it anew")
    return path


def corrupt_files(folder: Path, thorough: bool = False) -> Iterator[tuple[Path, str]]:
    """(file, what is wrong with it) of every corrupt file in a folder and below it."""
    for mark in sorted(folder.rglob(".*.sha256")):
        path = mark.with_name(mark.name[1 : -len(".sha256")])
        if what := corruption(path, thorough):
            yield path, what


def made_with(path: Path) -> set[Path]:
    """What the step that wrote `path` may have written with it: the folder and all in it where a manifest tells of the
    folder as a whole; otherwise the files beside it with another ending."""
    folder = path.parent
    if (folder / "manifest.json").exists():
        return {folder, *folder.iterdir()}
    return {path, *(other for other in folder.iterdir() if other.name.split(".")[0] == path.name.split(".")[0])}


def remove(path: Path) -> None:
    """Deletes a file, if it is there, and its checksum."""
    path.unlink(missing_ok=True)
    checksum_file(path).unlink(missing_ok=True)
