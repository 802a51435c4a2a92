"""What a user can mend is one line with what, where, and what to do; a bug keeps its traceback and names --debug."""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.errors
import pytest
from test_adaptation import save_expert
from typer.testing import CliRunner

from conftest import ROOT
from helpers import model, settings, tokenizer
from transformer2 import hub, provenance
from transformer2.cli import app, main
from transformer2.cli.options import json_option
from transformer2.mistakes import HINTS, mistake
from transformer2.provenance import atomic_path, read_json, read_jsonl, write_json, write_jsonl
from transformer2.scoring import score_answers
from transformer2.tasks import TASKS


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    words = tokenizer()
    model(len(words)).save_pretrained(folder)
    words.save_pretrained(folder)
    write_json(folder / "manifest.json", {"sha256": {}})
    return folder


@pytest.fixture
def said(monkeypatch, capsys, tmp_path):
    """Runs a command as the shell does; returns its one line (and that there is one), with exit status 2."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["transformer2", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len([line for line in lines if line.startswith("error: ")]) == 1 and lines[-1].startswith("error: ")
        return lines[-1].removeprefix("error: ")

    return run


def generate(base: Path, folder: Path, **changes) -> tuple:
    data = folder / "rows.jsonl"
    write_jsonl(data, [{"item": "own/test/0", "prompt": "say yes", "answer": "yes"}])
    options = {"model": base, "task": "own", "data": data, "out": folder / "answers.jsonl"} | changes
    return ("generate", *(f"--{name.replace('_', '-')}={value}" for name, value in options.items()))


# ---- models that are not there


def fault(base: Path, how: str, folder: Path) -> Path:
    if how != "nowhere":
        shutil.copytree(base, folder)
    match how:
        case "empty":
            shutil.rmtree(folder)
            folder.mkdir()
        case "without weights":
            (folder / "model.safetensors").unlink()
        case "cut off":
            (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
        case "no JSON":
            (folder / "config.json").write_text("{")
        case "of an unknown kind":
            write_json(folder / "config.json", read_json(folder / "config.json") | {"model_type": "mystery"})
            (folder / ".config.json.sha256").unlink()
        case "without a tokenizer":
            for file in folder.glob("token*"):
                file.unlink()
    return folder


NO_MODEL = {
    "nowhere": "there is no model .*: give the folder",
    "empty": "holds no model: there is no config.json in it",
    "without weights": "holds no model: there are no weights",
    "cut off": "the model in .* cannot be read",
    "no JSON": "the model in .* cannot be read",
    "of an unknown kind": "the model in .* cannot be read",
    "without a tokenizer": "the model in .* cannot be read",
}


@pytest.mark.parametrize("how", NO_MODEL)
def test_a_model_that_cannot_be_read_is_named(base, said, tmp_path, how):
    folder = fault(base, how, tmp_path / "model")
    line = said(*generate(folder, tmp_path))
    assert re.search(NO_MODEL[how], line) and str(folder) in line
    if how not in ("no JSON", "of an unknown kind", "without a tokenizer"):
        line = said("basis", "--model", folder, "--out", tmp_path / "basis.safetensors")
        assert re.search(NO_MODEL[how], line) and str(folder) in line
    assert not list(tmp_path.glob("*answers*")) and not list(tmp_path.glob("*basis*"))


def test_a_name_that_may_be_one_of_the_hub_is_looked_for_in_its_cache(said, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "the model in nobody/nothing cannot be read" in said(*generate(Path("nobody/nothing"), tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        huggingface_hub.errors.LocalEntryNotFoundError("cannot find the requested files"),
        huggingface_hub.errors.OfflineModeIsEnabled("offline mode is enabled"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_named(said, tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    line = said("model", "--source", "hub:org/tiny", "--out", tmp_path / "model")
    assert "cannot download org/tiny from the hub" in line and "HF_HUB_OFFLINE" in line


# ---- options


def test_a_dtype_that_models_do_not_run_in_is_named(base, said, tmp_path):
    for arguments in (
        generate(base, tmp_path, dtype="flot32"),
        ("basis", "--model", base, "--out", "x", "--dtype=half"),
    ):
        assert "unknown dtype" in said(*arguments)


def test_a_device_that_is_not_there_is_named(base, said, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    arguments = ("basis", "--model", base, "--out", tmp_path / "basis.safetensors", "--device")
    assert "unknown device 'gpu'" in said(*arguments, "gpu")
    assert "1 GPUs are asked for, and 0 are there" in said(*arguments, "cuda")
    assert not list(tmp_path.glob("*basis*"))


@pytest.mark.parametrize("value", ["{", "[1]", "nonsense", "'{}'"])
def test_an_option_that_is_no_json_is_named(said, value):
    with pytest.raises(ValueError, match=r"--settings (is not JSON|must be a JSON mapping)"):
        json_option("--settings", value)
    write_jsonl(Path("rows.jsonl"), [{"item": "gsm8k/test/0", "question": "?", "answer": "#### 1"}])
    files = ("--data=rows.jsonl", "--answers=rows.jsonl", "--out=out.json", "--task=gsm8k")
    assert "--identity" in said("score", *files, f"--identity={value}")


def test_an_identity_without_a_key_is_named_before_any_work(said):
    files = ("--data=nowhere", "--answers=nowhere", "--out=out.json", "--task=gsm8k")
    assert "--identity has no run" in said("score", *files, "--identity={}")


def train(base: Path, chosen: dict) -> tuple:
    write_jsonl(Path("rows.jsonl"), [{"item": f"own/test/{i}", "prompt": "say yes", "answer": "yes"} for i in range(4)])
    files = ("--train=rows.jsonl", "--validation=rows.jsonl", "--out=expert")
    return ("train", f"--model={base}", "--task=own", *files, f"--settings={json.dumps(chosen)}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rat": 1.0}, "learning_rate"),
        ({"steps": "many"}, "steps"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
    ],
)
def test_a_setting_of_a_training_that_is_misspelt_or_cannot_be_is_named(base, said, change, message):
    assert message in said(*train(base, settings().model_dump() | change))
    assert not Path("expert").exists()


@pytest.mark.parametrize("option", ["batch_rows=-1", "batch_rows=0", "max_new_tokens=0", "threads=0", "gpus=-1"])
def test_a_number_that_cannot_be_is_refused_and_is_not_the_default(base, tmp_path, monkeypatch, capsys, option):
    name, value = option.split("=")
    monkeypatch.setattr(sys, "argv", ["transformer2", *generate(base, tmp_path, **{name: value})])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and f"Invalid value for '--{name.replace('_', '-')}'" in capsys.readouterr().err
    assert not (tmp_path / "answers.jsonl").exists()


# ---- files


@pytest.mark.parametrize("content", [b"{", b'{"a": "\xff"}', b"", b'{"a": 1'])
def test_a_file_that_is_no_json_is_named(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"file is not JSON \(") as error:
        read_json(tmp_path / "file")
    assert mistake(error.value)
    if content:
        with pytest.raises(ValueError, match=r"file:1 is not JSON \("):
            read_jsonl(tmp_path / "file")
    (tmp_path / "file").write_text("[1]\n")
    with pytest.raises(ValueError, match="file:1 is no JSON object"):
        read_jsonl(tmp_path / "file")


def test_an_item_that_is_answered_twice_is_named():
    row = {"item": "own/test/0", "prompt": "say yes", "answer": "yes"}
    answer = {"item": "own/test/0", "completion": "yes", "token_ids": [1], "finish_reason": "stop"}
    assert [item["strict"] for item in score_answers(TASKS["own"], [row], [answer])] == [True]
    with pytest.raises(ValueError, match="1 items of own stand more than once in the answers, such as own/test/0"):
        score_answers(TASKS["own"], [row], [answer, answer | {"completion": "no"}])
    with pytest.raises(ValueError, match="more than once in the rows"):
        score_answers(TASKS["own"], [row, row], [answer])


@pytest.mark.parametrize("answer", ["", " ", "\n"])
def test_an_answer_without_words_makes_no_reply_right(answer):
    with pytest.raises(ValueError, match="the answer to 'say yes' is empty"):
        TASKS["own"].score([{"prompt": "say yes", "answer": answer}], ["(no)"])


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_not_answered(prompt):
    with pytest.raises(ValueError, match="the prompt is empty"):
        TASKS["own"].prompt({"prompt": prompt})


def test_export_finds_its_template_from_any_folder_and_says_where_it_must_be(base, said, tmp_path):
    expert = save_expert(base, tmp_path / "expert", 0)
    export = ("export", "--model", base, "--expert", expert, "--as", "adapter", "--out", tmp_path / "export")
    assert "holds no model_card.md.j2: give --templates" in said(*export, "--templates", tmp_path)
    assert not (tmp_path / "export").exists()
    assert CliRunner().invoke(app, list(map(str, export)), catch_exceptions=False).exit_code == 0
    assert (tmp_path / "export" / "README.md").is_file()


# ---- the disk


def limited(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command whose files may not become longer than 1000 bytes, as on a disk that is full."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, "-m", "transformer2", *arguments], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=120, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )  # fmt: skip


@pytest.mark.slow
def test_a_full_disk_is_named_with_the_file_and_leaves_nothing_behind(base, tmp_path):
    for arguments in (
        ["schema", "--root", str(tmp_path)],
        ["basis", "--model", str(base), "--out", str(tmp_path / "basis.safetensors")],
    ):
        done = limited(arguments, tmp_path)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 2 and last.startswith(f"error: {tmp_path}"), done.stderr
        assert ": File too large; raise the limit" in last and "Traceback" not in done.stderr
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOENT])
def test_what_the_system_refuses_is_named_with_what_to_do(said, tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path / "scores.csv"))

    monkeypatch.setattr(provenance.Path, "mkdir", refuse)
    line = said("schema", "--root", tmp_path / "below")
    assert line == f"{tmp_path / 'scores.csv'}: {os.strerror(number)}; {HINTS[number]}"


def test_a_library_that_cannot_write_is_named_with_our_file(tmp_path):
    class SafetensorError(Exception):
        pass

    with pytest.raises(OSError, match="No space left") as error, atomic_path(tmp_path / "weights"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert mistake(error.value) == f"{tmp_path / 'weights'}: No space left on device; {HINTS[errno.ENOSPC]}"


# ---- what is no mistake


def bugs() -> list:
    def in_a_library():
        json.loads("{")

    def implicit():
        int("x")

    def lookup():
        return {}["key"]

    def end_of_file():
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")

    return [in_a_library, implicit, lookup, end_of_file]


@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: bug.__name__)
def test_a_bug_keeps_its_traceback_and_names_debug(monkeypatch, bug):
    monkeypatch.setattr("transformer2.cli.run.corrupt_files", lambda *_, **__: bug())
    monkeypatch.setattr(sys, "argv", ["transformer2", "verify"])
    with pytest.raises((ValueError, KeyError, EOFError)) as error:
        main()
    assert any("--debug" in note for note in error.value.__notes__)


def test_a_conversion_that_fails_in_our_own_code_is_a_bug():
    namespace: dict = {}
    ours = str(ROOT / "src" / "transformer2" / "made_up.py")
    exec(compile("def implicit(): int('x')\ndef ours(): raise ValueError('say so')", ours, "exec"), namespace)
    for name, line in (("implicit", None), ("ours", "say so")):
        with pytest.raises(ValueError) as error:
            namespace[name]()
        assert mistake(error.value) == line


def test_debug_shows_the_traceback_of_a_mistake(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["transformer2", "--debug", "verify", str(tmp_path)])
    with pytest.raises(ValueError, match="has a checksum beside it"):
        main()
