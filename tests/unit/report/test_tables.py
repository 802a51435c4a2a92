"""The ledger against the documents, the cells against hand-made scores, the tables against golden files.

`UPDATE_GOLDEN=1 pytest tests/unit/report/test_tables.py` writes tests/golden/ anew: look at what changed.
"""

import math
import os
import shutil
import subprocess
from collections.abc import Iterable
from html.parser import HTMLParser
from io import StringIO
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from conftest import ROOT
from rendering import render
from transformer2.report.layout import environment, escape_latex, markdown
from transformer2.report.tables.scores import LEFT_OUT, scoring
from transformer2.reproduce import ledger
from transformer2.reproduce.cells import Cell, Scoring, cells
from transformer2.reproduce.frames import read_scores
from transformer2.reproduce.gains import paired_gain
from transformer2.reproduce.statistics import mcnemar_exact, paired_bootstrap, wilson

GOLDEN = ROOT / "tests" / "golden"
TABLES = {document: ROOT / "paper_tables" / document / "table1.yaml" for document in ("arxiv", "workshop")}
ITEMS = 40


def scores_of(
    model: str, row: str, method: str, task: str, solved: int,
    seed: int = 0, standin: bool = True, items: Iterable[int] = range(ITEMS), state: str = "",
) -> list[dict]:  # fmt: skip
    """Scores in which the items below `solved` are right; two more are right by the lenient rule."""
    return [
        {
            "run": "toy", "model": model, "stands_in_for": row, "standin": standin, "method": method,
            "trained_on": "" if method == "base" else task, "state": state, "task": task, "seed": seed,
            "item": f"{task}/test/{i}", "strict": i < solved, "lenient": i < solved + 2,
            "read": True, "new_tokens": 5, "finish_reason": "stop",
        }
        for i in items
    ]  # fmt: skip


@pytest.fixture
def rows() -> list[dict]:
    """A stand-in with two seeds of SVF; the paper's own Mistral, whose base solves nothing; no 70B model."""
    rows = []
    for task, base in (("gsm8k", 16), ("mbpp_pro", 20), ("arc_easy", 24)):
        rows += scores_of("toy_llama", "llama3-8b", "base", task, base)
        rows += scores_of("toy_llama", "llama3-8b", "lora", task, base - 1)
        rows += scores_of("toy_llama", "llama3-8b", "svf", task, base + 6, seed=0)
        rows += scores_of("toy_llama", "llama3-8b", "svf", task, base + 9, seed=1)
    rows += scores_of("mistral", "mistral-7b", "base", "gsm8k", 0, standin=False)
    rows += scores_of("mistral", "mistral-7b", "svf", "gsm8k", 3, standin=False)
    rows += scores_of("mistral", "mistral-7b", "svf", "arc_easy", 30, standin=False)
    rows += scores_of("other", "", "base", "gsm8k", 40)
    return rows


def write(rows: list[dict], path: Path) -> Path:
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def rendered(rows: list[dict], folder: Path, kind: str, document: str = "workshop") -> str:
    render(TABLES[document], write(rows, folder / "scores.csv.gz"), folder)
    return (folder / document / f"table1.{kind}").read_text(encoding="utf-8")


def table1(rows: list[dict], folder: Path, which: Scoring = "strict") -> dict[str, Cell]:
    found = cells(ledger.read(TABLES["arxiv"]), read_scores(write(rows, folder / "scores.csv.gz")), which)
    return {cell.id.removeprefix("arxiv/table1/"): cell for cell in found}


# ---- the ledger


@pytest.mark.parametrize("document", TABLES)
def test_a_table_has_nine_rows_of_three_cells(document):
    table = ledger.read(TABLES[document])
    models, methods = ("llama3-8b", "mistral-7b", "llama3-70b"), ("base", "lora", "svf")
    assert [(row.model, row.method) for row in table.rows] == list(product(models, methods))
    assert [column.n for column in table.columns] == [1319, 99, 2376]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    method: lora", "    metod: lora", r"rows\[1\]\.metod: unknown key 'metod'; did you mean 'method'"),
        ("caption: >-", "colour: red\ncaption: >-", "colour: unknown key 'colour'"),
        ('"75.89"', "75.89", r'rows\[0\].cells.gsm8k.value: quote the number \("75.89"\)'),
        ("  llama3-70b: Llama3-70B-Instruct\n", "", "row of model llama3-70b, which is not one of"),
        ("  - {task: arc_easy, label: ARC-Easy, metric: accuracy, n: 2376}\n", "", "row llama3-8b/base: "),
        ("    method: lora", "    method: base", "two rows have the same model and method"),
    ],
)
def test_a_mistake_in_the_ledger_is_one_line_that_names_file_and_place(old, new, message, tmp_path):
    text = TABLES["arxiv"].read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "table1.yaml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"table1\.yaml: {message}") as caught:
        ledger.read(file)
    assert "\n" not in str(caught.value)


# ---- from scores to cells


def test_a_cell_counts_its_own_scores(rows, tmp_path):
    ours = table1(rows, tmp_path)["llama3-8b/base/gsm8k"].ours
    assert ours is not None
    assert (ours.model, ours.standin, ours.seeds) == ("toy_llama", True, (0,))
    assert (ours.correct, ours.items) == (16, 40)
    assert ours.score == pytest.approx((40, *(100 * end for end in wilson(16, 40))))
    assert ours.normalised == (1, 1, 1)
    assert math.isnan(ours.p_value)


def test_strict_and_lenient_scores_are_kept_apart(rows, tmp_path):
    strict = table1(rows, tmp_path, "strict")["llama3-8b/base/gsm8k"].ours
    lenient = table1(rows, tmp_path, "lenient")["llama3-8b/base/gsm8k"].ours
    assert strict is not None and lenient is not None
    assert (strict.correct, lenient.correct) == (16, 18)


def test_a_method_is_compared_with_its_own_base_on_the_same_items(rows, tmp_path):
    ours = table1(rows, tmp_path)["llama3-8b/lora/gsm8k"].ours
    assert ours is not None
    method, base = [i < 15 for i in range(ITEMS)], [i < 16 for i in range(ITEMS)]
    assert ours.normalised.value == 15 / 16
    assert ours.normalised == pytest.approx(paired_bootstrap(method, base, "ratio"), abs=0.05)
    assert ours.p_value == mcnemar_exact(method, base)


def test_seeds_are_averaged_and_tested_by_the_mixed_model(rows, tmp_path):
    ours = table1(rows, tmp_path)["llama3-8b/svf/gsm8k"].ours
    assert ours is not None
    assert (ours.seeds, ours.correct, ours.items) == ((0, 1), 22 + 25, 40)
    assert ours.score == pytest.approx((58.75, *(100 * end for end in wilson(23.5, 40))))
    assert ours.normalised.value == pytest.approx(23.5 / 16)
    verdicts = [[i < solved for i in range(40)] for solved in (22, 25)], [i < 16 for i in range(40)]
    assert ours.gain and ours.gain == pytest.approx(paired_gain(*verdicts)) and ours.p_value == ours.gain.p_value
    assert ours.p_value > mcnemar_exact(verdicts[0][0], verdicts[1])  # two seeds are few


def test_an_expert_trained_on_another_task_fills_no_cell(rows, tmp_path):
    transferred = scores_of("mistral", "mistral-7b", "lora", "arc_easy", 9)
    transferred = [row | {"trained_on": "gsm8k"} for row in transferred]
    assert table1(rows + transferred, tmp_path)["mistral-7b/lora/arc_easy"].ours is None


def test_what_was_not_run_has_no_number(rows, tmp_path):
    found = table1(rows, tmp_path)
    assert all(cell.ours is None for id, cell in found.items() if id.startswith("llama3-70b"))
    assert str(found["llama3-70b/svf/gsm8k"].reported.value) == "88.32"


def test_a_normalised_score_needs_a_base_that_solves_something(rows, tmp_path):
    found = table1(rows, tmp_path)
    solves_nothing, not_run = found["mistral-7b/svf/gsm8k"].ours, found["mistral-7b/svf/arc_easy"].ours
    assert solves_nothing is not None and not_run is not None
    assert math.isnan(solves_nothing.normalised.value) and math.isnan(not_run.normalised.value)
    assert solves_nothing.p_value == 0.25
    assert math.isnan(not_run.p_value)


def test_a_base_scored_on_more_items_is_compared_on_those_of_the_method(rows, tmp_path):
    late = scores_of("toy70", "llama3-70b", "base", "gsm8k", 20) + scores_of(
        "toy70", "llama3-70b", "svf", "gsm8k", 30, items=range(10, ITEMS)
    )
    ours = table1(rows + late, tmp_path)["llama3-70b/svf/gsm8k"].ours
    assert ours is not None
    assert (ours.items, ours.normalised.value) == (30, 20 / 10)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (scores_of("toy_llama", "llama3-8b", "base", "gsm8k", 5), "measured twice: toy_llama base   gsm8k 0"),
        (scores_of("second", "llama3-8b", "base", "gsm8k", 5), "models in place of llama3-8b: second, toy_"),
        ([row | {"run": "b"} for row in scores_of("c", "", "base", "gsm8k", 5)], "one run, found toy, b"),
        (scores_of("toy_llama", "llama3-8b", "svf", "gsm8k", 5, seed=2, items=[0]), "svf: seeds scored on"),
        (scores_of("toy70", "llama3-70b", "base", "gsm8k", 5, items=[0])
         + scores_of("toy70", "llama3-70b", "svf", "gsm8k", 5, items=[0, 1]), "base was not scored on"),
        (scores_of("toy_llama", "llama3-8b", "base", "gsm8k", 5, seed=7), r"the other has seeds \[0, 7\]"),
    ],
)  # fmt: skip
def test_scores_that_do_not_fit_together_are_refused_in_one_line(extra, message, rows, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        table1(rows + extra, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_frame_without_a_needed_column_is_refused(rows, tmp_path):
    pd.DataFrame(rows).drop(columns="lenient").to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(ValueError, match=r"scores\.csv: no column lenient"):
        read_scores(tmp_path / "scores.csv")


# ---- rendering


@pytest.mark.parametrize("document", TABLES)
def test_rendered_tables_equal_the_golden_files(document, rows, tmp_path):
    paths = render(TABLES[document], write(rows, tmp_path / "scores.csv.gz"), tmp_path)
    assert [path.relative_to(tmp_path) for path in paths] == [
        Path(document) / f"table1.{kind}" for kind in ("md", "tex", "html", "csv")
    ]
    for path in paths:
        golden = GOLDEN / document / path.name
        if os.environ.get("UPDATE_GOLDEN"):
            golden.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, golden)
        assert path.read_text(encoding="utf-8") == golden.read_text(encoding="utf-8")


def test_a_stand_in_is_named_and_the_papers_own_model_is_not_called_one(rows, tmp_path):
    text = rendered(rows, tmp_path, "md")
    assert "**toy_llama in place of Llama3-8B-Instruct**" in text
    assert "**Mistral-7B-Instruct-v0.3**" in text
    assert "**Llama3-70B-Instruct (not run)**" in text
    assert "absolute numbers are not compared" in text
    text = rendered([row for row in rows if not row["standin"]], tmp_path, "md")
    assert "in place of" not in text and "absolute numbers" not in text


def test_the_csv_holds_one_line_a_cell_with_every_number(rows, tmp_path):
    frame = pd.read_csv(StringIO(rendered(rows, tmp_path, "csv"))).set_index("cell")
    assert len(frame) == 27
    cell = frame.loc["workshop/table1/llama3-8b/svf/mbpp_pro"]
    assert (cell["reported"], cell["n"], cell["strict_correct"], cell["seeds"]) == (66.67, 40, 55, "0 1")
    assert cell["lenient_score"] == pytest.approx(100 * 59 / 80)
    assert set(frame["status"]) == {"run", "not run"}
    assert frame.loc[frame["status"] == "not run", "strict_correct":].isna().all(axis=None)


def test_latex_escapes_every_character_that_it_would_misread():
    assert escape_latex("a_b & 5 % #1 $x {y}") == r"a\_b \& 5 \% \#1 \$x \{y\}"
    assert escape_latex("~^\\") == r"\textasciitilde{}\textasciicircum{}\textbackslash{}"
    assert escape_latex("Transformer², 3 × 2") == r"Transformer\textsuperscript{2}, 3 $\times$ 2"


@pytest.mark.parametrize(
    ("kind", "template", "printed"), [("html", "{{ x }}", "a&lt;b|c"), ("md", "{{ x }}", r"a&lt;b\|c"),
                                      ("tex", "<< x >>", r"a\textless{}b|c")],
)  # fmt: skip
def test_templates_escape_what_they_print(kind, template, printed, tmp_path):
    assert environment(tmp_path, kind).from_string(template).render(x="a<b|c") == printed


def test_a_model_of_any_name_leaves_no_tag_in_a_page(rows, tmp_path):
    name = "<script>alert(1)</script>|&lt;b&gt;"
    named = [row | {"model": name} for row in rows if row["model"] == "toy_llama"]
    for kind in ("md", "html"):
        text = rendered(named, tmp_path, kind)
        assert "<script" not in text and "alert(1)" in text and "&amp;lt;b" in text
    assert markdown(pd.DataFrame({name: [name]})).count("&lt;script>") == 2
    assert markdown(pd.DataFrame({"p": ["p < 0.001\nn = 5"]})).endswith("| p < 0.001<br>n = 5 |")


def test_a_table_says_what_its_scores_leave_out_of_the_released_rules():
    assert scoring(["gsm8k"]) == (
        "“ours” is scored strictly, by the released code's rules, as the paper's numbers presumably are. “lenient” "
        "also accepts right answers in another notation."
    )
    for task, module in (("arc_challenge", "arc"), ("math", "math"), ("humaneval", "code"), ("mbpp_pro", "code")):
        assert f"Left out of them is {LEFT_OUT[module]}: " in scoring([task])
        assert "too low rather than too high" in scoring([task])
    everything = scoring(["gsm8k", "mbpp_pro", "arc_easy", "math"])
    assert "Left out of them are" in everything and all(what in everything for what in LEFT_OUT.values())
    assert "no scorer for pictures" in scoring(["textvqa", "okvqa"])


def test_latex_compiles(rows, tmp_path):
    if not shutil.which("pdflatex") or not shutil.which("kpsewhich"):
        pytest.skip("no TeX here")
    if subprocess.run(["kpsewhich", "booktabs.sty", "longtable.sty"], capture_output=True).returncode:
        pytest.skip("this TeX has no booktabs.sty (Debian: texlive-latex-recommended)")
    rendered(rows, tmp_path, "tex")
    preamble = r"\documentclass{article}\usepackage{booktabs,longtable}\setlength{\textwidth}{5.5in}"
    (tmp_path / "main.tex").write_text(preamble + r"\begin{document}\input{workshop/table1.tex}\end{document}")
    subprocess.run(["pdflatex", "-halt-on-error", "main.tex"], cwd=tmp_path, check=True, capture_output=True)
    assert "Overfull" not in (tmp_path / "main.log").read_text(encoding="latin-1")


class _Outline(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_html_names_every_row_and_column_and_loads_nothing(rows, tmp_path):
    tags = _Outline(rendered(rows, tmp_path, "html")).tags
    scopes = [attributes["scope"] for tag, attributes in tags if tag == "th"]
    assert {scope: scopes.count(scope) for scope in set(scopes)} == {"col": 4, "rowgroup": 3, "row": 9}
    assert [tag for tag, _ in tags].count("caption") == 1
    ids = {attributes["id"] for _, attributes in tags if "id" in attributes}
    assert {attributes["href"] for tag, attributes in tags if tag == "a"} == {f"#{id}" for id in ids} != set()
    assert not any("src" in attributes or tag in ("script", "link") for tag, attributes in tags)


# ---- the two states of a training


STATES = {"best": 20, "last": 3}


def both_states(method: str, row: str = "llama3-8b", **solved: int) -> list[dict]:
    """A base that solves half of GSM8K, and a method whose training collapsed."""
    rows = scores_of("toy", row, "base", "gsm8k", 20)
    for state, right in (STATES | solved).items():
        rows += scores_of("toy", row, method, "gsm8k", right, state=state)
    return rows


def experts_of(method: str, best_step: int, folder: Path) -> Path:
    steps = {"best": best_step, "last": 12}
    rows = [
        {"model": "toy", "method": method, "trained_on": "gsm8k", "seed": 0, "state": state, "kept_step": step,
         "parameters": 8}
        for state, step in steps.items()
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "experts.csv", index=False)
    return folder / "experts.csv"


def drawn(name: str, rows: list[dict], folder: Path, experts: Path) -> tuple[str, pd.DataFrame]:
    """A table of the arXiv document as Markdown, and its numbers by cell."""
    render(ROOT / "paper_tables" / "arxiv" / f"{name}.yaml", write(rows, folder / "scores.csv.gz"), folder, experts)
    page = (folder / "arxiv" / f"{name}.md").read_text(encoding="utf-8")
    return page, pd.read_csv(folder / "arxiv" / f"{name}.csv").set_index("cell")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "row", "method", "shown"),
    [
        ("table1", "llama3-8b", "lora", "best"),
        ("table1", "llama3-8b", "svf", "best"),
        ("table1", "llama3-70b", "lora", "last"),
        ("table4", "llama3-8b", "svf_attention_ntp", "last"),
        ("table4", "llama3-8b", "lora_attention_pg", "last"),
        ("table4", "llama3-8b", "lora", "last"),
        ("table4", "llama3-8b", "lora_mlp_attention_ntp", "last"),
        ("table4", "llama3-8b", "svf_mlp_pg", "best"),
    ],
)
def test_a_row_shows_the_state_that_it_is_about_and_the_other_beside_it(tmp_path, table, row, method, shown):
    other = {"best": "last", "last": "best"}[shown]
    page, numbers = drawn(table, both_states(method, row), tmp_path, experts_of(method, 0, tmp_path))
    cell = numbers.loc[f"arxiv/{table}/{row}/{method}/gsm8k"]
    percent = {state: 100 * solved / ITEMS for state, solved in STATES.items()}
    assert (cell["state"], cell["strict_score"]) == (shown, percent[shown])
    assert (cell["other_state"], cell["other_strict_score"]) == (other, percent[other])
    suffix = {"best": "", "last": "-last"}
    assert cell["files"] == f"scores/toy/{method}-gsm8k{suffix[shown]}/gsm8k/seed0.json"
    assert cell["other_files"] == f"scores/toy/{method}-gsm8k{suffix[other]}/gsm8k/seed0.json"
    assert str(cell["kept_steps"]).split(".")[0] == {"best": "0", "last": "12"}[shown]
    beside = {"best": "expert untrained (step 0)<br>last 7.50 (0.15)", "last": "best 50.00 (1.00), untrained (step 0)"}
    assert f"ours **{percent[shown]:.2f} (" in page and beside[shown] in page


def test_no_second_line_stands_where_both_states_score_the_same_or_one_was_scored(tmp_path):
    expert = experts_of("svf", 12, tmp_path)
    same, _ = drawn("table1", both_states("svf", last=20), tmp_path, expert)
    alone, _ = drawn("table1", scores_of("toy", "llama3-8b", "svf", "gsm8k", 20), tmp_path, expert)
    for page in (same, alone):
        assert "<br>last" not in page and "<br>best" not in page and "untrained (step" not in page


def test_a_run_that_asked_for_last_states_says_so_in_the_rows_of_best_ones(tmp_path):
    rows = scores_of("toy", "llama3-8b", "base", "gsm8k", 20)
    rows += scores_of("toy", "llama3-8b", "svf", "gsm8k", 3, state="last")
    page, numbers = drawn("table1", rows, tmp_path, experts_of("svf", 4, tmp_path))
    assert numbers.loc["arxiv/table1/llama3-8b/svf/gsm8k", "files"] == "scores/toy/svf-gsm8k-last/gsm8k/seed0.json"
    assert "expert last state" in page
