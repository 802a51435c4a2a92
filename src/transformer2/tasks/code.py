"""What the code tasks share: Magicoder's form of a prompt, reading code out of a reply, running it."""

import ast
import re
import warnings
from collections.abc import Iterable, Sequence

from transformer2.sandbox import Isolation, run_programs
from transformer2.tasks.base import Prompt, Score

# The two spaces in a row are the released code's.
SYSTEM = (
    "You are an exceptionally intelligent coding assistant that  consistently delivers accurate and reliable "
    "responses to user instructions."
)
FENCE = "```"
STOP = (f"\n{FENCE}\n", "Instruction", "Response")


def magicoder(request: str, opening: str) -> Prompt:
    """Magicoder's form, without a chat template: the request, and a reply that begins with `opening` in a Python fence.

    The released code trains after "@@ Response:", a line break and the fence but generates without that line break;
    here both see the same text, and the line break after the fence is part of the prompt.
    """
    return Prompt(text=f"{SYSTEM}\n\n@@ Instruction:\n{request}\n\n@@ Response:\n{FENCE}python\n{opening}")


def parsable_prefix(code: str) -> str:
    """The code up to where it stops being Python: without prose below it, or a statement that the length limit cut."""
    lines = code.split("\n")
    while lines:
        try:
            _parse("\n".join(lines))
        except SyntaxError as error:
            del lines[min(error.lineno or len(lines), len(lines)) - 1 :]
        except (ValueError, RecursionError, MemoryError):  # null bytes; nesting too deep for the parser
            return ""
        else:
            break
    return "\n".join(lines)


def _parse(code: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the model's odd string escapes
        return ast.parse(code)


def fenced_parts(completion: str) -> list[str]:
    """What lies before the first fence, then what follows each fence, without the language that it may name."""
    opening, *parts = completion.split(FENCE)
    return [opening, *(re.sub(r"\A[\w+-]*\n", "", part) for part in parts)]


def first_defining(texts: Iterable[str], entry_point: str) -> str | None:
    """The first text whose parsable prefix defines the function asked for; that prefix."""
    return next((code for text in texts if _defines(code := parsable_prefix(text), entry_point)), None)


def _defines(code: str, entry_point: str) -> bool:
    """Whether the last definition of that name at the top level has more in it than a docstring and imports."""
    for statement in reversed(_parse(code).body):
        match statement:
            case ast.FunctionDef(name=name, body=body) if name == entry_point:
                return not all(map(_idle, body))
            case ast.Assign(targets=[ast.Name(id=name)]) if name == entry_point:
                return True
    return False


def _idle(statement: ast.stmt) -> bool:
    match statement:
        case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
            return True
    return False


def run(
    strict: Sequence[str], lenient: Sequence[str], answers: Sequence[str], isolation: Isolation | None
) -> list[Score]:
    """Scores by two programs for each answer, which pass if they reach their end; equal programs run once.

    Raises:
        SandboxError: no isolation works here (`isolation` is what `sandbox.detect` allowed, None to detect).
    """
    distinct = list(dict.fromkeys([*strict, *lenient]))
    outcomes = run_programs(distinct, isolation=isolation)
    passed = {text: outcome.passed for text, outcome in zip(distinct, outcomes, strict=True)}
    return [
        Score(passed[first], passed[second], answer.strip() or None)
        for first, second, answer in zip(strict, lenient, answers, strict=True)
    ]
