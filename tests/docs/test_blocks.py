"""Code blocks of the pages: each is right by its own language, and what can run here in seconds is run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
import yaml

from transformer2.cli.options import app
from transformer2.config import load, parse

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/reference/*.md"), *ROOT.glob("examples/**/*.md"),
]  # fmt: skip
RUNS = sorted(ROOT.glob("docs/runs/*.md"))
"""Records of what was run, with the commands of that day."""


def blocks(pages: list[Path], *languages: str) -> Iterator[tuple[str, str]]:
    for page in pages:
        found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
        for number, (language, text) in enumerate(found):
            if language in languages:
                yield f"{page.relative_to(ROOT)}:{number}", text


def commands_in(text: str) -> Iterator[list[str]]:
    """The words of each call of this project's commands in a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        call: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("&|;"):
                if call[:3] in (["python", "-m", "transformer2"], ["python3", "-m", "transformer2"]):
                    yield call[3:]
                elif call[:1] == ["transformer2"]:
                    yield call[1:]
                call = []
            else:
                call.append(word)


@pytest.mark.parametrize("text", [pytest.param(text, id=place) for place, text in blocks(PAGES + RUNS, "bash", "sh")])
def test_a_shell_block_is_shell(text):
    done = subprocess.run(["bash", "-n", "-c", re.sub(r"<(\w+)>", r"\1", text)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", [pytest.param(text, id=place) for place, text in blocks(PAGES, "bash", "sh")])
def test_a_shell_block_names_commands_options_and_files_that_exist(text):
    group: click.Group = typer.main.get_command(app)  # type: ignore[assignment]
    for words in commands_in(text):
        name = next((word for word in words if not word.startswith("-")), None)
        if name is None:
            continue
        assert name in group.commands, name
        known = {option for parameter in group.commands[name].params for option in parameter.opts} | {"--help"}
        assert not {word.split("=")[0] for word in words if word.startswith("--")} - known - {"--debug"}
    places = re.findall(r"(?:--configfile|python|bash) ((?:config|examples|tests)/[\w/.-]+)", text)
    assert all((ROOT / place).exists() for place in places), places


@pytest.mark.parametrize("text", [pytest.param(text, id=place) for place, text in blocks(PAGES, "python")])
def test_a_python_block_compiles(text):
    lines_of_mapping = re.match(r'"\w+":', text)
    compile(f"{{{text}}}" if lines_of_mapping else text, "block", "exec")


@pytest.mark.parametrize("text", [pytest.param(text, id=place) for place, text in blocks(PAGES, "yaml", "json")])
def test_a_block_of_data_can_be_read(text):
    assert yaml.safe_load(text)


def test_the_first_run_of_the_tutorial_is_a_right_configuration(tmp_path):
    (text,) = [text for _, text in blocks([ROOT / "docs/train.md"], "yaml")]
    (tmp_path / "first.yaml").write_text(text)
    assert load(tmp_path / "first.yaml").run == "first"


def test_the_models_of_the_page_on_extending_are_one_in_the_place_of_the_papers_and_one_of_ours_alone():
    text = next(text for _, text in blocks([ROOT / "docs/extending.md"], "yaml"))
    run = parse(yaml.safe_load(text))
    assert {name: (model.row, run.row_of(name)) for name, model in run.models.items()} == {
        "my-llama": ("llama3-8b", "llama3-8b"), "next-model": (None, "next-model"),
    }  # fmt: skip
    assert {"my-llama", "next-model"} == set(run.models_of("svf")) and run.models_of("dora") == ["my-llama"]


CHEAP = {"plan", "check", "lm-eval"}
"""Commands that need no model and no data."""


@pytest.mark.slow
def test_commands_that_need_no_model_run_as_they_are_written(tmp_path):
    for name in ("config", "paper_tables"):
        (tmp_path / name).symlink_to(ROOT / name)
    (first,) = [text for _, text in blocks([ROOT / "docs/train.md"], "yaml")]
    (tmp_path / "first.yaml").write_text(first)
    calls = {
        tuple(words) for _, text in blocks(PAGES, "bash", "sh") for words in commands_in(text) if words[0] in CHEAP
    }
    assert {words[0] for words in calls} == CHEAP and len(calls) >= 6
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    for words in calls:
        command = [sys.executable, "-m", "transformer2", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (words, done.stderr)


def python(text: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_quickstart_without_the_workflow_runs(tmp_path):
    (text,) = [text for _, text in blocks([ROOT / "docs/quickstart.md"], "python")]
    assert python(text, tmp_path) == "SVF linear\n"


@pytest.mark.slow
def test_the_check_for_two_bos_tokens_finds_the_second_one(tmp_path):
    from transformer2.models import fetch

    (text,) = [text for _, text in blocks([ROOT / "docs/faq.md"], "python")]
    base = tmp_path / "results/models/pocket-llama/base"
    base.mkdir(parents=True)
    fetch("pocket:llama", base, seed=0, steps=2)
    assert python(text, tmp_path) == "2\n1\n"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/peft.md"])
def test_svf_in_five_lines_trains_saves_and_loads(page, tmp_path):
    text, *more = [text.replace('"expert"', "folder") for _, text in blocks([ROOT / page], "python")]
    program = f"""
from transformers import LlamaConfig, LlamaForCausalLM
import torch
shape = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
torch.manual_seed(0)
model = LlamaForCausalLM(shape)
torch.manual_seed(0)
base_model, folder, ids = LlamaForCausalLM(shape), "expert", torch.tensor([[1, 2, 3]])
base = base_model.eval()(ids).logits
{
        text.replace(
            "...  #",
            '''model(ids, labels=ids).loss.backward()
torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=100.0).step()
model.save_pretrained(folder)
trained = model.eval()(ids).logits  #''',
        )
    }
assert torch.equal(model.eval()(ids).logits, trained)
assert not torch.allclose(trained, base, atol=1e-4)
{"".join(more)}
assert torch.allclose(model.eval()(ids).logits, trained)  # a mix of twice the same expert, where there is one
print("the same")
"""
    assert python(program, tmp_path) == "the same\n"
