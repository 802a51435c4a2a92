"""Learning curves: gathered from what training and selection leave behind, and drawn point by point."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from test_tables import scores_of, write

from transformer2.config import Method, Model, Run, TaskData, Training
from transformer2.grid import Grid
from transformer2.report.figures.learning import learning, sweep
from transformer2.reproduce.collect import curves
from transformer2.reproduce.frames import read_curves, read_scores, write_frame

RUN = Run(
    run="toy", seeds=[0], models={"toy": Model(source="pocket:llama", row="llama3-8b")}, methods={"svf": Method()},
    tasks={"gsm8k": TaskData(train=1, validation=1, test=1)}, unseen={}, adaptation=None,
)  # fmt: skip
VALIDATION = {"learning_rate-0.002": (0.5, 0.7, 0.9), "learning_rate-0.02": (0.5, 0.4, 0.0)}
CHOSEN = "learning_rate-0.002"


def learnt(root: Path, select: str = "best", answered: bool = True) -> pd.DataFrame:
    """The curves of one expert that was chosen of two points: evaluations after 0, 2 and 4 updates."""
    folder = root / "results" / "toy"
    for point, accuracies in VALIDATION.items():
        out = folder / "sweeps/toy/gsm8k/svf/seed0" / point
        out.mkdir(parents=True)
        settings = Training(learning_rate=float(point.split("-")[1]), select=select).model_dump()  # type: ignore[arg-type]
        best = max(range(3), key=lambda i: accuracies[i])
        summary = {"step": 4, "best_step": 2 * best, "stopped": None, "settings": settings}
        (out / "training.json").write_text(json.dumps(summary))
        evaluations = [{"step": 2 * i, "accuracy": a, "n": 20} for i, a in enumerate(accuracies)]
        (out / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in evaluations))
        steps = [{"step": i, "samples": 8, "loss": 1.0} | ({"accuracy": 0.25} if answered else {}) for i in range(4)]
        (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
    file = folder / "experts/toy/gsm8k/svf/seed0/selection.json"
    file.parent.mkdir(parents=True)
    for state, place in (("best", file), ("last", file.parent / "last" / file.name)):
        place.parent.mkdir(exist_ok=True)
        points = {name: max(a) if state == "best" else a[-1] for name, a in VALIDATION.items()}
        place.write_text(json.dumps({"chosen": CHOSEN, "state": state, "validation": points}))
    return curves(Grid(RUN), root)


@pytest.fixture
def frames(tmp_path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The curves and scores, read back from their files."""
    write_frame(learnt(tmp_path), tmp_path / "curves.csv")
    return read_curves(tmp_path / "curves.csv"), base_scores(tmp_path)


def base_scores(folder: Path) -> pd.DataFrame:
    return read_scores(write(scores_of("toy", "llama3-8b", "base", "gsm8k", 16), folder / "scores.csv"))


def words(figure: Path) -> list[str]:
    return re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", figure.read_text(encoding="utf-8"))


def test_every_evaluation_and_every_answered_step_is_a_row(tmp_path):
    frame = learnt(tmp_path)
    validation = frame.loc[frame["split"] == "validation"]
    assert {point: tuple(of["accuracy"]) for point, of in validation.groupby("point")} == VALIDATION
    assert set(validation["n"]) == {20} and validation["step"].tolist() == [0, 2, 4] * 2
    assert frame.loc[frame["split"] == "train", ["n", "accuracy"]].drop_duplicates().to_numpy().tolist() == [[8, 0.25]]
    assert set(frame.loc[frame["chosen"], "point"]) == {CHOSEN}
    assert frame.groupby("point")["best_step"].first().to_dict() == {CHOSEN: 4, "learning_rate-0.02": 0}
    assert set(frame["last_step"]) == {4} and set(frame["selected"]) == {"best"}
    assert set(frame.loc[frame["chosen_last"], "point"]) == {CHOSEN}


def test_next_token_training_answers_nothing(tmp_path):
    assert set(learnt(tmp_path, answered=False)["split"]) == {"validation"}


def test_the_curve_says_what_it_is_of_and_marks_the_expert(frames, tmp_path):
    learning(*frames, "toy", "svf", tmp_path / "f")
    found = words(tmp_path / "f.svg")
    marks = {"best state, the expert", "last state"}
    assert {"gsm8k", "n = 20 (validation), 40 (test)", "base model, test split"} | marks <= set(found)
    assert "Figure 4 of the paper, run “toy”: toy in place of llama3-8b" in found
    assert any("accuracy on validation, not on test; seed 0" in line for line in found)
    assert len(pd.read_csv(tmp_path / "f.csv")) == 2 * (3 + 4)


def test_a_sweep_has_a_colour_for_each_learning_rate(frames, tmp_path):
    sweep(*frames, "toy", "svf", tmp_path / "f")
    assert {"learning rate 0.002", "learning rate 0.02", "updates", "accuracy in % (strict)"} <= set(
        words(tmp_path / "f.svg")
    )
    assert {"best state, the expert", "last state"} <= set(words(tmp_path / "f.svg"))
    assert len(pd.read_csv(tmp_path / "f.csv")) == 2 * 3


def test_where_the_last_state_is_the_expert_it_alone_is_marked(tmp_path):
    learning(learnt(tmp_path, select="last"), base_scores(tmp_path), "toy", "svf", tmp_path / "f")
    assert [text for text in words(tmp_path / "f.svg") if "state" in text] == ["last state, the expert"]


@pytest.mark.slow
@pytest.mark.parametrize("drawing", [learning, sweep])
def test_a_figure_is_the_same_file_each_time(drawing, frames, tmp_path):
    for name in ("one", "two"):
        drawing(*frames, "toy", "svf", tmp_path / name)
    for suffix in ("svg", "png", "pdf", "csv"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def test_a_method_that_was_not_learnt_is_refused_in_one_line(frames, tmp_path):
    with pytest.raises(ValueError, match="none of toy by lora"):
        learning(*frames, "toy", "lora", tmp_path / "f")
