"""Programs in the sandbox: many in one call, against a sandbox started for each, as many at a time."""

import statistics
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from transformer2.sandbox import Program, detect, run_programs

from ..measuring import Measured, Side, compare
from ..options import Programs, Repeats, Workers


def measure(repeats: Repeats = 3, programs: Programs = 40, workers: Workers = 2) -> dict[str, Any]:
    """Programs in the sandbox, against one call a program, as many at a time."""
    text = "def double(x):\n    return 2 * x\n"
    texts = [Program(f"{text}assert double({i}) == {2 * i}", (f"double({i})",)) for i in range(programs)]
    isolation = detect()

    def together() -> list[Any]:
        return [outcome.values for outcome in run_programs(texts, workers=workers, isolation=isolation)]

    def alone(text: Program) -> Any:
        [outcome] = run_programs([text], workers=1, isolation=isolation)
        return outcome.values

    def each_alone() -> list[Any]:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(alone, texts))

    measured = compare([Side("together", lambda: together), Side("each_alone", lambda: each_alone)], repeats, "cpu")
    pairs = zip(measured["together"].result, measured["each_alone"].result, strict=True)
    return {
        "sides": {name: one.facts() for name, one in measured.items()},
        "ratios": {"each_alone/together": {"seconds": by_clock(measured)}},
        "same": {"values": sum(a == b for a, b in pairs), "of": programs},
        "isolation": isolation.value,
    }


def by_clock(measured: dict[str, Measured]) -> float:
    """Seconds of the rival over ours by the clock: the processors' seconds of a killed sandbox are not known."""
    ours, rival = (statistics.median(measured[name].seconds) for name in ("together", "each_alone"))
    return round(rival / ours, 3)
