"""Programs that one sandbox runs one after another are as far from each other as from the host."""

import subprocess

import pytest

from sandboxes import isolated_runs
from transformer2.sandbox import FILE_BYTES, Isolation, Outcome, Program, run_programs

TRACES = {
    "files": ("open('/tmp/trace', 'w').write('x')", "os.listdir('/tmp')", []),
    "modules": ("import builtins, json; builtins.trace = json.trace = 1", "hasattr(builtins, 'trace')", False),
    "environment": ("os.environ['TRACE'] = 'x'", "'TRACE' in os.environ", False),
    "folder": ("os.mkdir('/tmp/a'); os.chdir('/tmp/a')", "os.getcwd()", "/tmp"),
    "mask": ("os.umask(0o777)", "os.umask(0)", 0o22),
    "limits": ("resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))", "resource.getrlimit(resource.RLIMIT_FSIZE)[0]",
               FILE_BYTES),
    "signals": ("signal.signal(signal.SIGINT, signal.SIG_IGN)",
                "signal.getsignal(signal.SIGINT) is signal.default_int_handler", True),
    "processes": ("if os.fork() == 0: os.setsid(); time.sleep(60)", "alive()", False),
    "abstract sockets": ("serve()", "connected()", False),
}  # fmt: skip
"""What a program leaves, what a later one looks at, and what it must see."""
TOOLS = """
import builtins, os, resource, signal, socket, sys, time
def serve():
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\\0trace")
    listener.listen()
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
def connected():
    try: socket.socket(socket.AF_UNIX).connect("\\0trace")
    except OSError: return False
    return True
def alive():
    for pid in range(3, 60):
        if pid != os.getpid():
            try: os.kill(pid, 0)
            except ProcessLookupError: continue
            except PermissionError: pass
            return True
    return False
"""


@pytest.mark.parametrize("trace", TRACES)
@isolated_runs
def test_a_program_leaves_no_trace_for_the_next(trace: str, isolation: Isolation) -> None:
    leave, look, expected = TRACES[trace]
    texts = [Program(TOOLS, (look,)), Program(f"{TOOLS}{leave}"), Program(TOOLS, (look,))]
    before, between, after = run_programs(texts, isolation=isolation, workers=1)
    assert between == Outcome(True, "passed")
    assert before.values == after.values == (expected,)


@isolated_runs
def test_a_trace_is_seen_by_the_program_that_leaves_it(isolation: Isolation) -> None:
    """So the looks above look at the right place."""
    for leave, look, expected in TRACES.values():
        [outcome] = run_programs([Program(f"{TOOLS}{leave}", (look,))], isolation=isolation)
        assert outcome.passed and outcome.values != (expected,), leave


@isolated_runs
def test_a_program_has_neither_the_sockets_of_its_sandbox_nor_a_way_to_its_process_1(isolation: Isolation) -> None:
    program = """
import os, signal, stat
def kind(descriptor):
    try: return stat.S_IFMT(os.fstat(descriptor).st_mode)
    except OSError: return None
kinds = [kind(descriptor) for descriptor in range(64)]
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
    try: os.kill(1, number)
    except OSError: pass
"""
    expressions = ("kinds.count(stat.S_IFSOCK)", "kinds.count(stat.S_IFIFO)", "os.getppid()")
    [outcome, *after] = run_programs([Program(program, expressions), "pass"], isolation=isolation, workers=1)
    assert outcome.values == (0, 2, 1), "its two pipes, and process 1 as its parent"
    assert after == [Outcome(True, "passed")]


@isolated_runs
def test_a_signal_to_its_own_group_ends_a_program_and_not_its_sandbox(isolation: Isolation) -> None:
    texts = ["import os, signal\nos.kill(0, signal.SIGKILL)", "pass"] * 2
    outcomes = run_programs(texts, isolation=isolation, workers=1)
    assert [outcome.passed for outcome in outcomes] == [False, True, False, True]


@pytest.mark.parametrize("workers", [1, 3])
@isolated_runs
def test_a_sandbox_is_started_once_a_worker(
    workers: int, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, original = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: (starts.append(a), original(*a, **k))[1])
    assert all(outcome.passed for outcome in run_programs(["pass"] * 7, isolation=isolation, workers=workers))
    assert len(starts) == workers


@isolated_runs
def test_a_program_after_one_that_was_killed_runs_as_ever(isolation: Isolation) -> None:
    texts = ["while True: pass", "pass", "bytearray(1 << 30)", "pass"]
    outcomes = run_programs(texts, isolation=isolation, workers=1, timeout=0.5)
    assert [outcome.reason for outcome in outcomes] == ["timeout", "passed", "memory", "passed"]
