"""A page that keeps what a finished run measured: its tables, experts, cost and machine, all read from its files."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from transformer2.config import STRATEGIES
from transformer2.provenance import atomic_write, read_json
from transformer2.statistics import wilson

STAGES = {
    "data": "data",
    "sweeps": "train",
    "experts": "select",
    "generations": "generate",
    "mixes": "adapt",
    "kits": "kit",
    "scores": "score",
    "paper_tables": "table",
    "figures": "figure",
}
"""Folder of a run -> rule whose benchmarks lie there."""


def record(run: Path, command: str, out: Path) -> None:
    """Writes the page of the run in `results/<run>` to `out` as Markdown; `command` is how it was made."""
    scores = pd.read_csv(run / "scores.csv.gz", usecols=["model", "run"])
    models = [run.parent / "models" / name for name in sorted(scores["model"].unique())]
    rows = list(_jobs(run, models))
    jobs, ended = pd.DataFrame(rows), datetime.fromtimestamp(max(row["end"] for row in rows), UTC)
    manifest = read_json(next(iter(sorted(run.glob("sweeps/**/manifest.json")))))
    parts = [
        f"# Run “{scores['run'].iloc[0]}”, {ended:%Y-%m-%d}",
        f"```bash\n{command}\n```",
        _machine(manifest, jobs),
        *(path.read_text().strip() for path in sorted(run.glob("paper_tables/*/*.md"))),
        "## Experts\n\nChosen on validation among the points of each sweep.",
        pd.DataFrame(_experts(run)).to_markdown(index=False, disable_numparse=True),
        *_adaptation(run),
        "## Cost\n\nSeconds and memory of the jobs, by rule (Snakemake's benchmarks).",
        _cost(jobs).to_markdown(),
    ]
    atomic_write(out, "\n\n".join(parts) + "\n")


def _jobs(run: Path, models: list[Path]) -> Iterator[dict[str, Any]]:
    """Every job that left a benchmark: rule, seconds, peak resident memory in MB, when it ended."""
    files = [(_stage(path.relative_to(run)), path) for path in run.rglob("*benchmark.tsv")]
    files += [(path.name.split(".")[0], path) for model in models for path in model.glob("*.benchmark.tsv")]
    for rule, path in files:
        row = pd.read_csv(path, sep="\t", na_values="-").iloc[0]
        yield {"rule": rule, "s": row["s"], "max_rss": row["max_rss"], "end": path.stat().st_mtime}


def _stage(path: Path) -> str:
    """The rule of a benchmark file, by its place in the run's folder."""
    folder, *inner = path.parts
    if folder == "generations" and inner[1] in STRATEGIES:
        return "dispatch"
    return STAGES.get(folder, "collect")


def _machine(manifest: dict[str, Any], jobs: pd.DataFrame) -> str:
    versions = ", ".join(f"{name} {manifest['packages'][name]}" for name in ("torch", "transformers", "peft"))
    wall = (jobs["end"] - (jobs["end"] - jobs["s"]).min()).max()
    return (
        f"{manifest['cpus']} CPU cores, {manifest.get('gpu', 'no GPU')}; Python {manifest['python']}, {versions}; "
        f"commit {manifest['git']}. From the first job's start to the last one's end {wall / 60:.1f} minutes; "
        f"{jobs['s'].sum() / 60:.1f} minutes of jobs in sum; largest job {jobs['max_rss'].max():.0f} MB resident."
    )


def _experts(run: Path) -> Iterator[dict[str, str]]:
    for path in sorted(run.glob("experts/*/*/*/seed*/selection.json")):
        model, task, method, seed = path.parent.relative_to(run / "experts").parts
        choice = read_json(path)
        training = choice["training"]
        yield {
            "model": model,
            "task": task,
            "method": method,
            "seed": seed.removeprefix("seed"),
            "chosen": choice["chosen"],
            "validation of each point": ", ".join(f"{value:.3f}" for value in choice["validation"].values()),
            "best step": f"{training['best_step']} of {training['step']}",
            "trained parameters": f"{training['trained_parameters']:,}",
            "ended": training["stopped"] or "all steps",
        }


def _adaptation(run: Path) -> list[str]:
    """How well prompts were classified, and what the searches found; nothing for a run without adaptation."""
    parts = []
    if (run / "decisions.csv.gz").exists() and len(right := _classified(run)):
        parts.append(
            "## Classification of prompts\n\nShare of prompts that were given the class of their task, in percent, "
            "with Wilson's 95 % interval. Held-out prompts are balanced over the classes, others among them; experts "
            "of the first seed.\n\n" + right.to_markdown(index=False, disable_numparse=True)
        )
    if mixes := list(_mixes(run)):
        found = pd.DataFrame(mixes)
        parts.append(
            "## Mixes of experts\n\nWhat each search found on its shots; alpha is averaged over layers.\n\n"
            + found.to_markdown(index=False, disable_numparse=True)
        )
    return parts


def _classified(run: Path) -> pd.DataFrame:
    decisions = pd.read_csv(run / "decisions.csv.gz")
    decisions["right"] = decisions["class"] == decisions["domain"]
    held_out = pd.read_csv(
        run / "scores.csv.gz", usecols=["model", "method", "task", "seed", "lenient"], keep_default_na=False
    )
    held_out = held_out.loc[(held_out["task"] == "classify") & (held_out["seed"] == held_out["seed"].min())].replace(
        {"method": {"base": "prompt"}}
    )
    held_out = held_out.rename(columns={"method": "strategy", "lenient": "right"}).assign(task="held-out prompts")
    columns = ["model", "strategy", "task", "right"]
    every = pd.concat([held_out[columns], decisions[columns]])
    every = every.assign(shown=every.groupby(columns[:3])["right"].transform(_share))
    return every.pivot_table("shown", ["model", "strategy"], "task", aggfunc="first").fillna("–").reset_index()


def _share(right: pd.Series) -> str:
    low, high = wilson(int(right.sum()), len(right))
    return f"{100 * right.mean():.1f} ({100 * low:.1f}–{100 * high:.1f}), n = {len(right)}"


def _mixes(run: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(run.glob("mixes/*/*/*/*/seed*/adaptation.json")):
        model, task, budget, configuration, seed = path.parent.relative_to(run / "mixes").parts
        found = read_json(path)
        alpha = [sum(of_layers) / len(of_layers) for of_layers in found["alpha"]]
        yield {
            "model": model,
            "task": task,
            "budget": budget,
            "configuration": configuration,
            "seed": seed.removeprefix("seed"),
            "alpha": ", ".join(f"{name} {value:.2f}" for name, value in zip(found["experts"], alpha, strict=True)),
            "shots right": f"{round(found['accuracy'] * found['shots'])} of {found['shots']}",
            "candidates": str(found["history"][-1]["evaluated"]),
            "ended": found["stopped"],
        }


def _cost(jobs: pd.DataFrame) -> pd.DataFrame:
    of_rule = jobs.groupby("rule").agg(
        **{
            "jobs": ("s", "size"),
            "seconds in sum": ("s", "sum"),
            "longest": ("s", "max"),
            "peak MB": ("max_rss", "max"),
        }
    )
    return of_rule.round(1)
