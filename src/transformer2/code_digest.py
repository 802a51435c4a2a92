"""Which code a command runs, and a digest of it: an edit redoes the steps that run the edited code, and no others.

The code is followed name by name, from the function of a command through everything that it refers to in this package:
functions, classes, constants, and what a module does when it is imported. It is read, never imported, so the workflow
needs no torch to know it. Comments, docstrings and the annotations of functions do not count.
"""

import ast
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from symtable import SymbolTable, symtable

PACKAGE = "transformer2"
ROOT = Path(__file__).parent
BOOKKEEPING = frozenset(
    f"{PACKAGE}.{name}"
    for name in ("gpus", "cli.debugging", "mistakes", "provenance", "rehearsal", "checksums", "trackers")
)
"""Modules that reserve GPUs, show errors and curves, write files and check them, or rehearse: none decides what is in
a result."""
COMMANDS = ("adaptation", "plan", "rehearse", "run", "tables")
"""Modules of the command line, in which commands are looked up."""

Name = tuple[str, str]
"""A module and a name that it defines at its top level."""
Reference = tuple[str, str, tuple[str, ...]]
"""A name in a module, and the attributes of it that are used."""


@dataclass
class Module:
    """What a module defines and imports at its top level."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Name] = field(default_factory=dict)
    """Name in this module -> (module, name there); the name is empty if the module itself is meant."""
    effects: list[ast.stmt] = field(default_factory=list)
    """Statements that define nothing but run when the module is imported."""


@dataclass(frozen=True)
class Scope:
    """What a job leaves unused of the code that its command could reach."""

    task: str | None = None
    """The task that the job works on; None: any."""
    without: frozenset[str] = BOOKKEEPING
    """Modules (with what lies in them, if they are packages) that are not followed."""
    unused: frozenset[str] = frozenset()
    """Fields of a `Task` that the command does not read."""


def digest(command: str, task: str | None = None, without: Iterable[str] = (), unused: Iterable[str] = ()) -> str:
    """Sixteen hexadecimal digits of a digest of all code that a command may run.

    Args:
        command: as on the command line.
        task: the one task that the job works on, if the job is of one task.
        without: modules that the job does not use, by their name within the package (`pocket`, `rollout.vllm`).
        unused: fields of a `Task` that the command does not read (`score`, for a command that only answers).

    Raises:
        ValueError: there is no such command.
    """
    scope = Scope(task, BOOKKEEPING | {f"{PACKAGE}.{name}" for name in without}, frozenset(unused))
    return _digest(command, scope)


@cache
def _digest(command: str, scope: Scope) -> str:
    hashed = sha256()
    for name, code in sorted(closure(command, scope).items()):
        hashed.update(f"{name}\n{code}\n".encode())
    return hashed.hexdigest()[:16]


def closure(command: str, scope: Scope) -> dict[Name, str]:
    """The code of every definition that a command may run, by module and name; see `digest`."""
    reached: dict[Name, str] = {}
    waiting = [command_function(command)]
    while waiting:
        name = waiting.pop()
        if name in reached or _left_out(name[0], scope):
            continue
        code, referred = _read_definition(name, scope.task is None, scope.unused)
        reached[name] = code
        for reference in referred:
            waiting += _resolve(*reference, scope)
        module, _, _ = name[0].rpartition(".")
        waiting += [(name[0], ""), *([(module, "")] if module else [])]  # importing it imports its package, too
    return reached


def command_function(command: str) -> Name:
    """Where the function of a command is: of the command line, or a function of a module (`stages.work.train`).

    Raises:
        ValueError: there is none.
    """
    module, _, function = f"{PACKAGE}.{command}".rpartition(".")
    if module != PACKAGE and _path(module) and function in read(module).definitions:
        return module, function
    function = command.replace("-", "_")
    for module in (f"{PACKAGE}.cli.{name}" for name in COMMANDS):
        for statement in read(module).definitions.get(function, []):
            if isinstance(statement, ast.FunctionDef) and statement.decorator_list:
                return module, function
    raise ValueError(f"there is no command {command!r}")


@cache
def _read_definition(name: Name, any_task: bool, unused: frozenset[str]) -> tuple[str, list[Reference]]:
    """The code behind a name, and what it refers to."""
    found = [_read_statement(one, name[0], unused & _fields(one)) for one in _statements(name, any_task)]
    return "\n".join(code for code, _ in found), [reference for _, referred in found for reference in referred]


@cache
def _read_statement(statement: ast.stmt, module: str, unused: frozenset[str]) -> tuple[str, list[Reference]]:
    """The code of a statement without the fields of a `Task` that are not used, and what it refers to."""
    if unused:
        statement = deepcopy(statement)
        (task,) = _tasks(statement)
        task.keywords = [keyword for keyword in task.keywords if keyword.arg not in unused]
    code = ast.unparse(statement)
    return code, [*references(statement, code, module)]


def _fields(statement: ast.stmt) -> frozenset[str]:
    """Those of the `Task` that a statement makes, by their names; none if it makes none."""
    return frozenset(keyword.arg for task in _tasks(statement) for keyword in task.keywords if keyword.arg)


def _tasks(statement: ast.stmt) -> list[ast.Call]:
    value = getattr(statement, "value", None)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Task":
        return [value]
    return []


def references(statement: ast.stmt, code: str, module: str) -> Iterator[Reference]:
    """What a statement of a module, with this code, refers to in this package."""
    imports = dict(read(module).imports)
    visible = _global_names(symtable(code, module, "exec"))
    for node in ast.walk(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            here = _imported(node, module)
            imports |= here
            visible |= here.keys()
    within: set[int] = set()  # nodes that are part of a longer dotted name
    for node in ast.walk(statement):  # outer nodes first
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(f"{PACKAGE}."):
            yield (*_named(node.value), ())  # what a library imports by its name
        elif isinstance(node, ast.Attribute | ast.Name) and id(node) not in within:
            first, *attributes = _parts(node, within)
            if first in visible:
                yield (*imports.get(first, (module, first)), tuple(attributes))


def _parts(node: ast.expr, within: set[int]) -> list[str]:
    """`a.b.c` as its names, if it is a dotted name; the nodes inside of it are added to `within`."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
        within.add(id(node))
    if isinstance(node, ast.Name):
        return [node.id, *attributes]
    within.discard(id(node))
    return [""]


def _named(text: str) -> Name:
    """The module, and the name in it, that a dotted text means."""
    module, _, name = text.rpartition(".")
    return module, name


def _global_names(scope: SymbolTable) -> set[str]:
    """Names that code looks up in its module, not in a function of its own."""
    at_top = scope.get_type() == "module"
    names = {
        symbol.get_name() for symbol in scope.get_symbols() if symbol.is_referenced() and (at_top or symbol.is_global())
    }
    return names.union(*map(_global_names, scope.get_children()))


def _resolve(module: str, name: str, attributes: tuple[str, ...], scope: Scope) -> Iterator[Name]:
    """Where `name.attribute...` of a module is defined; nothing if that is outside of this package."""
    inner = f"{module}.{name}" if name else module
    if scope.task is not None and inner == f"{PACKAGE}.tasks.TASKS":
        yield _definition_of_task(scope.task)
    elif _path(inner) and attributes:
        yield from _resolve(inner, attributes[0], attributes[1:], scope)
    elif _path(inner):
        yield from _all_of(inner)  # a module is handed over as a whole
    elif _path(module):
        if name in read(module).definitions:
            yield module, name
        elif name in read(module).imports:
            yield module, ""
            yield from _resolve(*read(module).imports[name], attributes, scope)


def _statements(name: Name, any_task: bool) -> list[ast.stmt]:
    """The statements behind a name; those that run on import for the empty name."""
    module, defined = name
    defined_there = read(module)
    if not defined:
        return defined_there.effects
    if name == (f"{PACKAGE}.tasks", "_task") and any_task:  # looks tasks up by the names of their modules
        return [*defined_there.definitions[defined], *map(_import_of, map(_definition_of_task, _task_modules()))]
    return defined_there.definitions[defined]


@cache
def _import_of(name: Name) -> ast.stmt:
    return ast.parse(f"def look_up():\n    from {name[0]} import {name[1]}\n    return {name[1]}").body[0]


@cache
def _definition_of_task(task: str) -> Name:
    """Where a `Task` is defined, by its name."""
    module = f"{PACKAGE}.tasks.{_task_modules().get(task, task)}"
    for name, statements in read(module).definitions.items():
        for statement in statements:
            for node in ast.walk(statement):
                if isinstance(node, ast.keyword) and node.arg == "name" and ast.unparse(node.value) == repr(task):
                    return module, name
    raise ValueError(f"{module} defines no task {task!r}")


def _task_modules() -> dict[str, str]:
    """Task -> the module of `tasks` that defines it."""
    (assignment,) = read(f"{PACKAGE}.config.names").definitions["TASK_MODULES"]
    assert isinstance(assignment, ast.Assign | ast.AnnAssign) and assignment.value is not None
    return ast.literal_eval(assignment.value)


class _Trim(ast.NodeTransformer):
    """Takes docstrings and the annotations of functions out of a statement."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        documentation = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Expr(ast.Constant(...)) if documentation else self.generic_visit(node)


@cache
def read(module: str) -> Module:
    """A module of this package, as its source says. Raises ValueError for `from ... import *`."""
    path = _path(module)
    assert path is not None, module
    parsed = Module()
    for statement in _Trim().visit(ast.parse(path.read_text(encoding="utf-8"))).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            parsed.imports |= _imported(statement, module)
        elif names := _defined(statement):
            for name in names:
                parsed.definitions.setdefault(name, []).append(statement)
        elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            parsed.effects.append(statement)
    return parsed


def _defined(statement: ast.stmt) -> list[str]:
    """Names that a statement at the top level defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return [node.id for target in targets if target is not None for node in ast.walk(target)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]  # fmt: skip


def _imported(statement: ast.Import | ast.ImportFrom, module: str) -> dict[str, Name]:
    """Names that an import binds -> (module, name there), those of this package alone."""
    if isinstance(statement, ast.Import):
        bound = {alias.asname or alias.name: (alias.name, "") for alias in statement.names}
    else:
        source = statement.module or ""
        if statement.level:  # `.` is the package itself in its __init__.py, and the module's package elsewhere
            path = _path(module)
            package = f"{module}." if path is not None and path.name == "__init__.py" else module
            source = ".".join(filter(None, [*package.split(".")[: -statement.level], source]))
        bound = {alias.asname or alias.name: (source, alias.name) for alias in statement.names}
    ours = {name: target for name, target in bound.items() if target[0].split(".")[0] == PACKAGE}
    if "*" in ours:
        raise ValueError(f"{module} imports * from {ours['*'][0]}: what it uses cannot be followed")
    return ours


def _all_of(module: str) -> Iterator[Name]:
    yield module, ""
    yield from ((module, name) for name in read(module).definitions)


def _left_out(module: str, scope: Scope) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in scope.without)


@cache
def _path(module: str) -> Path | None:
    """The file of a module of this package; None if there is no such module."""
    head, *parts = module.split(".")
    if head != PACKAGE or not all(part.isidentifier() for part in parts):
        return None
    path = ROOT.joinpath(*parts)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
