"""Splits from a folder, the hub and the pocket generators, and what is said when they cannot be read."""

import gzip
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_hub import COMMIT
from transformer2.checksums import sha256
from transformer2.config.sizes import available
from transformer2.data import choose_rows, read_split, subset
from transformer2.pocket.corpus import rows as pocket_rows
from transformer2.rollout.pictures import decode_picture
from transformer2.rows import checker, read_rows, write_rows
from transformer2.tasks import BENCHMARKS, TASKS, Row
from transformer2.tasks.base import Hub, Release

GSM8K = TASKS["gsm8k"]
ROWS: list[Row] = [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(20)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """GSM8K with 20 rows, train plain and test compressed."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "train.jsonl").write_text(lines)
    (tmp_path / "gsm8k" / "test.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return tmp_path


def test_train_is_the_even_rows_and_validation_the_odd_ones(folder: Path) -> None:
    train, validation = (read_split(GSM8K, f"dir:{folder}", split) for split in ("train", "validation"))
    assert [row["question"] for row in train] == [f"{i}?" for i in range(0, 20, 2)]
    assert [row["question"] for row in validation] == [f"{i}?" for i in range(1, 20, 2)]


def test_compressed_files_are_read(folder: Path) -> None:
    assert [row["answer"] for row in read_split(GSM8K, f"dir:{folder}", "test")] == [row["answer"] for row in ROWS]


def test_a_line_separator_inside_a_string_does_not_end_the_row(folder: Path) -> None:
    row = {"question": "one\u2028two\x85three", "answer": "#### 1"}
    (folder / "gsm8k" / "train.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_split(GSM8K, f"dir:{folder}", "train")[0]["question"] == row["question"]


def test_items_name_task_split_and_place_whatever_the_limit(folder: Path) -> None:
    everything = {row["item"]: row for row in read_split(GSM8K, f"dir:{folder}", "validation")}
    assert list(everything) == [f"gsm8k/validation/{i}" for i in range(10)]
    for row in choose_rows(GSM8K, f"dir:{folder}", "validation", limit=4).rows:
        assert everything[row["item"]] == row


@settings(deadline=None)
@given(st.integers(0, 60), st.none() | st.integers(0, 60), st.integers(0, 3))
def test_a_limit_takes_distinct_rows_in_their_order_and_the_same_each_time(
    n: int, limit: int | None, seed: int
) -> None:
    rows = [{"item": i} for i in range(n)]
    chosen = subset(rows, limit, seed)
    places = [row["item"] for row in chosen]
    assert len(chosen) == min(n, n if limit is None else limit)
    assert places == sorted(set(places))
    assert chosen == subset(rows, limit, seed)


def test_a_limit_is_a_random_choice_by_seed_and_not_the_first_rows() -> None:
    rows = [{"item": i} for i in range(100)]
    first, second = subset(rows, 10, seed=0), subset(rows, 10, seed=1)
    assert first != second
    assert rows[:10] not in (first, second)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A repository of the hub with GSM8K's train split in two parquet files; the list holds what is asked for."""
    asked: list[Any] = []
    for shard, rows in enumerate((ROWS[:7], ROWS[7:])):
        path = tmp_path / COMMIT / "main" / f"train-{shard}-of-2.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        more = [row | {"other": "x" * 100} for row in rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(more), path, row_group_size=3)

    def snapshot(name: str, revision: str | None, wanted: list[str], kind: str) -> Path:
        asked.append((name, revision, wanted, kind))
        return tmp_path / COMMIT

    monkeypatch.setattr("transformer2.hub.snapshot", snapshot)
    return asked


def test_the_hub_is_asked_for_the_pinned_revision_of_the_source_split(repository: list[Any]) -> None:
    chosen = choose_rows(GSM8K, "hub", "validation")
    rows = list(chosen.rows)
    assert isinstance(GSM8K.source, Hub)
    assert repository == [("openai/gsm8k", GSM8K.source.revision, ["main/train-*.parquet"], "dataset")]
    assert chosen.facts == {"repository": "openai/gsm8k", "revision": COMMIT}
    assert [row["question"] for row in rows] == [f"{i}?" for i in range(1, 20, 2)]
    assert all(row.keys() == {"question", "answer", "item"} for row in rows), "other columns are not read"
    choose_rows(GSM8K, "hub", "validation", revision="f" * 40)
    assert repository[1][1] == "f" * 40


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.integers(1, 12), seed=st.integers(0, 5), split=st.sampled_from(["train", "validation"]))
def test_a_choice_from_parquet_files_is_that_from_json_lines(
    folder: Path, repository: list[Any], limit: int, seed: int, split: str
) -> None:
    parquet, lines = (choose_rows(GSM8K, source, split, limit, seed).rows for source in ("hub", f"dir:{folder}"))
    assert list(parquet) == list(lines)


def test_every_data_set_of_the_hub_is_pinned_but_the_one_of_which_no_commit_is_known() -> None:
    hubs = {name: task.source for name, task in TASKS.items() if isinstance(task.source, Hub)}
    assert {name for name, source in hubs.items() if source.revision is None} == {"okvqa"}
    assert all(re.fullmatch("[0-9a-f]{40}", source.revision) for source in hubs.values() if source.revision)


def test_the_commit_of_a_data_set_without_a_pin_is_said(
    repository: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(GSM8K.source, Hub)
    unpinned = replace(GSM8K, source=replace(GSM8K.source, revision=None))
    assert choose_rows(unpinned, "hub", "train").facts["revision"] == COMMIT
    assert f"gsm8k: no revision is set, so the newest one was taken: {COMMIT}" in capsys.readouterr().out


def test_a_split_that_the_repository_does_not_have_is_named(repository: list[Any]) -> None:
    with pytest.raises(ValueError, match=rf"openai/gsm8k has no file main/test-\*\.parquet at revision {COMMIT}"):
        choose_rows(GSM8K, "hub", "test")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "?"}, "train-1-of-2.parquet has no column answer; it has question"),
        ({"question": "?", "answer": None}, r"train-1-of-2.parquet, row 2: column answer should be a valid string"),
        ({"question": "?", "answer": 5}, r"train-1-of-2.parquet, row 2: column answer should be .*, and is 5"),
    ],
)
def test_a_wrong_row_of_a_parquet_file_is_named(
    tmp_path: Path, repository: list[Any], row: dict[str, Any], said: str
) -> None:
    good = {name: 4 if isinstance(value, int) else "#### 4" for name, value in row.items()}
    path = tmp_path / COMMIT / "main" / "train-1-of-2.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([good | {"question": "!"}, row, good]), path)
    with pytest.raises(ValueError, match=said) as error:
        read_split(GSM8K, "hub", "train")
    assert "\n" not in str(error.value)


def test_a_parquet_file_that_is_cut_off_is_named(tmp_path: Path, repository: list[Any]) -> None:
    path = tmp_path / COMMIT / "main" / "train-1-of-2.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"train-1-of-2.parquet is no whole parquet file .*: delete it, and it is"):
        choose_rows(GSM8K, "hub", "train")


def test_a_release_out_of_reach_is_one_line_that_names_the_way_round(tmp_path: Path) -> None:
    task = TASKS["mbpp_pro"]
    assert isinstance(task.source, Release)
    task = replace(task, source=replace(task.source, address=(tmp_path / "nowhere.gz").as_uri()))
    with pytest.raises(ConnectionError, match=r"cannot download file:.*nowhere.gz \(.*\(data: dir:<folder>\)"):
        choose_rows(task, "hub", "test")


def test_tasks_without_a_data_set_say_so() -> None:
    with pytest.raises(ValueError, match="classify is no data set that can be downloaded"):
        choose_rows(TASKS["classify"], "hub", "test")


def test_a_revision_is_for_the_hub_alone(folder: Path) -> None:
    with pytest.raises(ValueError, match="revision f+: gsm8k from dir:.* is not read from a repository of the hub"):
        choose_rows(GSM8K, f"dir:{folder}", "test", revision="f" * 40)


@pytest.mark.parametrize(
    ("name", "split"), [(name, split) for name, task in BENCHMARKS.items() for split in task.splits]
)
def test_pocket_rows_have_the_columns_of_the_real_data(name: str, split: str) -> None:
    rows = list(choose_rows(TASKS[name], "pocket", split, limit=8).rows)
    assert len(rows) == 8
    assert all(set(TASKS[name].columns) <= set(row) for row in rows)
    assert [row["item"] for row in rows] == [f"{name}/{split}/{i}" for i in range(8)]


def test_pocket_data_needs_a_number_of_rows() -> None:
    with pytest.raises(ValueError, match="pocket data has no end: set how many rows of gsm8k/train"):
        read_split(GSM8K, "pocket", "train")


@pytest.mark.parametrize("source", ["pockets", "dir", "", "data/gsm8k"])
def test_unknown_source_names_the_known_ones(source: str) -> None:
    with pytest.raises(ValueError, match=f"unknown data source '{source}': use hub, dir:<folder> or pocket"):
        read_split(GSM8K, source, "test")


def test_unknown_split_names_those_of_the_task() -> None:
    with pytest.raises(ValueError, match="gsm8k has no split 'dev'; it has train, validation, test"):
        choose_rows(GSM8K, "pocket", "dev", limit=1)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no data folder .*/nowhere"):
        read_split(GSM8K, f"dir:{tmp_path}/nowhere", "test")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither .*/gsm8k/test\.jsonl nor test\.jsonl\.gz"):
        read_split(GSM8K, f"dir:{tmp_path}", "test")


RIGHT = '{"question": "?", "answer": "#### 1"}\n'


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ('{"quest', "is not JSON (Invalid control character"),
        ("nonsense", "is not JSON (Expecting value)"),
        ("[" * 100_000, "is not JSON that can be read (nested too deep)"),
        ('["?", "#### 1"]', 'is no JSON object but ["?", "#### 1"]: write one {column: value, ...} a line'),
        ("null", "is no JSON object but null"),
        ('{"question": "?"}', ": no column answer; it has question; correct the row, or remove it"),
        ("{}", ": no column question; it has none"),
        ('{"question": "?", "answer": null}', ": column answer should be a valid string, and is null"),
        ('{"question": "?", "answer": 5}', ": column answer should be a valid string, and is 5"),
        ('{"question": "?", "answer": true}', ": column answer should be a valid string, and is true"),
        ('{"question": "?", "answer": ["#### 1"]}', ': column answer should be a valid string, and is ["#### 1"]'),
        ('{"question": "?", "answer": " \\n"}', ': column answer should not be empty, and is " \\n"'),
        ('{"question": "", "answer": "#### 1"}', ': column question should not be empty, and is ""'),
        ('{"question": "\\ud800", "answer": "#### 1"}', " has half of a surrogate pair"),
        ('{"question": "?", "answer": "one"}', ': column answer should end in #### and a number, and is "one"'),
        ('{"question": "?", "answer": "%s"}' % ("x" * 999), "…; correct the row, or remove it"),
    ],
)
def test_a_wrong_row_is_named_with_file_line_and_column(folder: Path, second: str, said: str) -> None:
    (folder / "gsm8k" / "train.jsonl").write_text(f"{RIGHT}{second}\n{RIGHT}")
    with pytest.raises(ValueError) as error:
        read_split(GSM8K, f"dir:{folder}", "train")
    assert f"{folder}/gsm8k/train.jsonl, line 2" in str(error.value) and said in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


ARC = {"question": "?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        ("arc_easy", ARC | {"answerKey": "3"}, 'column answerKey should be one of 1, 2, and is "3"'),
        ("arc_easy", ARC | {"choices": {"text": ["a", "b"]}}, "no column choices.label; it has text"),
        ("arc_easy", ARC | {"choices": {"text": ["a", 5], "label": ["1", "2"]}}, "column choices[text][1] should be a"),
        ("arc_easy", ARC | {"choices": {"text": ["a", "b"], "label": ["1"]}}, "should have one label for each text"),
        ("arc_easy", ARC | {"choices": {"text": ["a"], "label": ["1"]}}, "should have at least 2 items"),
        ("math", {"problem": "?", "solution": "It is 5."}, "column solution should have an answer in \\boxed{}"),
        ("mbpp_pro", {"prompt": "Write it."}, 'column prompt should be a docstring in """ that holds an assert'),
        ("textvqa", {"question": "?", "answers": [], "image": "a"}, "column answers should have at least 1 item"),
        ("textvqa", {"question": "?", "answers": ["a", None], "image": "a"}, "column answers[1] should be a valid"),
        ("textvqa", {"question": "?", "answers": "yes", "image": "a"}, "column answers should be a valid list"),
        ("classify", {"text": "?", "class": "maths"}, "column class should be 'code', 'math', 'reasoning' or 'others'"),
        ("own", {"prompt": "?", "answer": " "}, "column answer should not be empty"),
        ("own", {"prompt": "?", "answer": [5]}, "column answer should be a valid string, and is [5]"),
    ],
)
def test_every_task_says_what_its_rows_must_be(task: str, row: Row, said: str) -> None:
    with pytest.raises(ValueError) as error:
        checker(TASKS[task])(row, "here")
    assert str(error.value).startswith("here: ") and said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_rows_of_the_real_data_sets_are_right(real_data: Path, name: str) -> None:
    for split in TASKS[name].splits:
        assert len(read_split(TASKS[name], f"dir:{real_data}", split)) == available(name, split)


def test_a_byte_order_mark_and_blank_lines_are_passed_over(folder: Path) -> None:
    (folder / "gsm8k" / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{RIGHT}\r\n\n{RIGHT}{RIGHT}\n \n".encode())
    assert [row["item"] for row in read_split(GSM8K, f"dir:{folder}", "train")] == ["gsm8k/train/0", "gsm8k/train/1"]


def test_what_is_not_utf8_is_named(folder: Path) -> None:
    (folder / "gsm8k" / "train.jsonl").write_bytes(RIGHT.encode() + '{"question": "\xe9"}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"train.jsonl, line 2 is not UTF-8 \(byte 15 of the line\): save the file"):
        read_split(GSM8K, f"dir:{folder}", "train")


@pytest.mark.parametrize("cut", [lambda whole: whole[:-9], lambda whole: whole[:40], lambda whole: RIGHT.encode()])
def test_a_gzip_file_that_is_not_whole_is_named(folder: Path, cut: Callable[[bytes], bytes]) -> None:
    path = folder / "gsm8k" / "test.jsonl.gz"
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(ValueError, match=r"test.jsonl.gz is no whole gzip file \(.*\): fetch it again"):
        read_split(GSM8K, f"dir:{folder}", "test")


@pytest.mark.parametrize(("rows", "split"), [(0, "train"), (1, "validation")])
def test_a_split_without_rows_is_named(folder: Path, rows: int, split: str) -> None:
    (folder / "gsm8k" / "train.jsonl").write_text(RIGHT * rows)
    with pytest.raises(ValueError, match=f"train.jsonl has {rows} rows, none of them for gsm8k/{split}"):
        read_split(GSM8K, f"dir:{folder}", split)


# Files of rows


def drawn(n: int) -> list[Row]:
    return pocket_rows("okvqa", "test", n)


def test_pictures_go_into_an_archive_once_and_come_back(tmp_path: Path) -> None:
    rows = drawn(5)
    rows[3]["image"] = rows[1]["image"]
    assert write_rows(tmp_path / "test.jsonl", rows, pictures=True) == 5
    with zipfile.ZipFile(tmp_path / "test.images.zip") as archive:
        assert len(archive.namelist()) == 4 and all(name.endswith(".png") for name in archive.namelist())
    read = read_rows(TASKS["okvqa"], tmp_path / "test.jsonl")
    assert [row | {"image": row["image"].read_bytes()} for row in read] == rows
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.startswith(".")}
    write_rows(tmp_path / "test.jsonl", rows, pictures=True)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.startswith(".")}


def test_another_picture_is_another_checksum_of_the_rows(tmp_path: Path) -> None:
    rows = drawn(2)
    write_rows(tmp_path / "a.jsonl", rows, pictures=True)
    write_rows(tmp_path / "b.jsonl", [rows[0], rows[1] | {"image": rows[0]["image"]}], pictures=True)
    assert sha256(tmp_path / "a.jsonl") != sha256(tmp_path / "b.jsonl")


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[Row]:
        yield from drawn(2)
        raise ValueError("line 3: no picture")

    with pytest.raises(ValueError, match="line 3"):
        write_rows(tmp_path / "test.jsonl", failing(), pictures=True)
    assert not [*tmp_path.iterdir()]


def test_a_corrupt_or_missing_picture_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "test.jsonl", drawn(2), pictures=True)
    path = tmp_path / "test.images.zip"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"IDAT", b"IDAX", 1))
    with pytest.raises(ValueError, match=r"test.images.zip is corrupt: its sha256"):
        read_rows(TASKS["okvqa"], tmp_path / "test.jsonl")
    (tmp_path / ".test.images.zip.sha256").unlink()
    row, _ = read_rows(TASKS["okvqa"], tmp_path / "test.jsonl")
    with pytest.raises(ValueError, match=r"the picture .*test.images.zip/[0-9a-f]{32}.png cannot be read \(Bad CRC"):
        decode_picture(row["image"])
    path.write_bytes(whole[:99])
    with pytest.raises(ValueError, match=r"test.images.zip is no archive of pictures \(.*\): make the data again"):
        read_rows(TASKS["okvqa"], tmp_path / "test.jsonl")
    path.unlink()
    with pytest.raises(ValueError, match=r"test.jsonl, line 1: no picture .*png, and no archive test.images.zip"):
        read_rows(TASKS["okvqa"], tmp_path / "test.jsonl")


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "", "other.png"])
def test_a_name_that_is_not_in_the_archive_is_no_picture(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / "test.jsonl", drawn(1), pictures=True)
    row = drawn(1)[0] | {"image": name}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / ".test.jsonl.sha256").unlink()
    with pytest.raises(ValueError, match="test.jsonl, line 1: no picture .* in .*test.images.zip"):
        read_rows(TASKS["okvqa"], tmp_path / "test.jsonl")


def test_a_users_rows_have_pictures_beside_their_file(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    [row] = drawn(1)
    (tmp_path / "mine" / "a.png").write_bytes(row["image"])
    (tmp_path / "mine.jsonl").write_text(json.dumps(row | {"image": "mine/a.png"}) + "\n")
    [read] = read_rows(TASKS["okvqa"], tmp_path / "mine.jsonl")
    assert decode_picture(read["image"]).size == (32, 32)


def test_a_users_rows_get_items_and_those_that_are_given_must_differ(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "?", "answer": "a"}\n{"prompt": "!", "answer": 5}\n')
    assert [row["item"] for row in read_rows(TASKS["own"], path)] == ["own/mine/0", "own/mine/1"]
    path.write_text('{"prompt": "?", "answer": "a", "item": "x"}\n' * 2)
    with pytest.raises(ValueError, match="mine.jsonl, line 2: a row before it has the same item, x"):
        read_rows(TASKS["own"], path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="mine.jsonl has no rows"):
        read_rows(TASKS["own"], path)
    with pytest.raises(FileNotFoundError, match="there is no file .*nowhere.jsonl.gz"):
        read_rows(TASKS["own"], tmp_path / "nowhere.jsonl.gz")
    path.write_text(json.dumps(drawn(1)[0] | {"image": {"bytes": None}}))
    with pytest.raises(ValueError, match='mine.jsonl, line 1: column image should name a picture, and is {"bytes"'):
        read_rows(TASKS["okvqa"], path)
