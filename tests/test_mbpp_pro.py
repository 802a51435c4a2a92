"""MBPP-Pro: its split, prompt, reading of code and grader."""

import gzip
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from transformer2.data import choose_rows, read_split
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
def test_mbpp_scores(completion: str, strict: bool, lenient: bool, trusted_programs: list[str]) -> None:
    assert mbpp_score(completion) == (strict, lenient)


def test_mbpp_runs_equal_programs_once(trusted_programs: list[str]) -> None:
    mbpp_pro.score([MAXIMUM, MAXIMUM], [f"{RIGHT}```", f"{RIGHT}```"])
    assert len(trusted_programs) == 1


def test_mbpp_imports_for_the_asserts_come_after_the_code(trusted_programs: list[str]) -> None:
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
