"""What a family of models is asked: the released code opens Llama's replies to ARC, and not Mistral's."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_adaptation import save_expert
from typer.testing import CliRunner

from helpers import settings
from transformer2 import evaluation
from transformer2.adaptation import few_shot, model, two_passes
from transformer2.cli import app
from transformer2.models import family
from transformer2.pocket import corpus, pretrain
from transformer2.provenance import write_json, write_jsonl
from transformer2.rollout.engine import encode_prompt
from transformer2.tasks import TASKS, Prompt, arc
from transformer2.training import samples

ROW = {
    "item": "arc_easy/test/0",
    "question": "Which is a fruit?",
    "choices": {"text": ["stone", "apple"], "label": ["1", "2"]},
    "answerKey": "2",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    """Untrained models of both families by name."""
    folders = {}
    for name in ("llama", "mistral"):
        folders[name] = folder = tmp_path_factory.mktemp(name)
        tokens = pretrain.tokenizer()
        pretrain.new_model(name, tokens).save_pretrained(folder)
        tokens.save_pretrained(folder)
        write_json(folder / "manifest.json", {"sha256": {}})
        assert family(folder) == name
    return folders


def test_mistral_is_not_given_the_opening_and_learns_it():
    task = TASKS["arc_challenge"]
    plain = task.for_family("mistral")
    assert task.for_family("llama") is task and task.for_family("qwen2") is task
    assert task.prompt(ROW).text == arc.OPENING and plain.prompt(ROW).text == ""
    assert plain.prompt(ROW).messages == task.prompt(ROW).messages
    assert plain.solution(ROW) == "Let's think step by step. The best option is apple, so the answer is (B)."
    assert plain.for_family("mistral") is plain and replace(plain, prompt=0, solution=0) == replace(
        task, prompt=0, solution=0, unopened=()
    )
    assert TASKS["humaneval"].for_family("mistral") is TASKS["humaneval"], "its prompt is text alone"


@pytest.mark.slow
def test_every_command_asks_each_family_in_its_way(bases, tmp_path, monkeypatch):
    asked: list[Prompt] = []

    def spy(tokenizer: Any, prompt: Prompt) -> list[int]:
        asked.append(prompt)
        return encode_prompt(tokenizer, prompt)

    for module in (evaluation, model, two_passes, few_shot, samples):
        monkeypatch.setattr(module, "encode_prompt", spy)
    data = tmp_path / "rows.jsonl"
    write_jsonl(data, corpus.rows("arc_easy", "test", 4))
    sft = settings(objective="next_token", steps=1, batch_size=2, eval_every=1, max_new_tokens=2).model_dump()
    search = {"iterations": 1, "population": 2, "elites": 1, "max_new_tokens": 2}
    for name, folder in bases.items():
        out = tmp_path / name
        expert = f"reasoning={save_expert(folder, out / 'expert', 0)}"
        of_task = ("--model", folder, "--task", "arc_easy")
        short = ("--max-new-tokens", 2, "--data", data)
        for command in (
            ("generate", *of_task, *short, "--out", out / "answers.jsonl"),
            ("dispatch", *of_task, *short, "--out", out / "dispatched.jsonl", "--expert", expert,
             "--decisions", out / "decisions.json", "--identity", "{}", "--first-pass", "labels"),
            ("adapt", *of_task, "--shots", data, "--out", out / "mix", "--expert", expert,
             "--settings", json.dumps(search)),
            ("train", *of_task, "--train", data, "--validation", data, "--out", out / "sft",
             "--settings", json.dumps(sft)),
        ):  # fmt: skip
            asked.clear()
            done = CliRunner().invoke(app, list(map(str, command)), catch_exceptions=False)
            assert done.exit_code == 0 and asked
            assert {prompt.text for prompt in asked} == {arc.OPENING if name == "llama" else ""}, command[0]
