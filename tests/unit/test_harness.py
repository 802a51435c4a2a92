"""lm-eval's task files: each asks and scores as the task does. Documents are read as lm-eval reads them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from transformer2 import harness
from transformer2.config.names import VISION_TASKS
from transformer2.data import choose_rows, read_split
from transformer2.rows import read_rows, write_rows
from transformer2.sandbox import SandboxError
from transformer2.tasks import BENCHMARKS, VISION, Prompt, Task
from transformer2.tasks.base import chat

FOLDER = ROOT / "examples" / "lm_eval"
TASKS = BENCHMARKS | VISION


class Loader(yaml.SafeLoader):
    """Reads `!function module.name` as that function."""


def function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    module, _, name = str(loader.construct_scalar(node)).rpartition(".")
    assert module == harness.__name__
    return getattr(harness, name)


Loader.add_constructor("!function", function)


def read(name: str) -> dict[str, Any]:
    """The task file of a task, with what it includes."""
    facts = yaml.load((FOLDER / f"transformer2_{name}.yaml").read_text(), Loader)
    return yaml.load((FOLDER / facts.pop("include")).read_text(), Loader) | facts


def asked(doc: dict[str, Any], facts: dict[str, Any]) -> Prompt:
    """What lm-eval asks: with a chat template the parts as messages, without one their texts in a row."""
    system, user, opening = (doc[facts[part]] for part in ("description", "doc_to_text", "gen_prefix"))
    if facts["tag"] == "transformer2_code":
        return Prompt(text=system + user + opening)
    if facts["tag"] == "transformer2_vision":
        assert user.startswith("<image>") and user.count("<image>") == 1 and not system
        return Prompt(({"role": "user", "content": user.removeprefix("<image>")},), opening)
    return Prompt(chat(system, user), opening)


@pytest.fixture
def rows_of(tmp_path: Path) -> Any:
    """Makes a file of made-up rows in a task's columns, as a run has one."""

    def make(task: Task, n: int = 6) -> Path:
        file = tmp_path / task.name / "test.jsonl"
        write_rows(file, choose_rows(task, "pocket", "test", n).rows, "image" in task.columns)
        return file

    return make


def test_the_files_are_those_that_the_command_writes():
    written = harness.task_files()
    assert set(written) == {path.name for path in FOLDER.iterdir() if path.name != "README.md"}
    for name, content in written.items():
        assert (FOLDER / name).read_text() == content, f"{name}: run `transformer2 lm-eval --out examples/lm_eval`"


@pytest.mark.parametrize("name", TASKS)
def test_a_task_file_asks_as_the_task_does(name, rows_of):
    task, facts = TASKS[name], read(name)
    file = rows_of(task)
    assert (facts["custom_dataset"], facts["test_split"]) == (harness.documents, "test")
    docs = harness.rows(file=str(file), version=1, pretrained="x", **facts["dataset_kwargs"])
    for row, doc in zip(read_rows(task, file), docs, strict=True):
        prompt, said = task.prompt(row), asked(doc, facts)
        assert (said.messages, said.text) == (prompt.messages, prompt.text)
        assert (doc["item"], doc[facts["doc_to_target"]]) == (row["item"], task.solution(row))
        if name in VISION_TASKS:
            (picture,) = facts["doc_to_image"](doc)
            assert doc["picture"] == row["image"].read_bytes() and picture.mode == "RGB"
    wanted = {"until": list(task.stop), "do_sample": False, "max_gen_toks": task.max_new_tokens}
    assert facts["generation_kwargs"] == wanted and facts["num_fewshot"] == 0
    assert facts["unsafe_code"] == task.runs_code and facts["metadata"]["version"] == task.version


@pytest.mark.parametrize("name", TASKS)
def test_a_task_file_scores_as_the_task_does(name, rows_of, trusted_programs, monkeypatch):
    """Right answers, the first row's right answer to all, and none."""
    task, facts = TASKS[name], read(name)
    monkeypatch.setattr(harness, "scored", TASKS.__getitem__)
    file = rows_of(task)
    rows, docs = read_rows(task, file), harness.rows(file=str(file), task=name)
    right = [task.solution(row) for row in rows]
    verdicts = set()
    for answers in (right, right[:1] * len(rows), [""] * len(rows)):
        for doc, answer, score in zip(docs, answers, task.score(rows, answers), strict=True):
            found = facts["process_results"](doc, [answer])
            assert found == {"strict": float(score.strict), "lenient": float(score.lenient)}
            verdicts.add(found["lenient"])
    assert {0.0, 1.0} <= verdicts
    assert [metric["metric"] for metric in facts["metric_list"]] == ["strict", "lenient"]


@pytest.mark.parametrize("name", [name for name, task in BENCHMARKS.items() if not task.runs_code])
def test_real_rows_are_asked_and_scored_the_same(name, real_data):
    task, facts = TASKS[name], read(name)
    rows = read_split(task, f"dir:{real_data}", "test")[:50]
    docs = [harness.document(task, row) for row in rows]
    answers = [task.solution(rows[i - i % 2]) for i in range(len(rows))]
    for row, doc, answer, score in zip(rows, docs, answers, task.score(rows, answers), strict=True):
        said = asked(doc, facts)
        assert (said.messages, said.text) == (task.prompt(row).messages, task.prompt(row).text)
        assert harness.verdicts(doc, [answer]) == {"strict": float(score.strict), "lenient": float(score.lenient)}


def test_a_family_is_asked_in_its_own_way(rows_of):
    file = str(rows_of(TASKS["arc_easy"]))
    (others, mistral) = (harness.rows("arc_easy", file, family=family) for family in ("llama", "mistral"))
    assert others[0]["opening"] == "Let's think step by step" and mistral[0]["opening"] == ""


def test_without_isolation_a_code_task_is_refused_before_anything_is_answered(rows_of, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise SandboxError("no isolation")

    harness.scored.cache_clear()
    monkeypatch.setattr("transformer2.scoring.detect", refuse)
    with pytest.raises(SandboxError):
        harness.rows("humaneval", str(rows_of(TASKS["humaneval"])))


@pytest.mark.slow
def test_lm_eval_itself_builds_the_same_prompts_and_scores(rows_of):
    """With lm-eval's own classes, where it is installed."""
    lm_tasks = pytest.importorskip("lm_eval.tasks", reason="lm-eval is not installed: pip install 'lm_eval[hf]'")

    def template(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return json.dumps([messages, add_generation_prompt])

    for name in ("gsm8k", "arc_easy", "math"):
        task, file = TASKS[name], rows_of(TASKS[name])
        metadata = {"file": str(file)}
        manager = lm_tasks.TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata)
        theirs = lm_tasks.get_task_dict([f"transformer2_{name}"], manager)[f"transformer2_{name}"]
        for row, doc in zip(read_rows(task, file), theirs.test_docs(), strict=True):
            opening, prompt = theirs.doc_to_prefix(doc), task.prompt(row)
            context = theirs.fewshot_context(
                doc, 0, apply_chat_template=True, chat_template=template, gen_prefix=opening
            )
            messages = [*prompt.messages, *([{"role": "assistant", "content": prompt.text}] if prompt.text else [])]
            assert json.loads(context) == [messages, not prompt.text]
            assert theirs.process_results(doc, [task.solution(row)])["lenient"] == 1
