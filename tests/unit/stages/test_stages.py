"""Stages: every step reads what an earlier one makes, and a process does again what changed and nothing else."""

from collections import Counter
from pathlib import Path

import pytest
from test_config import CONFIGS

from conftest import ROOT
from transformer2 import paths
from transformer2.checksums import sha256
from transformer2.config import Run, load
from transformer2.config.parts import Blocks
from transformer2.mistakes import StepsFailed
from transformer2.provenance import read_json, write_json
from transformer2.report.contents import Contents
from transformer2.stages import work
from transformer2.stages.blocks import Stages
from transformer2.stages.keys import contents, key_in_manifest, key_of, settings_digest
from transformer2.stages.runner import run_stage
from transformer2.stages.steps import ALL_MODELS, LOGS, STAGES, Step
from transformer2.training import loop

TINY = load(ROOT / "tests/config/tiny.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("config", [*CONFIGS, ROOT / "tests/config/tiny.yaml"], ids=lambda path: path.name)
def test_steps_read_what_earlier_steps_of_the_stages_before_make(config):
    stages = Stages(load(config))
    for stage in STAGES:
        for model in stages.models_of(stage):
            there = made_before(stages, stage, model)
            for step in stages.steps(stage, model):
                missing = [path for path in step.inputs if path not in there and not is_source(path)]
                assert missing == [], f"{step.name} reads {missing[0]}"
                there |= set(step.outputs)


def made_before(stages: Stages, stage: str, model: str) -> set[Path]:
    """What the steps behind the records that a stage waits for have made, and those before them."""
    there: set[Path] = set()
    for record in stages.inputs(stage, model):
        if "/stages/" in record:
            names = paths.RECORD.read(record)
            there |= made_before(stages, names["stage"], names["model"])
            there |= {path for step in stages.steps(names["stage"], names["model"]) for path in step.outputs}
    return there


def is_source(path: Path) -> bool:
    """Whether a rule of its own makes a file: models, bases and data."""
    return path.parts[1] == "models" or path.parts[2] == "data"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_score_of_the_grid_is_made_by_one_step_and_every_step_is_asked_for(config):
    stages = Stages(load(config))
    steps = [step for stage in STAGES for model in stages.models_of(stage) for step in stages.steps(stage, model)]
    made = [path for step in steps for path in step.outputs]
    assert len(set(made)) == len(made), "two steps write one file"
    assert len({step.name for step in steps}) == len(steps)
    if stages.run.scores is None:
        assert set(map(Path, stages.grid.score_files(stages.grid.cells))) <= set(made)
        assert set(map(Path, stages.grid.decision_files())) <= set(made)
    files = {str(value) for step in steps for value in leaves(step.arguments) if isinstance(value, Path)}
    known = {str(place) for step in steps for path in (*step.inputs, *step.outputs) for place in (path, *path.parents)}
    assert {file for file in files if not is_source(Path(file))} <= known


def leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, list) else [value]


def in_blocks(n: int) -> Run:
    blocks = Blocks(train=n, answer=n, adapt=n, score=n)
    models = {name: model.model_copy(update={"blocks": blocks}) for name, model in TINY.models.items()}
    return TINY.model_copy(update={"models": models})


def test_blocks_share_the_steps_of_a_stage_and_keep_groups_together():
    stages = Stages(in_blocks(4))
    for stage in ("train", "answer", "adapt", "answer_adapted", "score"):
        whole = stages.steps(stage, "tiny-llama")
        n = stages.blocks(stage, "tiny-llama")
        blocks = [stages.block(stage, "tiny-llama", block, n) for block in range(n)]
        assert n == 4 and all(blocks)
        assert sorted(step.name for block in blocks for step in block) == sorted(step.name for step in whole)
        groups = [{step.group for step in block} for block in blocks]
        assert sum(map(len, groups)) == len(set().union(*groups))
        assert len(stages.records(stage, "tiny-llama")) == 4
    assert stages.blocks("select", "tiny-llama") == 1 and stages.models_of("choose") == [ALL_MODELS]


def test_there_are_no_more_blocks_than_groups_of_steps():
    stages = Stages(in_blocks(1000))
    assert stages.blocks("train", "tiny-llama") == len(stages.steps("train", "tiny-llama"))


def test_a_run_of_scores_from_elsewhere_has_no_stage():
    stages = Stages(Run.model_validate(TINY.model_dump() | {"scores": "scores.csv"}))
    assert stages.all_records() == []


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Steps that copy text; the list of what they did."""
    did: list[str] = []

    def copy(*, source: Path, out: Path, more: str = "") -> dict[str, str]:
        did.append(out.name)
        if source.read_text() == "bad":
            raise ValueError("it is bad")
        write_json(out, source.read_text() + more)
        return {"copied": source.name}

    monkeypatch.setattr(work, "copy", copy, raising=False)
    monkeypatch.setattr(Step, "code", "v1")
    return did


def copying(folder: Path, name: str, source: str | None = None, **more: str) -> Step:
    read, out = folder / (source or f"{name}.txt"), folder / f"{name}.json"
    manifest = folder / f"{name}.manifest.json"
    return Step("copy", {"file": name}, {"source": read, "out": out, **more}, manifest, (read,), (out,), name)


def test_a_stage_does_again_what_changed_and_nothing_else(copied, tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    record, steps = tmp_path / "stages/copy/model/0-of-1.json", [copying(tmp_path, name) for name in "abc"]

    def again() -> list[str]:
        copied.clear()
        run_stage(steps, record)
        return list(copied)

    assert again() == ["a.json", "b.json", "c.json"] and read_json(tmp_path / "b.manifest.json")["copied"] == "b.txt"
    first = record.read_bytes()
    assert again() == [] and record.read_bytes() == first
    (tmp_path / "b.txt").write_text("another")
    assert again() == ["b.json"] and record.read_bytes() != first
    (tmp_path / "a.json").unlink()
    assert again() == ["a.json"]
    (tmp_path / "c.json").write_text('"corrupt"')
    assert again() == ["c.json"]
    (tmp_path / "c.manifest.json").unlink()
    assert again() == ["c.json"]
    steps[0] = copying(tmp_path, "a", more="!")
    assert again() == ["a.json"]
    before = settings_digest(steps)
    monkeypatch.setattr(Step, "code", "v2")
    assert settings_digest(steps) != before and again() == ["a.json", "b.json", "c.json"]


def test_a_step_that_fails_keeps_no_other_from_being_done_and_is_named_at_the_end(copied, tmp_path):
    for name, text in {"a": "bad", "b": "b"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    steps = [copying(tmp_path, "a"), copying(tmp_path, "b"), copying(tmp_path, "c")]
    record = tmp_path / "stages/copy/model/0-of-1.json"
    with pytest.raises(StepsFailed, match=r"2 of 3 steps failed:\n  copy a: .*it is bad\n  copy c: .*c.txt"):
        run_stage(steps, record)
    assert (tmp_path / "b.json").exists() and not record.exists()
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "c.txt").write_text("c")
    copied.clear()
    run_stage(steps, record)
    assert copied == ["a.json", "c.json"]


def test_a_step_that_is_killed_while_it_writes_is_done_again(copied, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    step, record = copying(tmp_path, "a"), tmp_path / "stages/copy/model/0-of-1.json"
    run_stage([step], record)

    def killed(**_):
        write_json(tmp_path / "a.json", "half")
        raise KeyboardInterrupt

    (tmp_path / "a.txt").write_text("b")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(work, "copy", killed)
        run_stage([step], record)
    (tmp_path / "a.txt").write_text("a")  # as before: what was made of it then is lost all the same
    assert key_in_manifest(step) is None
    run_stage([step], record)
    assert read_json(tmp_path / "a.json") == "a" and key_in_manifest(step) == key_of(step, contents(step))
    assert read_json(step.manifest)["read"] == {str(path): sha256(path) for path in step.inputs}


def test_the_key_of_a_step_is_that_of_the_contents_of_its_inputs(copied, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model/manifest.json", {"sha256": {"model.safetensors": "1"}})
    step = copying(tmp_path, "a")
    with_model = Step("copy", step.of, step.arguments, step.manifest, (*step.inputs, tmp_path / "model"), step.outputs)
    keys = [key_of(step, contents(step)), key_of(with_model, contents(with_model))]
    write_json(tmp_path / "model/manifest.json", {"sha256": {"model.safetensors": "2"}})
    keys.append(key_of(with_model, contents(with_model)))
    assert len(set(keys)) == 3


def count(run: Run) -> Counter[str]:
    """Steps of a run by what they do; trainings on shots apart."""
    stages = Stages(run)
    steps = [step for stage in STAGES for model in stages.models_of(stage) for step in stages.steps(stage, model)]
    return Counter("train_on_shots" if "budget" in step.of and step.work == "train" else step.work for step in steps)


@pytest.mark.slow
def test_the_papers_run_has_the_steps_that_its_grid_asks_for():
    """Two language models with all ways of adaptation, one with dispatch by prompt, one that takes pictures."""
    run = load(ROOT / "config/paper.yaml")
    steps = count(run)
    trainings = [step for model in run.models for step in Stages(run).steps("train", model)]
    assert all(step.arguments["gradient_checkpointing"] for step in trainings)
    svf, lora, classifier = 4, 6 * 2, 4  # points of the sweeps
    everywhere = (3 * 3 + 1) * (svf + lora)
    ablations = 3 * svf + 1 + 6 + 6
    others = 3 * (6 + 2 + 2 + 2)
    assert steps["train"] == everywhere + ablations + others + 2 * classifier
    assert steps["select"] == (3 * 3 + 1) * 2 + 6 + 4 * 3 + 2
    assert steps["train_on_shots"] == 2 * 4
    # four configurations of each search: three tasks and ten shots for both, four budgets more on one task of one of
    # them, both models' experts on the other, and one task about pictures
    assert steps["adapt"] == 4 * (2 * 3 + 4 + 3 + 1)
    assert steps["dispatch"] == (2 * 4 + 2) * 3
    assert steps["transfer"] == 3 * (1 + 3)
    assert steps["answer"] == 342 and steps["score"] == 372 and steps["choose"] == 131


def test_the_default_run_has_the_steps_that_its_grid_asks_for():
    steps = count(load(ROOT / "config.yaml"))
    # Three tasks and two methods for three language models, one task and these two for the vision-language model; six
    # ablations of one expert each, all of these with three seeds; four other methods for one model; a classification
    # expert for the two models that dispatch by one.
    everywhere, ablations, others, classifiers = 3 * (3 * 3 * 2 + 2), 3 * 6, 4 * 3, 2
    assert steps["select"] == everywhere + ablations + others + classifiers
    assert steps["carry_over"] == 2 * 3 * 2, "its backbone's experts by these two, in both states, for the vision model"
    # Two passes: four ways for these two models, two for the third; ten shots for both and for the vision-language
    # model on its one unseen task, other budgets for one.
    assert steps["dispatch"] == 3 * (4 + 4 + 2) and steps["adapt"] == 4 * (2 * 3 + 4 + 3 + 1)
    assert steps["train_on_shots"] == 2 * 4
    # Experts of one model on another: three ordered and three shuffles of each, on their own task and an unseen one;
    # few-shot mixes with both models' experts are three of those above. Equal weights for both, and for the
    # vision-language model.
    assert steps["transfer"] == 3 + 3 * 3 and steps["mix"] == 2 + 1 and steps["bundle"] == 3
    uniform = 2 * 3 + 1
    # Experts on their own tasks, ablations on MATH too, those of five methods on the unseen tasks; all of them and the
    # classification experts in the best state of their training and in the last one.
    base, trained, compared, classes = 3 * 6 + 2, everywhere + 2 * ablations + others, 3 * 3 * (3 + 4) + 3, 2
    searched = steps["adapt"] + steps["train_on_shots"]
    both_states = 2 * (trained + compared + classes)
    assert steps["answer"] == base + 3 + both_states + searched + 2 * steps["transfer"] + uniform
    assert steps["score"] == steps["answer"] + steps["dispatch"]
    assert steps["choose"] == 2 * 2 * (3 * (3 + 4) + 1) + 2 * (2 * 3 + 4 + 3 + 1) + steps["train_on_shots"] + uniform


def test_a_run_without_adaptation_has_base_models_and_both_states_of_every_expert():
    without = {key: value for key, value in TINY.model_dump().items() if key != "adaptation"} | {"adaptation": None}
    steps = count(Run.model_validate(without))
    assert set(steps) == {"train", "select", "answer", "score"} and steps["score"] == 5 + 4 + 2 * (6 + 2 + 2 + 1 + 3)


def test_a_method_whose_last_state_is_the_expert_is_answered_in_that_state_alone():
    svf = TINY.methods["svf"].model_copy(update={"settings": {"select": "last"}})
    run = TINY.model_copy(update={"methods": TINY.methods | {"svf": svf}})
    adapters = {step.of["adapter"] for step in Stages(run).steps("answer", "tiny-llama")}
    assert {"svf-gsm8k-last", "lora-gsm8k", "lora-gsm8k-last"} <= adapters and "svf-gsm8k" not in adapters
    assert count(run)["dispatch"] == 12, "its experts are dispatched to as ever"


def test_the_logs_of_a_training_are_results_of_its_step():
    assert set(LOGS) == set(loop.LOGS)
    step = Stages(TINY).steps("train", "tiny-llama")[0]
    assert {path.name for path in step.outputs} >= set(LOGS)


def test_seeds_multiply_trainings():
    assert count(TINY.model_copy(update={"seeds": [0, 1, 2]}))["train"] == 3 * count(TINY)["train"]


def test_the_results_of_a_run_are_what_its_steps_write_and_nothing_of_an_earlier_configuration(tmp_path):
    folder = tmp_path / "results" / "tiny"
    contents = Contents((), (), (), Stages(TINY).results())
    mine = [
        "data/gsm8k/test.manifest.json", "experts/tiny-llama/classify/cls/seed0/manifest.json",
        "experts/tiny-llama/gsm8k/svf/seed0/manifest.json",
        "mixes/tiny-llama/arc_challenge/10/ia3_2/seed0/last/manifest.json",
        "mixes/tiny-llama/uniform/seed0/manifest.json", "generations/tiny-llama/base/gsm8k/seed0.manifest.json",
    ]  # fmt: skip
    stale = [
        "data/other/test.manifest.json", "experts/tiny-llama/gsm8k/svf/seed7/manifest.json",
        "experts/other/gsm8k/svf/seed0/manifest.json", "mixes/tiny-llama/arc_challenge/99/ia3_2/seed0/manifest.json",
        "generations/other/base/gsm8k/seed0.manifest.json", "scores.manifest.json",
    ]  # fmt: skip
    for name in (*mine, *stale):
        write_json(folder / name, {})
    found = [path.relative_to(folder).as_posix() for path in contents.find(folder, "**/*manifest.json")]
    assert found == sorted(mine)
    imported = Run.model_validate(TINY.model_dump() | {"scores": "scores.csv"})
    assert Stages(imported).results() == {Path("scores.manifest.json")}
