"""Running one program under each isolation that works here: what the tests of the sandbox share."""

from typing import Any

import pytest

from transformer2.sandbox import Isolation, Outcome, SandboxError, run_programs


def works(isolation: Isolation) -> bool:
    try:
        return run_programs(["pass"], isolation=isolation)[0].passed
    except SandboxError:
        return False


def _under(*isolations: Isolation) -> pytest.MarkDecorator:
    """The first isolation that works here is tested with the fast tests, the others with the slow ones."""
    working = [isolation for isolation in isolations if works(isolation)]

    def parameter(isolation: Isolation) -> Any:
        skip = pytest.mark.skipif(isolation not in working, reason=f"{isolation} does not work here")
        marks = [skip, pytest.mark.slow] if isolation in working[1:] else [skip]
        return pytest.param(isolation, marks=marks, id=isolation.value)

    return pytest.mark.parametrize("isolation", [parameter(isolation) for isolation in isolations])


isolated_runs = _under(Isolation.BUBBLEWRAP, Isolation.NAMESPACES)
"""Runs a test under every isolation that keeps programs from the host."""
all_runs = _under(*Isolation)
"""The same, and without isolation: limits of time and memory, and the proof of success, are its promises too."""


def run(program: str, isolation: Isolation, timeout: float = 5.0) -> Outcome:
    [outcome] = run_programs([program], isolation=isolation, timeout=timeout)
    return outcome
