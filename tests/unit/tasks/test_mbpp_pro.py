"""MBPP-Pro: its split, prompt, reading of code and grader."""

import gzip
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from transformer2.data import choose_rows, read_split
from transformer2.sandbox import Outcome, Program
from transformer2.tasks import TASKS, Row, code, mbpp_pro
from transformer2.tasks.base import Release

TASK = TASKS["mbpp_pro"]


def real_rows(folder: Path, split: str) -> list[Row]:
    return read_split(TASK, f"dir:{folder}", split)


MAXIMUM = {
    "task_id": "Mbpp/0",
    "prompt": '"""\nWrite a function to find the larger number\nassert larger(1, 2) == 2\n"""\n',
    "entry_point": "larger",
    "canonical_solution": "\ndef larger(a, b):\n  return max(a, b)\n",
    "test_imports": [],
    "test": "\nassert larger(1, 2) == 2\nassert larger(4, 3) == 4\n",
}
RIGHT = "def larger(a, b):\n  return max(a, b)\n"
WRONG = "def larger(a, b):\n  return b\n"


def mbpp_score(completion: str, row: Row = MAXIMUM) -> tuple[bool, bool]:
    [score] = mbpp_pro.score([row], [completion])
    return score.strict, score.lenient


def test_mbpp_prompt_is_magicoders_form_with_an_open_fence() -> None:
    prompt = TASK.prompt(MAXIMUM)
    assert prompt.messages == ()
    assert prompt.text.startswith("You are an exceptionally intelligent coding assistant that  consistently")
    assert prompt.text.endswith(
        "\n\n@@ Instruction:\nWrite a function to find the larger number. Your code should satisfy the following "
        "assertion:\n```python\nassert larger(1, 2) == 2\n```\n\n@@ Response:\n```python\n"
    )


def test_mbpp_prompt_ends_the_request_with_one_full_stop() -> None:
    row = MAXIMUM | {"prompt": MAXIMUM["prompt"].replace("number\n", "number.\n")}
    assert TASK.prompt(row) == TASK.prompt(MAXIMUM)


def test_mbpp_solution_is_the_code_and_the_closing_fence() -> None:
    assert TASK.solution(MAXIMUM) == "def larger(a, b):\n  return max(a, b)\n```"


@pytest.mark.parametrize(
    ("completion", "strict", "lenient"),
    [
        (f"{RIGHT}```", True, True),
        (f"{RIGHT}```\nIt returns the larger one.", True, True),
        (f"{WRONG}```", False, False),
        (f"{WRONG}```\nBetter:\n```python\n{RIGHT}```", False, False),  # the first definition is the answer
        (f"Here it is:\n```python\n{RIGHT}```", False, True),
        ("Here it is:\n```python\nlarger = max\n```", False, True),
        (f"{RIGHT}\nThis function works well.", False, True),
        (f"{RIGHT}\nprint(larger(1,", False, True),  # the length limit cut it
        ("larger = lambda a, b: max(a, b)\n```", True, True),
        ("larger = max", True, True),
        ("", False, False),
        ("I cannot.", False, False),
        ("\0", False, False),
        ("\ud800", False, False),
        ("exit(0)", False, False),
        ("def smaller(a, b):\n  return min(a, b)\n```", False, False),
    ],
)
def test_mbpp_scores(completion: str, strict: bool, lenient: bool, trusted_programs: list[Program]) -> None:
    assert mbpp_score(completion) == (strict, lenient)


def test_mbpp_runs_equal_programs_once(trusted_programs: list[Program]) -> None:
    mbpp_pro.score([MAXIMUM, MAXIMUM], [f"{RIGHT}```", f"{RIGHT}```"])
    assert len(trusted_programs) == 1


def test_mbpp_imports_for_the_asserts_come_after_the_code(trusted_programs: list[Program]) -> None:
    row = MAXIMUM | {"test_imports": ["import math"], "test": "assert math.isclose(larger(1, 2), 2)"}
    assert mbpp_score(f"from __future__ import annotations\n{RIGHT}```", row) == (True, True)


@pytest.mark.parametrize("part", ["(", "-", "not ", "a.", "lambda:", "if 1:\n ", "x = (\n", '"""\n', "\n", "f'{"])
def test_mbpp_reading_of_hostile_code_ends(part: str) -> None:
    started = time.process_time()
    code.parsable_prefix(part * 5001)
    assert time.process_time() - started < 2


def test_mbpp_reading_of_code_with_much_prose_below_is_quick() -> None:
    lines = "x = 1\n" * 3000
    started = time.process_time()
    assert code.parsable_prefix(f"{lines}This is not Python.\n" + "nor this\n" * 3000).strip() == lines.strip()
    assert time.process_time() - started < 2


def test_mbpp_folder_holds_the_released_split_of_mbpp_plus(real_data: Path) -> None:
    with gzip.open(real_data / "mbpp_plus" / "MbppPlus-v0.1.0.jsonl.gz") as file:
        splits = mbpp_pro.release_splits([json.loads(line) for line in file])
    for split, rows in splits.items():
        folder = [{key: row[key] for key in rows[0]} for row in real_rows(real_data, split)]
        assert rows == folder


def test_mbpp_download_is_checked_against_the_known_file(real_data: Path) -> None:
    plus = real_data / "mbpp_plus"
    assert isinstance(TASK.source, Release)
    files = [(plus / f"MbppPlus-v0.{version}.0.jsonl.gz").resolve().as_uri() for version in (1, 2)]
    right, wrong = (replace(TASK, source=replace(TASK.source, address=file)) for file in files)
    chosen = choose_rows(right, "hub", "test")
    assert len([*chosen.rows]) == 99 and chosen.facts["address_sha256"] == TASK.source.sha256
    with pytest.raises(ValueError, match="is not MBPP"):
        choose_rows(wrong, "hub", "test")


@pytest.mark.slow
def test_mbpp_golds_pass_their_grader_but_for_the_two_that_need_evalplus(real_data: Path) -> None:
    """397 of 399. EvalPlus's oracle accepts Mbpp/164 and Mbpp/295 whatever they return; their plain asserts fail."""
    rows = [row for split in TASK.splits for row in real_rows(real_data, split)]
    scores = TASK.score(rows, [TASK.solution(row) for row in rows])
    failed = {row["task_id"] for row, score in zip(rows, scores, strict=True) if not (score.strict and score.lenient)}
    assert (len(rows), failed) == (399, {"Mbpp/164", "Mbpp/295"})


@pytest.mark.slow
def test_mbpp_rejects_the_gold_of_another_row(real_data: Path) -> None:
    rows = real_rows(real_data, "test")
    scores = TASK.score(rows, [TASK.solution(rows[i - 1]) for i in range(len(rows))])
    assert not any(score.strict or score.lenient for score in scores)


TRICKS = {
    "an object that equals everything": """
class Any:
    __eq__ = __bool__ = lambda *other: True
    __hash__ = object.__hash__
def larger(a, b): return Any()
""",
    "a list that equals everything": """
class Any(list):
    __eq__ = lambda *other: True
def larger(a, b): return Any()
""",
    "a number that equals everything": """
class Any(int):
    __eq__ = __format__ = __index__ = lambda *other: True
def larger(a, b): return Any(0)
""",
    "the token": """
import os, sys
def larger(a, b): return 0
try:
    frame = sys._getframe()
    while "token" not in frame.f_locals: frame = frame.f_back
    os.write(frame.f_locals["report"], os.read(frame.f_locals["token"], 64))
    os._exit(0)
except (AttributeError, TypeError): pass
""",
    "the token and values": """
import os, sys
def larger(a, b): return 0
try:
    frame = sys._getframe()
    while "token" not in frame.f_locals: frame = frame.f_back
    os.write(frame.f_locals["report"], os.read(frame.f_locals["token"], 64) + b'[["int","0"],["int","0"]]')
    os._exit(0)
except (AttributeError, TypeError): pass
""",
    "a patched proof": """
import sys
def larger(a, b): return 0
harness = sys.modules["__main__"]
harness.serialise = lambda value: '["object",true]'
""",
    "patched builtins": """
import builtins
def larger(a, b): return 0
builtins.isinstance = builtins.bool = builtins.hasattr = lambda *values: True
""",
    "an exit": "import os\ndef larger(a, b): os._exit(0)",
    "an early end": "def larger(a, b): raise SystemExit(0)",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_mbpp_is_not_fooled_by(trick: str) -> None:
    assert mbpp_score(TRICKS[trick]) == (False, False)


@pytest.mark.parametrize(
    "body",
    [
        "return max(a, b)",
        "return float(max(a, b))",
        "import decimal; return decimal.Decimal(max(a, b))",
        "import fractions; return fractions.Fraction(max(a, b))",
        "import enum; return enum.IntEnum('Number', {f'n{i}': i for i in range(1, 5)})(max(a, b))",
        "return complex(max(a, b))",
    ],
)
def test_mbpp_accepts_what_equals_the_expected_number(body: str) -> None:
    assert mbpp_score(f"def larger(a, b):\n  {body}") == (True, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "returned"),
    [
        ("f() == (1, 2)", "collections.namedtuple('Pair', 'a b')(1, 2)"),
        ("f() == {'a': 1, 'b': 1}", "collections.Counter('ab')"),
        ("f() == {'a': [1]}", "collections.defaultdict(list, a=[1])"),
        ("f() == {'a': 1}", "collections.ChainMap({'a': 1})"),
        ("f() == {1, 2}", "{1: 0, 2: 0}.keys()"),
        ("f() == {1, 2}", "frozenset([1, 2])"),
        ("f() == b'ab'", "bytearray(b'ab')"),
        ("f() == [1.5, None, (True, 'ü\\udc80'), [[]], {}]", "[1.5, None, (True, 'ü\\udc80'), [[]], {}]"),
        ("f() == 10.0 / 4", "5 / 2"),
        ("f() == -0.1", "-0.1"),
        ("f() == " + str(7**300), "7**300"),
        ("set(f()) == {0, 1, 4}", "(n * n for n in range(3))"),
        ("tuple(f()) == (0, 1)", "map(int, '01')"),
        ("sorted(f()) == [1, 2]", "{2, 1}"),
        ("f() is True", "1 == 1"),
        ("not f()", "collections.deque()"),
        ("f()", "object()"),
        ("f() != [1]", "iter([1])"),
        ("abs(f() - 0.33) < 1e-6", "0.33 + 1e-9"),
        ("math.isclose(f(), 10, rel_tol=0.01)", "10.01"),
        ("f() == float('inf')", "float('inf')"),
    ],
)
def test_mbpp_values_keep_the_verdict_of_the_assert(test: str, returned: str) -> None:
    """What the assert says of a value in the sandbox, it says of what is made of the value outside."""
    answer = f"import collections, math\ndef f(): return {returned}"
    row = MAXIMUM | {"entry_point": "f", "test_imports": [], "test": f"import math\nassert {test}"}
    assert mbpp_score(answer, row) == (True, True)
    assert mbpp_score(answer, row | {"test": f"import math\nassert not ({test})"}) == (False, False)


def test_mbpp_values_are_those_of_the_moment() -> None:
    """A list that is changed by later calls counts as it was."""
    row = MAXIMUM | {"entry_point": "f", "test": "assert f(1) == [1]\nassert f(2) == [1, 2]"}
    assert mbpp_score("seen = []\ndef f(x):\n  seen.append(x)\n  return seen", row) == (True, True)


def test_mbpp_results_that_are_too_long_fail() -> None:
    row = MAXIMUM | {"entry_point": "f", "test": "assert f() == 1"}
    assert mbpp_score("def f(): return list(range(10**5))", row) == (False, False)


def test_mbpp_tests_that_need_the_answer_run_behind_it() -> None:
    row = MAXIMUM | {"test": "import sys\nassert larger(1, 2) == 2 and sys.maxsize > 0"}
    assert mbpp_pro.trial(row, RIGHT).conditions == ()
    assert mbpp_score(RIGHT, row) == (True, True)
    assert mbpp_score(WRONG.replace("b", "a"), row) == (False, False)


def test_mbpp_tests_are_values_of_the_function_but_for_one_task(real_data: Path) -> None:
    """398 of 399; Mbpp/596 compares with `sys.getsizeof`."""
    rows = [row for split in TASK.splits for row in real_rows(real_data, split)]
    assert [row["task_id"] for row in rows if not mbpp_pro.trial(row, "").conditions] == ["Mbpp/596"]


def test_an_answer_that_was_tried_is_not_tried_again_but_for_one_that_ran_out_of_time(monkeypatch):
    ran: list[str] = []

    def outcomes(programs, isolation):
        ran.extend(program.text for program in programs)
        return [Outcome(False, "timeout" if "slow" in program.text else "failed") for program in programs]

    monkeypatch.setattr(code, "run_programs", outcomes)
    monkeypatch.setattr(code, "REMEMBERED", {})
    trials = [code.Trial(Program(text)) for text in ("wrong", "slow", "wrong")]
    for _ in range(2):
        scores = code.run(trials, trials, ["", "", ""], None)
        assert [score.strict for score in scores] == [False] * 3
    assert ran == ["wrong", "slow", "slow"]
