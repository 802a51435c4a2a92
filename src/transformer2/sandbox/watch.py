"""Watching the processes of a program from outside: until they end, or exceed time or memory."""

import os
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

TICK_SECONDS = 0.05
"""How often memory is looked at."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Namespace:
    """A program's process namespace, by its process 1: a descriptor, and its number outside."""

    descriptor: int

    @cached_property
    def first(self) -> int:
        """To be asked for while it lives."""
        facts = Path(f"/proc/self/fdinfo/{self.descriptor}").read_text()
        return int(next(line.split()[1] for line in facts.splitlines() if line.startswith("Pid:")))

    def resident(self) -> int:
        """Bytes of memory that its processes hold; what they share counts for each."""
        return _resident(self.first)

    def kill(self) -> None:
        """Kills all its processes, if they are still there."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, signal.SIGKILL)

    def gone(self, seconds: float) -> bool:
        """Waits until all its processes are gone, of which process 1 is the last; False if that takes longer.

        Until then they hold memory, and count among the processes of their uid.
        """
        return ready(self.descriptor, seconds)


def ready(descriptor: int, seconds: float) -> bool:
    """Waits until a descriptor can be read or is at its end; False if that takes longer."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def until_end(descriptor: int, inside: Namespace | None, seconds: float, memory: int) -> str | None:
    """Waits until a process has ended, without reaping it; else what it has exceeded: time or memory.

    Args:
        descriptor: of the process.
        inside: its namespace; memory is only looked at if there is one.
        seconds: wall-clock time.
        memory: bytes that all processes together may hold.
    """
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if ready(descriptor, min(left, TICK_SECONDS)):
            return None
        if inside and inside.resident() > memory:
            return "memory"
    return "time"


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
