"""The sandbox against programs that attack it, one promise at a time, under every isolation that works here.

Most attacks assert inside the program that they fail, so a passed program is a contained one; each of those also runs
without isolation, where it must get through: that proves that the attack is real.
"""

import functools
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

from transformer2 import sandbox
from transformer2.sandbox import FILE_BYTES, PROCESSES, TMP_BYTES, Isolation, Outcome, SandboxError, run_programs


@functools.cache
def works(isolation: Isolation) -> bool:
    try:
        return run_programs(["pass"], isolation=isolation)[0].passed
    except SandboxError:
        return False


@pytest.fixture(params=[Isolation.BUBBLEWRAP, Isolation.NAMESPACES])
def isolated(request: pytest.FixtureRequest) -> Isolation:
    if not works(request.param):
        pytest.skip(f"{request.param} does not work here")
    return request.param


@pytest.fixture(params=list(Isolation))
def isolation(request: pytest.FixtureRequest) -> Isolation:
    """Also none at all: time, memory and proof are its promises too."""
    if not works(request.param):
        pytest.skip(f"{request.param} does not work here")
    return request.param


def run(program: str, isolation: Isolation, timeout: float = 5.0) -> Outcome:
    [outcome] = run_programs([program], isolation=isolation, timeout=timeout)
    return outcome


def assert_contained(program: str, isolated: Isolation) -> None:
    assert run(program, isolated) == Outcome(True, "passed")
    assert run(program, Isolation.NONE).reason == "failed", "the attack does not even work without isolation"


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_a_program_passes_when_its_asserts_hold(isolation: Isolation) -> None:
    program = """
from __future__ import annotations
import collections, dataclasses, math, re
@dataclasses.dataclass
class Point:
    x: int
Pair = collections.namedtuple("Pair", "a b")
assert math.gcd(12, 18) == 6 and Point(3).x == 3 and Pair(1, 2).b == 2 and re.findall("a+", "baab") == ["aa"]
"""
    assert run(program, isolation) == Outcome(True, "passed")


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        ("x = 1\nassert x == 2, 'one is not two'", "line 2: AssertionError: one is not two"),
        ("x = 1\ndef f(:\n", "line 2: SyntaxError"),
        ("def f():\n    return 1 / 0\nf()", "line 2: ZeroDivisionError"),
        ("import sys\nsys.exit()", "line 2: SystemExit"),
        ("import numpy", "line 1: ModuleNotFoundError"),
        ("input()", "line 1: EOFError"),
        ("x = 'a\0b'", "null bytes"),
        ("import os\nos._exit(0)\nassert False", "left before its last statement (exit status 0)"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "left before its last statement"),
        ("def f(): f()\nf()", "RecursionError"),
        ("raise SystemExit('x' * 10**6)", "SystemExit: xxx"),
    ],
)
def test_a_program_that_does_not_reach_its_end_fails_with_the_reason(
    program: str, detail: str, isolation: Isolation
) -> None:
    outcome = run(program, isolation)
    assert (outcome.passed, outcome.reason) == (False, "failed")
    assert detail in outcome.detail
    assert len(outcome.detail) <= sandbox.DETAIL_CHARACTERS


def test_outcomes_keep_the_order_of_the_programs(isolation: Isolation) -> None:
    programs = [f"import time; time.sleep({0.02 * (6 - i)}); assert {i} % 2" for i in range(6)]
    assert [outcome.passed for outcome in run_programs(programs, isolation=isolation)] == [False, True] * 3


def test_a_program_longer_than_a_pipe_arrives_whole(isolation: Isolation) -> None:
    assert run("# padding\n" * 50_000 + "assert len('ü') == 1", isolation).passed


def test_strings_hash_the_same_in_every_run(isolation: Isolation) -> None:
    first, second = run_programs(["raise SystemExit(hash('a'))"] * 2, isolation=isolation)
    assert first.detail == second.detail


# --- forging a pass ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forgery",
    [
        "print('passed'); print('+'); print('0' * 32)",
        "import sys; sys.stdout.write('0' * 32); sys.stderr.write('0' * 32); sys.stdout.flush()",
        # Guesses on every descriptor.
        """
for descriptor in range(64):
    try: os.write(descriptor, b'0' * 32)
    except OSError: pass
""",
        # All that the program can find in its own memory, arguments, environment and source.
        """
import gc, sys, linecache
is_token = lambda value: isinstance(value, (bytes, str)) and len(value) == 32
found = {value.encode() for value in [*os.environ.values(), *sys.argv, *sys.orig_argv]}
frame = sys._getframe()
seen = gc.get_objects()
while frame:
    seen += [frame.f_locals, frame.f_globals, frame.f_code.co_consts]
    frame = frame.f_back
for one in seen:
    values = list(one.values()) if isinstance(one, dict) else one if isinstance(one, (list, tuple, set)) else ()
    found |= {value if isinstance(value, bytes) else str(value).encode() for value in values if is_token(value)}
for descriptor in range(3, 64):
    for value in found:
        try: os.write(descriptor, value)
        except OSError: break
""",
        "import atexit, sys; atexit.register(os._exit, 0); sys.excepthook = lambda *error: os._exit(0); sys.exit(0)",
        "import sys; sys.settrace(lambda *event: os._exit(0)); (lambda: 0)()",
    ],
    ids=["printing", "standard streams", "descriptors", "memory", "exit handlers", "tracing"],
)
def test_a_pass_cannot_be_forged(forgery: str, isolation: Isolation) -> None:
    outcome = run(f"import os\n{forgery}\nos._exit(0)\nassert False", isolation)
    assert not outcome.passed
    assert outcome.reason == "failed"


def test_a_fork_that_reaches_the_end_does_not_cover_for_a_failing_parent(isolation: Isolation) -> None:
    assert not run("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nassert not pid", isolation).passed


# --- time, memory, space ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time\ntime.sleep(60)",
        "import signal\nfor s in {signal.SIGTERM, signal.SIGXCPU, signal.SIGINT, signal.SIGHUP}: "
        "signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "import os\nif os.fork() == 0: os.setsid()\nwhile True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "while True: print('x' * 10**6)",
        """
import os
for descriptor in range(3, 64):
    try:
        while True: os.write(descriptor, b'0' * 4096)
    except OSError: pass
""",
    ],
    ids=["loop", "sleep", "ignored signals", "own session", "caught exceptions", "flooded stdout", "flooded report"],
)
def test_a_program_that_does_not_end_is_killed_in_time(program: str, isolation: Isolation) -> None:
    start = time.monotonic()
    assert run(program, isolation, timeout=0.5) == Outcome(False, "timeout")
    assert time.monotonic() - start < 5


def test_a_flood_of_output_costs_nothing_and_decides_nothing(isolation: Isolation) -> None:
    assert run("import sys\nfor _ in range(100): print('x' * 10**6); sys.stderr.write('x' * 10**6)", isolation).passed


def test_a_memory_bomb_hits_its_limit(isolation: Isolation) -> None:
    assert run("x = [0] * 10**9", isolation) == Outcome(False, "memory", "MemoryError")
    assert run("x = []\nwhile True: x.append(bytes(10**6))", isolation).reason == "memory"
    assert run("x = bytes(300 << 20)", isolation).passed
    [outcome] = run_programs(["x = bytes(300 << 20)"], isolation=isolation, memory_mb=256)
    assert outcome.reason == "memory"


def test_a_fork_bomb_stops_at_the_process_limit(isolated: Isolation) -> None:
    program = """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0: time.sleep(60)
        count += 1
except BlockingIOError:
    pass
raise SystemExit(f"forks={count}")
"""
    forks = int(run(program, isolated).detail.partition("forks=")[2])
    assert 1 <= forks < PROCESSES
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert (
        run_programs([bomb, "pass", bomb, "pass"], isolation=isolated, timeout=0.5)
        == [
            Outcome(False, "timeout"),
            Outcome(True, "passed"),
        ]
        * 2
    )


def test_tmp_is_empty_and_small(isolated: Isolation) -> None:
    program = f"""
import os
assert os.getcwd() == '/tmp' and os.listdir() == []
written = 0
try:
    while True:
        with open(f"{{written}}", "wb", buffering=0) as file:
            written += file.write(b"x" * 2**20)
except OSError:
    pass
assert {TMP_BYTES // 2} < written <= {TMP_BYTES}, written
"""
    assert run_programs([program] * 2, isolation=isolated, workers=1) == [Outcome(True, "passed")] * 2


def test_a_file_cannot_grow_beyond_its_limit(isolation: Isolation) -> None:
    program = f"assert open('x', 'wb', buffering=0).write(b'x' * {2 * FILE_BYTES}) == {FILE_BYTES}"
    assert run(program, isolation) == Outcome(True, "passed")


# --- the host ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX"])
def test_the_host_cannot_be_reached_by_network(family: str, isolated: Isolation) -> None:
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
        assert_contained(program, isolated)


def test_there_is_no_network_but_an_own_loopback(isolated: Isolation) -> None:
    program = """
import socket
assert {name for _, name in socket.if_nameindex()} <= {"lo"}
try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))
except OSError: pass
else: assert False, 'there is a route to the outside'
"""
    assert run(program, isolated) == Outcome(True, "passed")


def test_host_files_cannot_be_read(tmp_path: Path, isolated: Isolation) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    program = f"""
try: open({str(secret)!r}).read()
except FileNotFoundError: pass
else: assert False, 'read'
"""
    assert_contained(program, isolated)


def test_no_folder_of_the_host_is_visible_but_programs_and_libraries(isolated: Isolation) -> None:
    program = f"""
import os
found = {{os.path.join(folder, name) for folder in ("/", "/usr", "/dev", "/py") for name in os.listdir(folder)}}
found = {{path for path in found if os.path.exists(path)}}
programs = {{base + name for base in ("/", "/usr/", "/py/") for name in ("bin", "lib", "lib64")}}
assert found <= programs | {{"/dev", "/dev/null", "/old", "/py", "/tmp", "/usr"}}, found
assert not os.path.exists("/old") or not os.listdir("/old")
for hidden in ("/etc", "/home", "/proc/self", "/root", "/sys", {str(Path(sandbox.__file__).parent)!r}):
    assert not os.path.exists(hidden), hidden
"""
    assert_contained(program, isolated)


def test_host_files_cannot_be_written(tmp_path: Path, isolated: Isolation) -> None:
    target = tmp_path / "written"
    program = f"""
try: open({str(target)!r}, "w")
except FileNotFoundError: pass
else: assert False, 'written'
"""
    assert_contained(program, isolated)
    target.unlink()
    run(program, isolated)
    assert not target.exists()


def test_nothing_but_tmp_can_be_written(isolated: Isolation) -> None:
    program = """
import os, sys
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
    assert run(program, isolated) == Outcome(True, "passed")


def test_the_callers_environment_does_not_arrive(monkeypatch: pytest.MonkeyPatch, isolation: Isolation) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    allowed = {"LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PWD", "PYTHONHASHSEED"}
    assert run(f"import os\nassert set(os.environ) <= {allowed}, os.environ", isolation) == Outcome(True, "passed")


def test_no_environment_of_another_process_can_be_read(isolated: Isolation) -> None:
    program = """
import glob
for path in glob.glob("/proc/[0-9]*/environ"):
    try: environment = open(path).read()
    except OSError: continue
    assert not environment, path
"""
    assert_contained(program, isolated)


def test_there_are_no_capabilities(isolated: Isolation) -> None:
    program = """
import ctypes, os, socket, stat
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(39, 0, 0, 0, 0) == 1, "no_new_privs is not set"
assert not any(libc.prctl(23, number, 0, 0, 0) == 1 and os.geteuid() == 0 for number in range(41)), "bounding set"
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
    assert run(program, isolated) == Outcome(True, "passed")


# --- other processes --------------------------------------------------------------------------------------------------


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


def test_a_daemon_dies_with_its_program(marker: str, isolated: Isolation) -> None:
    with ThreadPoolExecutor() as pool:
        outcome = pool.submit(run, daemon(marker), isolated)
        assert eventually(5, marker, 1)
        assert outcome.result() == Outcome(True, "passed")
    assert eventually(2, marker, 0)


def test_without_isolation_a_daemon_lives_on_and_delays_nothing(marker: str) -> None:
    start = time.monotonic()
    assert run(daemon(marker), Isolation.NONE).passed
    assert time.monotonic() - start < 5
    assert eventually(2, marker, 1)


def test_a_program_killed_for_its_time_leaves_nothing(marker: str, isolation: Isolation) -> None:
    with ThreadPoolExecutor() as pool:
        outcome = pool.submit(run, f"import os, sys\n{sleeper(marker)}", isolation, timeout=0.5)
        assert eventually(5, marker, 1)
        assert outcome.result() == Outcome(False, "timeout")
    assert eventually(2, marker, 0)


def test_no_other_process_can_be_killed(isolated: Isolation) -> None:
    program = """
import os, signal
for pid in (os.getppid(), 1, -1, *range(2, 40)):
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            if pid != os.getpid(): os.kill(pid, number)
        except OSError: pass
"""
    programs = [program, "import time; time.sleep(0.3)"] * 3
    assert run_programs(programs, isolation=isolated) == [Outcome(True, "passed")] * 6


def test_no_program_survives_a_killed_caller(marker: str, isolated: Isolation) -> None:
    code = (
        "from transformer2.sandbox import Isolation, run_programs\n"
        f"run_programs([{'import os, sys; ' + sleeper(marker)!r}], isolation=Isolation({isolated.value!r}), timeout=60)"
    )
    source = str(Path(sandbox.__file__).parents[1])
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source}) as caller:
        assert eventually(20, marker, 1)
        caller.kill()
    assert eventually(2, marker, 0)


# --- what works here --------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that is the whole PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox.detect.cache_clear()
    yield tmp_path
    sandbox.detect.cache_clear()


def test_without_any_tool_one_line_says_what_to_do(path: Path) -> None:
    with pytest.raises(
        SandboxError, match="bwrap is not installed.*install bubblewrap.*allow_unsandboxed_code"
    ) as error:
        run_programs(["pass"])
    assert "\n" not in str(error.value)


def test_the_risk_can_be_accepted_where_nothing_works(path: Path) -> None:
    assert sandbox.detect(accept_unsandboxed=True) is Isolation.NONE


def test_an_accepted_risk_is_not_taken_where_isolation_works(isolated: Isolation) -> None:
    assert sandbox.detect(accept_unsandboxed=True) is not Isolation.NONE


def test_a_sandbox_that_breaks_down_is_an_error_and_no_verdict(path: Path) -> None:
    broken = path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(SandboxError, match="No permissions to create new namespace"):
        run_programs(["pass"], isolation=Isolation.BUBBLEWRAP)
    with pytest.raises(SandboxError, match="No permissions to create new namespace"):
        sandbox.detect()


@pytest.mark.slow
def test_two_workers_run_twenty_programs_a_second(isolated: Isolation) -> None:
    start = time.monotonic()
    outcomes = run_programs(["assert sorted([2, 1]) == [1, 2]"] * 100, isolation=isolated)
    assert all(outcome.passed for outcome in outcomes)
    assert 100 / (time.monotonic() - start) >= 20
