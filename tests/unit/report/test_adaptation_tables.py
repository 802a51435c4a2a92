"""The tables of self-adaptation: rows that only we have, cells with a method of their own, and seconds."""

import re
import shutil
import subprocess
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from test_tables import ROOT, scores_of, write

from rendering import render, render_times
from transformer2.reproduce import ledger
from transformer2.reproduce.cells import cells
from transformer2.reproduce.frames import read_scores

LEDGERS = ("arxiv/table2", "arxiv/table8", "arxiv/table10", "workshop/table2", "workshop/table6")
LEFT = range(10, 40)
"""Items that are left without 10 shots."""


def ledger_file(name: str) -> Path:
    return ROOT / "paper_tables" / f"{name}.yaml"


def scores(method: str, solved: int, task: str = "arc_challenge", items=range(40)) -> list[dict]:
    rows = scores_of("toy_llama", "llama3-8b", method, task, solved, items=items)
    return [row | {"trained_on": ""} for row in rows]


@pytest.fixture
def rows() -> list[dict]:
    return [
        *scores("base", 20), *scores("few_shot_10_on_test", 28, items=LEFT), *scores("few_shot_10", 25, items=LEFT),
        *scores("prompt", 22), *scores("few_shot_3_on_test", 30, items=range(3, 40)),
    ]  # fmt: skip


@pytest.fixture
def timings() -> list[dict]:
    """Both ways to dispatch, the second on one task only."""
    timed = (("prompt", "math", 2.0, 8.0), ("prompt", "humaneval", 1.0, 3.0), ("prompt_labels", "math", 0.5, 8.0))
    return [
        {
            "run": "toy", "model": "toy_llama", "stands_in_for": "llama3-8b", "standin": True, "strategy": strategy,
            "task": task, "items": 40, "first_seconds": first, "second_seconds": second,
        }
        for strategy, task, first, second in timed
    ]  # fmt: skip


def rendered(name: str, rows: list[dict], folder: Path, kind: str) -> str:
    render(ledger_file(name), write(rows, folder / "scores.csv.gz"), folder)
    return (folder / f"{name}.{kind}").read_text(encoding="utf-8")


def rendered_times(rows: list[dict], folder: Path, kind: str) -> str:
    render_times(ledger_file("arxiv/table3"), write(rows, folder / "timings.csv"), folder)
    return (folder / f"arxiv/table3.{kind}").read_text(encoding="utf-8")


def line_of(text: str, label: str, remark: str) -> str:
    """The line of a Markdown table that starts with that label and remark."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {label}") and f"<br>*{remark}*" in line]
    assert len(lines) == 1
    return lines[0]


# ---- the ledger


@pytest.mark.parametrize("name", LEDGERS)
def test_a_row_selected_on_test_says_so_and_the_honest_one_follows(name):
    rows = ledger.read(ledger_file(name)).rows
    optimistic = [pair for pair in pairwise(rows) if pair[0].method.endswith("_on_test")]
    assert len(optimistic) == sum(row.remark == "selected on test" for row in rows) >= 3
    for row, honest in optimistic:
        assert row.remark == "selected on test"
        assert row.note and row.note.startswith("Selected on the test set, as the paper does: optimistic.")
        assert (honest.model, honest.label, honest.remark) == (row.model, row.label, "ours: chosen on shots")
        stem = row.method.removesuffix("_on_test")
        assert honest.method == ("lora_on_shots" if stem == "lora" else stem)
        assert all(cell is None or cell.value is None for cell in honest.cells.values())


def test_the_reported_times_fit_their_ratios():
    for row in ledger.read_times(ledger_file("arxiv/table3")).rows:
        assert f"{100 * row.first / row.second:.0f}" == str(row.ratio)


def test_a_ledger_of_the_other_kind_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"table3\.yaml: .*unknown key") as caught:
        ledger.read(ledger_file("arxiv/table3"))
    assert "\n" not in str(caught.value)


# ---- from scores to cells


def table8(rows: list[dict], folder: Path) -> dict:
    found = cells(ledger.read(ledger_file("arxiv/table8")), read_scores(write(rows, folder / "s.csv")), "strict")
    return {cell.id.removeprefix("arxiv/table8/llama3-8b/"): cell.ours for cell in found}


def test_a_cell_takes_the_scores_of_its_own_method(rows, tmp_path):
    found = table8([*rows, *scores("ia3_100_10", 7)], tmp_path)
    assert found["few_shot_10_on_test/transformer2"].correct == 18
    assert found["ia3_100_10/ia3_100"].correct == 7
    assert found["ia3_1000_10/ia3_1000"] is None
    assert found["base/ia3_1000"].correct == 20


def test_where_nothing_can_stand_there_is_no_cell(rows, tmp_path):
    found = table8(rows, tmp_path)
    assert len(found) == 3 * 5 + 4
    assert [id for id in found if id.startswith("few_shot_10/")] == ["few_shot_10/transformer2"]


# ---- rendering


def test_a_row_of_ours_alone_has_a_dash_for_the_paper_and_the_base_of_the_same_items(rows, tmp_path):
    text = rendered("workshop/table6", rows, tmp_path, "md")
    honest = line_of(text, "+ 10-shot adaptation", "ours: chosen on shots")
    assert "paper –<br>ours **50.00 (1.50)**" in honest  # 15 of 30, where the base has 10
    assert "n 30, p = 0.062" in honest
    assert "paper 82.61 (1.02)" in line_of(text, "+ 10-shot adaptation", "selected on test")
    assert "Where n is below that of our base" in text


def test_scores_on_all_items_need_no_word_on_left_out_prompts(tmp_path):
    text = rendered("arxiv/table2", [*scores("base", 20), *scores("prompt", 22)], tmp_path, "md")
    assert "ours **55.00 (1.10)**" in text
    assert "Where n is below" not in text


@pytest.mark.parametrize(("kind", "mark"), [("md", "<sup>a</sup> Sel"), ("html", 'id="note-a"><sup>a</sup> Sel')])
def test_rows_with_the_same_note_share_its_letter(kind, mark, rows, tmp_path):
    text = rendered("arxiv/table2", rows, tmp_path, kind)
    assert text.count(mark) == text.count("Of the LoRAs of the training tasks") == 1
    assert len(re.findall(r"\+ LoRA<sup>(?:<a [^>]+>)?a<", text)) == 3
    assert text.count("chosen on shots") == 6


def test_the_csv_of_a_table_has_no_reported_number_where_the_paper_has_none(rows, tmp_path):
    frame = pd.read_csv(StringIO(rendered("arxiv/table8", rows, tmp_path, "csv"))).set_index("method")
    assert pd.isna(frame.loc["few_shot_10", "reported"]) and frame.loc["few_shot_10", "n"] == 30
    assert (frame.loc["ia3_100_3", "reported"], frame.loc["ia3_100_3", "status"]) == (81.83, "not run")


def test_times_are_shown_with_their_ratio_for_each_way_to_dispatch(timings, tmp_path):
    lines = rendered_times(timings, tmp_path, "md").splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith("| **")]
    assert [lines[i].split(": ")[-1] for i in heads[1:]] == [
        "free generation, as in the paper** | | |", "one forward pass (ours)** | | |",
    ]  # fmt: skip
    assert "Stand-ins, no models of the paper: toy_llama." in lines
    paper, generated, forward = (lines[i + 1 : i + 4] for i in heads)
    assert paper[0] == "| MATH | paper 42.64 (13%)<br>n 5000 | paper 321.19 |"
    assert generated[0] == "| MATH | ours **2.00 (25.0%)**<br>n 40 | ours **8.00** |"
    assert forward[0] == "| MATH | ours **0.50 (6.2%)**<br>n 40 | ours **8.00** |"
    assert forward[1] == "| Humaneval | ours **not run** | ours **not run** |"


def test_the_csv_of_times_has_both_numbers_and_keeps_a_task_that_was_not_run(timings, tmp_path):
    frame = pd.read_csv(StringIO(rendered_times(timings, tmp_path, "csv")))
    math = frame.loc[(frame["task"] == "math") & (frame["strategy"] == "prompt_labels")].iloc[0]
    assert (math["reported_percent"], math["percent"], math["n"]) == (13, 6.25, 40)
    assert frame.loc[frame["task"] == "arc_challenge", "first_seconds"].isna().tolist() == [True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows, rows[0]], "measured twice: toy_llama prompt math"),
        (lambda rows: [*rows, rows[0] | {"run": "b", "task": "x"}], "expected one run, found toy, b"),
        (lambda rows: [{k: v for k, v in row.items() if k != "items"} for row in rows], "no column items"),
    ],
)
def test_timings_that_do_not_fit_together_are_refused(change, message, timings, tmp_path):
    with pytest.raises(ValueError, match=message):
        rendered_times(change(timings), tmp_path, "md")


def test_latex_breaks_long_tables_and_fits_the_page(rows, timings, tmp_path):
    if not shutil.which("pdflatex") or subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode:
        pytest.skip("no TeX with booktabs.sty here")
    rows += [row for task in ("math", "humaneval") for row in scores("few_shot_10", 30, task, LEFT)]
    for name in LEDGERS:
        rendered(name, rows, tmp_path, "tex")
    rendered_times(timings, tmp_path, "tex")
    inputs = "".join(rf"\input{{{name}.tex}}" for name in (*LEDGERS, "arxiv/table3"))
    preamble = r"\documentclass{article}\usepackage{booktabs,longtable}\setlength{\textwidth}{5.5in}"
    (tmp_path / "main.tex").write_text(preamble + r"\begin{document}" + inputs + r"\end{document}")
    subprocess.run(["pdflatex", "-halt-on-error", "main.tex"], cwd=tmp_path, check=True, capture_output=True)
    log = (tmp_path / "main.log").read_text(encoding="latin-1")
    assert "Overfull" not in log and "Float too large" not in log
    assert "longtable" in (tmp_path / "arxiv/table2.tex").read_text() and "Output written on main.pdf (" in log
