"""A command of the command line, in the process of the tests: without the seconds that its imports take."""

import io
import os
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from conftest import ROOT
from transformer2.cli import main


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `transformer2 <arguments>` prints, and its exit status."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", ["transformer2", *arguments]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            status = 1
    return subprocess.CompletedProcess(list(arguments), status, out.getvalue(), err.getvalue())


def run_in_its_own_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The same of the command as a user starts it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "transformer2", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
