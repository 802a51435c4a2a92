"""Which GPUs a process uses, so that jobs of one machine do not share one: Snakemake counts GPUs, but gives none
out."""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TextIO

_held: list[TextIO] = []
"""Locked files; the system unlocks them when the process ends, however it ends."""


def reserve(n: int, folder: Path | None = None) -> list[str]:
    """Takes `n` of the visible GPUs that no other process has claimed, and shows this process those alone; waits until
    so many are free.

    Call it before CUDA starts. Under SLURM the GPUs of the job are the visible ones. `folder` holds a lock for each
    GPU; the default is one of the user's own.

    Raises:
        ValueError: there are fewer than `n` GPUs.
    """
    gpus = visible()
    if n > len(gpus):
        raise ValueError(f"{n} GPUs are asked for, and {len(gpus)} are there: set `gpus` of the model")
    folder = folder or Path(tempfile.gettempdir()) / f"transformer2-gpus-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    while len(taken := _take(gpus, n, folder)) < n:
        time.sleep(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    return list(taken)


def visible() -> list[str]:
    """The GPUs of this machine by their numbers, or those that CUDA_VISIBLE_DEVICES names."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()


def _take(gpus: list[str], n: int, folder: Path) -> dict[str, TextIO]:
    """Locks of `n` GPUs; of none unless so many are free, so that two processes never wait for each other."""
    taken: dict[str, TextIO] = {}
    for gpu in gpus:
        if len(taken) == n:
            break
        lock = open(folder / gpu.replace("/", "-"), "w")  # noqa: SIM115 (held until the process ends)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken[gpu] = lock
        except BlockingIOError:
            lock.close()
    if len(taken) < n:
        for lock in taken.values():
            lock.close()
        return {}
    _held.extend(taken.values())
    return taken
