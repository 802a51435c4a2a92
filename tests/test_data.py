"""Splits from a folder, the hub and the pocket generators, and what is said when they cannot be read."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer2.data import read_split, subset
from transformer2.tasks import BENCHMARKS, TASKS, Row

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
    for row in read_split(GSM8K, f"dir:{folder}", "validation", limit=4):
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


def test_hub_is_asked_for_the_source_split() -> None:
    asked: list[str] = []

    def hub(split: str) -> list[Row]:
        asked.append(split)
        return list(ROWS)

    rows = read_split(replace(GSM8K, hub=hub), "hub", "validation")
    assert asked == ["train"]
    assert [row["question"] for row in rows] == [f"{i}?" for i in range(1, 20, 2)]


def test_hub_out_of_reach_is_one_line_that_names_the_way_round() -> None:
    def hub(split: str) -> list[Row]:
        raise OSError("Couldn't reach 'openai/gsm8k' on the Hub")

    with pytest.raises(ConnectionError, match=r"cannot download gsm8k/test \(Couldn't reach .*use data: dir:<folder>"):
        read_split(replace(GSM8K, hub=hub), "hub", "test")


@pytest.mark.parametrize(
    ("name", "split"), [(name, split) for name, task in BENCHMARKS.items() for split in task.splits]
)
def test_pocket_rows_have_the_columns_of_the_real_data(name: str, split: str) -> None:
    rows = read_split(TASKS[name], "pocket", split, limit=8)
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
        read_split(GSM8K, "pocket", "dev", limit=1)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no data folder .*/nowhere"):
        read_split(GSM8K, f"dir:{tmp_path}/nowhere", "test")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither .*/gsm8k/test\.jsonl nor test\.jsonl\.gz"):
        read_split(GSM8K, f"dir:{tmp_path}", "test")


def test_missing_column_is_named_with_its_row(folder: Path) -> None:
    (folder / "gsm8k" / "train.jsonl").write_text('{"question": "?", "answer": "#### 1"}\n{"question": "?"}\n')
    with pytest.raises(ValueError, match="gsm8k/train of dir:.*, row 2: no column answer; it has question"):
        read_split(GSM8K, f"dir:{folder}", "train")


def test_a_line_that_is_not_json_is_named(folder: Path) -> None:
    (folder / "gsm8k" / "train.jsonl").write_text('{"question": "?", "answer": "#### 1"}\n{"quest')
    with pytest.raises(ValueError, match=r"train\.jsonl:2 is not JSON"):
        read_split(GSM8K, f"dir:{folder}", "train")
