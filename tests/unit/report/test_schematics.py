"""The schematic figures show what the run has: its shapes, its prompt, the tokens that it trains on."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from helpers import tokenizer
from transformer2.report.figures import schematics
from transformer2.report.figures.schematics import COLUMNS, Segment, wrap
from transformer2.reproduce.illustration import illustration
from transformer2.tasks import TASKS
from transformer2.tasks.classify import SYSTEM
from transformer2.training.samples import references

ROW = {"item": "gsm8k/train/7", "question": "Ann has 2 nuts & $3. Sum?", "answer": "2 + 3 = 5\n#### 5"}
SETTINGS = {
    "run": "toy", "model": "toy", "stands_in_for": "llama3-8b", "standin": True, "seed": 3,
    "search": {"shots": 10, "population": 16, "elites": 4, "iterations": 20},
}  # fmt: skip
DRAWN = (schematics.overview, schematics.method, schematics.adaptation_prompt, schematics.sample)


def expert(folder: Path) -> Path:
    """Vectors of 8 and 4 numbers in each of three layers."""
    names = {
        f"base_model.model.model.layers.{i}.{m}.svf_z": n for i in range(3) for m, n in (("q_proj", 8), ("v_proj", 4))
    }
    folder.mkdir()
    save_file({name: torch.ones(n) for name, n in names.items()}, folder / "adapter_model.safetensors")
    settings = {"batch_size": 128, "steps": 12, "rollout": "sampled", "reward_wrong": -0.1, "kl_coefficient": 0.2}
    selection = {"validation": {"a": 0.5, "b": 0.6}, "training": {"settings": settings}}
    (folder / "selection.json").write_text(json.dumps(selection))
    return folder


@pytest.fixture
def facts(tmp_path) -> dict[str, Any]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    tokenizer().save_pretrained(model)
    save_file({"a": torch.zeros(100, 8), "b": torch.zeros(5)}, model / "model.safetensors")
    experts = {name: expert(tmp_path / name) for name in ("gsm8k", "mbpp_pro")}
    return illustration(model, experts, "gsm8k", ROW, SETTINGS)


def words(figure: Path) -> str:
    return "\n".join(re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", figure.read_text(encoding="utf-8")))


def test_numbers_are_counted_in_the_files(facts):
    assert facts["parameters"] == 805
    first, second = facts["experts"]
    assert (first["task"], first["class"], second["class"]) == ("gsm8k", "math", "code")
    counted = [first[key] for key in ("layers", "matrices", "shortest", "longest", "parameters", "points")]
    assert counted == [3, 2, 4, 8, 36, 2]
    assert facts["search"] == SETTINGS["search"]


def test_the_prompt_is_the_one_that_is_sent_and_the_sample_the_one_that_is_trained_on(facts):
    tokens = tokenizer()
    assert SYSTEM.strip() in facts["asked"]["text"] and ROW["question"] in facts["asked"]["text"]
    (sample,) = references(tokens, TASKS["gsm8k"])([ROW])
    shown = facts["sample"]
    assert (shown["prompt_tokens"], shown["answer_tokens"]) == (len(sample.prompt_ids), len(sample.completion_ids))
    assert shown["answer"] == ROW["answer"] + str(tokens.eos_token)
    assert tokens(shown["prompt"] + shown["answer"], add_special_tokens=False).input_ids == [
        *sample.prompt_ids, *sample.completion_ids,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("drawing", DRAWN)
def test_a_figure_is_the_same_file_each_time(drawing, facts, tmp_path):
    for name in ("one", "two"):
        drawing(facts, tmp_path / name)
    for suffix in ("svg", "png", "pdf", "csv"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def test_schemas_say_the_numbers_of_the_run(facts, tmp_path):
    schematics.overview(facts, tmp_path / "one")
    schematics.method(facts, tmp_path / "two")
    one, two = words(tmp_path / "one.svg"), words(tmp_path / "two.svg")
    for text in (
        "805 parameters",
        "3 layers × 2 matrices adapted,",
        "4 to 8 singular values",
        "36 numbers,",
        "4.5 % of the",
    ):
        assert text in one
    for text in (
        "128 a step, at most 12 steps",
        "-0.1 if wrong",
        "λ = 0.2",
        "best of 2 tried",
        "on 10 shots: 16 candid",
    ):
        assert text in two
    assert "seed 3" in one and "toy in place of llama3-8b" in two
    told = pd.read_csv(tmp_path / "one.csv").set_index(["of", "name", "what"])["value"]
    assert told["model", "toy", "parameters"] == "805" and told["expert", "mbpp_pro", "class"] == "code"


def test_what_is_trained_on_is_blue_and_the_prompt_is_not(facts, tmp_path):
    schematics.sample(facts, tmp_path / "f")
    drawn = (tmp_path / "f.svg").read_text()
    blue = re.findall(r'<text style="[^"]*fill: #0072b2[^"]*"[^>]*>([^<]+)<', drawn)
    assert {"2 + 3 = 5"} <= set(blue) and not any("nuts" in text for text in blue)
    assert pd.read_csv(tmp_path / "f.csv")["meaning"].str.contains("masked|trained on").all()


def test_lines_are_broken_at_spaces_and_keep_the_place_of_each_colour():
    long = "x" * (COLUMNS - 4)
    lines = wrap([Segment(f"a\n\n{long} bcd", "black", ""), Segment("ef gh", "blue", "")])
    assert lines == [
        [(0, "a", "black")], [], [(0, f"{long} ", "black")], [(0, "bcd", "black"), (3, "ef gh", "blue")],
    ]  # fmt: skip
    assert [len(line[0][1]) for line in wrap([Segment("y" * (2 * COLUMNS + 1), "black", "")])] == [COLUMNS, COLUMNS, 1]
