"""What the code tasks share: Magicoder's form of a prompt, reading code out of a reply, running it on its tests.

Tests run in one of two ways. Where they are asserts about values of the function asked for (`read_values`), the
sandbox only calls the function, and its values are compared here: an answer gains nothing from objects that equal
everything, from patched builtins or from the sandbox's proof. All other tests run in the sandbox behind the answer.
"""

import ast
import builtins
import functools
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import CodeType, SimpleNamespace
from typing import TypeGuard

from transformer2.sandbox import Isolation, Outcome, Program, run_programs
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


@dataclass(frozen=True)
class ValueTests:
    """Asserts about values of a function: what the sandbox evaluates, and what must hold of each value."""

    imports: tuple[str, ...]
    """Statements that the expressions need."""
    expressions: tuple[str, ...]
    """A call of the function each, made a set, list or tuple where the test does that."""
    conditions: tuple[str, ...]
    """The assert of each, with `VALUE` in the place of the call."""


VALUE = "_value"
_CONVERSIONS = {"list": list, "set": set, "sorted": sorted, "tuple": tuple}
_FUNCTIONS = _CONVERSIONS | {"abs": abs, "chr": chr}
_NAMES = {**_FUNCTIONS, "math": SimpleNamespace(isclose=math.isclose), "__builtins__": {}}


def read_values(statements: Sequence[ast.stmt], name: str, function: str) -> ValueTests | None:
    """Tests as values, if each statement is an import or an assert about one call of the function; None otherwise.

    Args:
        statements: of the tests.
        name: the function's name in the tests.
        function: its name in the answer.
    """
    imports, pairs = [], []
    for statement in statements:
        match statement:
            case ast.Import() | ast.ImportFrom():
                imports.append(ast.unparse(statement))
            case ast.Expr(value=ast.Constant()):
                pass
            case ast.Expr(value=ast.Name(id=builtin)) if hasattr(builtins, builtin):
                pass  # HumanEval/129 has a `print` that prints nothing
            case ast.Assert(test=ast.Constant(value=True)):
                pass
            case ast.Assert(test=test) if pair := _value_and_condition(test, name, function):
                pairs.append(pair)
            case _:
                return None
    expressions, conditions = zip(*pairs, strict=True) if pairs else ((), ())
    return ValueTests(tuple(imports), expressions, conditions) if pairs else None


def _value_and_condition(test: ast.expr, name: str, function: str) -> tuple[str, str] | None:
    """The one call in an assert, and the assert with `VALUE` in its place, if the rest needs no code of the answer."""
    parents = {child: node for node in ast.walk(test) for child in ast.iter_child_nodes(node)}
    uses = [node for node in ast.walk(test) if isinstance(node, ast.Name) and node.id == name]
    if len(uses) != 1:
        return None
    called = parents.get(uses[0])
    if not (isinstance(called, ast.Call) and called.func is uses[0]):
        return None
    uses[0].id = function
    part: ast.expr = called
    while _converts(above := parents.get(part)):
        part = above
    expression = ast.unparse(part)
    condition = _Replace(part).visit(test)
    return (expression, ast.unparse(condition)) if _plain(condition) else None


def _converts(node: ast.AST | None) -> TypeGuard[ast.Call]:
    """Whether a node makes a set, list or tuple of one argument: of an iterator, which has no value to report."""
    match node:
        case ast.Call(func=ast.Name(id=name), args=[_], keywords=[]) if name in _CONVERSIONS:
            return True
    return False


class _Replace(ast.NodeTransformer):
    """Puts `VALUE` in the place of a part of an expression."""

    def __init__(self, part: ast.expr) -> None:
        self.part = part

    def visit(self, node: ast.AST) -> ast.AST:
        return ast.Name(VALUE, ast.Load()) if node is self.part else self.generic_visit(node)


def _plain(node: ast.AST) -> bool:
    """Whether an expression is made of constants, `VALUE` and known functions: evaluating it is safe outside."""
    match node:
        case ast.Constant() | ast.Name(id="_value"):
            return True
        case ast.Call(func=ast.Name(id=name), args=parts, keywords=words) if name in _FUNCTIONS:
            return all(map(_plain, [*parts, *(word.value for word in words)]))
        case ast.Call(func=ast.Attribute(value=ast.Name(id="math"), attr="isclose"), args=parts, keywords=words):
            return all(map(_plain, [*parts, *(word.value for word in words)]))
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()) | ast.Compare() | ast.UnaryOp():
            pass
        case ast.List() | ast.Tuple() | ast.Set() | ast.Dict():
            pass
        case _:
            return False
    return all(map(_plain, (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))))


def _holds(condition: str, value: object) -> bool:
    """Whether an assert holds of a value; not if it raises, as in the sandbox."""
    try:
        return bool(eval(_compiled(condition), {**_NAMES, VALUE: value}))
    except Exception:  # any, as the value is what a program returned
        return False


@functools.lru_cache(maxsize=4096)
def _compiled(condition: str) -> CodeType:
    return compile(condition, "<condition>", "eval")


@dataclass(frozen=True)
class Trial:
    """An answer on its tests: a program, and what must hold of the values of its expressions."""

    program: Program
    conditions: tuple[str, ...] = ()

    def passed(self, outcome: Outcome) -> bool:
        """Whether the program reached its end and every value is as expected."""
        if not outcome.passed or len(outcome.values) != len(self.conditions):
            return False
        return all(map(_holds, self.conditions, outcome.values))


def trial(answer: str, tests: ValueTests | None, runnable: str) -> Trial:
    """An answer on its tests as values, or followed by `runnable` where they are none."""
    if tests is None:
        return Trial(Program("\n".join([answer, runnable])))
    return Trial(Program("\n".join([answer, *tests.imports]), tests.expressions), tests.conditions)


REMEMBERED: dict[tuple[Trial, Isolation | None], bool] = {}
"""Whether a trial passed, of those that this process has run."""
MOST_REMEMBERED = 50_000


def run(
    strict: Sequence[Trial], lenient: Sequence[Trial], answers: Sequence[str], isolation: Isolation | None
) -> list[Score]:
    """Scores by two trials for each answer; equal ones run once a process.

    Adapters and steps of a training often give the same answer. What ended at a limit of time or memory is not
    remembered: it may fare otherwise the next time.

    Raises:
        SandboxError: no isolation works here (`isolation` is what `sandbox.detect` allowed, None to detect).
    """
    distinct = list(dict.fromkeys([*strict, *lenient]))
    passed = {one: REMEMBERED[one, isolation] for one in distinct if (one, isolation) in REMEMBERED}
    new = [one for one in distinct if one not in passed]
    for one, outcome in zip(new, run_programs([one.program for one in new], isolation=isolation), strict=True):
        passed[one] = one.passed(outcome)
        if outcome.reason in ("passed", "failed") and len(REMEMBERED) < MOST_REMEMBERED:
            REMEMBERED[one, isolation] = passed[one]
    return [
        Score(passed[first], passed[second], answer.strip() or None)
        for first, second, answer in zip(strict, lenient, answers, strict=True)
    ]
