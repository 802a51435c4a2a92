"""MBPP-Pro: the 399 tasks of MBPP+ v0.1.0 (Austin et al. 2021, Liu et al. 2023), base tests only."""

from collections.abc import Sequence

from transformer2.tasks.base import Prompt, Row, Score, Split, Task

# The two spaces are the released code's.
SYSTEM = (
    "You are an exceptionally intelligent coding assistant that  consistently delivers accurate and reliable "
    "responses to user instructions."
)
FENCE = "```"


def prompt(row: Row) -> Prompt:
    text = row["prompt"]
    docstring = text[text.index('"""') + 3 : text.rindex('"""')]
    start = docstring.index("assert")
    request, example = docstring[:start].strip(), docstring[start:].strip()
    request += "" if request.endswith(".") else "."
    return Prompt(
        text=f"{SYSTEM}\n\n@@ Instruction:\n{request} Your code should satisfy the following assertion:\n"
        f"{FENCE}python\n{example}\n{FENCE}\n\n@@ Response:\n{FENCE}python\n"
    )


def solution(row: Row) -> str:
    return f"{row['canonical_solution'].strip()}\n{FENCE}"


def program(row: Row, code: str) -> str:
    return "\n".join([code, *row["test_imports"], row["test"]])


def score(rows: Sequence[Row], completions: Sequence[str]) -> list[Score]:
    from transformer2.sandbox import run_programs

    codes = [completion.split(FENCE)[0] for completion in completions]
    outcomes = run_programs([program(r, code) for r, code in zip(rows, codes, strict=True)], timeout=5.0, workers=2)
    return [Score(o.passed, o.passed, code) for o, code in zip(outcomes, codes, strict=True)]


TASK = Task(
    name="mbpp_pro",
    version=1,
    domain="code",
    columns=("prompt", "canonical_solution", "test_imports", "test"),
    hub=lambda split: [],
    splits={"train": Split("train"), "validation": Split("validation"), "test": Split("test")},
    prompt=prompt,
    solution=solution,
    score=score,
    stop=("\n```\n", "Instruction", "Response"),
    max_new_tokens=512,
    runs_code=True,
)
