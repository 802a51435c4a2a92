"""The command line: one thin command for each step of the workflow; every one of them runs by hand too (`--help`)."""

import dis
import errno
import os
import sys
from pathlib import Path

from transformer2.cli import adaptation, plan, rehearse, run, tables  # noqa: F401  (they hold the commands)
from transformer2.cli.debugging import DEBUG
from transformer2.cli.options import app
from transformer2.sandbox import SandboxError
from transformer2.stages.runner import StepsFailed

MISTAKE = 2
"""Exit status where the user can mend what is wrong, as for a wrong option."""
HINTS = {
    errno.ENOENT: "give a path that is there",
    errno.EACCES: "choose another place, or change its permissions",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
}
"""What to do where the operating system refuses."""
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


def mistake(error: Exception) -> str | None:
    """One line on an error that a user can mend: the operating system refuses, or a check of this package does.

    None for any other: an error of a library, or one that no `raise` of ours is behind, is a bug until we know better.
    """
    if isinstance(error, OSError) and error.errno is not None:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        hint = HINTS.get(error.errno)
        return f"{where}{error.strerror}" + (f"; {hint}" if hint else "")
    if isinstance(error, ValueError | OSError | SandboxError) and _is_raised_here(error):
        return str(error)
    return None


def _is_raised_here(error: Exception) -> bool:
    """Whether a `raise` of this package is behind the error, rather than something that our code called."""
    entry = error.__traceback__
    while entry is not None and entry.tb_next is not None:
        entry = entry.tb_next
    if entry is None:
        return False
    code = entry.tb_frame.f_code
    ours = Path(code.co_filename).is_relative_to(Path(__file__).parents[1])
    return ours and dis.opname[code.co_code[entry.tb_lasti]] == "RAISE_VARARGS"
