"""What a finished run says of itself: machine, cost, experts, classification of prompts, mixes; read from its files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from transformer2.config import STRATEGIES
from transformer2.provenance import read_json
from transformer2.statistics import wilson

STAGES = {
    "data": "data",
    "sweeps": "train",
    "experts": "select",
    "generations": "generate",
    "mixes": "adapt",
    "transfers": "transfer",
    "kits": "kit",
    "scores": "score",
    "paper_tables": "table",
    "figures": "figure",
}
"""Folder of a run -> rule whose benchmarks lie there."""
COST = "Seconds and memory of the jobs, by rule (Snakemake's benchmarks)."


def jobs(run: Path) -> pd.DataFrame:
    """Every job of `results/<run>`, or of its models, that left a benchmark: rule, seconds, peak resident MB.

    Raises ValueError if there is none.
    """
    rows = list(_jobs(run))
    if not rows:
        raise ValueError(f"{run}: no job left a benchmark here")
    return pd.DataFrame(rows)


def manifests(run: Path) -> list[dict[str, Any]]:
    """What the artifacts of `results/<run>` say of how they came to be; raises ValueError if there is none."""
    found = [read_json(path) for path in sorted(run.rglob("*manifest.json"))]
    if not found:
        raise ValueError(f"{run}: no manifest says what it ran on")
    return found


def span(of_run: list[dict[str, Any]]) -> tuple[datetime, datetime]:
    """When the first of the manifests was begun and the last one ended, in UTC.

    The times of files would not do: a copy of a run has others.
    """
    starts = [datetime.fromisoformat(manifest["started"]) for manifest in of_run]
    ends = [start + timedelta(seconds=manifest["seconds"]) for start, manifest in zip(starts, of_run, strict=True)]
    return min(starts), max(ends)


def machine(of_run: list[dict[str, Any]]) -> dict[str, str]:
    """Hardware, versions and code that the manifests of a run name; where they differ, every value."""
    versions = [
        ", ".join(f"{name} {manifest['packages'][name]}" for name in ("torch", "transformers", "peft"))
        for manifest in of_run
    ]
    return {
        "CPU cores": _distinct(str(manifest["cpus"]) for manifest in of_run),
        "GPU": _distinct(manifest["gpu"] for manifest in of_run if manifest.get("gpu")) or "no GPU",
        "system": _distinct(manifest["platform"] for manifest in of_run),
        "Python": _distinct(manifest["python"] for manifest in of_run),
        "packages": _distinct(versions),
        "commit": _distinct(manifest["git"] or "unknown" for manifest in of_run),
    }


@dataclass(frozen=True)
class Section:
    title: str
    about: str
    table: pd.DataFrame
    """As text, below its column names."""


def sections(run: Path) -> list[Section]:
    """What a run found on its way to the scores: its experts, classes and mixes; those that it has."""
    found = [
        Section("Experts", "Chosen on validation among the points of each sweep.", experts(run)),
        Section(
            "Classification of prompts",
            "Share of prompts that were given the class of their task, in percent, with Wilson's 95 % interval. "
            "Held-out prompts are balanced over the classes, others among them; experts of the first seed.",
            classified(run),
        ),
        Section(
            "Mixes of experts",
            "What each search found on its shots; alpha is averaged over layers.",
            mixes(run),
        ),
    ]
    return [section for section in found if not section.table.empty]


def experts(run: Path) -> pd.DataFrame:
    """Every expert, and how it was chosen, as text; empty for a run without experts."""
    return pd.DataFrame(list(_experts(run)))


def classified(run: Path) -> pd.DataFrame:
    """Share of prompts that were given the class of their task, by model and strategy (rows) and task (columns).

    As text, in percent with Wilson's 95 % interval; empty for a run without dispatch.
    """
    if not (run / "decisions.csv.gz").exists():
        return pd.DataFrame()
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


def mixes(run: Path) -> pd.DataFrame:
    """What each few-shot search found, as text, alpha averaged over layers; empty for a run without searches."""
    return pd.DataFrame(list(_mixes(run)))


def cost(of_run: pd.DataFrame) -> pd.DataFrame:
    """Jobs, seconds and memory by rule."""
    of_rule = of_run.groupby("rule").agg(
        **{
            "jobs": ("s", "size"),
            "seconds in sum": ("s", "sum"),
            "longest": ("s", "max"),
            "peak MB": ("max_rss", "max"),
        }
    )
    return of_rule.round(1)


def _jobs(run: Path) -> Iterator[dict[str, Any]]:
    scores = pd.read_csv(run / "scores.csv.gz", usecols=["model"])
    files = [(_stage(path.relative_to(run)), path) for path in run.rglob("*benchmark.tsv")]
    for name in sorted(scores["model"].unique()):
        files += [(path.name.split(".")[0], path) for path in (run.parent / "models" / name).glob("*.benchmark.tsv")]
    for rule, path in files:
        row = pd.read_csv(path, sep="\t", na_values="-").iloc[0]
        yield {"rule": rule, "s": row["s"], "max_rss": row["max_rss"]}


def _stage(path: Path) -> str:
    """The rule of a benchmark file, by its place in the run's folder."""
    folder, *inner = path.parts
    if not inner:  # what is made once a run; its frame of scores is collected
        name = folder.split(".")[0]
        return "collect" if name == "scores" else name
    if folder == "generations" and inner[1] in STRATEGIES:
        return "dispatch"
    if folder == "mixes" and inner[1] == "uniform":
        return "mix"
    return STAGES.get(folder, folder)


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


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
