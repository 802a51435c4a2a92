"""The sizes of the data sets are those of the real files, and the halves of a split are counted as they are read."""

from pathlib import Path

import pytest

from transformer2.config.sizes import DOMAINS, EVERYDAY, ITEMS, available, class_sizes
from transformer2.data import read_split
from transformer2.provenance import read_json
from transformer2.tasks import BENCHMARKS, TASKS, VISION, everyday


def test_every_split_of_every_task_has_a_size_and_every_domain_is_that_of_the_task():
    data_sets = BENCHMARKS | VISION
    assert {name: set(sizes) for name, sizes in ITEMS.items()} == {name: set(t.splits) for name, t in data_sets.items()}
    assert {name: task.domain for name, task in BENCHMARKS.items()} == DOMAINS
    assert {split: len(everyday.prompts(split)) for split in EVERYDAY} == EVERYDAY


def test_sizes_are_those_of_the_real_files(real_data: Path):
    files = {file["file"].split(".")[0]: file["records"] for file in read_json(real_data / "manifest.json")["files"]}
    missing = {("textvqa", "train")}
    for task, sizes in ITEMS.items():
        for split, n in sizes.items():
            part = TASKS[task].splits[split]
            if (task, part.source) not in missing:
                assert len(range(files[f"{task}/{part.source}"])[part.rows]) == n, f"{task}/{split}"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_as_many_rows_are_read_as_are_available(name, real_data: Path):
    for split in TASKS[name].splits:
        assert len(read_split(TASKS[name], f"dir:{real_data}", split)) == available(name, split)


def test_classes_are_known_once_all_of_their_tasks_are():
    sizes = class_sizes(["gsm8k", "mbpp_pro"], "test", available)
    assert sizes and sizes["math"] == 1319 and sizes["code"] == 99 and sizes["others"] > 200
    assert class_sizes(["gsm8k", "mbpp_pro"], "test", lambda task, split: 5 if task == "gsm8k" else None) is None
