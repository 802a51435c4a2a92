"""Programs that attack the host and its processes, one promise of the sandbox at a time.

Most attacks assert inside the program that they fail, so a passed program is a contained one; each of those also runs
without isolation, where it must get through: that proves that the attack is real.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandboxes import all_runs, isolated_runs, run
from transformer2 import sandbox
from transformer2.sandbox import Isolation, Outcome, run_programs


def assert_contained(program: str, isolation: Isolation) -> None:
    assert run(program, isolation) == Outcome(True, "passed")
    assert run(program, Isolation.NONE).reason == "failed", "the attack does not even work without isolation"


@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX"])
@isolated_runs
def test_the_host_cannot_be_reached_by_network(family: str, isolation: Isolation) -> None:
    address = ("127.0.0.1", 0) if family == "AF_INET" else f"\0sandbox-test-{os.getpid()}"
    with socket.socket(getattr(socket, family)) as listener:
        listener.bind(address)
        listener.listen()
        program = f"""
import socket
try: socket.socket(socket.{family}).connect({listener.getsockname()!r})
except OSError: pass
else: assert False, 'connected'
"""
        assert_contained(program, isolation)


@isolated_runs
def test_there_is_no_network_but_an_own_loopback(isolation: Isolation) -> None:
    program = """
import socket
assert {name for _, name in socket.if_nameindex()} <= {"lo"}
try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))
except OSError: pass
else: assert False, 'there is a route to the outside'
"""
    assert run(program, isolation) == Outcome(True, "passed")


@isolated_runs
def test_shared_memory_of_the_host_cannot_be_reached(isolation: Isolation) -> None:
    libc, key = ctypes.CDLL(None), os.getpid()
    segment = libc.shmget(key, 4096, 0o1666)
    try:
        assert_contained(f"import ctypes\nassert ctypes.CDLL(None).shmget({key}, 0, 0) == -1", isolation)
    finally:
        libc.shmctl(segment, 0, None)


@isolated_runs
def test_host_files_cannot_be_read(tmp_path: Path, isolation: Isolation) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    program = f"""
try: open({str(secret)!r}).read()
except FileNotFoundError: pass
else: assert False, 'read'
"""
    assert_contained(program, isolation)


@isolated_runs
def test_no_folder_of_the_host_is_visible_but_programs_and_libraries(isolation: Isolation) -> None:
    program = f"""
import os
found = {{os.path.join(folder, name) for folder in ("/", "/usr", "/dev", "/py") for name in os.listdir(folder)}}
found = {{path for path in found if os.path.exists(path)}}
programs = {{base + name for base in ("/", "/usr/", "/py/") for name in ("bin", "lib", "lib64")}}
assert found <= programs | {{"/dev", "/dev/null", "/dev/shm", "/old", "/py", "/tmp", "/usr", "/usr/share"}}, found
assert os.listdir("/usr/share") == ["zoneinfo"]
assert not os.path.exists("/old") or not os.listdir("/old")
for hidden in ("/etc", "/home", "/proc/self", "/root", "/sys", {str(Path(sandbox.__file__).parent)!r}):
    assert not os.path.exists(hidden), hidden
"""
    assert_contained(program, isolation)


@isolated_runs
def test_host_files_cannot_be_written(tmp_path: Path, isolation: Isolation) -> None:
    target = tmp_path / "written"
    program = f"""
try: open({str(target)!r}, "w")
except FileNotFoundError: pass
else: assert False, 'written'
"""
    assert_contained(program, isolation)
    target.unlink()
    run(program, isolation)
    assert not target.exists()


@isolated_runs
def test_nothing_but_tmp_can_be_written(isolation: Isolation) -> None:
    program = """
import os, sys
for folder in ("/", "/dev", "/py/bin", "/py/lib", "/usr/bin", "/usr/lib"):
    assert os.statvfs(folder).f_flag & os.ST_RDONLY, folder
folders = "/ /dev /old /py /py/bin /py/lib /usr /usr/bin /usr/lib".split()
for folder in [*folders, os.path.dirname(os.__file__)]:
    try: open(os.path.join(folder, "x"), "w")
    except OSError: pass
    else: assert False, folder
    try: os.chmod(folder, 0o777)
    except OSError: pass
    else: assert False, folder
open("/tmp/x", "w").write("x")
"""
    assert run(program, isolation) == Outcome(True, "passed")


@all_runs
def test_the_callers_environment_does_not_arrive(monkeypatch: pytest.MonkeyPatch, isolation: Isolation) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    allowed = {"LC_CTYPE", "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX", "PATH", "PWD", "PYTHONHASHSEED", "PYTHONTZPATH"}
    assert run(f"import os\nassert set(os.environ) <= {allowed}, os.environ", isolation) == Outcome(True, "passed")


@isolated_runs
def test_no_environment_of_another_process_can_be_read(isolation: Isolation) -> None:
    program = """
import glob
for path in glob.glob("/proc/[0-9]*/environ"):
    try: environment = open(path).read()
    except OSError: continue
    assert not environment, path
"""
    assert_contained(program, isolation)


@isolated_runs
def test_there_are_no_capabilities(isolation: Isolation) -> None:
    program = """
import ctypes, os, socket, stat
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(39, 0, 0, 0, 0) == 1, "no_new_privs is not set"
assert not any(libc.prctl(23, number, 0, 0, 0) == 1 for number in range(64)), "bounding set"
attempts = [
    lambda: socket.sethostname("x"),
    lambda: os.chroot("/tmp"),
    lambda: os.mknod("/tmp/device", stat.S_IFBLK | 0o600, os.makedev(8, 0)),
    lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),
    lambda: os.setresuid(1, 1, 1),
]
for attempt in attempts:
    try: attempt()
    except OSError: pass
    else: assert False, attempt.__code__.co_firstlineno
for arguments in ((b"tmpfs", b"/tmp", b"tmpfs", 0, None), (None, b"/usr/lib", None, 32 | 4096, None)):
    assert libc.mount(*arguments) == -1
"""
    assert run(program, isolation) == Outcome(True, "passed")


def processes(marker: str) -> list[int]:
    """Host processes with `marker` among their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended since
        if marker.encode() in arguments:
            found.append(int(folder.name))
    return found


def eventually(seconds: float, marker: str, count: int) -> bool:
    deadline = time.monotonic() + seconds
    while len(processes(marker)) != count:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def marker() -> Iterator[str]:
    name = f"sandbox-test-{os.getpid()}-{time.monotonic_ns()}"
    yield name
    for pid in processes(name):
        os.kill(pid, signal.SIGKILL)


def sleeper(marker: str) -> str:
    """Program text that becomes a sleeping process with `marker` among its arguments."""
    return f"os.execv(sys.executable, [sys.executable, '-S', '-c', 'import time; time.sleep(60)', {marker!r}])"


def daemon(marker: str) -> str:
    return f"""
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        {sleeper(marker)}
    os._exit(0)
time.sleep(0.5)
"""


@isolated_runs
def test_a_daemon_is_gone_when_the_outcome_of_its_program_is_known(marker: str, isolation: Isolation) -> None:
    with ThreadPoolExecutor() as pool:
        outcome = pool.submit(run, daemon(marker), isolation)
        assert eventually(5, marker, 1)
        assert outcome.result() == Outcome(True, "passed")
        assert processes(marker) == []


can_fork_on_the_host = pytest.mark.skipif(
    os.geteuid() != 0, reason="all processes of an ordinary caller count: without isolation a program cannot fork"
)


@can_fork_on_the_host
def test_without_isolation_a_child_still_dies_with_its_program(marker: str) -> None:
    program = f"import os, sys, time\nif os.fork() == 0: {sleeper(marker)}\ntime.sleep(0.5)"
    with ThreadPoolExecutor() as pool:
        outcome = pool.submit(run, program, Isolation.NONE)
        assert eventually(5, marker, 1)
        assert outcome.result() == Outcome(True, "passed")
    assert eventually(2, marker, 0)


@can_fork_on_the_host
def test_without_isolation_a_daemon_lives_on_and_delays_nothing(marker: str) -> None:
    start = time.monotonic()
    assert run(daemon(marker), Isolation.NONE).passed
    assert time.monotonic() - start < 5
    assert eventually(2, marker, 1)


@all_runs
def test_a_program_killed_for_its_time_leaves_nothing(marker: str, isolation: Isolation) -> None:
    with ThreadPoolExecutor() as pool:
        outcome = pool.submit(run, f"import os, sys\n{sleeper(marker)}", isolation, timeout=0.5)
        assert eventually(5, marker, 1)
        assert outcome.result() == Outcome(False, "timeout")
    assert eventually(2, marker, 0)


@isolated_runs
def test_no_other_process_can_be_killed(isolation: Isolation) -> None:
    program = """
import os, signal
for pid in (os.getppid(), 1, -1, *range(2, 40)):
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            if pid != os.getpid(): os.kill(pid, number)
        except OSError: pass
"""
    programs = [program, "import time; time.sleep(0.3)"] * 3
    assert run_programs(programs, isolation=isolation) == [Outcome(True, "passed")] * 6


@isolated_runs
def test_no_program_survives_a_killed_caller(marker: str, tmp_path: Path, isolation: Isolation) -> None:
    program = f"import os, sys; {sleeper(marker)}"
    code = (
        "from transformer2.sandbox import Isolation, run_programs\n"
        f"run_programs([{program!r}], isolation=Isolation({isolation.value!r}), timeout=60)"
    )
    path = os.pathsep.join([str(Path(sandbox.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)}  # it cannot tidy up any more
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as caller:
        assert eventually(20, marker, 1)
        caller.kill()
    assert eventually(2, marker, 0)
