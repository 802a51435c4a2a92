"""docs/extending.md, applied as it stands there: two models, two methods and a task are added to a checkout."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_workflow import checkout, planned, snakemake  # noqa: F401

from conftest import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture
def extended(checkout: Path):  # noqa: F811
    """The checkout with the page's blocks in it; taken out again, since other tests share it."""
    blocks = re.findall(r"```(yaml|python)\n(.*?)```", PAGE, re.S)
    assert [kind for kind, _ in blocks] == ["yaml", "yaml", "python", "python", "yaml"]
    config_file, task_file = checkout / "mine.yaml", checkout / "src/transformer2/tasks/parity.py"
    config_file.write_text("".join(text for kind, text in blocks if kind == "yaml"))
    task_file.write_text(blocks[2][1])
    (checkout / "my-data" / "parity").mkdir(parents=True, exist_ok=True)
    module = checkout / "src/transformer2/config/names.py"
    before = module.read_text()
    module.write_text(before.replace("TASK_MODULES = {\n", "TASK_MODULES = {\n    " + blocks[3][1], 1))
    yield checkout
    module.write_text(before)
    task_file.unlink()


@pytest.mark.slow
def test_the_pages_models_methods_and_task_are_planned(extended):
    jobs = planned(snakemake(extended, "-n", "--configfile", "mine.yaml"))
    assert jobs["model"] == 2 and jobs["data"] == 3 + 1  # three splits of the task, one of the unseen one
    assert jobs["train"] == jobs["select"] == jobs["answer"] == jobs["score"] == 2
    program = (
        "from pathlib import Path\n"
        "from transformer2.config import load\n"
        "from transformer2.stages.blocks import Stages\n"
        "from transformer2.stages.steps import STAGES\n"
        "stages = Stages(load(Path('mine.yaml')))\n"
        "print([sum(len(stages.steps(stage, model)) for model in stages.models_of(stage)) for stage in STAGES])"
    )
    environment = os.environ | {"PYTHONPATH": str(extended / "src")}
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=extended, env=environment, capture_output=True, text=True, check=True
    )
    both_states = 2 * (3 + 1)  # each expert, one of them on MATH besides
    train, select, derive, answer, adapt, answer_adapted, score, choose = json.loads(said.stdout)
    assert (train, select) == (2 * (1 + 1 + 2), 2 * 3) and answer == score == 2 * (2 + both_states)
    assert derive == adapt == answer_adapted == choose == 0


@pytest.mark.slow
def test_the_pages_task_scores_and_reads_its_data(extended):
    folder = extended / "my-data" / "parity"
    rows = [{"question": str(i), "answer": "odd" if i % 2 else "even"} for i in range(8)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = snakemake(extended, "results/mine/data/parity/test.jsonl", "--configfile", "mine.yaml")
    assert made.returncode == 0, made.stderr[-2000:]
    program = (
        "from transformer2.tasks import TASKS\n"
        "scores = TASKS['parity'].score([{'answer': 'odd'}] * 3, ['odd', 'It is odd.', 'even'])\n"
        "print([(score.strict, score.lenient) for score in scores])"
    )
    environment = os.environ | {"PYTHONPATH": str(extended / "src")}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[(True, True), (False, True), (False, False)]"
