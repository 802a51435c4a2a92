"""The sizes of the data sets are those of the real files, and the halves of a split are counted as they are read."""

from pathlib import Path

import pytest

from transformer2.data import read_split
from transformer2.provenance import read_json
from transformer2.tasks import BENCHMARKS, TASKS, VISION
from transformer2.tasks.sizes import SOURCE_ROWS, available, class_sizes


def test_every_source_split_of_every_task_has_a_size():
    needed = {name: {part.source for part in task.splits.values()} for name, task in (BENCHMARKS | VISION).items()}
    assert {name: set(sizes) for name, sizes in SOURCE_ROWS.items()} == needed


def test_sizes_are_those_of_the_real_files(real_data: Path):
    files = {file["file"].split(".")[0]: file["records"] for file in read_json(real_data / "manifest.json")["files"]}
    known = {(task, split): n for task, sizes in SOURCE_ROWS.items() for split, n in sizes.items()}
    assert known.keys() - {tuple(name.split("/")) for name in files} == {("textvqa", "train")}
    assert all(
        files[f"{task}/{split}"] == n for (task, split), n in known.items() if (task, split) != ("textvqa", "train")
    )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_as_many_rows_are_read_as_are_available(name, real_data: Path):
    for split in TASKS[name].splits:
        assert len(read_split(TASKS[name], f"dir:{real_data}", split)) == available(name, split)


def test_classes_are_known_once_all_of_their_tasks_are():
    sizes = class_sizes(["gsm8k", "mbpp_pro"], "test", available)
    assert sizes and sizes["math"] == 1319 and sizes["code"] == 99 and sizes["others"] > 200
    assert class_sizes(["gsm8k", "mbpp_pro"], "test", lambda task, split: 5 if task == "gsm8k" else None) is None
