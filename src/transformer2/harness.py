"""The tasks as task files for lm-eval, which then asks and scores exactly as this package does.

A task file names functions of this module, so lm-eval runs where this package is installed. Each document is a row with
its prompt written out; both scores of an answer come from the task's own scorer. Programs that a model wrote run in the
sandbox of this package, never in the harness.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from transformer2.data import read_split
from transformer2.rows import read_rows
from transformer2.scoring import scored_task
from transformer2.tasks import BENCHMARKS, VISION, Row, Task

PREFIX = "transformer2_"
SHARED = "_transformer2_yaml"
"""What all task files include. Its name does not end like theirs, so that it is taken for none."""
PICTURE = "<image>"
"""Where lm-eval shows a picture in a text."""
TEMPLATE = """\
# What the tasks of transformer2 share: made by `transformer2 lm-eval`, as the files beside it.
custom_dataset: !function transformer2.harness.documents
test_split: test
output_type: generate_until
num_fewshot: 0
description: system
doc_to_text: user
gen_prefix: opening
doc_to_target: solution
target_delimiter: ""
process_results: !function transformer2.harness.verdicts
metric_list:
  - {metric: strict, aggregation: mean, higher_is_better: true}
  - {metric: lenient, aggregation: mean, higher_is_better: true}
"""
PICTURES = "doc_to_image: !function transformer2.harness.pictures\n"


def documents(**given: Any) -> dict[str, Any]:
    """The test rows of a task as lm-eval takes them: `rows` as a `datasets.Dataset`, under the name of their split.

    lm-eval brings the library; this package does not need it.
    """
    from datasets import Dataset  # pyright: ignore[reportMissingImports]

    return {"test": Dataset.from_list(rows(**given))}


def rows(task: str, file: str | None = None, source: str = "hub", family: str = "", **_: Any) -> list[dict[str, Any]]:
    """The test rows of a task, each as a `document`.

    Everything but `task` comes from `lm_eval run --metadata '{...}'`, where other keys stand, too.

    Args:
        task: name of the task.
        file: rows of a run, such as results/<run>/data/gsm8k/test.jsonl; None: all test rows from `source`.
        source: as `data.choose_rows` takes it: hub or dir:<folder>.
        family: of the model (its `model_type`), for tasks that ask families differently.

    Raises:
        ValueError: as `rows.read_rows` and `data.choose_rows`.
        SandboxError: the task runs code, and no isolation works here; said before anything is answered.
    """
    of = scored(task).for_family(family)
    chosen = read_rows(of, Path(file)) if file else read_split(of, source, "test")
    return [document(of, row) for row in chosen]


def document(task: Task, row: Row) -> dict[str, Any]:
    """A row with its prompt in lm-eval's parts: system message, user message, opening of the reply.

    A task without a chat has its whole prompt in `user`.
    """
    prompt = task.prompt(row)
    messages = {message["role"]: message["content"] for message in prompt.messages}
    user = messages["user"] if messages else prompt.text
    parts = {
        "task": task.name, "item": row["item"], "system": messages.get("system", ""),
        "user": user if prompt.picture is None else f"{PICTURE}{user}", "opening": prompt.text if messages else "",
        "solution": task.solution(row), "row": json.dumps({k: v for k, v in row.items() if k != "image"}),
    }  # fmt: skip
    if prompt.picture is not None:
        picture = prompt.picture
        parts["picture"] = picture if isinstance(picture, bytes) else picture.read_bytes()
    return parts


def verdicts(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Both scores of the answer to a document."""
    (score,) = scored(doc["task"]).score([json.loads(doc["row"])], results)
    return {"strict": float(score.strict), "lenient": float(score.lenient)}


def pictures(doc: dict[str, Any]) -> list[Any]:
    """The picture of a document, decoded."""
    from transformer2.rollout.pictures import decode_picture  # brings torch, which texts do not need

    return [decode_picture(doc["picture"])]


@cache
def scored(name: str) -> Task:
    """The task; one that runs code with the isolation that works here."""
    return scored_task(name, allow_unsandboxed_code=False)


def task_files() -> dict[str, str]:
    """Name of file -> content, for every data set of the paper."""
    return {SHARED: TEMPLATE} | {f"{PREFIX}{name}.yaml": task_file(of) for name, of in (BENCHMARKS | VISION).items()}


def task_file(task: Task) -> str:
    """The task file of one task."""
    kind = "vision" if task.name in VISION else "code" if task.runs_code else "chat"
    facts = {
        "include": SHARED,
        "task": PREFIX + task.name,
        "tag": PREFIX + kind,
        "dataset_kwargs": {"task": task.name},
        "generation_kwargs": {"until": [*task.stop], "do_sample": False, "max_gen_toks": task.max_new_tokens},
        "unsafe_code": task.runs_code,
        "metadata": {"version": task.version},
    }
    return yaml.safe_dump(facts, sort_keys=False) + (PICTURES if kind == "vision" else "")


def write_task_files(out: Path) -> list[Path]:
    """Writes all task files into a folder; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    for name, content in task_files().items():
        (out / name).write_text(content, encoding="utf-8")
    return [out / name for name in task_files()]
