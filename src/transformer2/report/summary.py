"""A finished run in short: machine, cost, experts, classification of prompts and mixes, read from its files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from transformer2 import paths
from transformer2.provenance import atomic_write, read_json
from transformer2.report import places, text
from transformer2.report.contents import Contents
from transformer2.report.layout import markdown
from transformer2.reproduce.cells import main_states
from transformer2.reproduce.collect import selections
from transformer2.reproduce.format_gain import format_gains
from transformer2.reproduce.frames import Frames
from transformer2.reproduce.statistics import wilson

UNTRAINED = " (untrained: no state was better on validation than the start)"
FORM = (
    "Base → expert on the test items, by the lenient score. A gain is split in two: points by items where one of both "
    "answers cannot be read (its form), and points by items where both can be read, with their 95 % interval. A gain "
    "by the form alone is no gain in knowledge or skill: a prompt may give it, too."
)
HALF_GAIN = (
    "The first update after which accuracy on validation is at or above the mean of its value before training and its "
    "best one, by straight lines between evaluations; samples are as many batches. Of the point of each sweep that was "
    "chosen, one value a seed. Not reached: no evaluation was above that before training. A gain of a few items may be "
    "chance."
)
COST = "Seconds and memory of the jobs, by what they write (Snakemake's benchmarks)."


def jobs(run: Path) -> pd.DataFrame:
    """Every job of `results/<run>`, or of its models, that left a benchmark: what it wrote, seconds, peak resident MB.

    Raises ValueError if there is none.
    """
    rows = list(_jobs(run))
    if not rows:
        raise ValueError(f"{run}: no job left a benchmark here")
    return pd.DataFrame(rows)


def manifests(run: Path, contents: Contents) -> list[dict[str, Any]]:
    """What the artifacts of `results/<run>` say of how they came to be; raises ValueError if there is none."""
    manifests = [manifest(path) for path in contents.find(run, "**/*manifest.json")]
    if not manifests:
        raise ValueError(f"{run}: no manifest says what it ran on")
    return manifests


def manifest(path: Path) -> dict[str, Any]:
    """What one artifact says of how it came to be; ValueError with what to do if it is missing or corrupt."""
    try:
        facts = read_json(path)
    except FileNotFoundError:
        raise ValueError(f"there is no {path}: make it again") from None
    if missing := [key for key in ("started", "seconds", "git", "python", "packages") if key not in facts]:
        raise ValueError(f"{path} has no {missing[0]}; delete what it describes to make it again")
    return facts


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
        ", ".join(f"{name} {manifest['packages'][name] or 'unknown'}" for name in ("torch", "transformers", "peft"))
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


def sections(run: Path, contents: Contents) -> list[Section]:
    """What came before the scores of a run: its experts, classes and mixes, as far as it has them now."""
    parts = [
        Section("Experts", "Chosen on validation among the points of each sweep.", experts(run, contents)),
        Section("What the form of the answers adds", FORM, form(Frames(run).scores)),
        Section(
            "Classification of prompts",
            "Share of prompts that were given the class of their task, in percent, with Wilson's 95 % interval. "
            "Held-out prompts are balanced over the classes, others among them; experts of the first seed.",
            classified(run) if "decisions.csv.gz" in contents.frames else pd.DataFrame(),
        ),
        Section(
            "Mixes of experts",
            "The best mix of each search on its shots; alpha is averaged over layers.",
            mixes(run, contents),
        ),
    ]
    return [section for section in parts if not section.table.empty]


def form(scores: pd.DataFrame) -> pd.DataFrame:
    """The gain of every expert on its own task, split by whether answers can be read, as text."""
    gains = format_gains(main_states(scores))
    if gains.empty:
        return gains
    gains = gains.loc[gains["trained_on"] == gains["task"]]
    percent = {name: gains[name].map("{:.1f}".format) for name in ("base_read", "read", "base_of_read", "of_read")}
    points = {name: gains[name].map(text.signed) for name in ("gain", "form", "both")}
    spans = [text.signed_span(*ends) for ends in gains[["low", "high"]].itertuples(index=False)]
    return pd.DataFrame({
        **gains[["model", "method", "task"]],
        "read, %": percent["base_read"] + " → " + percent["read"],
        "right of these, %": percent["base_of_read"] + " → " + percent["of_read"],
        "gain": points["gain"], "by form": points["form"],
        "where both are read": [f"{both} ({span})" for both, span in zip(points["both"], spans, strict=True)],
        "n": [f"{seeds} × {n}" if seeds > 1 else str(n) for seeds, n in gains[["seeds", "n"]].itertuples(index=False)],
    })  # fmt: skip


def experts(run: Path, contents: Contents) -> pd.DataFrame:
    """Every expert, and how it was chosen, as text; empty for a run without experts."""
    return pd.DataFrame(list(_experts(run, contents)))


def half_gain(run: Path) -> Section:
    """Updates and samples to half of the gain of every expert, as text, beside each other for its seeds."""
    frame = Frames(run).half_gain
    percent = {name: (100 * frame[name]).map("{:.1f}".format) for name in ("base", "best")}
    shown = pd.DataFrame({
        **frame[["model", "method", "task"]],
        "before, %": percent["base"], "best, %": percent["best"], "items": frame["n"].astype(str),
        **{f"{name} to half": _or_not_reached(frame[name]) for name in ("updates", "samples")},
    })  # fmt: skip
    by_expert = shown.groupby(["model", "method", "task"], sort=False)
    return Section("Updates and samples to half of the gain", HALF_GAIN, by_expert.agg("; ".join).reset_index())


def _or_not_reached(numbers: Iterable[Any]) -> list[str]:
    return ["not reached" if pd.isna(number) else f"{number:,}" for number in numbers]


def classified(run: Path) -> pd.DataFrame:
    """Share of prompts that were given the class of their task, by model and strategy (rows) and task (columns).

    As text, in percent with Wilson's 95 % interval.
    """
    frames = Frames(run)
    decisions = frames.decisions.assign(right=frames.decisions["class"] == frames.decisions["domain"])
    held_out = main_states(frames.scores)
    held_out = held_out.loc[(held_out["task"] == "classify") & (held_out["seed"] == held_out["seed"].min())].replace(
        {"method": {"base": "prompt"}}
    )
    held_out = held_out.rename(columns={"method": "strategy", "lenient": "right"}).assign(task="held-out prompts")
    columns = ["model", "strategy", "task", "right"]
    every = pd.concat([held_out[columns], decisions[columns]])
    every = every.assign(shown=every.groupby(columns[:3])["right"].transform(_share))
    return every.pivot_table("shown", ["model", "strategy"], "task", aggfunc="first").fillna("–").reset_index()


def mixes(run: Path, contents: Contents) -> pd.DataFrame:
    """The best mix of each few-shot search, as text, alpha averaged over layers; empty for a run without searches."""
    return pd.DataFrame(list(_mixes(run, contents)))


def cost(of_run: pd.DataFrame) -> Section:
    """Jobs, seconds and memory by the folder of the run that they write to, or by the file."""
    of_part = of_run.groupby("part").agg(
        **{
            "jobs": ("s", "size"),
            "seconds in sum": ("s", "sum"),
            "longest": ("s", "max"),
            "peak MB": ("max_rss", "max"),
        }
    )
    return Section("Cost", COST, of_part.round(1).reset_index())


def _jobs(run: Path) -> Iterator[dict[str, Any]]:
    scores = pd.read_csv(run / "scores.csv.gz", usecols=["model"])
    files = [(path.relative_to(run).parts[0].split(".")[0], path) for path in run.rglob("*benchmark.tsv")]
    for name in sorted(scores["model"].unique()):
        files += [(path.name.split(".")[0], path) for path in (run.parent / "models" / name).glob("*.benchmark.tsv")]
    for part, path in files:
        row = pd.read_csv(path, sep="\t", na_values="-").iloc[0]
        yield {"part": part, "s": row["s"], "max_rss": row["max_rss"]}


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _experts(run: Path, contents: Contents) -> Iterator[dict[str, str]]:
    for path in contents.find(run, "experts/*/*/*/seed*/selection.json"):
        expert = places.read(paths.EXPERT, path.parent, run)
        choice, of_last = selections(path.parent)
        training, last = choice["training"], of_last["training"]
        yield {
            **{key: expert[key] for key in ("model", "task", "method", "seed")},
            "chosen": choice["chosen"],
            "validation of each point": ", ".join(f"{value:.3f}" for value in choice["validation"].values()),
            "best step": f"{training['best_step']} of {training['step']}" + UNTRAINED * (training["best_step"] == 0),
            "last state": f"{last['last_validation']:.3f} after {last['step']} steps of {of_last['chosen']}",
            "trained parameters": f"{training['trained_parameters']:,}",
            "ended": training["stopped"] or "all steps",
            "collapsed": "" if last["collapsed_at"] is None else f"{of_last['chosen']} at step {last['collapsed_at']}",
        }


def _share(right: pd.Series) -> str:
    return text.percent_of(float(right.mean()), *wilson(int(right.sum()), len(right)), len(right))


def _mixes(run: Path, contents: Contents) -> Iterator[dict[str, Any]]:
    for path in contents.find(run, "mixes/*/*/*/*/seed*/adaptation.json"):
        mix, record = places.read(paths.MIX, path.parent, run), read_json(path)
        alpha = [sum(of_layers) / len(of_layers) for of_layers in record["alpha"]]
        yield {
            **{key: mix[key] for key in ("model", "task", "budget", "configuration", "seed")},
            "alpha": ", ".join(f"{name} {value:.2f}" for name, value in zip(record["experts"], alpha, strict=True)),
            "shots right": f"{round(record['accuracy'] * record['shots'])} of {record['shots']}",
            "candidates": str(record["history"][-1]["evaluated"]),
            "ended": record["stopped"],
        }


def write(run: Path, contents: Contents, command: str, out: Path) -> None:
    """Writes what the finished run in `results/<run>` measured to `out` as Markdown: its tables, experts, cost and
    machine; `command` is how it was made."""
    of_jobs, of_run = jobs(run), manifests(run, contents)
    tables = sorted(contents.table_files("md"))
    parts = [
        f"# Run “{run.name}”, {span(of_run)[1]:%Y-%m-%d}",
        f"```bash\n{command}\n```",
        _machine(of_run, of_jobs),
        *((run / file).read_text(encoding="utf-8").strip() for file in tables),
        *map(_section, [*sections(run, contents), cost(of_jobs)]),
    ]
    atomic_write(out, "\n\n".join(parts) + "\n", with_checksum=False)


def _machine(of_run: list[dict[str, Any]], of_jobs: pd.DataFrame) -> str:
    facts, (began, ended) = machine(of_run), span(of_run)
    return (
        f"{facts['CPU cores']} CPU cores, {facts['GPU']}; Python {facts['Python']}, {facts['packages']}; "
        f"commit {facts['commit']}. From the first artifact's start to the last one's end "
        f"{(ended - began).total_seconds() / 60:.1f} minutes; {of_jobs['s'].sum() / 60:.1f} minutes of jobs in sum; "
        f"largest job {of_jobs['max_rss'].max():.0f} MB resident."
    )


def _section(section: Section) -> str:
    return f"## {section.title}\n\n{section.about}\n\n{markdown(section.table.fillna('–'))}"
