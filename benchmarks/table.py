"""The table of docs/performance.md, made from the reports beside it."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = "| case | ours / rival | seconds | operations, 10⁹ | memory, MiB | rival / ours: time | operations | memory |"


def table(files: Sequence[Path]) -> str:
    """One row a comparison: each side's numbers, and the rival's over ours."""
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    lines = [row(report) for report in reports if "ratios" in report]
    return "\n".join([HEAD, "|" + " --- |" * (HEAD.count("|") - 1), *lines])


def row(report: dict[str, Any]) -> str:
    [(pair, ratios)] = report["ratios"].items()
    rival, ours = pair.split("/")
    sides = [report["sides"][name] for name in (ours, rival)]
    clock = "seconds" if report["machine"]["device"] == "cuda" or "flops" not in ratios else "processor_seconds"
    seconds = " / ".join(f"{statistics.median(side[clock]):.3g}" for side in sides)
    operations = " / ".join(f"{side['flops'] / 1e9:.4g}" if side["flops"] else "not counted" for side in sides)
    memory = " / ".join(f"{side['peak_bytes'] / 2**20:.0f}" for side in sides) if "peak_bytes" in ratios else ""
    shares = [f"{ratios[kind]:.2f}" if kind in ratios else "" for kind in ("seconds", "flops", "peak_bytes")]
    return f"| {' | '.join([report['case'], f'{ours} / {rival}', seconds, operations, memory, *shares])} |"
