"""Whether two answers in LaTeX have the same value: math-verify in a process of its own, within limits.

One hostile line can keep sympy busy for minutes or take gigabytes, and math-verify's own time limits work on the main
thread only. A process can be limited wherever the caller runs. Its time is counted in CPU seconds, so that a busy
machine gives the same verdicts.
"""

import logging
import multiprocessing
import os
import resource
import signal
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache

CPU_SECONDS = 3
"""For one comparison; golds of MATH take milliseconds."""
MEMORY = 2 << 30
"""Bytes of address space that comparisons may take beyond what the process has at its start."""


class OutOfTime(BaseException):
    """No Exception: sympy and math-verify catch those."""


def equal(gold: str, answer: str) -> bool:
    """math-verify's verdict, without limits; it is not symmetric. An inequality may stand for an interval."""
    from math_verify import LatexExtractionConfig, parse, verify  # brings sympy

    def read(latex: str) -> list:
        boxed = LatexExtractionConfig(boxed_match_priority=0)
        return parse(f"\\boxed{{{latex}}}", [boxed], extraction_mode="first_match", parsing_timeout=0)

    return verify(read(gold), read(answer), allow_set_relation_comp=True, timeout_seconds=0)


def equal_within_limits(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """`equal` for pairs of gold and answer; False where it raises, takes too long, or breaks its process."""
    distinct = list(dict.fromkeys(pairs))
    verdicts: list[bool] = []
    suspect = None
    while len(verdicts) < len(distinct):
        try:
            for verdict in _judge().map(_verdict, *zip(*distinct[len(verdicts) :], strict=True)):
                verdicts.append(verdict)
        except (BrokenProcessPool, OutOfTime):
            _judge.cache_clear()
            if suspect == len(verdicts):  # twice: the first time, something else may have ended the process
                verdicts.append(False)
            suspect = len(verdicts)
    by_pair = dict(zip(distinct, verdicts, strict=True))
    return [by_pair[pair] for pair in pairs]


@cache
def _judge() -> ProcessPoolExecutor:
    """The process, started once: importing sympy takes as long as hundreds of comparisons."""
    judge = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_limit)
    try:
        sane = judge.submit(_verdict, "1", "1").result()
    except BrokenProcessPool as error:
        raise RuntimeError("the process that compares answers does not start") from error
    if not sane:
        raise RuntimeError("math-verify does not find that 1 equals 1")
    return judge


def _limit() -> None:
    """In that process: its memory, and silence about time limits that are not math-verify's."""
    import math_verify  # noqa: F401  its size is not an answer's

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = size + MEMORY if hard == resource.RLIM_INFINITY else min(size + MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.signal(signal.SIGPROF, _stop)


def _stop(*_: object) -> None:
    raise OutOfTime


def _verdict(gold: str, answer: str) -> bool:
    """In that process: `equal` within the time limit. The signal comes again if something swallowed the exception."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS, 1)
    try:
        return equal(gold, answer)
    except (Exception, OutOfTime):
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
