"""Checksums find whatever became of a file since it was written."""

import os
import re
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from transformer2 import checksums
from transformer2.checksums import checksum_file, corrupt_files, corruption, made_with, remove, verified
from transformer2.cli import app
from transformer2.models import _bases
from transformer2.provenance import atomic_folder, atomic_path, read_json, read_jsonl, write_json, write_jsonl
from transformer2.reproduce.spectrum import spectra
from transformer2.svf.basis import write_basis


def truncate(path):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 1)


def flip(path):
    """Another byte in the middle; length and times are as they were."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path):
    path.with_name("other").write_text("{}")
    os.replace(path.with_name("other"), path)


@pytest.mark.parametrize("harm", [truncate, flip, replace])
def test_a_corrupt_file_is_found_and_not_read(tmp_path, harm):
    path = tmp_path / "below" / "rows.json"
    write_json(path, {"right": 123})
    write_json(tmp_path / "other.json", {})
    assert read_json(path) == {"right": 123} and not [*corrupt_files(tmp_path)]
    harm(path)
    assert [file for file, _ in corrupt_files(tmp_path)] == [path]
    message = rf"{re.escape(str(path))} is corrupt: .*start snakemake again"
    for read in (read_json, read_jsonl, verified, lambda path: verified(path.parent)):
        with pytest.raises(ValueError, match=message):
            read(path)


def test_what_was_written_anew_moved_with_its_checksum_or_has_none_is_verified(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}])
    write_jsonl(path, [{"a": 2}, {"a": 3}])
    assert corruption(path) is None
    os.utime(path, (0, 0))
    assert corruption(path) is None, "a copy with other times"
    (tmp_path / "by hand").write_text("x")
    assert verified(tmp_path) == tmp_path
    path.unlink()
    assert not [*corrupt_files(tmp_path)], "deleted is not corrupt"
    remove(path)
    assert not checksum_file(path).exists()


def test_a_checksum_that_cannot_be_read_vouches_for_nothing(tmp_path):
    write_json(tmp_path / "a.json", 1)
    checksum_file(tmp_path / "a.json").write_text("")
    assert corruption(tmp_path / "a.json") == "its checksum cannot be read"


def test_long_files_are_read_where_their_time_changed_or_thoroughly(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "ALWAYS_READ", 4)
    path = tmp_path / "long.json"
    write_json(path, "0123456789")
    flip(path)
    assert corruption(path) is None and corruption(path, thorough=True)
    os.utime(path)
    assert corruption(path)


def test_what_is_made_again_with_a_corrupt_file(tmp_path):
    for name in ("seed0.jsonl", "seed0.manifest.json", "seed1.jsonl", "sweep/metrics.jsonl", "sweep/manifest.json"):
        write_json(tmp_path / name, 1)
    of_seed = made_with(tmp_path / "seed0.manifest.json")
    assert of_seed == {tmp_path / "seed0.jsonl", tmp_path / "seed0.manifest.json"}
    of_folder = {path.name for path in made_with(tmp_path / "sweep" / "metrics.jsonl")}
    assert {"sweep", "metrics.jsonl", "manifest.json"} <= of_folder


def test_leftovers_of_a_killed_process_are_cleared_and_exports_have_no_checksums(tmp_path):
    half_written = (
        "import os, signal, sys; from pathlib import Path; from transformer2.checksums import temporary_path\n"
        "path = Path(sys.argv[1])\n"
        "for ending in ('', '.sha256'): temporary_path(path, ending).write_text('half')\n"
        "temporary_path(path.with_name('export')).mkdir()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", half_written, tmp_path / "rows.json"], check=False)
    assert len(list(tmp_path.iterdir())) == 3
    write_json(tmp_path / "rows.json", 1)
    assert {path.name for path in tmp_path.glob("*rows*")} == {"rows.json", ".rows.json.sha256"}
    with atomic_folder(tmp_path / "export") as folder:
        write_json(folder / "config.json", 1)
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["config.json"]
    assert [path.name for path in tmp_path.glob("*export*")] == ["export"]
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "rows.json") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(tmp_path / "rows.json") == 1


def test_the_command_verifies_and_names_what_is_corrupt(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "ALWAYS_READ", 4)
    for name in ("a.json", "b.json"):
        write_json(tmp_path / name, "0123456789")
    assert "all 2 files with a checksum" in CliRunner().invoke(app, ["verify", str(tmp_path)]).output
    flip(tmp_path / "b.json")
    assert not [*corrupt_files(tmp_path)]
    found = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert f"{tmp_path / 'b.json'} is corrupt: its sha256" in found.output and "1 of 2" in str(found.exception)
    assert [path.name for path, _ in corrupt_files(tmp_path)] == ["b.json"], "now that its time is another one"


def test_a_corrupt_basis_is_read_by_no_command(tmp_path):
    basis = tmp_path / "basis.safetensors"
    with atomic_path(basis) as temporary:
        write_basis([("model.layers.0.mlp.up_proj", torch.eye(3))], temporary)
    assert len(spectra({"m": basis}, {"m": {"run": "r", "stands_in_for": None, "standin": False}})) > 0
    flip(basis)

    def join(file):
        raise CliRunner().invoke(app, ["join-bases", str(file), "--out", str(tmp_path / "joined")]).exception

    for read in (lambda file: spectra({"m": file}, {}), _bases, join):
        with pytest.raises(ValueError, match=rf"{re.escape(str(basis))} is corrupt"):
            read(basis)
    assert not (tmp_path / "joined").exists()
