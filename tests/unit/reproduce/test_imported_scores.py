"""Scores that were measured elsewhere: the file, its mistakes, and the tables of the document's own example."""

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_workflow import copy_project, planned, snakemake

from conftest import ROOT
from transformer2.config import PAPER_MODELS, TASK_MODULES, PaperModel
from transformer2.provenance import read_json
from transformer2.reproduce import ledger
from transformer2.reproduce.cells import cells
from transformer2.reproduce.frames import COLUMNS, read_scores, write_frame
from transformer2.reproduce.imported_scores import check_folder, read
from transformer2.reproduce.own_models import with_scored

DOCUMENT = (ROOT / "docs" / "own-scores.md").read_text()
TABLES = ROOT / "paper_tables"


def block(kind: str) -> str:
    """The document's block of one language."""
    found = re.search(rf"```{kind}\n(.*?)```", DOCUMENT, re.S)
    assert found
    return found[1]


BASE = {"model": "a", "row": "llama3-8b", "method": "base", "task": "gsm8k", "correct": 5, "n": 10}
SVF = BASE | {"method": "svf", "trained_on": "gsm8k"}
OWN = {"model": "next", "method": "base", "task": "gsm8k", "correct": 5, "n": 10}
LISTED = {key: value for key, value in BASE.items() if key not in ("correct", "n")}
ITEMS = {"gsm8k/test/0": True, "gsm8k/test/1": False}


def frame(tmp_path: Path, *entries: Any, **more: Any):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"scores": entries} | more))
    return read(path, "mine", TABLES)


# ---- the file


def test_items_and_counts_become_rows_of_the_frame(tmp_path):
    lenient = ITEMS | {"gsm8k/test/1": True}
    listed = frame(tmp_path, LISTED | {"items": ITEMS, "items_lenient": lenient, "seed": 3})
    assert list(listed.columns) == list(COLUMNS)
    who = listed[["run", "model", "stands_in_for", "method", "trained_on", "task"]].drop_duplicates()
    assert who.to_numpy().tolist() == [["mine", "a", "llama3-8b", "base", "", "gsm8k"]]
    assert listed[["item", "strict", "lenient", "seed"]].to_numpy().tolist() == [
        ["gsm8k/test/0", True, True, 3], ["gsm8k/test/1", False, True, 3],
    ]  # fmt: skip
    counted = frame(tmp_path, BASE, SVF | {"correct_lenient": 7})
    assert counted["item"].iloc[0] == "gsm8k/unpaired/0" and len(counted) == 20
    svf = counted.loc[counted["method"] == "svf"]
    assert svf["strict"].sum() == 5 and svf["lenient"].sum() == 7 and svf["strict"].iloc[:5].all()


def test_both_states_of_a_training_may_be_given(tmp_path):
    of_best, of_last = SVF | {"state": "best", "correct": 6}, SVF | {"state": "last", "correct": 1}
    scores = frame(tmp_path, BASE, of_best, of_last)
    assert scores.groupby("state")["strict"].sum().to_dict() == {"": 5, "best": 6, "last": 1}


@pytest.mark.parametrize("row", PAPER_MODELS)
def test_only_the_model_of_the_row_is_no_standin(tmp_path, row):
    base = BASE | {"row": row, "task": "textvqa" if row == "llava-next-8b" else "gsm8k"}
    assert not frame(tmp_path, base | {"model": PAPER_MODELS[row]})["standin"].any()
    assert frame(tmp_path, base | {"model": PAPER_MODELS[row] + "-v2"})["standin"].all()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "scores: must have at least 1 item"),
        ([BASE, BASE | {"methd": "x"}], "scores[1].methd: unknown key 'methd'; did you mean 'method'?"),
        ([BASE | {"row": "lama3-8b"}], "scores[0].row: unknown row 'lama3-8b'; did you mean 'llama3-8b'?"),
        ([SVF | {"method": "svff"}], "scores[0].method: unknown method 'svff'; did you mean 'svf'?"),
        ([SVF | {"task": "gsm8"}], "scores[0].task: unknown task 'gsm8'; did you mean 'gsm8k'?"),
        ([SVF | {"trained_on": ""}], "scores[0].trained_on: no table has llama3-8b svf gsm8k with trained_on ''"),
        ([SVF | {"task": "humaneval"}], "scores[0].task: no table has llama3-8b svf with task 'humaneval'"),
        ([BASE, BASE], "scores[1].seed: the same row, method, task and seed as scores[0]"),
        ([BASE, SVF | {"model": "b"}], "scores[1].model: 'b' fills row llama3-8b, as 'a' does in scores[0]"),
        ([BASE, BASE | {"row": "mistral-7b"}], "scores[1].model: 'a' fills row llama3-8b in scores[0]; give it"),
        ([BASE | {"correct": 11}], "scores[0].correct: 11 right of 10"),
        ([BASE | {"correct": -1}], "scores[0].correct: must be greater than or equal to 0 (got -1)"),
        ([BASE | {"correct_lenient": 11}], "scores[0].correct_lenient: 11 right of 10"),
        ([BASE | {"n": 0, "correct": 0}], "scores[0].n: no item was scored"),
        ([BASE | {"n": 1320}], "scores[0].n: 1320 items of gsm8k, of which the paper has 1319"),
        ([BASE | {"n": 10**15}], "scores[0].n: 1000000000000000 items of gsm8k"),
        ([BASE | {"n": "10"}], "scores[0].n: must be a valid integer (got '10')"),
        ([BASE | {"n": True}], "scores[0].n: must be a valid integer (got True)"),
        ([LISTED], "scores[0].correct: missing; give items, or both correct and n"),
        ([LISTED | {"correct": 3}], "scores[0].n: missing; give items, or both correct and n"),
        ([BASE | {"items": ITEMS}], "scores[0].correct: is counted from items; give one of the two"),
        ([LISTED | {"items": {}}], "scores[0].items: no item was scored"),
        ([LISTED | {"items": {"a": 1}}], "scores[0].items.a: must be a valid boolean (got 1)"),
        ([LISTED | {"items": {"gsm8k/unpaired/0": True}}], "scores[0].items: 'gsm8k/unpaired/0' has /unpaired/"),
        ([LISTED | {"items": ITEMS, "items_lenient": {"x": True}}], "scores[0].items_lenient: must have the items"),
        ([BASE | {"items_lenient": ITEMS}], "scores[0].items_lenient: needs items"),
        ([{**BASE, "model": ""}], "scores[0].model: must have at least 1 character"),
        ([5], "scores[0]: must be a mapping (got 5)"),
        ([BASE, SVF, SVF | {"seed": 1, "n": 9}], "scores[2].n: not the items of scores[1], another seed of the same"),
        (
            [LISTED | {"items": {"a": True}}, LISTED | SVF | {"correct": None, "n": None, "items": ITEMS}],
            "scores[1].items: the base model, scores[0], has no 'gsm8k/test/0'",
        ),
        ([SVF | {"state": "first"}], "scores[0].state: must be '', 'best' or 'last' (got 'first')"),
        (
            [OWN | {"model": "llama3-8b"}],
            "scores[0].row: missing; llama3-8b is a row of the paper: name it here, or give the model another name",
        ),
        ([OWN, SVF | {"model": "next"}], "scores[1].model: 'next' fills row next in scores[0]"),
        ([OWN, BASE | {"row": "next"}], "scores[1].row: 'next' is a model without a row of the paper; leave its `row`"),
        ([OWN | {"method": "svff"}], "scores[0].method: unknown method 'svff'; did you mean 'svf'?"),
        ([SVF, SVF | {"state": "last"}], "scores[1].state: is given in one of scores[0] and scores[1] alone"),
        ([BASE, BASE | {"seed": 1}, SVF], "scores[2].seed: seeds [0], but its base model has [0, 1]"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_file_entry_and_field(tmp_path, entries, message):
    with pytest.raises(ValueError, match=re.escape(f"own.json: {message}")) as caught:
        frame(tmp_path, *entries)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON: Expecting value in line 1"),
        ('{"scores": [\n{"model": "a"', "is not JSON: Expecting ',' delimiter in line 2"),
        ("[" * 100_000, "is not JSON"),
        ("[]", ': must be an object, {"scores": [...]}'),
        ("{}", ": scores: missing"),
        ('{"scores": 3}', ": scores: must be a valid list (got 3)"),
        ('{"score": []}', ": score: unknown key 'score'; did you mean 'scores'?"),
        ('{"scores": [{"model": "a", "model": "b"}]}', ": scores[0].model: is there twice"),
        ('{"scores": [{"items": {"x": true, "x": false}}]}', ": scores[0].items: 'x' is there twice"),
    ],
)
def test_a_file_that_is_none_of_scores_is_one_line(tmp_path, content, message):
    (path := tmp_path / "own.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"own.json{' ' if message.startswith('is') else ''}{message}")):
        read(path, "mine", TABLES)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not JSON"):
        read(path, "mine", TABLES)
    for absent in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(ValueError, match="there is no file of scores|cannot be read"):
            read(absent, "mine", TABLES)


@pytest.mark.slow
def test_every_cell_of_the_ledger_takes_a_score(tmp_path):
    """One entry for each place: the frame fills every cell of every table."""
    entries: dict[tuple[str, ...], dict[str, Any]] = {}
    tables = ledger.read_all(TABLES).scores
    for entry in (entry for table in tables for entry in ledger.entries(table)):
        key = (entry.row.model, entry.method, entry.trained_on, entry.column.task)
        fields = dict(zip(("row", "method", "trained_on", "task"), key, strict=True))
        entries[key] = {"model": f"model of {entry.row.model}", "correct": 1, "n": 2} | fields
    scores = read_scores(_written(frame(tmp_path, *entries.values()), tmp_path))
    for table in tables:
        assert all(cell.ours for cell in cells(table, scores, "strict"))


def test_a_model_without_a_row_has_scores_in_rows_of_its_own(tmp_path):
    listed = frame(tmp_path, BASE, OWN, OWN | {"method": "svf", "trained_on": "gsm8k", "correct": 8})
    scores = read_scores(_written(listed, tmp_path))
    who = scores[["model", "stands_in_for", "standin"]].drop_duplicates().to_numpy().tolist()
    assert who == [["a", "llama3-8b", True], ["next", "", False]]
    beside = with_scored(ledger.read_all(TABLES), scores)
    measured = {cell.id: cell.ours for cell in cells(beside.scores[2], scores, "strict") if cell.ours}
    assert list(measured) == [f"arxiv/table1/{name}/gsm8k" for name in ("llama3-8b/base", "next/base", "next/svf")]
    assert measured["arxiv/table1/next/svf/gsm8k"].gain.value == pytest.approx(30)


def _written(scores, folder: Path) -> Path:
    write_frame(scores, folder / "scores.csv.gz")
    return folder / "scores.csv.gz"


def test_the_folder_of_a_computed_run_is_refused(tmp_path):
    check_folder(tmp_path / "mine")
    (tmp_path / "mine" / "sweeps").mkdir(parents=True)
    with pytest.raises(ValueError, match="mine holds a run that was computed here .*: choose another `run`"):
        check_folder(tmp_path / "mine")


# ---- the workflow


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the document's example in it."""
    folder = copy_project(tmp_path_factory.mktemp("own"))
    (folder / "my_scores.json").write_text(block("json"))
    return folder


def command() -> list[str]:
    """The guide's own, for one core and without the program."""
    program, cores, _, *rest = block("bash").split()
    assert (program, cores) == ("snakemake", "--cores")
    return rest


def test_the_example_is_valid_and_its_words_are_those_of_the_ledger():
    assert set(re.findall(r"`(meta-llama/\S+|mistralai/\S+|llava-hf/\S+)`", DOCUMENT)) == set(PAPER_MODELS.values())
    assert set(PaperModel.__args__) <= set(re.findall(r"`(\S+?)`", DOCUMENT)) >= set(TASK_MODULES)
    assert len(json.loads(block("json"))["scores"]) == 4


@pytest.mark.slow
def test_the_example_gives_its_tables_and_no_model_is_run(own):
    jobs = planned(snakemake(own, "-n", *command()))
    made = {"frames", "tables", "figures", "verdicts", "html_report", "crate", "default"}
    assert set(jobs) == made and set(jobs.values()) == {1}
    tables = [f"results/mine/paper_tables/{name}.md" for name in ("arxiv/table1", "arxiv/table2")]
    made = snakemake(own, *tables, *command())
    assert made.returncode == 0, made.stderr[-3000:]
    first, second = ((own / table).read_text() for table in tables)
    assert "79.15" in first and "my-mistral in place of" not in first, "the ledger's number, and no score of Mistral"
    assert f"{100 * 1044 / 1319:.2f}" in first and f"{100 * 1050 / 1319:.2f}" in first
    assert "my-mistral in place of Mistral-7B-Instruct-v0.3" in second
    manifest = read_json(own / "results/mine/scores.manifest.json")
    assert manifest["file"] == "my_scores.json" and manifest["rows"] == 2 * 1319 + 3 + 2
    assert manifest["sha256"] == hashlib.sha256((own / "my_scores.json").read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_malformed_file_stops_before_anything_is_overwritten(own):
    frame_file = own / "results" / "mine" / "scores.csv.gz"
    if not frame_file.exists():
        assert snakemake(own, str(frame_file.relative_to(own)), *command()).returncode == 0
    before = {path: path.read_bytes() for path in (own / "results").rglob("*") if path.is_file()}
    good = (own / "my_scores.json").read_text()
    broken = copy.deepcopy(json.loads(good))
    broken["scores"][1]["method"] = "svff"
    try:
        for content in (json.dumps(broken), good[:100]):
            (own / "my_scores.json").write_text(content)
            result = snakemake(own, *command())
            assert result.returncode != 0 and "my_scores.json" in result.stdout + result.stderr
            assert {path: path.read_bytes() for path in (own / "results").rglob("*") if path.is_file()} == before
    finally:
        (own / "my_scores.json").write_text(good)


@pytest.mark.slow
def test_computed_and_own_scores_do_not_share_a_run(own):
    sweeps = own / "results" / "computed" / "sweeps"
    sweeps.mkdir(parents=True)
    result = snakemake(own, "-n", "--config", "run=computed", "scores=my_scores.json")
    assert result.returncode != 0
    assert "results/computed holds a run that was computed here" in result.stdout + result.stderr
    (own / "results" / "imported").mkdir()
    (own / "results" / "imported" / "scores.manifest.json").write_text("{}")
    result = snakemake(own, "-n", "--config", "run=imported")
    assert result.returncode != 0
    assert "results/imported holds scores that were measured elsewhere" in result.stdout + result.stderr
