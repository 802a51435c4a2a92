"""HumanEval: its prompt, reading of code and grader."""

import time
from pathlib import Path

import pytest

from transformer2.data import read_split
from transformer2.sandbox import Program
from transformer2.tasks import TASKS, Row, humaneval

TASK = TASKS["humaneval"]

HEAD = 'import math\n\n\ndef half(n):\n    return n / 2\n\n\ndef area(r):\n    """ Area of a half circle.\n    """'
CIRCLE = {
    "task_id": "HumanEval/0",
    "prompt": f"\n\n{HEAD}\n",
    "canonical_solution": "    return half(math.pi * r ** 2)\n",
    "test": "\ndef check(candidate):\n    assert abs(candidate(2) - 6.2832) < 1e-3\n",
    "entry_point": "area",
}
RIGHT = "\n    return half(math.pi * r ** 2)\n"
WRONG = "\n    return r\n"
REPEATED = f"def area(r):\n    '''Area.'''{RIGHT}"


def real_rows(folder: Path) -> list[Row]:
    return read_split(TASK, f"dir:{folder}", "test")


def humaneval_score(completion: str) -> tuple[bool, bool]:
    [score] = humaneval.score([CIRCLE], [completion])
    return score.strict, score.lenient


def test_humaneval_prompt_shows_the_head_and_opens_the_reply_with_it() -> None:
    prompt = TASK.prompt(CIRCLE)
    assert prompt.messages == ()
    assert prompt.text.startswith("You are an exceptionally intelligent coding assistant that  consistently")
    assert prompt.text.endswith(
        "\n\n@@ Instruction:\nWrite a solution to the following problem:\n"
        f"```python\n{HEAD}\n```\n\n@@ Response:\n```python\n{HEAD}"
    )


def test_humaneval_question_is_the_head() -> None:
    assert TASK.question(CIRCLE) == HEAD


def test_humaneval_solution_is_the_body_and_the_closing_fence() -> None:
    assert TASK.solution(CIRCLE) == "\n    return half(math.pi * r ** 2)\n```"


@pytest.mark.parametrize(
    ("completion", "strict", "lenient"),
    [
        (f"{RIGHT}```", True, True),
        (RIGHT.removeprefix("\n"), True, True),  # no line break after the docstring
        (f"{RIGHT}```\nIt halves the area.", True, True),
        (f"{RIGHT}\n\ndef unused(x):\n    return x\n```", True, True),
        (f"{WRONG}```", False, False),
        (f"{WRONG}```\nBetter:\n```python\n{REPEATED}```", False, False),  # the first body is the answer
        (f"\n\n{REPEATED}```", True, True),  # the function again, which uses the head's import and helper
        (f"\n```\nHere it is:\n```python\n{REPEATED}```", False, True),
        (f"```python\n{HEAD}{RIGHT}```", False, True),
        (f"\nThe body is:\n```python{RIGHT}```", False, True),
        ("\n```\nHere it is:\n```python\narea = lambda r: half(math.pi * r ** 2)\n```", False, True),
        (f"{RIGHT}\nThis function works well.", False, True),
        (f"{RIGHT}\nprint(area(1,", False, True),  # the length limit cut it
        ("\n    return half(math.pi *", False, False),
        ("\n    import math\n    # to do", False, False),
        ("", False, False),
        ("```", False, False),
        ("\n    pass", False, False),
        ("\0", False, False),
        ("\ud800", False, False),
        ("\n    return r\nexit(0)", False, False),
        ("\n\ndef check(candidate):\n    pass\n", False, False),  # the tests' own check comes later
    ],
)
def test_humaneval_scores(completion: str, strict: bool, lenient: bool, trusted_programs: list[Program]) -> None:
    assert humaneval_score(completion) == (strict, lenient)


def test_humaneval_answer_is_what_stands_below_the_head(trusted_programs: list[Program]) -> None:
    [answered, empty] = humaneval.score([CIRCLE, CIRCLE], [f"{RIGHT}```\nDone.", "```"])
    assert (answered.answer, empty.answer) == ("return half(math.pi * r ** 2)", None)


@pytest.mark.parametrize("part", ["```", "```python\n", "\n    (", "\n", "def area(r):\n", '"""\n'])
def test_humaneval_reading_of_hostile_replies_ends(part: str) -> None:
    started = time.process_time()
    humaneval.extract_code(CIRCLE, part * 600)
    assert time.process_time() - started < 2


@pytest.mark.slow
def test_humaneval_golds_pass_their_grader(real_data: Path) -> None:
    rows = real_rows(real_data)
    scores = TASK.score(rows, [TASK.solution(row) for row in rows])
    assert len(rows) == 164
    assert [
        row["task_id"] for row, score in zip(rows, scores, strict=True) if not (score.strict and score.lenient)
    ] == []


@pytest.mark.slow
def test_humaneval_rejects_the_gold_of_another_row(real_data: Path) -> None:
    rows = real_rows(real_data)
    scores = TASK.score(rows, [TASK.solution(rows[i - 1]) for i in range(len(rows))])
    assert not any(score.strict or score.lenient for score in scores)


def test_humaneval_is_not_fooled_by_an_object_that_equals_everything() -> None:
    body = """
    class Any(float):
        __eq__ = __lt__ = __sub__ = __abs__ = lambda self, *other: self
    return Any(1.0)
"""
    assert humaneval_score(f"{body}```") == (False, False)
    assert humaneval_score(f"{RIGHT}```") == (True, True)


def test_humaneval_tests_are_values_of_the_function_but_for_seven_tasks(real_data: Path) -> None:
    """157 of 164; the others loop over random inputs, or call the answer's own helpers."""
    rows = real_rows(real_data)
    beside = [row["task_id"] for row in rows if not humaneval.trial(row, "").conditions]
    assert beside == [f"HumanEval/{number}" for number in (32, 33, 38, 44, 50, 53, 151)]
