"""A page of Markdown that keeps what a finished run measured: its tables, experts, cost and machine."""

from pathlib import Path
from typing import Any

import pandas as pd

from transformer2.paper import account
from transformer2.paper.layout import markdown
from transformer2.provenance import atomic_write


def record(run: Path, command: str, out: Path) -> None:
    """Writes the page of the run in `results/<run>` to `out` as Markdown; `command` is how it was made."""
    name = pd.read_csv(run / "scores.csv.gz", usecols=["run"], nrows=1)["run"].iloc[0]
    jobs, manifests = account.jobs(run), account.manifests(run)
    parts = [
        f"# Run “{name}”, {account.span(manifests)[1]:%Y-%m-%d}",
        f"```bash\n{command}\n```",
        _machine(manifests, jobs),
        *(path.read_text(encoding="utf-8").strip() for path in sorted(run.glob("paper_tables/*/*.md"))),
        *map(_section, [*account.sections(run, list(run.iterdir())), account.cost(jobs)]),
    ]
    atomic_write(out, "\n\n".join(parts) + "\n")


def _machine(manifests: list[dict[str, Any]], jobs: pd.DataFrame) -> str:
    facts, (began, ended) = account.machine(manifests), account.span(manifests)
    return (
        f"{facts['CPU cores']} CPU cores, {facts['GPU']}; Python {facts['Python']}, {facts['packages']}; "
        f"commit {facts['commit']}. From the first artifact's start to the last one's end "
        f"{(ended - began).total_seconds() / 60:.1f} minutes; {jobs['s'].sum() / 60:.1f} minutes of jobs in sum; "
        f"largest job {jobs['max_rss'].max():.0f} MB resident."
    )


def _section(section: account.Section) -> str:
    return f"## {section.title}\n\n{section.about}\n\n{markdown(section.table.fillna('–'))}"
