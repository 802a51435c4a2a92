"""The host's side of a sandbox that runs one program after another, each in namespaces of its own.

Starting a sandbox takes many times as long as a program that it runs: Python starts, and the system calls that make a
view of the host are many. So a sandbox is started once, and makes for each program what programs must not share
(`inside.serve`): processes, network, /tmp, keys, and for root's programs nothing that another uid could reach.
"""

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from transformer2.sandbox import watch


@dataclass
class Started:
    """A program that waits for its text: where it reads, where its report is read, its namespace, and its holder."""

    program: IO[bytes]
    report: int
    inside: watch.Namespace
    _channel: socket.socket

    def status(self, seconds: float) -> int:
        """The exit status of its process 1, once that has ended, as a shell tells it; -1 if nobody tells it."""
        told = self._channel.recv(1) if watch.ready(self._channel.fileno(), seconds) else b""
        return told[0] if told else -1


class Server:
    """A started sandbox. The thread that has started it must outlive it: it dies with that thread."""

    def __init__(self, words: Sequence[str], environment: dict[str, str], folder: Path):
        self._control, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with inside:
            self._process = subprocess.Popen(
                list(words), stdin=inside.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment,
                cwd=folder, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()

    @property
    def messages(self) -> IO[bytes]:
        """What the sandbox says of what went wrong in itself."""
        assert self._process.stderr  # for the type checker: it is a pipe
        return self._process.stderr

    @contextmanager
    def start(self, seconds: float) -> Iterator[Started | None]:
        """The next program, in namespaces of its own; None if there is none after so many seconds."""
        with ExitStack() as stack:
            read, write = os.pipe()
            report, reporting = os.pipe()
            channel, holder = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            program = stack.enter_context(open(write, "wb", buffering=0))
            stack.callback(os.close, report)
            stack.enter_context(channel)
            with holder:
                try:
                    socket.send_fds(self._control, [b"+"], [read, reporting, holder.fileno()])
                except BrokenPipeError:  # the sandbox has broken down
                    pass
                finally:
                    os.close(read)
                    os.close(reporting)
            handles = socket.recv_fds(channel, 1, 1)[1] if watch.ready(channel.fileno(), seconds) else []
            if not handles:
                yield None
                return
            stack.callback(os.close, handles[0])
            yield Started(program, report, watch.Namespace(handles[0]), channel)
