"""An expert of a run on a hub that answers as the real one does: what is pushed is downloaded, loaded and traced."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from test_export import TEMPLATES, expert_folder, logits, model_folder

from conftest import ROOT
from local_hub import COMMIT, environment, serve
from transformer2.checksums import sha256
from transformer2.eval_results import left_out, measured, place_in_run, task_of_benchmark
from transformer2.models import load_expert, load_model
from transformer2.provenance import read_json, write_json, write_jsonl
from transformer2.push import Repository, gather
from transformer2.stages.keys import contents
from transformer2.stages.runner import do
from transformer2.stages.steps import Step
from transformer2.training.selection import copy_expert

pytestmark = pytest.mark.slow

TOKEN = "hf_of_the_tests"
ITEMS = 1319
GSM8K = [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(ITEMS)]
ARC = [
    {"question": f"{i}?", "choices": {"text": ["yes", "no"], "label": ["A", "B"]}, "answerKey": "A"} for i in range(12)
]


def step(work: str, manifest: Path, inputs: list[Path], out: Path, **arguments: Any) -> None:
    one = Step(work, {"work": work}, arguments | {"out": out}, manifest, tuple(inputs), (out,))
    do(one, "k", contents(one))


def score(run: Path, model: Path, expert: Path, task: str, rows: list[dict], **data: Any) -> None:
    """Answers and scores of an expert, by the functions of the stages."""
    kind = expert.parent.name
    file = run / "data" / task / "test.jsonl"
    if not file.is_file():
        write_jsonl(file, [{"item": f"{task}/test/{i}"} | row for i, row in enumerate(rows)])
        facts = {"rows": len(rows), "sha256": sha256(file), "limit": None, "source": "hub"}
        write_json(run / "data" / task / "test.manifest.json", facts | data)
    answers = run / "generations/tiny" / f"{kind}-gsm8k" / task / "seed0.jsonl"
    scores = run / "scores/tiny" / f"{kind}-gsm8k" / task / "seed0.json"
    read = [expert / "adapter_config.json", expert / "adapter_model.safetensors", file]
    step("answer", answers.with_suffix(".manifest.json"), read, answers, model=model, task=task, data=file,
         expert=expert, max_new_tokens=1, batch_rows=400)  # fmt: skip
    identity = {"run": "r", "model": "tiny", "method": kind, "trained_on": "gsm8k", "state": "best", "task": task}
    step("score", scores.with_suffix(".manifest.json"), [file, answers], scores, task=task, data=file, answers=answers,
         identity=identity | {"seed": 0})  # fmt: skip


def trained(run: Path, model: Path, kind: str) -> Path:
    """An expert, and the point of its sweep."""
    where = f"tiny/gsm8k/{kind}/seed0"
    point, expert = run / "sweeps" / where / "single", run / "experts" / where
    expert_folder(point, model, adapter=kind)
    copy_expert(point, expert)
    facts: dict[str, Any] = {"task": "gsm8k", "seed": 0, "settings": {"select": "best", "reward": "strict",
                             "adapter": kind, "objective": "policy_gradient"}}  # fmt: skip
    inputs = {"model": read_json(model / "manifest.json")["sha256"], "train": "1f", "validation": "2f"}
    progress = {"step": 6, "best_step": 4, "collapsed_at": None, "stopped": None, "trained_parameters": 224}
    write_json(expert / "selection.json", {"chosen": "single", "training": facts | progress | {
        "inputs": inputs, "version": 1, "best_validation": 0.75}})  # fmt: skip
    hardware = {"platform": "Linux", "cpus": 2, "seconds": 1.5, "peak_memory_mb": 300, "python": "3.11.7"}
    write_json(point / "manifest.json", facts | hardware | {
        "inputs": inputs, "git": "c0ffee", "packages": {"peft": "0.21.2"}, "started": "2026-01-01T00:00:00Z",
        "command": ["train", "--model", str(model)]})  # fmt: skip
    write_jsonl(point / "validation.jsonl", [{"step": 4, "accuracy": 0.75, "n": 8}])
    return expert


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two experts: SVF with scores on all of GSM8K and some of ARC, LoRA with the latter."""
    folder = tmp_path_factory.mktemp("place") / "results" / "r"
    for kind in ("svf", "lora"):
        expert = trained(folder, base, kind)
        score(folder, base, expert, "arc_easy", ARC, limit=12)
        if kind == "svf":
            score(folder, base, expert, "gsm8k", GSM8K, repository="openai/gsm8k", revision=COMMIT)
    return folder


def expert_of(run: Path, kind: str = "svf") -> Path:
    return run / "experts/tiny/gsm8k" / kind / "seed0"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Folder of a hub that has GSM8K as a benchmark."""
    benchmark = tmp_path / "hub/datasets/openai/gsm8k"
    benchmark.mkdir(parents=True)
    tasks = [{"id": "gsm8k", "config": "main", "split": "test"}, {"id": "other", "config": "socratic", "split": "test"}]
    (benchmark / "eval.yaml").write_text(yaml.safe_dump({"name": "GSM8K", "tasks": tasks}))
    return tmp_path / "hub"


SEVERAL = """
import json, sys
from commands import run
for arguments in json.loads(sys.argv[1]):
    done = run(*arguments)
    print(json.dumps([done.returncode, done.stdout, done.stderr]))
"""


def push(address: str, cache: Path, *commands: list[str], token: str = TOKEN) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of several calls of `transformer2 push`, in one process."""
    variables = environment(address, cache) | ({"HF_TOKEN": token} if token else {})
    variables |= {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]), "HF_HUB_DISABLE_XET": "1"}
    asked = json.dumps([["push", *command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, asked], env=variables, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def options(run: Path, base: Path, kind: str = "svf", repo: str = "me/expert", *more: str) -> list[str]:
    return ["--expert", str(expert_of(run, kind)), "--model", str(base), "--repo", repo, *more]


DOWNLOADED = """
import sys
import torch, transformer2.svf
from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoModelForCausalLM
folder = snapshot_download("me/expert")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1]), folder).eval()
with torch.no_grad():
    torch.save(model(torch.arange(24).reshape(2, 12)).logits, sys.argv[2])
"""


@pytest.mark.parametrize("kind", ["svf", "lora"])
def test_what_is_pushed_is_downloaded_by_the_library_and_answers_as_the_expert_does(kind, run, base, hub, tmp_path):
    with serve(hub, token=TOKEN) as (address, log):
        ((status, said, errors),) = push(address, tmp_path / "cache", options(run, base, kind))
        assert status == 0, errors[-3000:]
        command = [sys.executable, "-c", DOWNLOADED, str(base), str(tmp_path / "logits.pt")]
        variables = environment(address, tmp_path / "fresh") | {"PYTHONPATH": str(ROOT / "src")}
        subprocess.run(command, env=variables, check=True, timeout=120)
    ours = logits(load_expert(load_model(base), expert_of(run, kind), None))
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), ours)
    assert "made me/expert, private" in log and sum("/commit/" in line for line in log) == 1
    assert f"pushed: {address}" in said and "adapter_model.safetensors (" in said


def test_a_score_on_the_hub_leads_back_to_the_answers_and_the_training(run, base, hub, tmp_path):
    with serve(hub, token=TOKEN) as (address, _):
        ((status, said, errors),) = push(address, tmp_path / "cache", options(run, base))
    assert status == 0, errors[-3000:]
    pushed = hub / "me/expert"
    assert [path.name for path in (pushed / ".eval_results").iterdir()] == ["gsm8k.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load((pushed / ".eval_results/gsm8k.yaml").read_text()))
    items = read_json(pushed / "scores/gsm8k.json")["items"]
    assert len(items) == ITEMS and entry.value == round(100 * sum(item["strict"] for item in items) / ITEMS, 2)
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("openai/gsm8k", "gsm8k", COMMIT)
    assert entry.source_url == f"{address}/me/expert/blob/main/scores/gsm8k.json"
    assert (
        entry.notes
        and "n = 1319" in entry.notes
        and "at most 1 new tokens" in entry.notes
        and "someone/tiny" in entry.notes
    )
    assert "no .eval_results for arc_easy: 12 items are not the whole test set of 2376" in said
    manifest = read_json(pushed / "manifest.json")
    of_scores, of_answers, of_data = (manifest["scores"]["gsm8k"][name] for name in ("scores", "answers", "data"))
    assert of_scores["sha256"] == sha256(pushed / "scores/gsm8k.json")
    assert of_scores["answers_sha256"] == of_answers["sha256"] and of_data["sha256"] == of_answers["data_sha256"]
    assert manifest["adapter_sha256"] == sha256(pushed / "adapter_model.safetensors")
    assert manifest["training"]["git"] == "c0ffee" and manifest["selection"]["chosen"] == "single"
    card = ModelCard.load(pushed / "README.md")
    assert card.data.to_dict()["base_model"] == "someone/tiny"
    assert f"| gsm8k, test | {ITEMS:,} |" in card.text and "leads from each score to its answers" in card.text
    for file in pushed.rglob("*"):
        assert file.is_dir() or str(run.parents[1]).encode() not in file.read_bytes(), (
            f"{file} has a place on this disk"
        )
        assert not file.name.endswith(".sha256")


def test_a_dry_run_lists_the_files_needs_no_credentials_and_changes_nothing(run, base, hub, tmp_path):
    with serve(hub, token=TOKEN) as (address, log):
        ((status, said, errors),) = push(
            address, tmp_path / "cache", options(run, base, "svf", "me/expert", "--dry-run"), token=""
        )
    assert status == 0, errors[-3000:]
    for name in (
        "adapter_config.json",
        "README.md",
        ".eval_results/gsm8k.yaml",
        "scores/arc_easy.json",
        "manifest.json",
    ):
        assert f"{name} (" in said
    assert "nothing was pushed" in said
    assert not any(line.startswith("POST") for line in log) and not (hub / "me").exists()


def test_a_branch_is_made_and_scores_that_are_gone_leave_it(run, base, hub, tmp_path):
    public = options(run, base, "svf", "me/expert", "--revision", "second", "--public")
    (hub / "branches/second/me/expert").mkdir(parents=True)
    with serve(hub, token=TOKEN) as (address, log):
        done = push(address, tmp_path / "cache", public)
        (hub / "branches/second/me/expert/.eval_results/math.yaml").write_text("an older score")
        (hub / "branches/second/me/expert/LICENSE").write_text("of the owner")
        done += push(address, tmp_path / "cache", public)
    assert [status for status, *_ in done] == [0, 0], done
    branch = hub / "branches/second/me/expert"
    assert [path.name for path in (branch / ".eval_results").iterdir()] == ["gsm8k.yaml"]
    assert (branch / "LICENSE").is_file() and not list((hub / "me/expert").iterdir())
    assert "made me/expert, public" in log and "blob/second/scores" in (branch / ".eval_results/gsm8k.yaml").read_text()


def test_what_the_hub_refuses_is_one_line_and_nothing_is_half_pushed(run, base, hub, tmp_path):
    (hub / "me/model").mkdir(parents=True)
    (hub / "me/model/config.json").write_text("{}")
    with serve(hub, token=TOKEN) as (address, log):
        (none,) = push(address, tmp_path / "cache", options(run, base), token="")
        (wrong,) = push(address, tmp_path / "cache", options(run, base), token="hf_wrong")
        other, name = push(
            address, tmp_path / "cache", options(run, base, "svf", "me/model"), options(run, base, "svf", "expert")
        )
        assert not any("/commit/" in line for line in log)
    with serve(hub, token=TOKEN, refuses="api/models/me/expert/commit/main") as (address, log):
        (broken,) = push(address, tmp_path / "cache", options(run, base))
    said = {
        "there are no credentials for the hub: run `hf auth login`, or set HF_TOKEN": none,
        "the hub does not take your credentials": wrong,
        "me/model is there, and holds no adapter: it is left as it is": other,
        "'expert' is no name of a repository of the hub: give <owner>/<name>": name,
        "me/expert: the hub answers with an error (500": broken,
    }
    for line, (status, _, errors) in said.items():
        assert status == 2 and line in errors and "Traceback" not in errors, errors
        assert "hf_" not in errors.replace("hf auth", ""), "a token is never shown"
    assert not list((hub / "me/expert").iterdir()) and [path.name for path in (hub / "me/model").iterdir()] == [
        "config.json"
    ]


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """The run, for a test to change."""
    return shutil.copytree(run, tmp_path / "results/r")


def change(file: Path, **facts: Any) -> None:
    write_json(file, read_json(file) | facts)


SCORES = "scores/tiny/svf-gsm8k/arc_easy/seed0.json"
ANSWERS = "generations/tiny/svf-gsm8k/arc_easy/seed0.manifest.json"
POINT = "sweeps/tiny/gsm8k/svf/seed0/single"


@pytest.mark.parametrize(
    ("file", "facts", "message"),
    [
        (SCORES, {"seed": 1}, "is of another expert: its seed is 1, not 0"),
        (SCORES, {"method": "lora"}, "is of another expert: its method is 'lora', not 'svf'"),
        (SCORES, {"items": []}, "the scores are not those that their manifest is of"),
        (ANSWERS, {"sha256": "0"}, "they are of other answers than those that are there"),
        (ANSWERS, {"data_sha256": "0"}, "they were counted on other items than were answered"),
        ("data/arc_easy/test.manifest.json", {"sha256": "0"}, "the items have changed since"),
        (ANSWERS, {"read": {"elsewhere/adapter_model.safetensors": "0"}}, "of another adapter than"),
        (f"{POINT}/manifest.json", {"seed": 3}, "its seed is 3, and that of the expert 0"),
        (f"{POINT}/manifest.json", {"task": "math"}, "its task is 'math', and that of the expert 'gsm8k'"),
    ],
)
def test_scores_and_manifests_that_do_not_fit_the_expert_are_refused(file, facts, message, copied, base, tmp_path):
    change(copied / file, **facts)
    with pytest.raises(ValueError, match=message):
        gather(expert_of(copied), base, Repository("me/x"), tmp_path / "out", None, None, "float32", TEMPLATES)
    assert not (tmp_path / "out").exists()


def test_another_adapter_than_the_one_of_the_sweep_is_refused(copied, base, tmp_path):
    copy_expert(expert_folder(tmp_path / "other", base, init_std=0.5, init_mean=0.5), expert_of(copied))
    with pytest.raises(ValueError, match=r"holds another adapter than .*single, which it was chosen from"):
        place_in_run(expert_of(copied))


def test_an_expert_of_no_run_and_missing_manifests_are_named(copied, base, tmp_path):
    expert = expert_folder(tmp_path / "expert", base)
    with pytest.raises(
        ValueError, match="is no expert of a run .*publish it with `transformer2 export` and `hf upload`"
    ):
        place_in_run(expert)
    (copied / ANSWERS).unlink()
    with pytest.raises(ValueError, match=r"there is no .*seed0\.manifest\.json to say where the scores in"):
        list(measured(expert_of(copied), place_in_run(expert_of(copied))))


def test_a_manifest_that_does_not_say_which_adapter_answered_gives_no_entry(copied, base, tmp_path):
    file = copied / "generations/tiny/lora-gsm8k/arc_easy/seed0.manifest.json"
    write_json(file, {key: value for key, value in read_json(file).items() if key != "read"})
    expert = expert_of(copied, "lora")
    reasons = gather(expert, base, Repository("me/x"), tmp_path / "out", None, None, "float32", TEMPLATES)
    assert (
        "does not say which adapter gave them" in reasons["arc_easy"] and not (tmp_path / "out/.eval_results").exists()
    )


def test_scores_on_made_up_items_are_no_entry(copied):
    change(copied / "data/gsm8k/test.manifest.json", source="pocket")
    found = {one.task: left_out(one) for one in measured(expert_of(copied), place_in_run(expert_of(copied)))}
    assert found["gsm8k"] == "its items are made up (pocket)"


def test_a_benchmark_is_found_by_config_and_split():
    of = [
        {"id": "easy", "config": "ARC-Easy", "split": "test"},
        {"id": "hard", "config": "ARC-Challenge", "split": "test"},
    ]
    assert task_of_benchmark("arc_easy", of) == "easy" and task_of_benchmark("arc_challenge", of) == "hard"
    assert task_of_benchmark("gsm8k", of) is None
    assert task_of_benchmark("textvqa", [{"id": "t", "config": "default", "split": "validation"}]) == "t"
    assert task_of_benchmark("math", [{"id": "a", "config": "algebra", "split": "test"}]) is None, (
        "one subject of seven"
    )
