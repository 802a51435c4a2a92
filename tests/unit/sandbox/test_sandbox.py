"""Verdicts on programs: what passes, what cannot be forged, what the limits stop, and what works here."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxes import all_runs, isolated_runs, run
from transformer2 import code_digest, sandbox
from transformer2.sandbox import (
    FILE_BYTES,
    PROCESSES,
    TMP_BYTES,
    Isolation,
    Outcome,
    Program,
    SandboxError,
    run_programs,
)
from transformer2.sandbox.values import deserialise


@all_runs
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
@all_runs
def test_a_program_that_does_not_reach_its_end_fails_with_the_reason(
    program: str, detail: str, isolation: Isolation
) -> None:
    outcome = run(program, isolation)
    assert (outcome.passed, outcome.reason) == (False, "failed")
    assert detail in outcome.detail
    assert len(outcome.detail) <= sandbox.DETAIL_CHARACTERS


@all_runs
def test_outcomes_keep_the_order_of_the_programs(isolation: Isolation) -> None:
    programs = [f"import time; time.sleep({0.02 * (6 - i)}); assert {i} % 2" for i in range(6)]
    assert [outcome.passed for outcome in run_programs(programs, isolation=isolation)] == [False, True] * 3


@all_runs
def test_a_program_longer_than_a_pipe_arrives_whole(isolation: Isolation) -> None:
    assert run("# padding\n" * 50_000 + "assert len('ü') == 1", isolation).passed


@all_runs
def test_strings_hash_the_same_in_every_run(isolation: Isolation) -> None:
    first, second = run_programs(["raise SystemExit(hash('a'))"] * 2, isolation=isolation)
    assert first.detail == second.detail


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
import gc, sys
def token(value):
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text.encode() if isinstance(text, str) and len(text) == 32 and set(text) <= set("0123456789abcdef") else None
found = {token(value) for value in [*os.environ.values(), *sys.argv, *sys.orig_argv]}
frame = sys._getframe()
seen = gc.get_objects()
while frame:
    seen += [frame.f_locals, frame.f_globals, frame.f_code.co_consts]
    frame = frame.f_back
for one in seen:
    values = list(one.values()) if isinstance(one, dict) else one if isinstance(one, (list, tuple, set)) else ()
    found |= {token(value) for value in values}
for descriptor in range(3, 64):
    for value in found - {None}:
        try: os.write(descriptor, value)
        except OSError: break
""",
        "import atexit, sys; atexit.register(os._exit, 0); sys.excepthook = lambda *error: os._exit(0); sys.exit(0)",
        "import sys; sys.settrace(lambda *event: os._exit(0)); (lambda: 0)()",
    ],
    ids=["printing", "standard streams", "descriptors", "memory", "exit handlers", "tracing"],
)
@all_runs
def test_a_pass_cannot_be_forged(forgery: str, isolation: Isolation) -> None:
    outcome = run(f"import os\n{forgery}\nos._exit(0)\nassert False", isolation)
    assert not outcome.passed
    assert outcome.reason == "failed"


@all_runs
def test_expressions_have_their_values_at_the_end_of_the_program(isolation: Isolation) -> None:
    program = Program(
        "x = [1]\ndef f(y):\n  x.append(y)\n  return x", ("f(2)", "f('ü\\udc80')", "x is x", "-7**99", "1e-310")
    )
    [outcome] = run_programs([program], isolation=isolation)
    assert outcome == Outcome(True, "passed", values=([1, 2], [1, 2, "ü\udc80"], True, -(7**99), 1e-310))


@all_runs
def test_an_expression_that_raises_fails_the_program(isolation: Isolation) -> None:
    [outcome] = run_programs([Program("def f(): return [1 / 0]", ("1", "f()"))], isolation=isolation)
    assert outcome == Outcome(False, "failed", "line 1: ZeroDivisionError: division by zero")


@all_runs
def test_values_that_are_too_long_fail_the_program(isolation: Isolation) -> None:
    [outcome] = run_programs([Program("", ("'x' * 10**6",))], isolation=isolation)
    assert outcome == Outcome(False, "failed", "its results are too long")


@pytest.mark.parametrize(
    "report",
    [
        b"",
        b"[",
        b"{}",
        b"[1]",
        b"[1.5]",
        b"[NaN]",
        b"\xff",
        b"[" * 60_000,
        b'[["list",' * 6000 + b"1" + b"]" * 6000 + b"]",
        b'[["int","x"]]',
        b'[["float","0x1p9999999999"]]',
        b'[["ratio",["int","1"],["int","0"]]]',
        b'[["set",["list"]]]',
        b'[["dict","abc","d"]]',
        b'[["class","os.system"]]',
        b"[" + b"9" * 60_000 + b"]",
    ],
)
def test_a_report_of_something_else_is_refused(report: bytes) -> None:
    with pytest.raises(ValueError):
        deserialise(report)


@pytest.mark.parametrize(
    "report",
    [
        b'[["int","' + b"f" * 60_000 + b'"]]',
        b'[["ratio",["int","' + b"f" * 30_000 + b'"],["int","' + b"e" * 29_000 + b'"]]]',
        # Hashes that collide: multiples of 2**61 - 1.
        b'[["set",' + b",".join(b'["int","%x"]' % (n * (2**61 - 1)) for n in range(2000)) + b"]]",
    ],
    ids=["number", "fraction", "set"],
)
def test_a_hostile_report_costs_little(report: bytes) -> None:
    start = time.process_time()
    [value] = deserialise(report)
    assert value != 1
    assert time.process_time() - start < 1


def test_an_edit_of_what_runs_inside_redoes_the_scores() -> None:
    assert ("transformer2.sandbox.inside", "serialise") in code_digest.closure("score", code_digest.Scope("humaneval"))


@isolated_runs
def test_a_fork_that_reaches_the_end_does_not_cover_for_a_failing_parent(isolation: Isolation) -> None:
    program = "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nassert not pid, 'parent'"
    assert "AssertionError: parent" in run(program, isolation).detail


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time\ntime.sleep(60)",
        "import signal\nfor s in {signal.SIGTERM, signal.SIGXCPU, signal.SIGINT, signal.SIGHUP}: "
        "signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
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
    ids=["loop", "sleep", "ignored signals", "caught exceptions", "flooded stdout", "flooded report"],
)
@all_runs
def test_a_program_that_does_not_end_is_killed_in_time(program: str, isolation: Isolation) -> None:
    start = time.monotonic()
    assert run(program, isolation, timeout=0.5) == Outcome(False, "timeout")
    assert time.monotonic() - start < 5


@isolated_runs
def test_a_program_in_a_session_of_its_own_is_killed_in_time(isolation: Isolation) -> None:
    program = "import os\nif os.fork() == 0: os.setsid()\nwhile True: pass"
    assert run(program, isolation, timeout=0.5) == Outcome(False, "timeout")


@all_runs
def test_a_flood_of_output_costs_nothing_and_decides_nothing(isolation: Isolation) -> None:
    assert run("import sys\nfor _ in range(100): print('x' * 10**6); sys.stderr.write('x' * 10**6)", isolation).passed


@all_runs
def test_a_memory_bomb_hits_its_limit(isolation: Isolation) -> None:
    assert run("x = [0] * 10**9", isolation) == Outcome(False, "memory", "MemoryError")
    assert run("x = []\nwhile True: x.append(bytes(10**6))", isolation).reason == "memory"
    assert run("x = bytes(300 << 20)", isolation).passed
    [outcome] = run_programs(["x = bytes(300 << 20)"], isolation=isolation, memory_mb=256)
    assert outcome.reason == "memory"


@isolated_runs
def test_a_fork_bomb_stops_at_the_process_limit(isolation: Isolation) -> None:
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
    forks = int(run(program, isolation).detail.partition("forks=")[2])
    assert 1 <= forks < PROCESSES
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert (
        run_programs([bomb, "pass", bomb, "pass"], isolation=isolation, timeout=0.5)
        == [
            Outcome(False, "timeout"),
            Outcome(True, "passed"),
        ]
        * 2
    )


@isolated_runs
def test_tmp_is_empty_and_small(isolation: Isolation) -> None:
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
    assert run_programs([program] * 2, isolation=isolation, workers=1) == [Outcome(True, "passed")] * 2


@all_runs
def test_a_file_cannot_grow_beyond_its_limit(isolation: Isolation) -> None:
    program = f"assert open('x', 'wb', buffering=0).write(b'x' * {2 * FILE_BYTES}) == {FILE_BYTES}"
    assert run(program, isolation) == Outcome(True, "passed")


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


@isolated_runs
def test_an_accepted_risk_is_not_taken_where_isolation_works(isolation: Isolation) -> None:
    assert sandbox.detect(accept_unsandboxed=True) is not Isolation.NONE


def test_a_sandbox_that_breaks_down_is_an_error_and_no_verdict(path: Path) -> None:
    broken = path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(SandboxError, match="No permissions to create new namespace"):
        run_programs(["pass"], isolation=Isolation.BUBBLEWRAP)
    with pytest.raises(SandboxError, match="No permissions to create new namespace"):
        sandbox.detect()


@isolated_runs
def test_isolation_costs_less_than_four_further_starts_of_python(isolation: Isolation) -> None:
    """Beside the same without isolation, so that other work on the machine slows down both."""

    def seconds(isolation: Isolation) -> float:
        start = time.monotonic()
        assert all(outcome.passed for outcome in run_programs(["pass"] * 20, isolation=isolation))
        return time.monotonic() - start

    assert min(seconds(isolation) for _ in range(2)) < 5 * max(seconds(Isolation.NONE) for _ in range(2))
