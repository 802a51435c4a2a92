"""The command line: one thin command for each step of the workflow; every one of them runs by hand too (`--help`)."""

import traceback
from pathlib import Path

from transformer2.cli import adaptation, plan, run, tables  # noqa: F401  (they hold the commands)
from transformer2.cli.options import app
from transformer2.sandbox import SandboxError


def main() -> None:
    """Runs the command line. A mistake that this package found is one line; anything else keeps its traceback."""
    try:
        app()
    except (ValueError, OSError, SandboxError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if Path(frames[-1].filename).is_relative_to(Path(__file__).parents[1]):
            raise SystemExit(f"error: {error}") from None
        raise
