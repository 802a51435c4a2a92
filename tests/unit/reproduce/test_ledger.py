"""Every table of the ledger against the text of its document, and against the other tables.

The texts come from the folder in T2_PAPER, or from ../shared/paper next to the project.
"""

import re
import shutil
import subprocess
from itertools import chain
from pathlib import Path

import pandas as pd
import pytest
from test_tables import scores_of, write

from conftest import ROOT
from rendering import draw, render
from transformer2.reproduce import ledger
from transformer2.reproduce.cells import cells
from transformer2.reproduce.frames import read_scores
from transformer2.reproduce.ledger import LedgerTable, Reported, SettingsTable, TimeTable

FILES = {f"{path.parent.name}/{path.stem}": path for path in sorted(ROOT.glob("paper_tables/*/*.yaml"))}
TIMES = ("arxiv/table3",)
SETTINGS = ("arxiv/table6", "workshop/table4")
SCORES = [name for name in FILES if name not in (*TIMES, *SETTINGS)]
TABLES = [name for name in SCORES if "/table" in name]
"""Without what the documents print outside of tables."""


def text_of(table: LedgerTable | TimeTable | SettingsTable, folder: Path) -> str:
    """The lines that the table's source names, without markup and white space; 1e-3 where they have 1 × 10⁻³."""
    first, last = table.source.lines
    lines = (folder / table.source.file).read_text(encoding="utf-8").splitlines()[first - 1 : last]
    plain = re.sub(r"\s|<[^>]+>|\$", "", "".join(lines))
    return re.sub(r"\\times10\^\{(-\d+)\}", r"e\1", plain)


def scanned(scan: str | None, printed: str) -> str:
    """What the text shows of an entry, without white space."""
    return re.sub(r"\s", "", scan or printed)


def printed(cell: Reported) -> str:
    return f"{cell.value}({cell.normalised})" if cell.normalised else str(cell.value)


def in_order(table: LedgerTable) -> list[list[str]]:
    """The entries of every row and of every column, as the text shows them one after the other.

    Where the text runs several rows into one, a row is no longer in one piece, but its entries still have that order.
    """
    grid = [
        [scanned(cell.scan, printed(cell)) if cell and cell.value else "" for cell in line]
        for line in (row.cells.values() for row in table.rows)
    ]
    counts = [f"{row.parameters}M" if row.parameters else "" for row in table.rows]
    lines = [*([count, *line] for count, line in zip(counts, grid, strict=True)), counts, *zip(*grid, strict=True)]
    return [[entry for entry in line if entry] for line in lines]


@pytest.mark.parametrize("name", SCORES)
def test_every_score_stands_in_the_lines_that_its_source_names_in_its_place(name, paper):
    table = ledger.read(FILES[name])
    text = text_of(table, paper)
    for line in in_order(table):
        assert re.search(".*?".join(map(re.escape, line)), text), line


@pytest.mark.parametrize("name", TABLES)
def test_those_lines_hold_no_score_that_the_ledger_has_not(name, paper):
    table = ledger.read(FILES[name])
    text = text_of(table, paper)
    for entry in chain.from_iterable(in_order(table)[: len(table.rows)]):
        assert entry in text
        text = text.replace(entry, "|", 1)
    assert not re.findall(r"\d\.?\d*\(\.?\d|\d\.\d\d", text)


@pytest.mark.parametrize("name", TIMES)
def test_every_time_stands_in_the_lines_that_its_source_names(name, paper):
    table = ledger.read_times(FILES[name])
    for row in table.rows:
        assert scanned(row.scan, f"{row.first} ({row.ratio}%) {row.second}") in text_of(table, paper)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_hyper_parameter_stands_in_the_lines_that_its_source_names(name, paper):
    table = ledger.read_settings(FILES[name])
    values = [[rf"(?:{re.escape(str(value))}|{value:e})(?!\d)" for value in row.values] for row in table.rows]
    printed = [
        re.escape(scanned(row.scan, "")) if row.scan else ",".join(of_row)
        for row, of_row in zip(table.rows, values, strict=True)
    ]
    assert re.search(r".*?(?<![\d.])".join(["", *printed]), text_of(table, paper))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method: lora, label: Rank", "method: dora, label: Rank", "row of method dora, which is not one of svf, lora"),
        ("label: Rank", "label: LoRA alpha", "two rows have the same method and label"),
        ('["16"]', "[16]", r'rows\[6\].values\[0\]: quote the number \("16"\)'),
        ('["16"]', "[]", r"rows\[6\].values: "),
    ],
)
def test_a_mistake_among_hyper_parameters_is_one_line_that_names_file_and_place(old, new, message, tmp_path):
    text = FILES["workshop/table4"].read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "table4.yaml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"table4\.yaml: {message}") as caught:
        ledger.read_settings(file)
    assert "\n" not in str(caught.value)


# ---- tables of which nothing was run, or what the default run has


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORES)
def test_a_table_of_which_nothing_was_run_is_rendered_and_drawn(name, tmp_path):
    table = ledger.read(FILES[name])
    scores = write(scores_of("m", "", "base", "gsm8k", 1), tmp_path / "scores.csv")
    render(FILES[name], scores, tmp_path)
    text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert text.count("ours **not run**") == sum(cell is not None for row in table.rows for cell in row.cells.values())
    assert all(str(cell.value) in text for row in table.rows for cell in row.cells.values() if cell and cell.value)
    draw(FILES[name], scores, tmp_path / "figure")
    drawn = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert ("reported by the paper" in drawn) == any(entry.reported.value for entry in ledger.entries(table))


def test_a_column_may_belong_to_experts_of_another_task(tmp_path):
    rows = scores_of("toy", "mistral-7b", "svf_from_llama3-8b", "math", 3)
    rows = [row | {"trained_on": "gsm8k"} for row in rows] + scores_of("toy", "mistral-7b", "base", "math", 2)
    scores = read_scores(write(rows, tmp_path / "scores.csv"))
    found = {cell.id: cell.ours for cell in cells(ledger.read(FILES["arxiv/table5"]), scores, "strict") if cell.ours}
    assert {id.removeprefix("arxiv/table5/mistral-7b/"): ours.correct for id, ours in found.items()} == {
        "base/math": 2, "svf_from_llama3-8b/math": 3,
    }  # fmt: skip


def test_latex_of_a_table_that_was_run_as_a_whole_fits_the_page(tmp_path):
    if not shutil.which("pdflatex") or subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode:
        pytest.skip("no TeX with booktabs.sty here")
    names = ("arxiv/table4", "arxiv/table5", "arxiv/table7a", "arxiv/table7b", "arxiv/table9")
    for name in names:
        table = ledger.read(FILES[name])
        rows = [
            score | {"trained_on": (column.trained_on or column.task) if row.trained_on == "column task" else ""}
            for row in table.rows
            for column in table.columns
            for score in scores_of("toy_llama", row.model, row.method, column.task, 20 + len(row.label) % 9)
        ]
        scores = write(rows, tmp_path / "scores.csv")
        render(FILES[name], scores, tmp_path, experts_of("toy_llama", tmp_path))
        assert "& not run" not in (tmp_path / f"{name}.tex").read_text(encoding="utf-8")
    inputs = "".join(rf"\input{{{name}.tex}}" for name in names)
    preamble = r"\documentclass{article}\usepackage{booktabs,longtable}\setlength{\textwidth}{5.5in}"
    (tmp_path / "main.tex").write_text(preamble + r"\begin{document}" + inputs + r"\end{document}")
    subprocess.run(["pdflatex", "-halt-on-error", "main.tex"], cwd=tmp_path, check=True, capture_output=True)
    log = (tmp_path / "main.log").read_text(encoding="latin-1")
    assert "Overfull" not in log and "Float too large" not in log


def experts_of(model: str, folder: Path) -> Path:
    """A frame of experts in which every method of Table 4 trained 1,536 parameters."""
    methods = [row.method for row in ledger.read(FILES["arxiv/table4"]).rows]
    facts = {"trained_on": "", "state": "", "seed": 0, "kept_step": 1, "parameters": 1536}
    pd.DataFrame({"model": model, "method": methods} | facts).to_csv(folder / "experts.csv", index=False)
    return folder / "experts.csv"


def test_trained_parameters_stand_below_the_label(tmp_path):
    scores = write(scores_of("toy", "llama3-8b", "base", "gsm8k", 1), tmp_path / "s.csv")
    render(FILES["arxiv/table4"], scores, tmp_path)
    text = (tmp_path / "arxiv/table4.md").read_text(encoding="utf-8")
    assert "| 1 SVF, policy gradient, MLP<br>*paper: 0.39M parameters; by shapes 0.39M* |" in text
    render(FILES["arxiv/table4"], scores, tmp_path, experts_of("toy", tmp_path))
    text = (tmp_path / "arxiv/table4.md").read_text(encoding="utf-8")
    assert "<br>*paper: 0.58M parameters; by shapes 0.56M; here 1,536* |" in text
    render(FILES["arxiv/table4"], scores, tmp_path, experts_of("another", tmp_path))
    assert "here" not in (tmp_path / "arxiv/table4.md").read_text(encoding="utf-8").split("| --- |")[1].split("\n\n")[0]
