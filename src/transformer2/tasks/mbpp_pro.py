"""MBPP-Pro: MBPP+ v0.1.0 (Austin et al. 2021; EvalPlus, Liu et al. 2023), base tests only.

The papers do not say what "MBPP-Pro" is. The released code (SakanaAI/self-adaptive-llms@03a41ae) takes the 399 tasks of
MBPP+ v0.1.0, splits them as `release_splits` does and counts the base tests; every reported value is a k/99. It is
neither MBPP+ v0.2.0 (378 tasks) nor the later benchmark "MBPP Pro" (Yu et al. 2024).

Here the base tests are the release's own asserts. EvalPlus compares outputs with an oracle instead and makes exceptions
for some tasks; two of the 399 canonical solutions, Mbpp/164 and Mbpp/295, therefore fail their plain asserts.
"""

import ast
import functools
import gzip
import json
import random
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from transformer2.sandbox import Isolation
from transformer2.tasks import code
from transformer2.tasks.base import Prompt, Release, Row, Score, Split, Task, Text
from transformer2.tasks.code import FENCE

ADDRESS = "https://raw.githubusercontent.com/evalplus/mbppplus_release/3f0efe4ee7457d4718bd997c01697a1e9157e40c/MbppPlus.jsonl.gz"
"""MBPP+ v0.1.0: on no hub, so taken from the release's own repository."""
SHA256 = "57d639e77667d88930052b2b07212011c25c0bab94dfc1f19d15e1f7f558bfa9"


def release_splits(records: Sequence[Row]) -> dict[str, list[Row]]:
    """The released code's split of the release: the first 300 shuffled by seed 16 to 200 and 100, the other 99 test."""
    pool = list(range(300))
    random.Random(16).shuffle(pool)
    parts = {"train": pool[:200], "validation": pool[200:], "test": range(300, len(records))}
    return {split: [_row(records[i]) for i in part] for split, part in parts.items()}


def _row(record: Row) -> Row:
    """The columns that count; the asserts of three tasks use `math` and do not import it."""
    row = {key: record[key] for key in ("task_id", "prompt", "entry_point", "canonical_solution")}
    imports = ["import math"] if "math." in record["assertion"] else []
    return row | {"test_imports": imports, "test": record["assertion"]}


def read_release(content: bytes) -> dict[str, list[Row]]:
    """The splits of the release's file."""
    return release_splits([json.loads(line) for line in gzip.decompress(content).splitlines()])


def prompt(row: Row) -> Prompt:
    """Magicoder's form: the docstring's request, its assert in a fence, and an open Python fence."""
    request, assertion = _request(row)
    stop = "" if request.endswith(".") else "."
    return code.magicoder(
        f"{request}{stop} Your code should satisfy the following assertion:\n{FENCE}python\n{assertion}\n{FENCE}", ""
    )


def question(row: Row) -> str:
    """The docstring's request and its assert."""
    return "\n".join(_request(row))


def _request(row: Row) -> tuple[str, str]:
    text = row["prompt"]
    docstring = text[text.index('"""') + 3 : text.rindex('"""')]
    start = docstring.index("assert")
    return docstring[:start].strip(), docstring[start:].strip()


def with_request(prompt: str) -> str:
    """A prompt.

    Raises ValueError if it has no docstring with a request and an assert.
    """
    if prompt.count('"""') < 2 or "assert" not in prompt[prompt.index('"""') : prompt.rindex('"""')]:
        raise ValueError('should be a docstring in """ that holds an assert')
    return prompt


def solution(row: Row) -> str:
    """The canonical code and the closing fence."""
    return f"{row['canonical_solution'].strip()}\n{FENCE}"


def trial(row: Row, answer: str) -> code.Trial:
    """Code on its base tests."""
    imports = "\n".join(row["test_imports"])
    tests = value_tests(imports, row["test"], row["entry_point"])
    return code.trial(answer, tests, f"{imports}\n{row['test']}")


@functools.cache
def value_tests(imports: str, test: str, function: str) -> code.ValueTests | None:
    """The base tests as values of the function, if all of them are such."""
    return code.read_values(ast.parse(f"{imports}\n{test}").body, function, function)


def extract_code(completion: str, entry_point: str) -> str:
    """The code that a reader takes as the answer: the first part between fences that defines the function asked for."""
    parts = code.fenced_parts(completion)
    return code.first_defining(parts, entry_point) or parts[0]


def score(rows: Sequence[Row], completions: Sequence[str], isolation: Isolation | None = None) -> list[Score]:
    """Strict: the completion up to the first fence passes the base tests. Lenient: what `extract_code` finds does.

    The released code also drops unreachable statements of the cut text before it runs; this does not.

    Raises:
        SandboxError: no isolation works here (`isolation` is what `sandbox.detect` allowed, None to detect).
    """
    pairs = list(zip(rows, completions, strict=True))
    strict = [trial(row, text.partition(FENCE)[0]) for row, text in pairs]
    extracted = [extract_code(text, row["entry_point"]) for row, text in pairs]
    return code.run(strict, list(map(trial, rows, extracted)), extracted, isolation)


TASK = Task(
    name="mbpp_pro",
    version=3,
    domain="code",
    columns={
        "prompt": Annotated[Text, AfterValidator(with_request)],
        "entry_point": Text,
        "canonical_solution": Text,
        "test_imports": list[str],
        "test": Text,
    },
    source=Release(ADDRESS, SHA256, "MBPP+ v0.1.0", read_release),
    splits={name: Split(name) for name in ("train", "validation", "test")},
    prompt=prompt,
    question=question,
    solution=solution,
    score=score,
    stop=code.STOP,
    max_new_tokens=512,
    runs_code=True,
)
