"""Running model-written Python programs: isolated from the host, limited, and passed only on proof.

**What a program gets** (`Isolation.BUBBLEWRAP` and `Isolation.NAMESPACES` promise the same): no network; a
read-only root with the system's programs and libraries and the base Python, and nothing else of the host (no
/proc, /etc, /home); an empty /tmp of 16 MB; process, IPC, host-name and mount namespaces of its own; no
capabilities and no way to new ones (`no_new_privs`); an environment that holds nothing of the caller's; limits
on memory, CPU, processes, files and wall-clock time. Where the caller is root, the program has another uid.
What it leaves running dies with its process namespace. `Isolation.NONE` gives the limits, the environment and a
session, no more: there a program can do all that the caller can; the process limit is void for root, and counts
all processes of any other caller, so that a program can hardly fork.

**What proves success.** An exit status proves nothing (`os._exit(0)` before the asserts). The caller sends a
random token behind the program text on one pipe; the harness leaves it there, unread, until the last statement
of the program has run, and only then copies it to the report pipe. During the run the token is in no argument,
variable, frame, environment or file, and the program's own stdin, stdout and stderr are /dev/null.

**What remains possible.** Program and harness share one process: a program that means to cheat can scan its
descriptors for the token and echo it to all of them. One that cheats the asserts (an object equal to
everything) needs no token. `memory_mb` holds for each of at most `PROCESSES` processes; kernel memory reached
through ctypes (System V shared memory, mounts in a nested user namespace) is bounded by time alone. The kernel
is trusted: this is no defence against an exploit of it.

Linux only (namespaces, pidfd).
"""

import functools
import os
import queue
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

PROCESSES = 8
"""Processes and threads of one program, with the two or three that hold its sandbox."""
FILE_BYTES = 4 << 20
"""Largest file that a program may write."""
TMP_BYTES = 16 << 20
"""Size of a program's /tmp."""
OPEN_FILES = 64
DETAIL_CHARACTERS = 500
START_SECONDS = 30.0
"""How long a sandbox may take to start; the program's own time begins only then."""

_REPORT_BYTES = 4096
_STARTED = b"+"
_TOOL_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_HIGHEST_UID = 65534

# Runs inside: argv = memory bytes, CPU seconds, processes, file bytes, open files.
# stdin = length (8 bytes), program, token; stdout = start mark, then the token or the reason.
_HARNESS = r"""
import os, resource, sys

def main():
    read, write, leave = os.read, os.write, os._exit  # kept: a program may patch the os module
    names = ("AS", "CPU", "NPROC", "FSIZE", "NOFILE", "CORE", "MSGQUEUE")
    for name, value in zip(names, [*map(int, sys.argv[1:]), 0, 0]):
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    del sys.argv[1:]
    size, source = int.from_bytes(read(0, 8), "big"), b""
    while len(source) < size:
        source += read(0, size - len(source))
    first, second = os.urandom(2)
    token, report = os.dup2(0, 8 + first % 24, False), os.dup2(1, 36 + second % 24, False)
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    write(report, b"+")
    # A module that dataclasses and typing can look up; not __main__, as in the official scorers.
    module = sys.modules["solution"] = type(sys)("solution")
    try:
        exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)
        verdict = read(token, 64)
    except MemoryError:
        verdict = b"memory"  # a constant: there may be no memory to format anything
    except BaseException as error:
        trace, line = error.__traceback__, getattr(error, "lineno", None)
        while trace:
            if trace.tb_frame.f_code.co_filename == "<program>":
                line = trace.tb_lineno
            trace = trace.tb_next
        verdict = f"line {line}: {type(error).__name__}: {error}"[:2000].encode("utf-8", "replace")
    write(report, verdict)
    leave(0)

main()
"""

# Runs as process 1 of the new namespaces; arguments: fstab, root, command. Leaves nothing of the host but what
# fstab mounts. `umount` reads /proc/self, a link into /old that leads nowhere from then on. The last line keeps
# this shell alive as process 1, which the program can neither signal nor outlive.
_ENTER = """
set -e
mount --all --fstab "$1"
cd "$2"
pivot_root . old
umount --lazy /old
cd /tmp
unset OLDPWD
shift 2
LD_LIBRARY_PATH=/py/lib "$@"
exit $?
"""

_TRIAL = """
import os
visible = {name for name in os.listdir("/") if os.path.exists("/" + name)}
assert visible <= {"bin", "dev", "lib", "lib64", "old", "py", "tmp", "usr"}, "host files are visible"
assert not os.path.exists("/old") or not os.listdir("/old"), "host files are visible"
"""


class SandboxError(RuntimeError):
    """Model-written code cannot be run safely here, or a sandbox broke down."""


class Isolation(StrEnum):
    """How programs are kept from the host; BUBBLEWRAP and NAMESPACES make the same promises."""

    BUBBLEWRAP = "bubblewrap"
    NAMESPACES = "namespaces"
    NONE = "none"


@dataclass(frozen=True)
class Outcome:
    """Verdict on one program."""

    passed: bool
    """Execution reached the end of the program text."""
    reason: str
    """passed | failed (exception, failing assert, any exit) | timeout | memory."""
    detail: str = ""
    """What stopped it: line and exception, or exit status; at most `DETAIL_CHARACTERS`."""


@dataclass(frozen=True)
class _View:
    """What of the host a program sees: folders (host, inside), read-only, and links (target, inside)."""

    folders: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]


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
    programs: Sequence[str],
    *,
    timeout: float = 5.0,
    memory_mb: int = 512,
    workers: int = 2,
    isolation: Isolation | None = None,
) -> list[Outcome]:
    """Runs each program (full source text, tests included) in a fresh sandbox.

    A program may use the standard library only, and is not `__main__`. Strings hash the same in every run.

    Args:
        programs: source texts.
        timeout: wall-clock seconds per program, from its first statement on.
        memory_mb: address space per process, in MiB.
        workers: programs that run at the same time.
        isolation: as `detect()` finds it if None.

    Returns:
        Outcomes in the order of the programs.

    Raises:
        SandboxError: no isolation works, or a sandbox did not start.
    """
    isolation = isolation or detect()
    # RLIMIT_NPROC counts per uid: no two programs that run at the same time share one.
    uids: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(workers):
        uids.put(_HIGHEST_UID - number)
    limits = [memory_mb << 20, int(timeout) + 2, PROCESSES, FILE_BYTES, OPEN_FILES]

    def run(program: str) -> Outcome:
        uid = uids.get()
        try:
            return _run(_command(isolation, scratch, uid, limits), scratch / "root/tmp", program, timeout)
        finally:
            uids.put(uid)

    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder, ThreadPoolExecutor(workers) as pool:
        scratch = Path(folder)
        _prepare(scratch, _view())
        return list(pool.map(run, programs))


def _trial(isolation: Isolation) -> str | None:
    """Runs a harmless program; why that failed, or None."""
    try:
        [outcome] = run_programs([_TRIAL], isolation=isolation)
    except SandboxError as error:
        return str(error)
    return None if outcome.passed else f"{isolation}: {outcome.detail}"


def _run(command: list[str], folder: Path, program: str, timeout: float) -> Outcome:
    """Runs one program by the command of its sandbox, started in `folder`."""
    token = secrets.token_hex(16).encode()
    source = program.encode("utf-8", "replace")
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": _TOOL_PATH, "PYTHONHASHSEED": "0"},
        cwd=folder,
        start_new_session=True,
    ) as process:
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin and stdout and stderr  # for the type checker: all three are pipes
        with suppress(BrokenPipeError), stdin:  # a sandbox that broke down is reported below
            stdin.write(len(source).to_bytes(8, "big") + source + token)
        started = _ready(stdout.fileno(), START_SECONDS) and os.read(stdout.fileno(), 1) == _STARTED
        in_time = started and _ended(process.pid, timeout)
        # The leader is not reaped yet, so its group still exists and is its own.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not started:
            reason = " ".join(_available(stderr).decode(errors="replace").split()) or "no message"
            raise SandboxError(f"sandbox did not start: {reason[-DETAIL_CHARACTERS:]}")
        return _outcome(_available(stdout), token, in_time, process.returncode)


def _outcome(report: bytes, token: bytes, in_time: bool, status: int) -> Outcome:
    if report == token:
        return Outcome(True, "passed")
    if not in_time:
        return Outcome(False, "timeout")
    if report == b"memory":
        return Outcome(False, "memory", "MemoryError")
    detail = report.decode(errors="replace") or f"left before its last statement (exit status {status})"
    return Outcome(False, "failed", detail[:DETAIL_CHARACTERS])


def _ready(descriptor: int, seconds: float) -> bool:
    """Waits until a descriptor can be read or is at its end; False if that takes longer."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _ended(pid: int, seconds: float) -> bool:
    """Waits until a child has ended, without reaping it; False if that takes longer."""
    descriptor = os.pidfd_open(pid)
    try:
        return _ready(descriptor, seconds)
    finally:
        os.close(descriptor)


def _available(pipe: IO[bytes]) -> bytes:
    """What a pipe holds now, bounded: something that escaped may keep its other end open."""
    os.set_blocking(pipe.fileno(), False)
    try:
        return os.read(pipe.fileno(), _REPORT_BYTES)
    except BlockingIOError:
        return b""


@functools.cache
def _view() -> _View:
    """System programs and libraries in place; the base Python at /py, as its own folder may be private."""
    folders, links = [], []
    for place in ("/usr/bin", "/usr/lib", "/usr/lib64", "/bin", "/lib", "/lib64"):
        if os.path.islink(place):
            links.append((os.readlink(place), place))
        elif os.path.isdir(place):
            folders.append((place, place))
    for name in ("bin", "lib", "lib64"):
        if os.path.isdir(host := os.path.join(sys.base_prefix, name)):
            folders.append((host, f"/py/{name}"))
    return _View(tuple(folders), tuple(links))


def _prepare(folder: Path, view: _View) -> None:
    """Makes what NAMESPACES needs: `root`, with all that is mounted on still empty, and the `fstab` of mounts."""
    root = folder / "root"
    for inside in [*(inside for _, inside in view.folders), "/dev", "/old", "/tmp"]:
        (root / inside[1:]).mkdir(parents=True, exist_ok=True)
    for target, inside in [*view.links, ("old/proc", "/proc")]:
        (root / inside[1:]).symlink_to(target)
    (root / "dev/null").touch()
    root.chmod(0o755)  # it becomes the "/" of another uid
    mounts = [
        (str(root), "", "none", "bind,ro,nosuid,nodev"),
        *((host, inside, "none", "rbind,ro,nosuid,nodev") for host, inside in view.folders),
        ("/dev/null", "/dev/null", "none", "bind"),
        ("tmpfs", "/tmp", "tmpfs", f"size={TMP_BYTES},nr_inodes=4096,mode=1777,nosuid,nodev"),
    ]
    with open(folder / "fstab", "w") as fstab:
        for source, inside, kind, options in mounts:
            print(_escaped(source), _escaped(f"{root}{inside}"), kind, options, file=fstab)


def _escaped(path: str) -> str:
    """A path as a field of fstab(5)."""
    return "".join(f"\\{ord(letter):03o}" if letter in " \t\n\\#" else letter for letter in path)


def _command(isolation: Isolation, scratch: Path, uid: int, limits: Sequence[int]) -> list[str]:
    """The command that reads a program from stdin and runs it; `uid` is used if the caller is root."""
    python = f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
    # -I would also ignore PYTHONHASHSEED; in a clean environment these four do all else that it does.
    harness = ["-P", "-s", "-S", "-B", "-c", _HARNESS, *map(str, limits)]
    match isolation:
        case Isolation.BUBBLEWRAP:
            return [*_bubblewrap(), *(_unprivileged(uid) if _root() else []), f"/py/{python}", *harness]
        case Isolation.NAMESPACES:
            return [*_namespaces(scratch), *_unprivileged(uid), f"/py/{python}", *harness]
        case Isolation.NONE:
            return [os.path.join(sys.base_prefix, python), *harness]


def _bubblewrap() -> list[str]:
    """Bubblewrap up to the command inside. For root it keeps what `setpriv` needs to become another uid."""
    view = _view()
    as_root = "--unshare-net --unshare-pid --unshare-ipc --unshare-uts --cap-drop ALL"
    for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
        as_root += f" --cap-add {capability}"
    return [
        _tool("bwrap"),
        *(as_root if _root() else "--unshare-all").split(),
        *["--die-with-parent", "--new-session", "--setenv", "LD_LIBRARY_PATH", "/py/lib"],
        # Parents that it makes by itself are closed to other uids.
        *["--dir", "/usr", "--dir", "/py", "--dir", "/dev"],
        *(word for folder in view.folders for word in ("--ro-bind", *folder)),
        *(word for link in view.links for word in ("--symlink", *link)),
        *f"--dev-bind /dev/null /dev/null --perms 1777 --size {TMP_BYTES} --tmpfs /tmp".split(),
        *["--remount-ro", "/", "--chdir", "/tmp", "--"],
    ]


def _namespaces(scratch: Path) -> list[str]:
    """The same with util-linux up to the command inside. All die with the calling thread."""
    return [
        *(_tool("setpriv"), "--pdeathsig", "KILL", _tool("unshare")),
        *([] if _root() else ["--user", "--map-root-user"]),
        *["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child", "--"],
        *("/bin/sh", "-c", _ENTER, "sh", str(scratch / "fstab"), str(scratch / "root")),
    ]


def _unprivileged(uid: int) -> list[str]:
    """Drops capabilities for good, and root; inside a user namespace the uid is the caller's own already."""
    user = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if _root() else []
    return ["setpriv", *user, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]


def _root() -> bool:
    return os.geteuid() == 0


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SandboxError(f"{name} is not installed")
    return path
