"""MATH: its prompt, reading of answers and grader."""

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer2.data import read_split
from transformer2.tasks import TASKS, Row, Score, latex, math
from transformer2.tasks.base import Hub

TASK = TASKS["math"]


def real_rows(folder: Path) -> list[Row]:
    return read_split(TASK, f"dir:{folder}", "test")


def scores(cases: list[tuple[str, str]]) -> list[Score]:
    """Scores of completions, each to a problem with the given gold."""
    rows = [{"problem": "?", "solution": f"So it is $\\boxed{{{gold}}}$."} for gold, _ in cases]
    return math.score(rows, [completion for _, completion in cases])


def test_math_asks_as_the_released_code_does() -> None:
    prompt = TASK.prompt({"problem": "What is $1 + 1$?", "solution": "$\\boxed{2}$"})
    assert [message["content"] for message in prompt.messages] == [
        "Solve the question below by reasoning step by step,and put the final answer within \\boxed{}.",
        "What is $1 + 1$?",
    ]
    assert prompt.text == ""


def test_math_comes_from_seven_parts_of_the_hub() -> None:
    assert isinstance(TASK.source, Hub)
    assert TASK.source.files[:2] == ("algebra/{split}-*.parquet", "counting_and_probability/{split}-*.parquet")
    assert len(TASK.source.files) == 7


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"so \boxed{5}.", "5"),
        (r"first \boxed{5}, then $\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
        (r"\boxed{5} and, cut off, \boxed{6", "5"),
        (r"\boxed{\boxed{5}}", r"\boxed{5}"),
        (r"\boxed {5.}", "5"),
        (r"\boxed{$5$}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"with } and { in between \boxed{5}", "5"),
        (r"\boxed{5}. The answer is 6", "5"),
        ("The answer is 5.", "5"),
        ("The answer is 0.5. It was hard.", "0.5"),
        ("**Answer:** 5\nDone.", "5"),
        ("The final answer is: **5**.", "5"),
        (r"The answer is $\frac{1}{2}$, of course", r"\frac{1}{2}"),
        (r"The answer is \(x = 5\).", "x = 5"),
        (r"The answer is $\$18.90$.", r"\$18.90"),
        ("The answer is 5. No: the answer is 6.", "6"),
        (r"\boxed{}", None),
        (r"\boxed 5", None),
        ("It is 5.", None),
        ("The answer is", None),
        ("", None),
    ],
)
def test_math_reads_the_last_answer(completion: str, answer: str | None) -> None:
    assert math.read_answer(completion) == answer


SAME = [
    (r"\frac{1}{2}", r"\dfrac12"),
    (r"\frac{1}{2}", "0.5"),
    (r"\frac{1}{3}", "1/3"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"\frac{25}{13}", r"1\frac{12}{13}"),
    ("1000", "1,000"),
    (r"\$18.90", "18.9"),
    ("5", r"5\text{ cm}"),
    (r"0.25\,\text{ cm}", r"\frac14"),
    ("90", r"90^\circ"),
    (r"10\%", "10"),
    ("3", "x = 3"),
    ("[2,5)", r"x \in [2,5)"),
    ("[2,5)", r"2 \le x < 5"),
    (r"(-\infty,3)\cup(3,\infty)", r"\mathbb{R} \setminus \{3\}"),
    ("1,2", "2, 1"),
    (r"\left( 3, \frac{1}{2} \right)", "(3, 0.5)"),
    ("12x - 34", "-34 + 12x"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{(A)}", "A"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}"),
]
OTHER = [
    ("5", "6"),
    ("2", "200"),
    (r"\frac{1}{23}", r"\frac{12}{3}"),
    ("[2,5)", "(2,5)"),
    ("(3,4)", "(4,3)"),
    (r"\pm 3", "3"),
    ("1,2", "1"),
    (r"\frac{1}{3}", "0.3333"),
    ("10001", "10000"),
    (r"\text{even}", r"\text{odd}"),
    ("1", r"\frac{1}{0}"),
    ("1", r"\frac{"),
    ("1", r"\nonsense{1}^^_"),
    ("5", r"\text{I do not know}"),
]


@pytest.mark.slow
def test_math_lenient_compares_by_value() -> None:
    same = scores([(gold, f"\\boxed{{{answer}}}") for gold, answer in SAME])
    other = scores([(gold, f"\\boxed{{{answer}}}") for gold, answer in OTHER])
    assert [case for case, score in zip(SAME, same, strict=True) if not score.lenient] == []
    assert [case for case, score in zip(OTHER, other, strict=True) if score.lenient] == []


@pytest.mark.parametrize(
    ("gold", "completion", "right"),
    [
        ("5", r"\boxed{5}", True),
        ("5", r"The answer is: 5.", True),
        ("5", "The answer is: 5.\nI hope that it helps.", True),
        ("5", r"The answer is: 6. But \boxed{5}", False),  # "6. But \boxed{5}" is read
        ("5", "The answer is 5.", False),
        ("5", r"\boxed{5} or, cut off, \boxed{6", False),
        ("5", r"\boxed 5", False),
        ("5", "", False),
        (r"\frac{1}{2}", r"\boxed{1/2}", True),
        (r"\frac{1}{2}", r"\boxed{0.5}", True),
        (r"\frac{1}{4}", r"\boxed{0.25}", False),
        (r"-\frac{1}{2}", r"\boxed{-1/2}", False),
        (r"\dfrac12", r"\boxed{\tfrac{1}{2}}", True),
        (r"\frac{1}{23}", r"\boxed{\frac{12}{3}}", True),
        ("2", r"\boxed{200}", True),
        ("10001", r"\boxed{10000}", True),
        ("1001", r"\boxed{1000}", False),
        ("1000", r"\boxed{1,000}", True),
        ("5", r"\boxed{5\text{ cm}}", True),
        ("5", r"\boxed{5\text{cm}}", False),
        ("90", r"\boxed{90^\circ}", True),
        ("3", r"\boxed{x = 3}", True),
        ("3", r"\boxed{xyz = 3}", False),
        ("(1,2)", r"\boxed{\left( 1, 2.00 \right)}", True),
        ("(1,2)", r"\boxed{[1,2]}", False),
        ("[1,2]", r"\boxed{1,2}", True),
        ("1,2", r"\boxed{2,1}", False),
        ("x+1", r"\boxed{1+x}", False),  # the release asks sympy here
        (r"5\text{ or }6\text{ or }7", r"\boxed{5\text{ or }6\text{ or }7}", True),
    ],
)
def test_math_strict_keeps_the_string_rules_of_the_released_code(gold: str, completion: str, right: bool) -> None:
    answer = math.strict_answer(completion)
    assert (answer is not None and math.strict_equal(gold, answer)) == right


@settings(deadline=None)
@given(st.text(alphabet=r"019.,=-/$ \{}()[]xt" + "\n") | st.text())
def test_math_strict_and_reading_take_any_text(text: str) -> None:
    boxed = f"\\boxed{{{text}}}"
    for completion in (text, boxed, f"The answer is: {text}", f"The answer is {text}"):
        math.read_answer(completion)
        answer = math.strict_answer(completion)
        assert answer is None or math.strict_equal(answer, answer)


@pytest.mark.parametrize("part", [r"\boxed{", "{", "}", "answer is ", "The answer is: ", "$", r"\(", "(", "1,", "\\"])
def test_math_reading_of_hostile_text_ends(part: str) -> None:
    started = time.process_time()
    text = part * 5000
    math.read_answer(text)
    math.strict_equal("(1,2)", math.strict_answer(f"The answer is: {text}") or "")
    assert time.process_time() - started < 2


HOSTILE = [
    "9^{9^{9^{9}}}",
    "9" * 240,
    "(" * 120 + "1" + ")" * 120,
    r"\frac{1}{" * 20 + "1" + "}" * 20,
    r"\sum_{i=1}^{10^{12}} i",
    r"\int_0^1 \sin(x^{x^{x}})\,dx",
]


@pytest.mark.slow
def test_math_hostile_expressions_are_wrong_and_cost_seconds_at_most() -> None:
    started = time.monotonic()
    cases = [("x^2 + 1", f"\\boxed{{{answer}}}") for answer in HOSTILE]
    assert [score.lenient for score in scores([*cases, ("2", r"\boxed{\frac{4}{2}}")])] == [False] * len(HOSTILE) + [
        True
    ]
    assert time.monotonic() - started < 30


def fatal(gold: str, answer: str) -> bool:
    """A comparison that one answer ends with its process, as when memory runs out."""
    if answer == "fatal":
        os._exit(1)
    return latex.equal(gold, answer)


@pytest.mark.slow
def test_math_answer_that_breaks_the_judge_is_wrong_and_the_next_ones_are_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(latex, "_verdict", fatal)
    pairs = [("1", "1.0"), ("1", "fatal"), ("2", "2.0"), ("2", "3")]
    assert latex.equal_within_limits(pairs) == [True, False, True, False]


def test_math_judge_that_was_ended_between_two_answers_costs_none_of_them() -> None:
    assert latex.equal_within_limits([("1", "1.0")]) == [True]
    [process] = latex._judge()._processes.values()
    process.kill()
    process.join()
    assert latex.equal_within_limits([("2", "2.0"), ("2", "3")]) == [True, False]


def test_math_grader_works_off_the_main_thread() -> None:
    found: list[Score] = []
    thread = threading.Thread(target=lambda: found.extend(scores([(r"\frac{1}{2}", r"\boxed{\frac{2}{4}}")])))
    thread.start()
    thread.join()
    assert [score.lenient for score in found] == [True]


def test_math_gold_without_a_box_is_an_error_that_names_the_row() -> None:
    with pytest.raises(ValueError, match="math/test/4 boxes no answer"):
        math.score([{"problem": "?", "solution": "It is 5.", "item": "math/test/4"}], ["none"])


def test_math_golds_pass_their_grader(real_data: Path) -> None:
    rows = real_rows(real_data)
    scored = math.score(rows, [TASK.solution(row) for row in rows])
    assert (len(rows), sum(s.strict for s in scored), sum(s.lenient for s in scored)) == (5000, 5000, 5000)


def test_math_golds_are_read_from_a_sentence_too(real_data: Path) -> None:
    rows = real_rows(real_data)
    golds = [math.read_answer(TASK.solution(row)) for row in rows]
    assert [math.read_answer(f"So the answer is ${gold}$.") for gold in golds] == golds


@pytest.mark.slow
def test_math_golds_equal_themselves_by_value(real_data: Path) -> None:
    """Without the short cut for equal texts, and in other words of LaTeX."""
    golds = [math.read_answer(TASK.solution(row)) or "" for row in real_rows(real_data)]
    other = [gold.replace(r"\frac", r"\dfrac").replace(r"\left", "").replace(r"\right", "") for gold in golds]
    assert sum(latex.equal_within_limits(list(zip(golds, other, strict=True)))) >= 4990


@pytest.mark.slow
def test_math_rejects_the_gold_of_another_row(real_data: Path) -> None:
    rows = real_rows(real_data)
    others = [TASK.solution(rows[i - 1]) for i in range(len(rows))]
    scored = math.score(rows, others)
    same = [
        math.read_answer(row["solution"]) == math.read_answer(other) for row, other in zip(rows, others, strict=True)
    ]
    assert all(score.lenient for score, equal in zip(scored, same, strict=True) if equal)
    assert sum(score.lenient for score in scored) - sum(same) < 10
