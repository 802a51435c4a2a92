"""The option of all commands that shows the traceback of every error."""

from contextvars import ContextVar
from typing import Annotated

import typer

from transformer2.cli.options import app

DEBUG: ContextVar[bool] = ContextVar("debug", default=False)


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="TRANSFORMER2_DEBUG", help="Show the traceback of every error.")
    ] = False,
) -> None:
    DEBUG.set(debug)
