"""The examples, as they stand, on a stand-in that was pretrained for a few steps: what they print and leave behind."""

import json
import runpy
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from transformer2.config import Training
from transformer2.models import fetch, load_model, new_expert, save_expert
from transformer2.svf import SVFConfig

EXAMPLES = Path(__file__).parents[3] / "examples"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A stand-in that answers in the right form, and rarely rightly."""
    folder = tmp_path_factory.mktemp("base")
    fetch("pocket:llama", folder, seed=0, steps=60)
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example with arguments; returns what it prints."""

    def started(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return started


def moved(expert: Path) -> float:
    """How far the vectors of an expert are from the base model."""
    z = torch.cat(list(load_file(expert / "adapter_model.safetensors").values()))
    return (z - 1).abs().mean().item()


def test_the_trainer_of_transformers_lowers_the_loss_and_the_expert_loads(base, run, tmp_path):
    said = run("train_expert.py", "--model", base, "--out", tmp_path / "expert", "--steps", 6)
    before, after = (float(said.split(when)[0].split()[-1]) for when in (" before", " after"))
    assert after < before
    assert moved(tmp_path / "expert") > 0.01
    assert PeftModel.from_pretrained(load_model(base), tmp_path / "expert").peft_config["default"].peft_type == "SVF"


def test_the_trainer_of_transformers_takes_rows_of_a_file(base, run, tmp_path):
    lines = [json.dumps({"prompt": f"What is {i}?", "answer": str(i)}) for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    said = run(
        "train_expert.py", "--model", base, "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "expert",
        "--steps", 2,
    )  # fmt: skip
    assert "What is 0?" in said


def test_an_own_task_is_trained_on_and_scored(base, run, tmp_path):
    said = run("own_task.py", "--model", base, "--out", tmp_path / "expert", "--steps", 2)
    assert "right of 100 test questions:" in said
    assert (tmp_path / "expert" / "training.json").is_file()
    task, made = (runpy.run_path(str(EXAMPLES / "own_task.py"))[name] for name in ("SHOP", "made_up_rows"))
    rows = made("test", 3)
    answers = [f"so\n#### {rows[0]['answer']}", f"it is {rows[1]['answer']}.", "no idea"]
    assert [(score.strict, score.lenient) for score in task.score(rows, answers)] == [
        (True, True), (False, True), (False, False),
    ]  # fmt: skip
    assert not {row["question"] for row in made("train", 256)} <= {row["question"] for row in rows}


def test_a_model_adapts_by_dispatch_and_by_a_mix(base, run, tmp_path):
    settings = SVFConfig(init_std=0.01)
    for seed, name in enumerate(("math", "reasoning")):
        torch.manual_seed(seed)
        expert = new_expert(load_model(base), ours(settings), None, seed)
        save_expert(expert, tmp_path / "kit" / name)
    said = run("adapt.py", "--experts", tmp_path / "kit", "--model", base, "--shots", 3)
    assert "classes: [" in said and "mix for math: {'math': [" in said and "of 3 shots right" in said


def ours(config: SVFConfig) -> Training:
    return Training.model_validate({key: getattr(config, key) for key in ("parametrisation", "init_mean", "init_std")})


def test_no_experts_is_one_clear_line(base, run, tmp_path):
    with pytest.raises(SystemExit, match="holds no experts"):
        run("adapt.py", "--experts", tmp_path, "--model", base)


def test_grpo_of_trl_trains_z_with_the_switched_off_adapter_as_its_reference(base, run, tmp_path):
    pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
    said = run("trl_grpo.py", "--model", base, "--out", tmp_path / "expert", "--steps", 2, "--kl", 0.1)
    assert "right of 64 held-out questions:" in said
    assert moved(tmp_path / "expert") > 0.001
    assert "'kl': '0'" in said or "'kl': 0.0" in said  # of the first step: the reference is the base model


def test_the_notebook_runs_from_top_to_bottom(base, monkeypatch, tmp_path):
    """Its cells, one after the other; on a stand-in that is there already, so that it takes seconds."""
    notebook = nbformat.read(EXAMPLES / "svf_in_minutes.ipynb", as_version=4)
    nbformat.validate(notebook)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebook-results").mkdir()
    (tmp_path / "notebook-results" / "base").symlink_to(base)
    names: dict = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, cell.id, "exec"), names)
    assert set(names["experts"]) == {"math", "reasoning"}
    assert names["found"].alpha.shape[0] == 2
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs), "committed as it was run"
    assert "/" not in "".join(str(output.get("text", "")) for output in outputs).replace("s/", ""), (
        "a path of a machine"
    )
