"""An edit of the code redoes the steps that run it, and no others."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from transformer2 import code_digest
from transformer2.cli.options import app
from transformer2.code_digest import BOOKKEEPING, Scope, closure, digest
from transformer2.config import Training
from transformer2.grid import IDENTITY

RULES = sorted((ROOT / "workflow/rules").glob("*.smk"))
ANSWER = {"command": "stages.work.answer", "task": "gsm8k", "without": ("sandbox",), "unused": ("score",)}
STEPS = {
    "train": {"command": "stages.work.train", "task": "gsm8k", "without": ("sandbox",)},
    "train arc": {"command": "stages.work.train", "task": "arc_easy", "without": ("sandbox",)},
    "answer": ANSWER,
    "score": {"command": "stages.work.score", "task": "gsm8k", "without": ("sandbox",)},
    "score math": {"command": "stages.work.score", "task": "math", "without": ("sandbox",)},
    "hub model": {"command": "model", "without": ("pocket",)},
    "pocket model": {"command": "model", "unused": ("score",)},
    "basis": {"command": "basis"},
    "tables": {"command": "tables", "without": ("tasks",)},
}


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A copy of the package, whose code is digested in place of the real one."""
    package = tmp_path / "transformer2"
    shutil.copytree(code_digest.ROOT, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_digest, "ROOT", package)
    forget()
    yield package
    forget()


def forget() -> None:
    for cached in (
        code_digest._digest, code_digest._read_definition, code_digest._definition_of_task, code_digest.read,
        code_digest._path,
    ):  # fmt: skip
        cached.cache_clear()


def digests() -> dict[str, str]:
    forget()
    return {name: digest(**step) for name, step in STEPS.items()}


def changed_by(source: Path, file: str, old: str, new: str) -> set[str]:
    """Steps whose digest an edit of a file changes."""
    before = digests()
    text = (source / file).read_text()
    assert old in text, f"{file} has no {old!r}"
    (source / file).write_text(text.replace(old, new, 1))
    after = digests()
    return {name for name in STEPS if after[name] != before[name]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "steps"),
    [
        ("config/names.py", '"mlp": ("gate_proj",', '"mlp": ("o_proj",', {"train", "train arc", "tables"}),
        ("tasks/gsm8k.py", "MAX_EXPRESSION = 80", "MAX_EXPRESSION = 90", {"train", "score"}),
        ("tasks/gsm8k.py", 'SYSTEM = "Below', 'SYSTEM = "Above', {"train", "answer", "score", "pocket model"}),
        ("tasks/math.py", "SYSTEM = ", "MORE = SYSTEM = ", {"score math", "pocket model"}),
        ("scoring.py", "stand more than once", "stand twice", {"score", "score math"}),
        ("pocket/muon.py", "ITERATIONS = 5", "ITERATIONS = 6", {"pocket model"}),
        ("svf/basis.py", '"gram-eigh-float64"', '"svd"', {"basis"}),
        ("provenance.py", "indent=1", "indent=2", set()),
    ],
)
def test_an_edit_changes_the_steps_that_run_it_alone(source, file, old, new, steps):
    assert changed_by(source, file, old, new) == steps


@pytest.mark.slow
def test_comments_docstrings_and_annotations_of_functions_do_not_count(source):
    before = digests()
    file = source / "training/objective.py"
    edits = {
        "(logprobs: Tensor,": "(logprobs,",
        '"""-J of Eq. (1) at each': '"""At each',
        "\nimport torch\n": "\n# a comment\nimport torch\n",
    }
    for old, new in edits.items():
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
    assert digests() == before


def test_a_class_that_a_library_imports_by_its_name_counts(source):
    """vLLM's workers import their extension."""
    vllm, without_it = ANSWER | {"without": ()}, ANSWER | {"without": ("rollout.vllm", "rollout.vllm_worker")}
    before = digest(**vllm), digest(**without_it)
    worker = source / "rollout/vllm_worker.py"
    worker.write_text(worker.read_text().replace("class SVFWorker:", "class SVFWorker:\n    more = 1\n"))
    forget()
    assert digest(**vllm) != before[0] and digest(**without_it) == before[1]


def test_an_import_of_everything_and_an_unknown_command_are_refused(source):
    file = source / "evaluation.py"
    file.write_text("from transformer2.models import *\n" + file.read_text())
    forget()
    with pytest.raises(ValueError, match="transformer2.evaluation imports \\* from transformer2.models"):
        digest("generate")
    with pytest.raises(ValueError, match="no command 'evaluate'"):
        digest("evaluate")


@pytest.mark.parametrize("file", RULES, ids=lambda path: path.stem)
def test_each_rule_names_the_command_that_it_runs(file):
    for rule in re.split(r"^rule ", file.read_text(), flags=re.M)[1:]:
        named = re.search(r"\bcode=code\((.*?)\),\n", rule)
        runs = re.search(r"-m transformer2 (\S+)", rule)
        if stage := re.search(r"-m transformer2 stage (\w+)", rule):
            name = rule.splitlines()[0].strip(":")
            assert stage[1] == name and set(re.findall(r"_of\(\"(\w+)\"\)", rule)) >= {name}
            assert f'settings_of("{name}")' in rule
        elif runs:
            assert named, f"rule {rule.splitlines()[0]} has no `code`"
            expected = runs[1].strip('"')
            assert f'"{expected}"' in named[1] or expected == "{params.command:q}"


def test_the_workflow_needs_no_torch_to_know_the_code_of_a_step():
    program = (
        "import sys; from transformer2 import code_digest; code_digest.digest('train'); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.slow
def test_no_command_runs_code_that_its_digest_leaves_out(tmp_path, monkeypatch):
    """What really runs, function by function, from a model to a frame of scores. What the libraries import is not
    followed: it takes longer than all else here."""
    from peft import LoraConfig  # noqa: F401
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401

    monkeypatch.chdir(tmp_path)
    training = Training(steps=1, batch_size=4, eval_every=1, init_std=0.0).model_dump()
    settings = json.dumps(training | {"layers": "all", "max_new_tokens": 8})
    identity = json.dumps(dict.fromkeys(IDENTITY))
    gsm8k, data = {"task": "gsm8k", "without": ("sandbox", "rollout.vllm")}, "--task gsm8k --source pocket --limit 4"
    answers, said = gsm8k | {"unused": ("score",)}, ["--identity", identity]
    expert = "--model model --basis basis.safetensors --task gsm8k"
    of_work = {"train": "train", "select": "select", "generate": "answer", "score": "score"}
    for arguments, json_options, step in [
        ("model --source pocket:llama --steps 2 --out model", [], {"unused": ("score",)}),
        ("basis --model model --out basis.safetensors", [], {}),
        (f"data {data} --split train --out train.jsonl", [], gsm8k),
        (f"data {data} --split test --out test.jsonl", [], gsm8k),
        (f"train {expert} --train train.jsonl --validation test.jsonl --out sweep", ["--settings", settings], gsm8k),
        ("select sweep --out expert", [], {}),
        (f"generate {expert} --expert expert --data test.jsonl --out answers.jsonl", [], answers),
        ("score --task gsm8k --data test.jsonl --answers answers.jsonl --out scores.json", said, gsm8k),
    ]:  # fmt: skip
        ran = traced([*arguments.split(), *json_options])
        without = BOOKKEEPING | {f"transformer2.{name}" for name in step.get("without", ())}
        scope = Scope(step.get("task"), without, frozenset(step.get("unused", ())))
        command = arguments.split()[0]
        if command in of_work:  # what a stage runs of it
            work = f"stages.work.{of_work[command]}"
            assert closure(work, scope).keys() <= closure(command, scope).keys()
        followed = {name for name in ran if name[0] not in BOOKKEEPING}
        assert len(followed) > 1 and followed <= closure(command, scope).keys(), command


def traced(arguments: list[str]) -> set[tuple[str, str]]:
    """(module, function or class) of this package that a command ran."""
    ran = set()

    def note(frame, *_):
        file = Path(frame.f_code.co_filename)
        defines = not frame.f_code.co_flags & inspect.CO_OPTIMIZED  # the body of a module or a class
        if not defines and file.is_relative_to(code_digest.ROOT):
            module = ".".join(("transformer2", *file.relative_to(code_digest.ROOT).with_suffix("").parts))
            name = frame.f_code.co_qualname.split(".")[0]
            if name.isidentifier():
                ran.add((module.removesuffix(".__init__"), name))

    sys.settrace(note)
    try:
        app(arguments, standalone_mode=False)
    finally:
        sys.settrace(None)
    return ran
