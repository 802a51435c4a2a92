"""Running model-written Python programs: isolated from the host, limited, and passed only on proof.

**What a program gets** (`Isolation.BUBBLEWRAP` and `Isolation.NAMESPACES` promise the same): no network; a
read-only root with the system's programs and libraries, the base Python and time zones, and nothing else of the host
(no /proc, /etc, /home); an empty /tmp of 16 MB and 4096 files, which is /dev/shm too; process, IPC and mount
namespaces and a host name of its own; no capabilities and no way to new ones (`no_new_privs`); a session keyring of
its own, and a filter of system calls (`seccomp`); an environment that holds nothing of the caller's; limits on memory,
CPU, processes, files and wall-clock time. Where the caller is root, the program has another uid. What it leaves running
dies with its process namespace, before its outcome is returned. A sandbox is started once for many programs, and makes
all of this anew for each (`server`): they share the view of the host and the layout of Python's memory, no more.
`Isolation.NONE` gives the limits of each process, the environment and a session, no more: there a program can do all
that the caller can; the process limit is void for root, and counts all processes of any other caller, so that a program
can hardly fork.

**What a program sees is the same on every host**: one CPU, up to `PROCESSES` processes and threads with stacks of
8 MB, the time zones of the package tzdata.

**What proves success.** An exit status proves nothing (`os._exit(0)` before the asserts). There are two proofs.
Values: the sandbox evaluates the expressions of a `Program` after its text and reports their values as data, and the
caller compares them with what it expects, which the sandbox never holds. No trick of the program helps it but the right
values. The token, for tests that must run beside the program: the caller sends a random token behind the program text
on one pipe; the harness leaves it there, unread, until the last statement of the program has run, and only then copies
it to the report pipe. During the run the token is in no argument, variable, frame, environment or file, and the
program's own stdin, stdout and stderr are /dev/null.

**What remains possible.** Where only the token is the proof, program and harness share one process: a program that
means to cheat can scan its descriptors for the token and echo it to all of them, or return an object that equals
everything. Memory of all processes together is looked at every `watch.TICK_SECONDS`, so a program can exceed its limit
for that long. It can lock the host's files that it can read. The kernel is trusted: this is no defence against an
exploit of it.

Linux only (namespaces, seccomp, pidfd), on x86_64 and aarch64.
"""

import functools
import marshal
import os
import queue
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from transformer2.sandbox import watch
from transformer2.sandbox.isolation import TMP_BYTES, TMP_FILES, Isolation, SandboxError, command, prepare
from transformer2.sandbox.server import Server
from transformer2.sandbox.values import deserialise

__all__ = [
    "FILE_BYTES",
    "Isolation",
    "Outcome",
    "PROCESSES",
    "Program",
    "SandboxError",
    "TMP_BYTES",
    "TMP_FILES",
    "TOGETHER",
    "detect",
    "run_programs",
]

PROCESSES = 32
"""Processes and threads of one program, with the two or three that hold its sandbox."""
TOGETHER = 4
"""Memory of all processes of a program together, in limits of a single one."""
FILE_BYTES = 4 << 20
"""Largest file that a program may write."""
OPEN_FILES = 64
DETAIL_CHARACTERS = 500
START_SECONDS = 30.0
"""How long a sandbox may take to start; the program's own time begins only then."""
END_SECONDS = 30.0
"""How long the processes of a killed sandbox may take to be gone."""

_REPORT_BYTES = 1 << 16
_STARTED = b"+"
_TOOL_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_UIDS = range(61184, 65520)
"""Numbers that systemd keeps free for users who come and go."""
_ENVIRONMENT = {
    "PATH": _TOOL_PATH,
    "PYTHONHASHSEED": "0",
    "PYTHONTZPATH": "/usr/share/zoneinfo",  # a Python of conda would look in its own folder
    "MALLOC_ARENA_MAX": "2",  # each thread would reserve 64 MB of the address space for its own arena
}

_TRIAL = """
import os
visible = {name for name in os.listdir("/") if os.path.exists("/" + name)}
assert visible <= {"bin", "dev", "lib", "lib64", "old", "py", "tmp", "usr"}, "host files are visible"
assert os.uname().nodename == "sandbox", "the host's name is visible"
try: os.sched_setaffinity(0, {0})
except PermissionError: pass
else: raise AssertionError("system calls are not filtered")
assert not os.path.exists("/old") or not os.listdir("/old"), "host files are visible"
"""


@dataclass(frozen=True)
class Program:
    """A program, and expressions to be evaluated when it has reached its end."""

    text: str
    """Full source text."""
    expressions: tuple[str, ...] = ()
    """In the program's own namespace, one after the other."""


@dataclass(frozen=True)
class Outcome:
    """Verdict on one program."""

    passed: bool
    """Execution reached the end of the program text."""
    reason: str
    """passed | failed (exception, failing assert, any exit) | timeout | memory."""
    detail: str = ""
    """What stopped it: line and exception, or exit status; at most `DETAIL_CHARACTERS`."""
    values: tuple[object, ...] = ()
    """Of the expressions, if it passed: builtin values, fractions, and `Unequal` for all else."""


@functools.cache
def detect(accept_unsandboxed: bool = False) -> Isolation:
    """The strongest isolation that works here, found by a trial run of each; remembered.

    `accept_unsandboxed` (the setting `allow_unsandboxed_code`) accepts `Isolation.NONE` where neither works.

    Raises:
        SandboxError: none works and the risk was not accepted.
    """
    problems = []
    for isolation in (Isolation.BUBBLEWRAP, Isolation.NAMESPACES):
        problem = _trial(isolation)
        if problem is None:
            return isolation
        problems.append(problem)
    if accept_unsandboxed:
        return Isolation.NONE
    raise SandboxError(
        f"no sandbox works here for model-written code ({'; '.join(problems)}): install bubblewrap "
        "(apt-get install bubblewrap) and allow unprivileged user namespaces, or set allow_unsandboxed_code to "
        "accept that such code runs with resource limits only"
    )


def run_programs(
    programs: Sequence[str | Program],
    *,
    timeout: float = 5.0,
    memory_mb: int = 512,
    workers: int = 2,
    isolation: Isolation | None = None,
) -> list[Outcome]:
    """Runs each program (full source text, tests included) in a fresh sandbox.

    A program may use the standard library only, and is not `__main__`. Strings hash the same in every run.

    Args:
        programs: source texts, or such with expressions to evaluate.
        timeout: wall-clock seconds per program, from its first statement on.
        memory_mb: address space per process, in MiB; all processes together hold at most `TOGETHER` times as much.
        workers: programs that run at the same time.
        isolation: as `detect()` finds it if None.

    Returns:
        Outcomes in the order of the programs.

    Raises:
        SandboxError: no isolation works, or a sandbox did not start or end.
    """
    isolation = isolation or detect()
    limits = [memory_mb << 20, int(timeout) + 2, PROCESSES, FILE_BYTES, OPEN_FILES]
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(programs)):
        todo.put(index)
    outcomes: dict[int, Outcome] = {}

    def work(uid: int) -> None:
        words = command(isolation, scratch, uid, limits)
        folder = scratch / "root/tmp"
        with ExitStack() as stack:
            alone = isolation is Isolation.NONE
            server = None if alone else stack.enter_context(Server(words, _ENVIRONMENT, folder))
            with suppress(queue.Empty):
                while True:
                    index = todo.get_nowait()
                    given = programs[index]
                    program = given if isinstance(given, Program) else Program(given)
                    if server is None:
                        outcomes[index] = _run_alone(words, folder, program, timeout)
                    else:
                        outcomes[index] = _run(server, program, timeout, TOGETHER * limits[0])

    # RLIMIT_NPROC counts per uid: programs that run at the same time should not share one, nor those of other jobs.
    workers = min(workers, max(len(programs), 1))
    first = secrets.randbelow(len(_UIDS) - workers)
    with tempfile.TemporaryDirectory(prefix="sandbox-") as name, ThreadPoolExecutor(workers) as pool:
        scratch = Path(name)
        prepare(scratch)
        for done in [pool.submit(work, uid) for uid in _UIDS[first : first + workers]]:
            done.result()
    return [outcomes[index] for index in range(len(programs))]


def _trial(isolation: Isolation) -> str | None:
    """Runs a harmless program; why that failed, or None."""
    try:
        [outcome] = run_programs([_TRIAL], isolation=isolation)
    except SandboxError as error:
        return str(error)
    return None if outcome.passed else f"{isolation}: {outcome.detail}"


def _run(server: Server, program: Program, timeout: float, memory: int) -> Outcome:
    """Runs one program in a sandbox; all its processes are gone then.

    Args:
        memory: bytes that its processes may hold together.
    """
    token = secrets.token_hex(16).encode()
    with server.start(START_SECONDS) as one:
        if one is None:
            raise _not_started(server.messages)
        try:
            _send(one.program, program, token)
            started = watch.ready(one.report, START_SECONDS) and os.read(one.report, 1) == _STARTED
            exceeded = watch.until_end(one.inside.descriptor, one.inside, timeout, memory) if started else None
        except PermissionError as error:
            raise SandboxError(f"a sandbox cannot be watched: {error}") from error
        finally:
            one.inside.kill()
        if not one.inside.gone(END_SECONDS):
            raise SandboxError(f"processes of a killed sandbox are still there after {END_SECONDS:.0f} s")
        if not started:
            raise _not_started(server.messages)
        return _outcome(_available(one.report), token, exceeded, one.status(END_SECONDS))


def _run_alone(words: list[str], folder: Path, program: Program, timeout: float) -> Outcome:
    """Runs one program without isolation, by a command started in `folder`; its session is killed then."""
    token = secrets.token_hex(16).encode()
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        cwd=folder,
        start_new_session=True,
    ) as process:
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin and stdout and stderr  # for the type checker: all three are pipes
        _send(stdin, program, token)
        started = watch.ready(stdout.fileno(), START_SECONDS) and os.read(stdout.fileno(), 1) == _STARTED
        descriptor = os.pidfd_open(process.pid)
        exceeded = watch.until_end(descriptor, None, timeout, 0) if started else None
        os.close(descriptor)
        os.killpg(process.pid, signal.SIGKILL)  # it exists and is the program's own: its leader is not reaped yet
        process.wait()
        if not started:
            raise _not_started(stderr)
        return _outcome(_available(stdout.fileno()), token, exceeded, process.returncode)


def _send(pipe: IO[bytes], program: Program, token: bytes) -> None:
    """Sends a program and the token, and closes the pipe; a sandbox that broke down is reported elsewhere."""
    text = marshal.dumps((program.text.encode("utf-8", "replace"), program.expressions))
    left = memoryview(len(text).to_bytes(8, "big") + text + token)
    with suppress(BrokenPipeError), pipe:
        while left:
            left = left[pipe.write(left) :]


def _not_started(messages: IO[bytes]) -> SandboxError:
    reason = " ".join(_available(messages.fileno()).decode(errors="replace").split()) or "no message"
    return SandboxError(f"sandbox did not start: {reason[-DETAIL_CHARACTERS:]}")


def _outcome(report: bytes, token: bytes, exceeded: str | None, status: int) -> Outcome:
    if report.startswith(token):
        with suppress(ValueError):  # something else wrote to the report, too
            return Outcome(True, "passed", values=tuple(deserialise(report.removeprefix(token))))
    match exceeded:
        case "time":
            return Outcome(False, "timeout")
        case "memory":
            return Outcome(False, "memory", "its processes together held too much")
    if report == b"memory":
        return Outcome(False, "memory", "MemoryError")
    detail = report.decode(errors="replace") or f"left before its last statement (exit status {status})"
    return Outcome(False, "failed", detail[:DETAIL_CHARACTERS])


def _available(pipe: int) -> bytes:
    """What a pipe holds now, bounded: something that escaped may keep its other end open."""
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, _REPORT_BYTES)
    except BlockingIOError:
        return b""
