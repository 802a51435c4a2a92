"""Errors that a user can mend, in one line each."""

import dis
import errno
import os
from pathlib import Path

from transformer2.sandbox import SandboxError

HINTS = {
    errno.ENOENT: "give a path that is there",
    errno.EACCES: "choose another place, or change its permissions",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
}
"""What to do where the operating system refuses."""


class StepsFailed(Exception):
    """Some steps of a stage failed; the message names them."""


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
    ours = Path(code.co_filename).is_relative_to(Path(__file__).parent)
    return ours and dis.opname[code.co_code[entry.tb_lasti]] == "RAISE_VARARGS"
