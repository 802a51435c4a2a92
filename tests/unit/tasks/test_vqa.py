"""VQA accuracy, and the prompts and graders of the tasks about pictures; on the real data where it is at hand."""

import gzip
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conftest import ROOT
from rendering import render
from transformer2.data import read_split
from transformer2.provenance import write_json
from transformer2.reproduce.cells import item_verdicts
from transformer2.reproduce.collect import scores
from transformer2.reproduce.frames import read_scores, write_frame
from transformer2.reproduce.statistics import mcnemar_exact
from transformer2.tasks import TASKS, VISION, Row, vqa

TEN = ["cat"] * 6 + ["dog", "dog", "a bird", "Bird."]


def real_rows(folder: Path, name: str) -> list[Row]:
    with gzip.open(folder / name / "validation.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Red-Car", "red car"),
        ("a cat, an owl", "cat owl"),
        ("Two", "2"),
        ("none", "0"),
        ("yes!", "yes"),
        ("yes ! ", "yes"),
        ("dont", "don't"),
        ("Shouldnt've", "shouldn't've"),
        ("what's", "what 's"),
        ("St. John", "st john"),
        ("3.5", "3.5"),
        ("1,000", "1000"),
        ("24/7", "24 7"),
        ("t-shirt - red", "tshirt red"),
        ("line\nbreak", "line break"),
        ("an", ""),
    ],
)
def test_answers_are_compared_as_the_evalai_servers_do(answer: str, normal: str) -> None:
    assert vqa.normalise(answer) == normal


@pytest.mark.parametrize(("n", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_accuracy_leaves_one_of_the_ten_out_in_turn(n: int, accuracy: float) -> None:
    others = [f"other {i}" for i in range(10 - n)]
    assert vqa.vqa_accuracy("yes", ["Yes."] * n + others) == pytest.approx(accuracy)
    naive = [min(sum(a == "Yes." for j, a in enumerate(["Yes."] * n + others) if j != i) / 3, 1) for i in range(10)]
    assert vqa.vqa_accuracy("yes", ["Yes."] * n + others) == pytest.approx(sum(naive) / 10)


def test_a_question_that_nobody_answered_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="without answers"):
        vqa.vqa_accuracy("cat", [])


def test_oracles_on_the_real_answers_have_the_reference_values(real_data: Path) -> None:
    textvqa, okvqa = real_rows(real_data, "textvqa"), real_rows(real_data, "okvqa")
    majority = [vqa.vqa_accuracy(vqa.solution(row), row["answers"]) for row in textvqa[:1000]]
    best = [max(vqa.vqa_accuracy(answer, row["answers"]) for answer in set(row["answers"])) for row in okvqa]
    assert (len(textvqa), len(okvqa)) == (5000, 5046)
    assert (np.mean(majority).round(4), np.mean(best).round(4)) == (0.9825, 0.9878)


def test_the_reference_answer_is_the_one_of_most_people_in_any_spelling() -> None:
    assert vqa.solution({"answers": ["dog", "Cat", "dog", "cat", "the cat"]}) == "Cat"


@pytest.mark.parametrize(
    ("completion", "strict", "lenient"),
    [
        ("cat", 1.0, 1.0),
        ("A dog.", 0.6, 0.6),
        ("It looks furry. Answer: cat", 0.0, 1.0),
        ("The answer is a bird", 0.0, 0.6),
        ("\ndog\nIt barks.", 0.0, 0.6),
        ("horse", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_strict_takes_the_whole_reply_and_lenient_what_it_states(completion, strict, lenient) -> None:
    [score] = vqa.score([{"answers": TEN}], [completion])
    assert (score.strict, score.lenient) == (pytest.approx(strict), pytest.approx(lenient))


@pytest.mark.parametrize("name", VISION)
def test_the_prompt_has_picture_question_and_request(name: str) -> None:
    prompt = TASKS[name].prompt({"question": "what is it?", "image": b"abc", "answers": TEN})
    assert prompt.picture == b"abc"
    assert [message["content"] for message in prompt.messages] == [f"what is it?\n{vqa.REQUEST}"]
    assert TASKS[name].question({"question": "what is it?"}) == "what is it?"


def picture_file(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "red").save(path)
    return path.read_bytes()


def test_rows_of_a_folder_bring_their_pictures_along(tmp_path: Path) -> None:
    file = picture_file(tmp_path / "okvqa" / "images" / "one.png")
    row = {"question": "?", "answers": TEN, "image": "images/one.png"}
    (tmp_path / "okvqa" / "validation.jsonl").write_text(json.dumps(row) + "\n")
    [read] = read_split(TASKS["okvqa"], f"dir:{tmp_path}", "test")
    assert read["image"] == file and read["item"] == "okvqa/test/0"
    assert Image.open(io.BytesIO(read["image"])).size == (8, 6)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (None, "column image should be a valid string, and is null"),
        ("images/two.png", "no picture .*images/two.png"),
        ("", "no picture"),
        ("images", "no picture"),
        ("a\0b", "no picture"),
        ("a" * 5000, "no picture"),
        ("../../../../../../../../etc/passwd", "outside of .*okvqa; put pictures into that folder"),
        ("/etc/passwd", "picture /etc/passwd is outside of"),
        ("images/../../textvqa/one.png", "outside of"),
        ("link.png", "picture link.png is outside of"),
        ("validation.jsonl", "column image: no picture that can be opened"),
        (5, "column image should be a valid string, and is 5"),
        ({"bytes": None}, "no picture; the column image has no bytes"),
    ],
)
def test_a_row_without_a_picture_of_its_own_folder_is_named(tmp_path: Path, image: object, said: str) -> None:
    picture_file(tmp_path / "okvqa" / "images" / "one.png")
    (tmp_path / "okvqa" / "validation.jsonl").write_text(
        json.dumps({"question": "?", "answers": TEN, "image": image}) + "\n"
    )
    picture_file(tmp_path / "textvqa" / "one.png")
    (tmp_path / "okvqa" / "link.png").symlink_to(tmp_path / "textvqa" / "one.png")
    with pytest.raises(ValueError, match=rf"okvqa/validation\.jsonl, line 1: .*{said}") as error:
        read_split(TASKS["okvqa"], f"dir:{tmp_path}", "test")
    assert "\n" not in str(error.value)


def test_shares_survive_the_frame_and_sit_beside_booleans(tmp_path: Path) -> None:
    identity = {"run": "r", "model": "m", "stands_in_for": "llava-next-8b", "standin": True, "method": "base",
                "trained_on": "", "state": "", "seed": 0}  # fmt: skip
    verdicts = {"textvqa": [1.0, 0.6, 0.0], "gsm8k": [True, False, True]}
    for task, of_task in verdicts.items():
        items = [
            {
                "item": f"{task}/test/{i}",
                "strict": v,
                "lenient": v,
                "answer": "a",
                "new_tokens": 1,
                "finish_reason": "stop",
            }  # fmt: skip
            for i, v in enumerate(of_task)
        ]
        write_json(tmp_path / f"{task}.json", identity | {"task": task, "items": items})
    write_frame(scores(tmp_path / f"{task}.json" for task in verdicts), tmp_path / "scores.csv.gz")
    frame = read_scores(tmp_path / "scores.csv.gz")
    read = {str(task): item_verdicts(of, "strict") for task, of in frame.groupby("task")}
    assert read["textvqa"].to_numpy().tolist() == [[1.0, 0.6, 0.0]] and read["gsm8k"].dtypes.eq(bool).all()
    assert read["gsm8k"].to_numpy().tolist() == [[True, False, True]]


def test_a_verdict_that_is_no_share_is_named(tmp_path: Path) -> None:
    row = {"run": "r", "model": "m", "stands_in_for": "x", "standin": True, "task": "t", "method": "base",
           "trained_on": "", "state": "", "seed": 0, "item": "i", "strict": 1.5, "lenient": True,
           "read": True}  # fmt: skip
    pd.DataFrame([row]).to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(ValueError, match="the column strict holds other values"):
        read_scores(tmp_path / "scores.csv")


def test_shares_are_tested_by_which_of_two_is_higher() -> None:
    ours, base = [0.6, 1.0, 0.3, 0.9, 1.0, 0.6], [0.3, 0.9, 0.3, 0.6, 0.6, 0.0]
    assert mcnemar_exact(ours, base) == mcnemar_exact([True] * 5 + [False], [False] * 6) == 2 * 0.5**5
    assert Counter(np.sign(np.subtract(ours, base))) == {1.0: 5, 0.0: 1}


def test_a_table_of_shares_has_their_mean_and_the_frame_their_sum(tmp_path: Path) -> None:
    shares = {"base": [0.3, 0.6, 1.0, 0.0], "svf": [1.0, 0.6, 1.0, 0.9]}
    rows = [
        {"run": "r", "model": "m", "stands_in_for": "llava-next-8b", "standin": True, "method": method, "seed": 0,
         "trained_on": "textvqa" if method == "svf" else "", "state": "", "task": "textvqa",
         "item": f"textvqa/test/{i}", "strict": share, "lenient": share, "read": True, "new_tokens": 1,
         "finish_reason": "stop"}
        for method, of_method in shares.items() for i, share in enumerate(of_method)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "scores.csv", index=False)
    render(ROOT / "paper_tables" / "arxiv" / "figure5.yaml", tmp_path / "scores.csv", tmp_path)
    frame = pd.read_csv(tmp_path / "arxiv" / "figure5.csv").set_index("cell")
    svf, base = (frame.loc[f"arxiv/figure5/llava-next-8b/{method}/textvqa"] for method in ("svf", "base"))
    assert (svf["strict_correct"], svf["strict_score"], base["strict_score"]) == (3.5, 87.5, 47.5)
    assert svf["strict_normalised"] == pytest.approx(87.5 / 47.5, abs=1e-4) and svf["strict_p"] == pytest.approx(0.5)
    assert "87.50" in (tmp_path / "arxiv" / "figure5.md").read_text()
