"""Files that are whole or not there, and a manifest beside each artifact that says how it came to be."""

import fcntl
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from transformer2.checksums import record_checksum, remove_abandoned, sha256, temporary_path, verified

PACKAGES = ("torch", "transformers", "peft", "pyarrow", "safetensors", "math-verify", "scipy", "statsmodels", "pandas")


@contextmanager
def atomic_path(path: Path, with_checksum: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside `path`: moved there, with its checksum recorded, if the block ends well, else
    removed.

    A process that is killed in between leaves the file of before with the checksum of the new one: it counts as
    corrupt, and is made again. What cannot be made again has to hold a checksum itself, and has none beside it.
    Every writer has a temporary path of its own: of several at once, the last to end leaves its file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path)
    temporary = temporary_path(path)
    try:
        yield temporary
        if with_checksum:
            record_checksum(path, temporary)
        os.replace(temporary, path)
    except Exception as error:
        if number := _refusal(error):  # with the name that the user knows
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _refusal(error: Exception) -> int | None:
    """The number of the operating system's error if it let a write fail; safetensors says it in words alone."""
    if isinstance(error, OSError):
        return error.errno if error.filename is None or str(error.filename).endswith(".tmp") else None
    said = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(said[1]) if said else None


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As `atomic_path`, for a folder that is not there yet.

    Raises:
        ValueError: there is something at `path`, at the start or at the end.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path} is there already: delete it, or write to another place")
    remove_abandoned(path)
    temporary = temporary_path(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for mark in temporary.rglob(".*.sha256"):  # they are for the files of runs
            mark.unlink()
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.exists():
                raise
            raise ValueError(f"{path} was written by another process in the meantime; it is left as it is") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def atomic_write(path: Path, content: str | bytes, with_checksum: bool = True) -> None:
    """Writes all of `content` to `path`, or nothing; a checksum beside it is for the files of runs."""
    with atomic_path(path, with_checksum) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any, with_checksum: bool = True) -> None:
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", with_checksum)


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: it is not JSON, for example because the file was cut off; names the file.
    """
    try:
        return json.loads(verified(Path(path)).read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); delete what it belongs to, to make it again") from None


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file.

    Raises:
        ValueError: a line is no JSON object, for example because the file was cut off; names file and line.
    """
    rows = []
    with open(verified(path), "rb") as file:  # not splitlines(), which splits at U+2028 too
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                said = error.msg if isinstance(error, json.JSONDecodeError) else error.reason
                raise ValueError(f"{path}:{number} is not JSON ({said}); delete the file to make it again") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number} is no JSON object, but {line[:40]!r}")
            rows.append(row)
    return rows


def folder_checksums(folder: Path) -> dict[str, str]:
    """sha256 of every file in a folder (not below it), by name; manifests and files of checksums are left out."""
    files = sorted(path for path in Path(folder).iterdir() if path.is_file() and path.name != "manifest.json")
    return {path.name: sha256(path) for path in files if not path.name.startswith(".")}


def read_complete_lines(path: Path) -> list[Any]:
    """The values of a JSON-lines file that grows while a step runs, none if it is not there.

    They end before the first line that is not whole, which was being written when the process was killed.
    """
    values = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        try:
            values.append(json.loads(line))
        except ValueError:
            break
    return values


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Waits until no other process is in such a block with the same lock file `path`.

    Jobs live on when Snakemake is killed, and Snakemake, started again, starts them a second time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process works in {path.parent}: waiting until it ends", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment() -> dict[str, Any]:
    """Versions, code and hardware of this process; None for a package or a commit that is not there."""
    return {
        "git": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "command": sys.argv[1:],
    }


@cache
def _commit() -> str | None:
    """The commit of this code; None outside a git checkout, and on machines without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:  # there is no git, or it cannot be started
        return None


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def forget_peak_memory() -> None:
    """From now on the peaks of memory are those of what comes."""
    with suppress(OSError):  # a system that does not let a process do so: then peaks are of the whole process
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> int:
    """The most memory (resident, MB) that this process has had since `forget_peak_memory`."""
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) // 1024


@contextmanager
def manifest(path: Path, **facts: Any) -> Iterator[dict[str, Any]]:
    """Times the block and writes `facts`, what the block adds to the yielded dict, and the environment to `path`.

    Peak memory is of the process in MB (resident) while in the block and, where there is a GPU, of its allocator.
    """
    started = time.time()
    record: dict[str, Any] = dict(facts)
    forget_peak_memory()
    yield record
    record |= {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
        "peak_memory_mb": peak_memory_mb(),
        **environment(),
    }
    torch = sys.modules.get("torch")  # a step that never imported torch has no GPU to report
    if torch is not None and torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
        record["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() // 2**20
    write_json(path, record)
