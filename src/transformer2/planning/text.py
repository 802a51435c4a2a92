"""What a plan says, in Markdown."""

from collections.abc import Iterable

import pandas as pd

from transformer2.config import Run

from .costs import GB
from .machines import Machine
from .plan import NOT_ESTIMATED, Line, Loads


def what_fits(planned: Iterable[Line], run: Run, memory: float) -> str:
    """Which rows of the papers' tables GPUs of so many GB can run, and which jobs of the others are too large."""
    said = [f"\n## With {memory:.0f} GB a GPU\n"]
    planned = list(planned)
    for name, model in run.models.items():
        place = model.row or "ours alone"
        on_gpus = [line for line in planned if line.model == name and line.gpu_gb is not None]
        too_big = {line.rule: line.gpu_gb for line in on_gpus if line.gpu_gb and line.gpu_gb > memory}
        asked = f"{model.gpus} GPU{'s' if model.gpus > 1 else ''}"
        if not on_gpus:
            said.append(f"- {name} ({place}): no job of it that is still to run asks for a GPU")
        elif not too_big:
            said.append(f"- {name} ({place}): every job fits on {asked}")
        else:
            jobs = ", ".join(f"{rule} ({size:.0f} GB)" for rule, size in too_big.items())
            fitting = [line.rule for line in on_gpus if line.rule not in too_big]
            also = f"; {', '.join(fitting)} would" if fitting else ""
            said.append(f"- {name} ({place}): does not fit on {asked}: {jobs}{also}")
    return "\n".join(said) + "\n"


def page(planned: list[Line], run: Run, gpu: str, machine: Machine, loads: Loads) -> str:
    """The plan as a Markdown table, one line a rule and model with a model of its own, the others together."""
    rows = []
    small = Line("other rules", "")
    for line in planned:
        if line.gpu_gb is None and line.disk == 0 and NOT_ESTIMATED not in line.how:
            small.jobs, small.cpu_hours = small.jobs + line.jobs, small.cpu_hours + line.cpu_hours
            small.how |= line.how
            continue
        rows.append(_row(line))
    rows.append(_row(small))
    everything = Line(
        "all steps", "", sum(line.jobs for line in planned), sum(line.gpu_hours for line in planned),
        sum(line.cpu_hours for line in planned), max((line.gpu_gb for line in planned if line.gpu_gb), default=None),
        sum(line.disk for line in planned), set(),
    )  # fmt: skip
    rows.append(_row(everything))
    table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return (
        f"# Plan of run “{run.run}” on {gpu}\n\n"
        f"Steps that are still to be done. They take {loads.processes} loads of a model ({loads.steps}, if every step "
        f"had a process of its own) and {loads.engines} starts of vLLM ({loads.engine_steps}). Hours by formula are "
        f"upper estimates of the order of magnitude: no early stopping, {_answered(run)}, 40 % of "
        f"{machine.flops / 1e12:.0f} TFLOP/s and 60 % of {machine.bandwidth / 1e12:.2f} TB/s a GPU. Memory is that of "
        f"the largest job, a GPU.\n\n{table}\n"
    )


def _answered(run: Run) -> str:
    """How long answers are taken to be."""
    batches = "every batch as long as its longest allowed answer"
    if run.engine == "hf":
        return f"{batches} (transformers' own generation)"
    return f"answers of vLLM half as long as allowed, with transformers' own generation {batches}"


def _row(line: Line) -> dict[str, str]:
    return {
        "rule": line.rule,
        "model": line.model,
        "steps": str(line.jobs),
        "GPU-hours": f"{line.gpu_hours:.1f}" if line.gpu_hours else "",
        "CPU-hours": f"{line.cpu_hours:.1f}" if line.cpu_hours else "",
        "GB a GPU": "" if line.gpu_gb is None else f"{line.gpu_gb:.0f}",
        "disk, GB": f"{line.disk / GB:.1f}" if line.disk else "",
        "by": ", ".join(sorted(line.how)),
    }
