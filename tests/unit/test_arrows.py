"""Imports inside the package go one way: from commands down to configuration and files, never up and never in a circle.

Read from the syntax tree, so imports inside functions count too; those for type checkers alone do not.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import transformer2

PACKAGE = Path(transformer2.__file__).parent
LAYERS: tuple[tuple[str, set[str]], ...] = (
    ("files, programs and machines", {
        "gpus", "code_digest", "hub", "mistakes", "paths", "provenance", "sandbox", "checksums", "svf", "trackers",
    }),
    ("the configuration of a run", {"config"}),
    ("tasks, answers and experts", {
        "adapters", "data", "experts", "grid", "harness", "pocket", "rehearsal", "rollout", "rows", "scoring", "tasks",
        "transfer",
    }),
    ("models and what is done with them", {"adaptation", "evaluation", "models", "training"}),
    ("what is reported, served and given away", {
        "eval_results", "export", "model_card", "push", "report", "reproduce", "serving",
    }),
    ("the steps of a run, and what they cost", {"planning", "stages"}),
    ("commands", {"__main__", "cli"}),
)  # fmt: skip
"""Layers from the bottom up, and their packages and modules. Each may import those of its own layer and below."""


def modules() -> dict[str, ast.Module]:
    """Syntax tree of every module of the package, by its dotted name below `transformer2`."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def imported(name: str, tree: ast.AST) -> Iterator[str]:
    """Dotted names below `transformer2` that a module imports, with the names taken from them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            names = (one.name for one in node.names)
            yield from (name.removeprefix("transformer2.") for name in names if name.startswith("transformer2."))
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:  # from .sibling import ...
                is_package = (PACKAGE / name.replace(".", "/")).is_dir()
                parents = name.split(".")[: None if is_package and node.level == 1 else is_package - node.level]
                module = ".".join(["transformer2", *parents, *([module] if module else [])])
            if module == "transformer2" or module.startswith("transformer2."):
                yield from (f"{module}.{one.name}".removeprefix("transformer2.") for one in node.names)
        else:
            yield from imported(name, node)


def graph() -> dict[str, set[str]]:
    """Package or module of the top level -> those that it imports."""
    arrows: dict[str, set[str]] = {}
    for name, tree in modules().items():
        importer = name.split(".")[0]
        arrows.setdefault(importer, set()).update(target.split(".")[0] for target in imported(name, tree))
    return {name: (targets & arrows.keys()) - {name} for name, targets in arrows.items()}


def test_relative_and_nested_imports_are_read():
    tree = ast.parse(
        "from .basis import decompose\nfrom ..checksums import verified\nif TYPE_CHECKING:\n    from ..cli import app\n"
        "def f():\n    from transformer2 import hub\n    import transformer2.config.run, torch"
    )
    assert list(imported("svf.layer", tree)) == ["svf.basis.decompose", "checksums.verified", "hub", "config.run"]
    assert list(imported("svf", ast.parse("from .config import SVFConfig"))) == ["svf.config.SVFConfig"]


def test_every_package_has_a_layer():
    placed = set().union(*(names for _, names in LAYERS))
    assert not (graph().keys() - placed), "name the layer of what is new in LAYERS"
    assert sum(len(names) for _, names in LAYERS) == len(placed), "one layer each"


def test_no_arrow_points_up():
    height = {name: level for level, (_, names) in enumerate(LAYERS) for name in names}
    upwards = {(a, b) for a, targets in graph().items() for b in targets if height[b] > height[a]}
    assert upwards == set()


def test_no_packages_import_each_other():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' <- '.join(error.args[1])}") from None


def test_training_needs_nothing_of_self_adaptation():
    arrows = graph()
    needed: set[str] = set()
    new = {"training"}
    while new:
        needed |= new
        new = set().union(*(arrows[name] for name in new)) - needed
    assert "adaptation" not in needed


def test_svf_needs_nothing_else_of_the_package():
    assert graph()["svf"] == set(), "it can be lifted out as it is"
