"""A rehearsal goes the way of the real run, with everything cut that would take long, and names the rules that fail."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from test_config import CONFIGS
from typer.testing import CliRunner

from conftest import ROOT
from transformer2.cli import app
from transformer2.config import Training, load, parse
from transformer2.config.sizes import available
from transformer2.experts import svf_vectors
from transformer2.models import carry_over, load_model, load_tokenizer, new_expert, save_expert
from transformer2.rehearsal import families, rehearse
from transformer2.rehearsal.client import write_client
from transformer2.rehearsal.rows import rows
from transformer2.rehearsal.small import differences, full_data, small_run
from transformer2.rollout.engine import encode_prompt
from transformer2.tasks import TASKS, Prompt

SETTINGS = Training(init_std=0.0)

# The small configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_rehearsal_has_all_methods_models_tasks_and_budgets_of_its_run(path):
    run = load(path)
    small = small_run(run)
    for part in ("models", "tasks", "unseen", "methods"):
        assert list(getattr(small, part)) == list(getattr(run, part))
    assert {name: run.standin(name) for name in run.models} == {name: small.standin(name) for name in small.models}
    assert all(1 <= len(method.points()) <= 2 for method in small.trained.values())
    assert all(
        len(method.points()) == 2 for name, method in small.trained.items() if len(run.trained[name].points()) > 1
    )
    if run.adaptation and small.adaptation:
        assert list(small.adaptation.budgets) == list(run.adaptation.budgets)
        assert small.adaptation.configurations == run.adaptation.configurations
        assert small.adaptation.prompts.train == run.adaptation.prompts.train
    assert {point.steps for method in small.trained.values() for point in method.points().values()} == {2}
    assert all(model.gpus == 0 and model.mem_mb <= 1000 for model in small.models.values())


def test_the_papers_models_are_rehearsed_by_their_classes_and_count_as_themselves():
    small = small_run(load(ROOT / "config" / "paper.yaml"))
    assert [model.source.split(":")[1] for model in small.models.values()] == [
        "llama-3", "mistral", "llama-3-deep", "llava-next",
    ]  # fmt: skip
    assert not any(small.standin(name) for name in small.models)
    assert "lora: 2 of 12 points of its sweep, which go the same way" in differences(load(ROOT / "config/paper.yaml"))


def test_a_revision_of_a_data_set_is_not_asked_for():
    raw = yaml.safe_load((ROOT / "config" / "paper.yaml").read_text())
    run = parse(raw | {"tasks": raw["tasks"] | {"gsm8k": {"revision": "0" * 40, "test": 100}}})
    for made in (small_run(run), parse(full_data(run).model_dump(mode="json"))):
        assert made.tasks["gsm8k"].revision is None
    assert full_data(run).tasks["gsm8k"].test == 100


def test_what_is_not_rehearsed_is_said():
    raw = yaml.safe_load((ROOT / "config" / "paper.yaml").read_text())
    raw["models"]["llama3-8b"]["source"] = "hub:some/model"
    said = differences(parse(raw | {"engine": "vllm", "seeds": [0, 1, 2]}))
    assert "vLLM is not rehearsed: transformers' own generation answers in its place" in said
    assert "seeds: 2 of 3, which go the same way" in said
    assert "llama3-8b: a Llama with ChatML's template stands in for hub:some/model" in said


# Models and rows ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A model of each family."""
    root = tmp_path_factory.mktemp("families")
    for name in (*families.FAMILIES, families.LLAVA_NEXT):
        families.fetch(f"{name}:hub:x", 0, root / name)
    return {folder.name: folder for folder in root.iterdir()}


CHAT = Prompt(({"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": "2 + 2?"}))


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (
            "llama-3",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n2 + 2?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("mistral", "<s>[INST] Be brief.\n\n\n2 + 2?[/INST]"),
        (
            "chatml",
            "<|im_start|>system\nBe brief.\n<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_prompts_have_the_form_that_the_family_was_trained_on(folders, family, text):
    tokens = load_tokenizer(folders[family])
    assert tokens.decode(encode_prompt(tokens, CHAT)) == text


def test_mistral_refuses_roles_that_do_not_alternate(folders):
    tokens = load_tokenizer(folders["mistral"])
    with pytest.raises(Exception, match="must alternate"):
        tokens.apply_chat_template([{"role": "user", "content": "a"}] * 2, tokenize=False)


def test_experts_of_the_language_model_fit_the_vision_language_model(folders, tmp_path):
    expert = new_expert(load_model(folders["llama-3"]), SETTINGS, None, 0)
    (tmp_path / "text").mkdir()
    save_expert(expert, tmp_path / "text")
    carry_over(tmp_path / "text", tmp_path / "carried")
    llava = load_model(folders["llava-next"])
    shapes = {name.removesuffix(".weight"): tuple(weight.shape) for name, weight in llava.named_parameters()}
    assert len(svf_vectors(tmp_path / "carried", shapes)[1]) == 14
    question = encode_prompt(
        load_tokenizer(folders["llava-next"]), TASKS["textvqa"].prompt(rows("textvqa", "test", 1)[0])
    )
    assert question.count(llava.config.image_token_id) == 36


def test_a_model_in_a_folder_keeps_its_class_and_its_tokenizer(folders, tmp_path):
    families.fetch(f"folder:dir:{folders['mistral']}", 0, tmp_path / "cut")
    assert type(load_model(tmp_path / "cut")).__name__ == "MistralForCausalLM"
    assert load_tokenizer(tmp_path / "cut").get_chat_template() == families.MISTRAL_TURNS
    with pytest.raises(ValueError, match="there is no folder /nowhere"):
        families.fetch("folder:dir:/nowhere", 0, tmp_path / "none")
    with pytest.raises(ValueError, match="unknown family 'lama'; valid are llama-3"):
        families.fetch("lama:hub:x", 0, tmp_path / "none")


@pytest.mark.parametrize(("task", "split"), [("gsm8k", "train"), ("arc_challenge", "test"), ("okvqa", "test")])
def test_rows_are_as_many_as_the_real_ones_in_their_columns(task, split):
    made = rows(task, split, available(task, split))
    assert len({row["item"] for row in made}) == available(task, split) and set(TASKS[task].columns) <= set(made[0])


# What Snakemake says --------------------------------------------------------------------------------------------------

SAID = """\
[Fri Jan  2 10:00:00 2026]
localrule classes:
    input: results/r/data/gsm8k/train.jsonl
    output: results/r/data/classify/train.jsonl
    log: results/r/data/classify/train.log
    jobid: 7
    wildcards: run=r, split=train
    resources: tmpdir=/tmp
[Fri Jan  2 10:00:01 2026]
Error in rule classes:
    message: None
    jobid: 7
    log: results/r/data/classify/train.log (check log file(s) for error details)
    shell:
        python -m transformer2 classes
        (command exited with non-zero exit code)
[Fri Jan  2 10:00:02 2026]
Finished jobid: 3 (Rule: data)
3 of 12 steps (25%) done
"""


def test_a_failed_job_is_named_with_its_wildcards_and_the_end_of_its_log(tmp_path):
    log = tmp_path / "results/r/data/classify/train.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {i}\n" for i in range(50)) + "error: too many\n")
    found = rehearse.outcome(SAID, 1, tmp_path)
    (failure,) = found.failures
    assert (found.done, found.total) == (3, 12)
    assert (failure.rule, failure.wildcards) == ("classes", "run=r, split=train")
    assert failure.log.endswith("line 49\nerror: too many") and len(failure.log.splitlines()) == rehearse.LAST_LINES
    assert str(failure).startswith("rule classes (run=r, split=train) would fail:\n    line 3")


def test_a_workflow_that_cannot_be_read_is_a_failure(tmp_path):
    (failure,) = rehearse.outcome("WorkflowError in file common.smk:\nledger: broken\n", 1, tmp_path).failures
    assert failure.rule == "Snakefile" and failure.log.endswith("ledger: broken")
    assert not rehearse.outcome("1 of 1 steps (100%) done\n", 0, tmp_path).failures


def test_rehearse_is_run_beside_the_snakefile_and_never_into_a_folder_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "there is no Snakefile here" in str(CliRunner().invoke(app, ["rehearse"]).exception)
    (tmp_path / "Snakefile").touch()
    assert "exists: name a folder" in str(CliRunner().invoke(app, ["rehearse", "--keep", str(tmp_path)]).exception)


# The process that runs the commands -----------------------------------------------------------------------------------


@pytest.fixture
def python(served):
    """The `python` of a rehearsal's jobs."""
    return str(served / "python")


@pytest.mark.slow
def test_commands_get_folder_environment_files_and_status(python, tmp_path):
    def call(*arguments: str, **options):
        return subprocess.run([python, *arguments], capture_output=True, text=True, cwd=tmp_path, **options)

    made = call("-m", "transformer2", "data", "--task", "gsm8k", "--split", "test", "--source", "rehearsal:hub",
                "--limit", "3", "--out", "here.jsonl")  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert len((tmp_path / "here.jsonl").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "here.manifest.json").read_text())["command"][:3] == ["data", "--task", "gsm8k"]
    wrong = call("-m", "transformer2", "data", "--task", "gsm8", "--split", "test", "--source", "hub", "--out", "x")
    assert wrong.returncode == 2 and wrong.stderr.strip().endswith("did you mean 'gsm8k'?") and not wrong.stdout
    assert call("-m", "transformer2", "basis", "--model", "x").returncode == 2
    assert call("-c", "import sys; print(sys.flags.isolated)").stdout == "0\n"  # not a command: the real Python


def test_a_command_whose_process_is_killed_fails(tmp_path):
    """A server that hangs up without a status is what a killed child looks like."""
    import socket
    import threading

    write_client(tmp_path / "python", tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        done = subprocess.run([tmp_path / "python", "-m", "transformer2", "x"], capture_output=True, text=True)
        thread.join()
    assert done.returncode == 1 and "Error" not in done.stdout


# The whole ------------------------------------------------------------------------------------------------------------

PLANTED = {
    "run": "planted",
    "tasks": {"gsm8k": {}},
    "unseen": {"math": {}},
    "methods": {"svf": {}},
    "models": {"m": {"source": "hub:some/model", "row": "llama3-8b"}},
    "adaptation": {"compared": [], "classifier": {}, "prompts": {"train": 2000, "validation": 8, "test": 8}},
}


@pytest.mark.slow
def test_more_prompts_of_a_class_than_its_files_have_fail_in_rule_classes(tmp_path, python):
    """Sizes of a folder are not known when the configuration is read; those of the hub are (test_config)."""
    for task, split in (("gsm8k", "train"), ("gsm8k", "test"), ("math", "test")):
        (tmp_path / "rows" / task).mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows(task, split, 60))
        (tmp_path / "rows" / task / f"{split}.jsonl").write_text(lines)
    run = full_data(parse(PLANTED | {"data": f"dir:{tmp_path / 'rows'}"}))
    found = rehearse.go_through(run, ROOT, tmp_path / "data", Path(python).parent, 2, rehearse.data_files(run))
    (failure,) = found.failures
    assert (failure.rule, failure.wildcards) == ("classes", "run=planted-rehearsal, split=train")
    assert "2000 prompts of 2 classes: set between 2 and" in failure.log


@pytest.mark.slow
def test_the_command_names_the_rule_that_fails_and_leaves_nothing(tmp_path):
    before = sorted((ROOT / "results").rglob("*")) if (ROOT / "results").exists() else []
    raw = PLANTED | {"data": "hub", "adaptation": None, "models": {"m": {"source": "dir:nowhere", "row": "llama3-8b"}}}
    (tmp_path / "planted.yaml").write_text(yaml.safe_dump(raw))
    command = [sys.executable, "-m", "transformer2", "rehearse", "--configfile", str(tmp_path / "planted.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert done.returncode == 1, done.stderr
    assert "rule model (model=m) would fail:" in done.stdout and "there is no folder" in done.stdout
    assert "failed; jobs that need their results were not tried" in done.stdout
    assert sorted((ROOT / "results").rglob("*") if (ROOT / "results").exists() else []) == before
    assert not list(tmp_path.glob("transformer2-rehearsal-*"))


ALIKE = {
    "config.yaml": "the default run; tests/config/tiny.yaml goes through its rules for real",
    "smollm2-rates.yaml": "as smollm2-arc.yaml",
    "deviations-smollm2.yaml": "the methods of deviations.yaml on the model of smollm2.yaml",
}
"""Configurations that go the same way as another one, which is rehearsed."""
REHEARSED = [path for path in sorted((ROOT / "config").glob("*.yaml")) if path.name not in ALIKE]


@pytest.mark.slow
@pytest.mark.parametrize("path", REHEARSED, ids=lambda path: path.name)
def test_every_configuration_of_the_project_goes_through(path, python):
    """All of them together are to take less than eight minutes on two cores that do nothing else."""
    with TemporaryDirectory() as folder:
        found = rehearse.both_parts(load(path), ROOT, Path(folder), Path(python).parent, cores=2)
    assert not found.failures, "\n".join(map(str, found.failures))
    assert found.done == found.total > 12
