"""Each step by hand: what a user sees."""

import json
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest

from commands import run, run_in_its_own_process
from conftest import ROOT
from transformer2.cli.run import generate
from transformer2.grid import IDENTITY
from transformer2.provenance import read_json, read_jsonl, write_jsonl
from transformer2.stages import loaded
from transformer2.training.selection import ADAPTER_FILES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("data --task gsm8 --split test --source pocket --out OUT", "unknown task 'gsm8'; did you mean 'gsm8k'?"),
        ("model --source floppy:a --out OUT", "model source 'floppy:a' is none of pocket:, hub:, wheel:, dir:"),
        ("model --source dir:/nowhere --out OUT", "there is no folder /nowhere"),
        ("export --expert OUT --model OUT --as gguf --out OUT/new", "unknown form 'gguf'"),
        ("export --expert OUT --model OUT --as adapter --out OUT/new", "OUT holds no expert"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path):
    result = run(*arguments.replace("OUT", str(tmp_path)).split())
    assert (
        result.returncode == 2
        and result.stderr.strip().startswith("error: ")
        and message.replace("OUT", str(tmp_path)) in result.stderr
    )
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_command_that_a_user_starts_says_the_same():
    mistake = ["data", "--task", "gsm8", "--split", "test", "--source", "pocket", "--out", "rows.jsonl"]
    here, there = run(*mistake), run_in_its_own_process(*mistake)
    assert (there.returncode, there.stdout, there.stderr) == (here.returncode, here.stdout, here.stderr)
    assert there.returncode == 2


def test_help_names_every_step():
    output = run_in_its_own_process("--help").stdout
    for step in (
        "model",
        "data",
        "basis",
        "train",
        "select",
        "generate",
        "export",
        "score",
        "frames",
        "tables",
        "figures",
        "verdicts",
        "report",
        "crate",
        "schema",
    ):
        assert f" {step} " in output


def score(folder: Path) -> subprocess.CompletedProcess[str]:
    write_jsonl(folder / "data.jsonl", [{"item": "gsm8k/test/0", "question": "?", "answer": "#### 1"}])
    identity = json.dumps(dict.fromkeys(IDENTITY, ""))
    files = [f"--{name}={folder / name}.jsonl" for name in ("data", "answers")]
    return run("score", "--task", "gsm8k", *files, f"--out={folder / 'scores.json'}", f"--identity={identity}")


def test_a_cut_off_file_of_answers_is_named(tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"item": "gsm8k/te')
    assert "answers.jsonl:1 is not JSON" in score(tmp_path).stderr
    assert not (tmp_path / "scores.json").exists()


def test_answers_to_other_items_are_refused(tmp_path):
    write_jsonl(tmp_path / "answers.jsonl", [{"item": "gsm8k/test/7", "completion": "", "token_ids": []}])
    assert "1 answers to 1 items of gsm8k, 1 items have none" in score(tmp_path).stderr


@pytest.mark.parametrize("same", [True, False])
def test_an_expert_that_is_another_one_answers_with_what_that_one_said(tmp_path, monkeypatch, same):
    """The last state of a training is often its best one: it is answered with once."""
    for name in ("best", "last"):
        for file in ADAPTER_FILES:
            (tmp_path / name).mkdir(exist_ok=True)
            said = "z" if same or name == "best" else "another z"
            (tmp_path / name / file).write_text(json.dumps({"peft_type": "SVF", "says": said}))
    write_jsonl(tmp_path / "data.jsonl", [{"item": "gsm8k/test/0", "question": "?", "answer": "#### 1"}])
    said = [{"item": "gsm8k/test/0", "completion": "1", "token_ids": [4, 5], "seconds": 2.0}]
    write_jsonl(tmp_path / "best.jsonl", said)

    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model/model.safetensors").touch()

    class Asked(Exception):
        """The model was to be loaded."""

    def load(*_):
        raise Asked

    monkeypatch.setattr(loaded, "load_model", load)
    folders = {"expert": tmp_path / "last", "best": tmp_path / "best", "best_answers": tmp_path / "best.jsonl"}
    out = tmp_path / "out.jsonl"
    with nullcontext() if same else pytest.raises(Asked):
        generate(tmp_path / "model", "gsm8k", tmp_path / "data.jsonl", out, **folders)
    assert out.exists() is same
    if same:
        found = read_json(tmp_path / "out.manifest.json")
        assert read_jsonl(out) == said and (found["answers"], found["new_tokens"]) == (1, 2)
        assert found["expert"] == str(tmp_path / "last") and found["answers_of"] == str(tmp_path / "best")


def test_a_file_outside_a_run_has_no_checksum_beside_it(tmp_path):
    (tmp_path / "workflow/schemas").mkdir(parents=True)
    planned = run("plan", f"--configfile={ROOT / 'tests/config/tiny.yaml'}", f"--out={tmp_path / 'plan.md'}")
    described = run("schema", f"--root={tmp_path}")
    assert (planned.returncode, described.returncode) == (0, 0), planned.stderr + described.stderr
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"plan.md", "config.yaml", "workflow/schemas/config.schema.json"}
