"""Files are whole or absent, and a manifest says how each came to be."""

import json
import subprocess
import sys
import time

import pandas as pd
import pytest

from transformer2 import provenance
from transformer2.checksums import sha256
from transformer2.provenance import (
    atomic_folder,
    atomic_path,
    exclusive_lock,
    folder_checksums,
    manifest,
    read_complete_lines,
    read_json,
    read_jsonl,
    write_jsonl,
)
from transformer2.reproduce.frames import write_frame


def test_rows_with_any_characters_come_back(tmp_path):
    rows = [{"text": "a\u2028b\u2029c\u0085d\r\ne\x0bf"}, {"text": "“²”\x00"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


def test_a_cut_off_file_is_named_with_its_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(ValueError, match=r"rows\.jsonl:2 is not JSON"):
        read_jsonl(tmp_path / "rows.jsonl")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_two_writers_of_one_file_leave_each_other_alone(tmp_path):
    path = tmp_path / "rows.json"
    with atomic_path(path) as first:
        first.write_text("1")
        with atomic_path(path) as second:
            second.write_text("2")
            assert first.exists() and first != second
        assert read_json(path) == 2
    assert read_json(path) == 1 and {file.name for file in tmp_path.iterdir()} == {"rows.json", ".rows.json.sha256"}


def test_a_folder_is_whole_or_not_there_and_never_written_over(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "file").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with atomic_folder(tmp_path / "deep" / "folder") as temporary:
        (temporary / "file").write_text("all")
    assert (tmp_path / "deep" / "folder" / "file").read_text() == "all"
    with pytest.raises(ValueError, match="folder is there already"), atomic_folder(tmp_path / "deep" / "folder"):
        pass
    with pytest.raises(ValueError, match="by another process"), atomic_folder(tmp_path / "late") as temporary:
        with atomic_folder(tmp_path / "late") as other:
            (other / "file").write_text("first")
        (temporary / "file").write_text("second")
    assert (tmp_path / "late" / "file").read_text() == "first"
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "late"}
    assert len(list((tmp_path / "deep").iterdir())) == 1


def test_a_manifest_has_facts_checksums_versions_time_and_memory(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("x")
    with manifest(tmp_path / "manifest.json", task="gsm8k") as facts:
        facts["sha256"] = folder_checksums(tmp_path / "data")
    record = read_json(tmp_path / "manifest.json")
    assert record["task"] == "gsm8k" and record["sha256"] == {"x": sha256(tmp_path / "data" / "x")}
    assert record["packages"]["torch"].startswith("2.") and record["seconds"] >= 0 and record["peak_memory_mb"] > 10


def test_a_manifest_is_written_without_git_and_without_a_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no program
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setattr(provenance, "_commit", provenance._commit.__wrapped__)  # not what was found before
    with manifest(tmp_path / "manifest.json"):
        pass
    record = read_json(tmp_path / "manifest.json")
    assert record["git"] is None and record["packages"]["no-such-package"] is None and record["packages"]["torch"]


def test_a_block_that_fails_writes_no_manifest(tmp_path):
    with pytest.raises(RuntimeError), manifest(tmp_path / "manifest.json"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_rows_are_plain_json_lines(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"a": "é"}])
    assert json.loads((tmp_path / "rows.jsonl").read_bytes().decode()) == {"a": "é"}


def test_lines_of_a_file_that_grows_end_before_one_that_is_not_whole(tmp_path):
    assert read_complete_lines(tmp_path / "none.jsonl") == []
    for text in ('{"a": 1}\n[2]\n{"a"', '{"a": 1}\n[2]\n{"a"\n{"a": 3}\n', '{"a": 1}\n[2]\n3'):
        (tmp_path / "some.jsonl").write_text(text)
        assert read_complete_lines(tmp_path / "some.jsonl") == [{"a": 1}, [2]]


@pytest.mark.slow
def test_two_processes_that_want_the_lock_wait_for_each_other(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from transformer2.provenance import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1])): print('in', flush=True); time.sleep(1)"
    )
    first = subprocess.Popen([sys.executable, "-c", code, tmp_path / ".lock"], stdout=subprocess.PIPE, text=True)
    assert first.stdout and first.stdout.readline() == "in\n"
    started = time.monotonic()
    with exclusive_lock(tmp_path / ".lock"):
        assert time.monotonic() - started > 0.5
    first.wait()
    code = code.replace("time.sleep(1)", "time.sleep(60)")
    killed = subprocess.Popen([sys.executable, "-c", code, tmp_path / ".lock"], stdout=subprocess.PIPE, text=True)
    assert killed.stdout and killed.stdout.readline() == "in\n"
    killed.kill()
    with exclusive_lock(tmp_path / ".lock"):
        assert time.monotonic() - started < 60, "the lock of a killed process is free"


def test_a_frame_gives_the_same_bytes_whoever_writes_it(tmp_path):
    frame = pd.DataFrame({"item": ["a", "b"], "strict": [True, False]})
    write_frame(frame, tmp_path / "one.csv.gz")
    assert (tmp_path / "one.csv.gz").read_bytes()[3:9] == bytes(5) + b"\x02", (
        "neither a name nor a time in gzip's header"
    )
    assert pd.read_csv(tmp_path / "one.csv.gz").equals(frame)
    write_frame(frame, tmp_path / "one.csv")
    assert (tmp_path / "one.csv").read_text() == "item,strict\na,True\nb,False\n"
