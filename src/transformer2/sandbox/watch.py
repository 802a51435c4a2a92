"""Watching the processes of a sandbox from outside: until they end, or exceed time, memory or files."""

import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TICK_SECONDS = 0.05
"""How often memory and files are looked at."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Namespace:
    """A sandbox's process namespace, by its process 1: its number outside, and a descriptor that cannot be reused."""

    first: int
    descriptor: int

    def resident(self) -> int:
        """Bytes of memory that its processes hold; what they share counts for each."""
        return _resident(self.first)

    def files(self) -> int:
        """Files and folders in its /tmp; 0 if it has just ended."""
        with suppress(FileNotFoundError, ProcessLookupError):
            state = os.statvfs(f"/proc/{self.first}/root/tmp")
            return state.f_files - state.f_ffree
        return 0

    def gone(self, seconds: float) -> bool:
        """Waits until all its processes are gone, of which process 1 is the last; False if that takes longer.

        Until then they hold memory, and count among the processes of their uid.
        """
        return ready(self.descriptor, seconds)


@contextmanager
def namespace(pid: int) -> Iterator[Namespace | None]:
    """The namespace that the command `pid`, not reaped yet, has made; None if it is gone already.

    Raises:
        PermissionError: the caller may not look into it (a bubblewrap that is setuid root).
    """
    first = next(iter(_children(pid)), None)
    descriptor = None
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(first) if first is not None else None
    # Without a second look the number might be that of a later process.
    if first is None or descriptor is None or first not in _children(pid):
        yield None
        return
    try:
        namespace = Namespace(first, descriptor)
        namespace.files()
        yield namespace
    finally:
        os.close(descriptor)


def ready(descriptor: int, seconds: float) -> bool:
    """Waits until a descriptor can be read or is at its end; False if that takes longer."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def until_end(pid: int, inside: Namespace | None, seconds: float, memory: int, files: int) -> str | None:
    """Waits until a child has ended, without reaping it; else what it has exceeded: time, memory or files.

    Args:
        pid: the child.
        inside: its namespace; memory and files are only looked at if there is one.
        seconds: wall-clock time.
        memory: bytes that all processes together may hold.
        files: files and folders in /tmp.
    """
    deadline = time.monotonic() + seconds
    descriptor = os.pidfd_open(pid)
    try:
        while (left := deadline - time.monotonic()) > 0:
            if ready(descriptor, min(left, TICK_SECONDS)):
                return None
            if inside and inside.resident() > memory:
                return "memory"
            if inside and inside.files() > files:
                return "files"
        return "time"
    finally:
        os.close(descriptor)


def _children(pid: int) -> list[int]:
    """Child processes of all threads of a process; none if it has just ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        return [int(child) for text in lists for child in text.split()]
    return []


def _resident(pid: int) -> int:
    """Bytes of memory that a process and its descendants hold; 0 if it has just ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        return own + sum(map(_resident, _children(pid)))
    return 0
