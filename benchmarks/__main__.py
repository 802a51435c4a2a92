"""`python -m benchmarks CASE --device cpu|cuda --out FILE`: measures a case, writes FILE (JSON) and its figure."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from transformer2.provenance import write_json

from . import figure, measuring
from .cases import answers, bases, policy_gradient, programs, scaling, search, step, token

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
        report = {
            "case": case,
            "options": {name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
        }
        report |= measure(**options) | {"machine": measuring.machine(options.get("device", "cpu"))}
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, report)
        figure.draw(report, out.with_suffix(".svg"))
        for name in ("ratios", "same", "exponents"):
            print(*(f"{key}: {value}" for key, value in report.get(name, {}).items()), sep="\n")

    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), out])  # type: ignore[attr-defined]
    run.__annotations__ = measure.__annotations__ | {"out": Out}
    return run


for name, module in CASES.items():
    app.command(name)(command(name, module.measure))


if __name__ == "__main__":
    app()
