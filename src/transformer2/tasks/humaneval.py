"""HumanEval (Chen et al. 2021): 164 functions to write, given signature and docstring; unseen, so only tested on.

The released code (SakanaAI/self-adaptive-llms@03a41ae) takes the tasks from HumanEval+ v0.1.9 and counts the base
tests, by outputs compared with an oracle's. Here both are the original release's: its `test` is run as it stands, and
its prompts differ from HumanEval+ in one task, HumanEval/115, whose import stands inside the function.
"""

import ast
import functools
from collections.abc import Sequence

from transformer2.sandbox import Isolation
from transformer2.tasks import code
from transformer2.tasks.base import Hub, Prompt, Row, Score, Split, Task, Text
from transformer2.tasks.code import FENCE


def question(row: Row) -> str:
    """Signature and docstring, with the imports and functions that stand above them."""
    return row["prompt"].strip()


def prompt(row: Row) -> Prompt:
    """Magicoder's form: the function's head in a fence, and a reply that is opened with a fence and the same head."""
    head = question(row)
    return code.magicoder(f"Write a solution to the following problem:\n{FENCE}python\n{head}\n{FENCE}", head)


def solution(row: Row) -> str:
    """The canonical body and the closing fence."""
    return f"\n{row['canonical_solution'].rstrip()}\n{FENCE}"


def continued(row: Row, part: str) -> str:
    """The head and what the model wrote; like the released code, on a line of its own even without a line break."""
    return f"{question(row)}\n{part}"


def trial(row: Row, answer: str) -> code.Trial:
    """Code on its tests."""
    tests = value_tests(row["test"], row["entry_point"])
    return code.trial(answer, tests, f"{row['test']}\ncheck({row['entry_point']})\n")


@functools.cache
def value_tests(test: str, function: str) -> code.ValueTests | None:
    """The asserts of `check` as values of the function, if all of them are such and nothing else stands beside it."""
    match ast.parse(test).body:
        case [*metadata, ast.FunctionDef(name="check", args=ast.arguments(args=[candidate]), body=body)] if all(
            isinstance(one, ast.Assign) for one in metadata
        ):
            return code.read_values(body, candidate.arg, function)
    return None


def extract_code(row: Row, completion: str) -> str:
    """The code that a reader takes as the answer: the first part between fences that fills or repeats the function.

    A part follows the head whether it is only the body or the whole function again: the second definition counts then,
    and finds the head's imports and helpers.
    """
    parts = [continued(row, part) for part in code.fenced_parts(completion)]
    return code.first_defining(parts, row["entry_point"]) or parts[0]


def score(rows: Sequence[Row], completions: Sequence[str], isolation: Isolation | None = None) -> list[Score]:
    """Strict: head and completion up to the first fence pass the tests. Lenient: what `extract_code` finds does.

    The released code also drops top-level statements behind the function before it runs; this does not.

    Raises:
        SandboxError: no isolation works here (`isolation` is what `sandbox.detect` allowed, None to detect).
    """
    pairs = list(zip(rows, completions, strict=True))
    strict = [trial(row, continued(row, text.partition(FENCE)[0])) for row, text in pairs]
    extracted = [extract_code(row, text) for row, text in pairs]
    lenient = list(map(trial, rows, extracted))
    answers = [text.removeprefix(question(row)) for row, text in zip(rows, extracted, strict=True)]
    return code.run(strict, lenient, answers, isolation)


TASK = Task(
    name="humaneval",
    version=2,
    domain="code",
    columns=dict.fromkeys(("task_id", "prompt", "canonical_solution", "test", "entry_point"), Text),
    source=Hub(
        "openai/openai_humaneval", "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544", ("openai_humaneval/{split}-*.parquet",)
    ),
    splits={"test": Split("test")},
    prompt=prompt,
    question=question,
    solution=solution,
    score=score,
    stop=code.STOP,
    max_new_tokens=512,
    runs_code=True,
    shots_seed=16,
)
