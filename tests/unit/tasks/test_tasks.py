"""Prompts, reference answers and graders of the tasks; on the real data where it is at hand."""

import re
import threading
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transformer2.data import read_split
from transformer2.tasks import BENCHMARKS, TASKS, Row, Score, Task, arc, gsm8k
from transformer2.tasks.base import Hub

SHOTS_SEEDS = {"math": 27, "humaneval": 16, "arc_challenge": 38}


def real_rows(task: Task, folder: Path, split: str) -> list[Row]:
    return read_split(task, f"dir:{folder}", split)


def count(scores: list[Score], which: str) -> int:
    return sum(getattr(score, which) for score in scores)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_listed_under_its_name(name: str) -> None:
    assert TASKS[name].name == name


@pytest.mark.parametrize("name", SHOTS_SEEDS)
def test_few_shots_of_unseen_tasks_are_drawn_by_the_numbers_of_the_released_code(name: str) -> None:
    assert TASKS[name].shots_seed == SHOTS_SEEDS[name]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_questions_are_in_the_prompt_and_hold_nothing_of_its_frame(name: str, real_data: Path) -> None:
    task = TASKS[name]
    for row in real_rows(task, real_data, "test")[:50]:
        question, prompt = task.question(row), task.prompt(row)
        told = prompt.text + "".join(message["content"] for message in prompt.messages)
        assert question.strip() and all(line in told for line in question.splitlines())
        assert not re.search("@@|```|step by step|instruction", question)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_reference_answer_holds_a_stop_string(name: str, real_data: Path) -> None:
    task = TASKS[name]
    answers = [task.solution(row) for split in task.splits for row in real_rows(task, real_data, split)]
    assert not [answer for answer in answers if any(stop in answer for stop in task.stop)]


# GSM8K


def test_gsm8k_asks_by_the_alpaca_sentence_and_the_question_alone() -> None:
    prompt = TASKS["gsm8k"].prompt({"question": "How many?", "answer": "#### 3"})
    assert [message["role"] for message in prompt.messages] == ["system", "user"]
    assert prompt.messages[0]["content"].startswith("Below is an instruction that describes a task. Write a response")
    assert (prompt.messages[1]["content"], prompt.text) == ("How many?", "")


def test_gsm8k_keeps_calculator_marks_in_the_reference_answer() -> None:
    row = {"question": "?", "answer": "16 - 3 = <<16-3=13>>13\n#### 13"}
    assert TASKS["gsm8k"].solution(row) == row["answer"]


def test_gsm8k_golds_pass_their_grader(real_data: Path) -> None:
    rows = real_rows(TASKS["gsm8k"], real_data, "test")
    scores = gsm8k.score(rows, [row["answer"] for row in rows])
    assert (count(scores, "strict"), count(scores, "lenient")) == (1319, 1319)


def test_gsm8k_rejects_the_gold_of_another_row(real_data: Path) -> None:
    rows = real_rows(TASKS["gsm8k"], real_data, "test")
    others = [rows[i - 1]["answer"] for i in range(len(rows))]
    scores = gsm8k.score(rows, others)
    same = [r["answer"].split("####")[1] == other.split("####")[1] for r, other in zip(rows, others, strict=True)]
    assert [score.lenient for score in scores] == same
    assert sum(same) < 20


def test_gsm8k_strict_misreads_numbers_as_the_released_code_does(real_data: Path) -> None:
    rows = real_rows(TASKS["gsm8k"], real_data, "test")
    values = [int(row["answer"].split("####")[1].replace(",", "")) for row in rows]
    misread = [row for row, value in zip(rows, values, strict=True) if gsm8k.strict_number(row["answer"]) != value]
    assert len(misread) == 16
    plain = gsm8k.score(rows, [f"The answer is {value}." for value in values])
    separated = gsm8k.score(rows, [f"The answer is {value:,}." for value in values])
    assert (count(plain, "strict"), count(plain, "lenient")) == (1305, 1319)
    assert (count(separated, "strict"), count(separated, "lenient")) == (1202, 1319)


def gsm8k_score(gold: str, completion: str) -> Score:
    [score] = gsm8k.score([{"question": "?", "answer": f"Some reasoning about 7.\n#### {gold}"}], [completion])
    return score


@pytest.mark.parametrize(
    ("gold", "completion"),
    [
        ("1200", "so 1,200"),
        ("-10", "The change is -10."),
        ("-10", "The change is −10 degrees"),
        ("-10", "a loss: -$10"),
        ("70,000", "He made $70,000.00"),
        ("70000", r"\boxed{\$70{,}000}"),
        ("18", "#### 18.00"),
        ("18", "####\n$18 a day"),
        ("18", "#### 18 eggs in 3 days"),
        ("18", "#### 5 + 13 = 18"),
        ("18", "#### 5 + 13"),
        ("18", r"#### \frac{36}{2}"),
        ("18", r"#### \frac{36}{2}."),
        ("25", "It grew by 25%"),
        ("18", r"so \boxed{18\text{ dollars}}, which took 3 days"),
        ("18", r"first \boxed{5}, then \boxed{18}"),
        ("18", "#### Step 2: add\nso **18**"),
        ("13", "16 - 3 = 13."),
    ],
)
def test_gsm8k_lenient_accepts_a_number_however_it_is_written(gold: str, completion: str) -> None:
    assert gsm8k_score(gold, completion).lenient


@pytest.mark.parametrize(
    ("gold", "completion", "answer"),
    [
        ("18", "", None),
        ("18", "I do not know.", None),
        ("18", "####", None),
        ("18", r"\boxed{x}", None),
        ("18", "#### 17", "17"),
        ("18", "18 eggs, 3 days", "3"),
        ("18", "#### 17 or 18", "17"),
        ("10", "-10", "-10"),
        ("1200", "1,2000", "2000"),
        ("18", r"#### \frac{1}{0}", r"\frac{1}{0}"),
    ],
)
def test_gsm8k_lenient_rejects(gold: str, completion: str, answer: str | None) -> None:
    score = gsm8k_score(gold, completion)
    assert (score.lenient, score.answer) == (False, answer)


@pytest.mark.parametrize("completion", ["", "I do not know."])
def test_gsm8k_strict_counts_a_reply_without_a_number_as_wrong(completion: str) -> None:
    assert not gsm8k_score("18", completion).strict


@settings(deadline=None)
@given(
    st.integers(-(10**9), 10**9),
    st.sampled_from(["{}", "{:,}"]),
    st.sampled_from(["{}", "{}.", "{}.00", "{} apples", "**{}**", "{}%"]),
    st.sampled_from(["#### {}", "The answer is {}", "3 + 4 = {}", r"Thus \boxed{{{}}} follows from 12.", "{}"]),
)
def test_gsm8k_lenient_reads_any_integer_in_any_dress(value: int, digits: str, dress: str, sentence: str) -> None:
    completion = sentence.format(dress.format(digits.format(value)))
    assert gsm8k_score(str(value), completion).lenient
    assert not gsm8k_score(str(value + 1), completion).lenient


@settings(deadline=None)
@given(st.text(alphabet="019.,-$ #\\{}()+=/x\n") | st.text())
def test_gsm8k_grader_takes_any_text(completion: str) -> None:
    score = gsm8k_score("18", completion)
    assert score.answer is not None or not score.lenient


@pytest.mark.parametrize(
    "completion",
    [
        "#### 9^9^9^9",
        "#### " + "9" * 50_000,
        "#### " + "(" * 2000 + "1" + ")" * 2000,
        r"\boxed{" + "{" * 40 + "}" * 40 + "}",
        r"\boxed{" * 5000,
        "####" * 10_000,
        "#### " + "9*" * 39 + "9",
        "#### " + r"\frac{1}{" * 8 + "1" + "}" * 8,
    ],
)
def test_gsm8k_grader_never_hangs(completion: str) -> None:
    started = time.process_time()
    assert not gsm8k_score("18", completion).lenient
    assert time.process_time() - started < 2


def test_gsm8k_grader_works_off_the_main_thread() -> None:
    verdicts: list[bool] = []
    thread = threading.Thread(target=lambda: verdicts.append(gsm8k_score("18", "#### 36/2").lenient))
    thread.start()
    thread.join()
    assert verdicts == [True]


def test_gsm8k_gold_without_a_number_is_an_error_that_names_the_row() -> None:
    with pytest.raises(ValueError, match="gsm8k/test/4 has no number"):
        gsm8k.score([{"question": "?", "answer": "none", "item": "gsm8k/test/4"}], ["1"])


# ARC

FOOD = {
    "question": "What do algae supply?",
    "choices": {"text": ["carbon dioxide", "food", "A shelter.", "fast food"], "label": ["1", "2", "3", "4"]},
    "answerKey": "2",
}
GENES = {
    "question": "Which genotype?",
    "choices": {"text": ["R", "rr", "Rr", "RR"], "label": ["A", "B", "C", "D"]},
    "answerKey": "C",
}


def arc_score(row: Row, completion: str) -> Score:
    [score] = arc.score([row], [completion])
    return score


def test_arc_shows_numeric_labels_as_letters_and_opens_the_reply() -> None:
    prompt = TASKS["arc_easy"].prompt(FOOD)
    assert prompt.messages[1]["content"] == (
        "What do algae supply?\nOptions:\nA. carbon dioxide\nB. food\nC. A shelter.\nD. fast food\n"
    )
    assert prompt.text == "Let's think step by step"
    assert TASKS["arc_challenge"].prompt(FOOD) == prompt


def test_arc_challenge_comes_from_its_own_part_of_the_hub() -> None:
    easy, challenge = TASKS["arc_easy"].source, TASKS["arc_challenge"].source
    assert isinstance(easy, Hub) and isinstance(challenge, Hub) and easy.revision == challenge.revision
    assert (easy.files, challenge.files) == (("ARC-Easy/{split}-*.parquet",), ("ARC-Challenge/{split}-*.parquet",))


@pytest.mark.parametrize(("name", "n", "numeric"), [("arc_easy", 2376, 97), ("arc_challenge", 1172, 22)])
def test_arc_golds_pass_their_grader_and_numeric_keys_only_the_lenient_one(
    name: str, n: int, numeric: int, real_data: Path
) -> None:
    rows = real_rows(TASKS[name], real_data, "test")
    scores = arc.score(rows, [arc.solution(row) for row in rows])
    assert (count(scores, "strict"), count(scores, "lenient")) == (n - numeric, n)
    assert sum(row["answerKey"].isdigit() for row in rows) == numeric


@pytest.mark.slow
@pytest.mark.parametrize("reply", [". So the answer is {}", "Answer: {}", '**Answer:** "{}"'])
def test_arc_lenient_accepts_the_full_text_of_the_right_option(reply: str, real_data: Path) -> None:
    rows = real_rows(TASKS["arc_easy"], real_data, "test")
    texts = [row["choices"]["text"][arc.LETTERS.index(arc.gold_letter(row))] for row in rows]
    assert count(arc.score(rows, [reply.format(text) for text in texts]), "lenient") == 2376


def test_arc_rejects_every_other_letter(real_data: Path) -> None:
    rows = real_rows(TASKS["arc_easy"], real_data, "test")

    def next_letter(row: Row) -> str:
        return arc.LETTERS[(arc.LETTERS.index(arc.gold_letter(row)) + 1) % len(row["choices"]["text"])]

    scores = arc.score(rows, [f". So the answer is ({next_letter(row)})." for row in rows])
    assert (count(scores, "strict"), count(scores, "lenient")) == (0, 0)


def test_arc_key_3_is_the_third_option_to_lenient_and_never_right_to_strict() -> None:
    row = FOOD | {"answerKey": "3"}
    assert arc_score(row, "the answer is (C).") == Score(strict=False, lenient=True, answer="C")
    assert arc_score(row, "the answer is (B).") == Score(strict=False, lenient=False, answer="B")


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        (". The answer is (B).", "B"),
        ("the answer is (b)", "B"),
        ("The answer is option B", "B"),
        ("**Answer: B**", "B"),
        ("Answer:\nB", "B"),
        (r"The answer is $\boxed{\text{B}}$.", "B"),
        (r"The answer is \boxed{B}, not C", "B"),
        ("The answer is (A). No: the answer is (B).", "B"),
        ("The answer is food.", "B"),
        ("The answer is fast  Food.", "D"),
        ("The answer is A shelter", "C"),
        ("(A) is wrong, so (B)", "B"),
        ("B", "B"),
        ("B. food", "B"),
        ("I think that it must be B.", "B"),
        ("It is a fast food", "D"),
        (". They make food", "B"),
        ("At 20°C algae make food", "B"),
        ("A plant makes food", "B"),
        ("They make food and carbon dioxide", None),
        ("the answer is (E)", None),
        ("The answer is unclear.", None),
        (". I do not know", None),
        ("", None),
    ],
)
def test_arc_lenient_reads(completion: str, letter: str | None) -> None:
    assert arc_score(FOOD, completion) == Score(strict=False, lenient=letter == "B", answer=letter)


@pytest.mark.parametrize(("text", "letter"), [("rr", "B"), ("Rr", "C"), ("RR", "D")])
def test_arc_tells_options_that_differ_by_case_alone(text: str, letter: str) -> None:
    assert arc_score(GENES, f"The answer is {text}.").answer == letter


def test_arc_takes_a_letter_for_a_letter_even_where_an_option_reads_the_same() -> None:
    blood = {"question": "?", "choices": {"text": ["O", "A", "B", "AB"], "label": list("ABCD")}, "answerKey": "A"}
    assert arc_score(blood, "The answer is A.").answer == "A"


@pytest.mark.parametrize("completion", ["", "we cannot know", "no idea, sorry"])
def test_arc_counts_a_reply_without_an_answer_as_wrong(completion: str) -> None:
    """The released code draws a letter then, by a seed under which "A" is right: not kept."""
    row = {"question": "?", "choices": {"text": ["w", "x", "y", "z"], "label": list("ABCD")}, "answerKey": "A"}
    assert arc_score(row, completion) == Score(strict=False, lenient=False, answer=None)


def released_letter(completion: str) -> str | None:
    """The three patterns as the released code states them; too slow for hostile text."""
    for pattern in (r"answer is \(?([A-J])\)?", r".*[aA]nswer:\s*([A-J])", r"\b([A-J])\b(?!.*\b[A-J]\b)"):
        if found := re.search(pattern, completion, re.DOTALL if "?!" in pattern else 0):
            return found.group(1)
    return None


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["answer is ", "(", "Answer:", "answer: ", "A", "B", "J", " ", "\n", ". ", "x"])).map(
        "".join
    )
)
@example("Answer: no\nanswer: A answer:\nB\nanswer: C")
def test_arc_strict_equals_the_three_released_patterns(completion: str) -> None:
    assert arc.strict_letter(completion) == released_letter(completion)


@pytest.mark.parametrize("part", ["answer is ", "answer:", "(", "A ", r"\a{", "x", 'the answer is "'])
def test_arc_grader_never_hangs(part: str) -> None:
    started = time.process_time()
    arc_score(FOOD, part * 5000)
    assert time.process_time() - started < 2
