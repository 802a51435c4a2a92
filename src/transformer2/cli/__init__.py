"""The command line: one thin command for each step of the workflow; every one of them runs by hand too (`--help`)."""

import sys

from transformer2.cli import (  # noqa: F401  (they hold the commands)
    adaptation,
    plan,
    rehearse,
    run,
    serving,
    sharing,
    tables,
)
from transformer2.cli.debugging import DEBUG
from transformer2.cli.options import app
from transformer2.mistakes import StepsFailed, mistake

MISTAKE = 2
"""Exit status where the user can mend what is wrong, as for a wrong option."""
UNKNOWN = (
    "This is no mistake that the command knows. If your input is right, it is a bug: please report it with this "
    "traceback (--debug before the command, or TRANSFORMER2_DEBUG=1, shows those of known mistakes too)."
)


def main() -> None:
    """Runs the command line. What a user can mend is one line, anything else keeps its traceback."""
    try:
        app()
    except SystemExit as end:
        broken = getattr(end.__context__, "__cause__", None)
        if not isinstance(broken, EOFError):  # of a file: typer takes it for the end of what somebody types
            raise
        error: Exception = broken
    except StepsFailed as failed:  # what went wrong in each of them is said already
        print(f"error: {failed}", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as caught:
        error = caught
    else:
        return
    if not DEBUG.get():
        if said := mistake(error):
            print(f"error: {said}", file=sys.stderr)
            raise SystemExit(MISTAKE)
        error.add_note(UNKNOWN)
    raise error
