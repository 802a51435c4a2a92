"""Curves in trackers hold the numbers of the logs, once each, and decide nothing of a result."""

import json
from pathlib import Path

import numpy
import pytest
from test_training import trainer, words  # noqa: F401  (a fixture)

from conftest import ROOT
from helpers import settings
from transformer2 import trackers
from transformer2.config import load
from transformer2.stages.blocks import Stages
from transformer2.stages.keys import settings_digest

TINY = load(ROOT / "tests/config/tiny.yaml")


def sent(out: Path) -> list[tuple[str, int, float]]:
    """What TensorBoard's files of a training hold: name, step and value."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = events.EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    return sorted((tag, one.step, one.value) for tag in read.Tags()["scalars"] for one in read.Scalars(tag))


def logged(out: Path) -> list[tuple[str, int, float]]:
    """What the logs of a training hold, in TensorBoard's precision."""
    return sorted(
        (f"{part}/{name}", line["step"], float(numpy.float32(value)))
        for part, file in (("training", "metrics.jsonl"), ("validation", "validation.jsonl"))
        for line in map(json.loads, (out / file).read_text().splitlines())
        for name, value in line.items()
        if name != "step"
    )


def test_tensorboard_holds_the_numbers_of_the_logs_also_of_a_training_that_was_stopped(words, tmp_path):  # noqa: F811
    chosen = settings(steps=5, eval_every=2)
    for last_step in (3, None):
        with trackers.curves(["tensorboard"], tmp_path, {"task": "words"}) as report:
            one = trainer(words, tmp_path, chosen)
            one.report = report
            one.run(last_step)
        assert sent(tmp_path) == logged(tmp_path)
    steps = [step for name, step, _ in sent(tmp_path) if name == "training/loss"]
    assert steps == [0, 1, 2, 3, 4]
    assert {name for name, _, _ in sent(tmp_path)} >= {"training/reward", "training/kl", "validation/accuracy"}


def test_lines_of_before_a_stop_are_sent_in_the_order_in_which_they_came(words, tmp_path):  # noqa: F811
    chosen, seen = settings(steps=5, eval_every=2), []
    trainer(words, tmp_path, chosen).run(4)
    again = trainer(words, tmp_path, chosen)
    again.report = lambda log, lines: seen.extend((line["step"], log) for line in lines)
    again.run()
    kept = [one for one in seen if one[1] != "rollouts.jsonl"]
    expected = [(0, "validation.jsonl"), (0, "metrics.jsonl"), (1, "metrics.jsonl"), (2, "validation.jsonl")]
    assert kept[:4] == expected and [step for step, _ in kept] == sorted(step for step, _ in kept)


def test_where_curves_are_sent_changes_no_key_of_a_step_and_no_setting_of_a_result():
    shown = TINY.model_copy(update={"report_to": ["tensorboard"]})
    for stage in ("train", "adapt"):
        steps, plain = (Stages(run).steps(stage, "tiny-llama") for run in (shown, TINY))
        assert settings_digest(steps) == settings_digest(plain)
        assert all((step.besides == {"report_to": ["tensorboard"]}) == (step.work == "train") for step in steps)
        assert not any(step.besides for step in plain)
    assert shown.settings_of_results() == TINY.settings_of_results() and shown != TINY


def test_a_library_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    trackers.check([])
    with pytest.raises(ValueError, match="^report_to: trackio is not installed: pip install trackio, or leave it out$"):
        trackers.check(["trackio"])
