"""The commands that start a sandbox, and the parts of the host that a program can see in it."""

import functools
import inspect
import marshal
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path

from transformer2.sandbox import inside, seccomp

TMP_BYTES = 16 << 20
"""Size of a program's /tmp, which is its /dev/shm too."""
TMP_FILES = 4096
"""Files and folders in it."""
HOST_NAME = "sandbox"

# Compiled here, once: every program would spend a tenth of its start on it.
_START = "import marshal, sys; exec(marshal.loads(bytes.fromhex(sys.argv.pop())))"
_INSIDE = marshal.dumps(compile(inspect.getsource(inside), "<inside>", "exec", dont_inherit=True)).hex()
_PYTHON = f"bin/python{sys.version_info.major}.{sys.version_info.minor}"

# Runs as process 1 of the new namespaces; arguments: fstab, root, the host's path of the base Python, its libraries,
# command. Leaves nothing of the host but what fstab mounts. `umount` reads /proc/self, a link into /old that leads
# nowhere from then on. The last line keeps this shell alive as process 1, which the program can neither signal nor
# outlive.
_ENTER = f"""
set -e
hostname {HOST_NAME} 2>/dev/null ||
    LD_LIBRARY_PATH="$4" "$3" -I -S -c "import _socket; _socket.sethostname('{HOST_NAME}')"
mount --all --fstab "$1"
cd "$2"
pivot_root . old
umount --lazy /old
cd /tmp
unset OLDPWD
shift 4
LD_LIBRARY_PATH=/py/lib "$@"
exit $?
"""


class SandboxError(RuntimeError):
    """Model-written code cannot be run safely here, or a sandbox broke down."""


class Isolation(StrEnum):
    """How programs are kept from the host; BUBBLEWRAP and NAMESPACES make the same promises."""

    BUBBLEWRAP = "bubblewrap"
    NAMESPACES = "namespaces"
    NONE = "none"


@dataclass(frozen=True)
class _View:
    """The parts of the host that a program can see: folders (host, inside), read-only, and links (target, inside)."""

    folders: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]


def prepare(folder: Path) -> None:
    """Makes what NAMESPACES needs: `root`, with all that is mounted on still empty, and the `fstab` of mounts."""
    root, view = folder / "root", _view()
    for place in [*(place for _, place in view.folders), "/dev", "/old", "/tmp"]:
        (root / place[1:]).mkdir(parents=True, exist_ok=True)
    for target, place in [*view.links, ("old/proc", "/proc")]:
        (root / place[1:]).symlink_to(target)
    (root / "dev/null").touch()
    root.chmod(0o755)  # it becomes the "/" of another uid
    mounts = [
        (str(root), "", "none", "bind,ro,nosuid,nodev"),
        *((host, place, "none", "rbind,ro,nosuid,nodev") for host, place in view.folders),
        ("/dev/null", "/dev/null", "none", "bind"),
        ("tmpfs", "/tmp", "tmpfs", f"size={TMP_BYTES},nr_inodes={TMP_FILES},mode=1777,nosuid,nodev"),
    ]
    with open(folder / "fstab", "w") as fstab:
        for source, place, kind, options in mounts:
            print(_escaped(source), _escaped(f"{root}{place}"), kind, options, file=fstab)


def command(isolation: Isolation, scratch: Path, uid: int, limits: Sequence[int]) -> list[str]:
    """The command of a sandbox: with Isolation.NONE it reads a program from stdin and runs it, else it runs all those
    that are handed over (`inside.serve`). `uid` is that of programs if the caller is root.

    Raises:
        SandboxError: a tool is not installed, the machine's system calls are not known, or it cannot be watched.
    """
    if isolation is not Isolation.NONE and not os.path.exists("/proc/thread-self/children"):
        raise SandboxError("the kernel does not list the children of a process (CONFIG_PROC_CHILDREN)")
    # -I would also ignore PYTHONHASHSEED; in a clean environment these four do all else that it does.
    start = ["-P", "-s", "-S", "-B", "-c", _START, *map(str, limits)]
    if isolation is Isolation.NONE:
        return [os.path.join(sys.base_prefix, _PYTHON), *start, "0", "", "", "", _INSIDE]
    tmp = f"size={TMP_BYTES},nr_inodes={TMP_FILES},mode=1777"
    harness = [f"/py/{_PYTHON}", *start, *_filter(), str(uid if _root() else -1), tmp, _INSIDE]
    return [*(_bubblewrap() if isolation is Isolation.BUBBLEWRAP else _namespaces(scratch)), *harness]


def _filter() -> list[str]:
    """Number of the call keyctl, and the filter of system calls as text."""
    try:
        return [str(seccomp.number("keyctl")), seccomp.call_filter().hex()]
    except ValueError as error:
        raise SandboxError(str(error)) from error


@functools.cache
def _view() -> _View:
    """System programs and libraries in place; the base Python at /py, as its own folder may be private.

    Time zones are those of the package tzdata, in the system's place: the host may have none, or others.
    """
    folders, links = [], [("/tmp", "/dev/shm")]
    for place in ("/usr/bin", "/usr/lib", "/usr/lib64", "/bin", "/lib", "/lib64"):
        if os.path.islink(place):
            links.append((os.readlink(place), place))
        elif os.path.isdir(place):
            folders.append((place, place))
    for name in ("bin", "lib", "lib64"):
        if os.path.isdir(host := os.path.join(sys.base_prefix, name)):
            folders.append((host, f"/py/{name}"))
    folders.append((str(files("tzdata") / "zoneinfo"), "/usr/share/zoneinfo"))
    return _View(tuple(folders), tuple(links))


def _escaped(path: str) -> str:
    """A path as a field of fstab(5)."""
    return "".join(f"\\{ord(letter):03o}" if letter in " \t\n\\#" else letter for letter in path)


def _bubblewrap() -> list[str]:
    """Bubblewrap up to the command inside, which keeps what it needs to give each program namespaces and a user."""
    view = _view()
    as_root = "--unshare-net --unshare-pid --unshare-ipc --unshare-uts --cap-drop ALL"
    kept = ["CAP_SYS_ADMIN", "CAP_SETPCAP", *(["CAP_SETUID", "CAP_SETGID"] if _root() else [])]
    return [
        _tool("bwrap"),
        *(as_root if _root() else "--unshare-all").split(),
        *(word for capability in kept for word in ("--cap-add", capability)),
        *["--die-with-parent", "--new-session", "--hostname", HOST_NAME, "--setenv", "LD_LIBRARY_PATH", "/py/lib"],
        # Parents that it makes by itself are closed to other uids.
        *["--dir", "/usr", "--dir", "/usr/share", "--dir", "/py", "--dir", "/dev"],
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
        *(os.path.join(sys.base_prefix, _PYTHON), os.path.join(sys.base_prefix, "lib")),
    ]


def _root() -> bool:
    return os.geteuid() == 0


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SandboxError(f"{name} is not installed")
    return path
