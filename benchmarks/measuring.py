"""Clocks, peaks of memory, counted operations, and two sides of a comparison in turns."""

import ctypes
import gc
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from transformer2.provenance import environment, forget_peak_memory

Work = Callable[[], Any]
_MMAP_THRESHOLD = -3
"""glibc's name of the size from which on a block is mapped, and so given back when it is freed (`mallopt`)."""


@dataclass(frozen=True)
class Side:
    """One of the things that are compared: `build` makes its state and returns the work that is measured."""

    name: str
    build: Callable[[], Work]


@dataclass
class Measured:
    """What was seen of one side; `result` is that of its first work."""

    result: Any
    flops: int
    peak_bytes: int
    seconds: list[float]
    processor_seconds: list[float]

    def facts(self) -> dict[str, Any]:
        return {
            "flops": self.flops,
            "peak_bytes": self.peak_bytes,
            "seconds": [round(value, 4) for value in self.seconds],
            "processor_seconds": [round(value, 4) for value in self.processor_seconds],
        }


def compare(sides: Sequence[Side], repeats: int, device: str) -> dict[str, Measured]:
    """Builds each side and does its work once, for operations and memory, then `repeats` times in turns, for time.

    Operations are those of products of matrices (`torch.utils.flop_counter`). The peak of memory is above what the
    process (on a GPU: torch) held before the side was built, so it has the side's own state in it. Every second round
    goes through the sides backwards.
    """
    works, measured = {}, {}
    for side in sides:
        works[side.name], measured[side.name] = first(side, device)
    for repeat in range(repeats):
        for side in sides if repeat % 2 == 0 else reversed(sides):
            wall, processor = timed(works[side.name], device)
            measured[side.name].seconds.append(wall)
            measured[side.name].processor_seconds.append(processor)
    return measured


def first(side: Side, device: str) -> tuple[Work, Measured]:
    """The work of a side, and what its first run took: operations and memory."""
    _map_blocks_from(1 << 20)
    before = held_bytes(device)
    work = side.build()
    forget_peak_memory()
    with FlopCounterMode(display=False) as counter:
        result = work()
    peak = peak_bytes(device) - before
    _map_blocks_from(32 << 20)
    return work, Measured(result, counter.get_total_flops(), peak, [], [])


def timed(work: Work, device: str) -> tuple[float, float]:
    """Seconds by the clock, and seconds of processors in this process and the children it waited for."""
    started = clocks(device)
    work()
    return since(started, device)


def clocks(device: str) -> tuple[float, float]:
    """The clock, and the seconds of processors used so far, when all work so far is done."""
    gc.collect()
    synchronise(device)
    return time.perf_counter(), _processor_seconds()


def since(started: tuple[float, float], device: str) -> tuple[float, float]:
    """Seconds by both clocks since `started`."""
    synchronise(device)
    return time.perf_counter() - started[0], _processor_seconds() - started[1]


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def held_bytes(device: str) -> int:
    """Memory that this process (on a GPU: torch) holds now."""
    gc.collect()
    if device == "cuda":
        return torch.cuda.memory_allocated()
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    return _status("VmRSS")


def peak_bytes(device: str) -> int:
    """The most memory since `forget_peak_memory`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def ratios(measured: dict[str, Measured], ours: str, rival: str, device: str) -> dict[str, float]:
    """The rival's seconds, operations and memory over ours: above 1, ours is better.

    Time is that of processors on a CPU, where other programs take turns with this one, and that of the clock on a GPU.
    """
    a, b = measured[ours], measured[rival]
    pairs = {"seconds": (_time(a, device), _time(b, device)), "flops": (a.flops, b.flops),
             "peak_bytes": (a.peak_bytes, b.peak_bytes)}  # fmt: skip
    return {name: round(theirs / mine, 3) for name, (mine, theirs) in pairs.items() if mine > 0 and theirs > 0}


def _time(measured: Measured, device: str) -> float:
    return statistics.median(measured.seconds if device == "cuda" else measured.processor_seconds)


def machine(device: str) -> dict[str, Any]:
    """Versions, commit and hardware."""
    facts = environment() | {"processor": processor(), "threads": torch.get_num_threads(), "device": device}
    del facts["command"]
    return facts | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


def processor() -> str:
    """Name of the processor, with the units for short numbers that it has."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        name = re.search(r"model name\s*: (.*)", text)
        units = [unit for unit in ("avx512f", "avx512_bf16", "amx_bf16") if re.search(rf"\b{unit}\b", text)]
        return " ".join([name[1] if name else "unknown processor", *units])
    return "unknown processor"


def _processor_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def _map_blocks_from(size: int) -> None:
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, size)
