"""`python -m benchmarks CASE --device cpu|cuda --out FILE`: measures a case, writes FILE (JSON) and its figure."""

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from . import figure, measuring
from .cases import answers, bases, policy_gradient, programs, scaling, search, step, token
from .table import table

CASES = {
    "step": step,
    "token": token,
    "search": search,
    "bases": bases,
    "answers": answers,
    "programs": programs,
    "policy-gradient": policy_gradient,
    "scaling": scaling,
}
Out = Annotated[Path, typer.Option(help="JSON file to write; a figure of the same name is drawn beside it")]

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)


def command(case: str, measure: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """A command with the options of `measure` and `--out`."""
    signature = inspect.signature(measure)
    out = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=Path(f"{case}.json"), annotation=Out)

    @functools.wraps(measure)
    def run(out: Path, **options: Any) -> None:
        report = {"case": case, "options": {name: recorded(value) for name, value in options.items()}}
        report |= measure(**options) | {"machine": measuring.machine(options.get("device", "cpu"))}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        figure.draw(report, out.with_suffix(".svg"))
        for name in ("ratios", "same", "exponents"):
            print(*(f"{key}: {value}" for key, value in report.get(name, {}).items()), sep="\n")

    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), out])  # type: ignore[attr-defined]
    run.__annotations__ = measure.__annotations__ | {"out": Out}
    return run


def recorded(value: Any) -> Any:
    """An option as the report has it: a folder by its name alone, as its place says nothing elsewhere."""
    return f"folder {Path(value).name}" if isinstance(value, str | Path) and Path(value).is_dir() else value


for name, module in CASES.items():
    app.command(name)(command(name, module.measure))


@app.command("table")
def print_table(files: Annotated[list[Path], typer.Argument(help="reports")]) -> None:
    """Prints the reports of comparisons as one table."""
    print(table(files))


if __name__ == "__main__":
    app()
