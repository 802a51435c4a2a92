"""A page of Markdown that keeps what a finished run measured: its tables, experts, cost and machine."""

from pathlib import Path

import pandas as pd

from transformer2.paper import account
from transformer2.provenance import atomic_write


def record(run: Path, command: str, out: Path) -> None:
    """Writes the page of the run in `results/<run>` to `out` as Markdown; `command` is how it was made."""
    name = pd.read_csv(run / "scores.csv.gz", usecols=["run"], nrows=1)["run"].iloc[0]
    jobs = account.jobs(run)
    parts = [
        f"# Run “{name}”, {account.ended(jobs):%Y-%m-%d}",
        f"```bash\n{command}\n```",
        _machine(account.machine(run, jobs)),
        *(path.read_text().strip() for path in sorted(run.glob("paper_tables/*/*.md"))),
        *map(_section, account.sections(run)),
        f"## Cost\n\n{account.COST}",
        account.cost(jobs).to_markdown(),
    ]
    atomic_write(out, "\n\n".join(parts) + "\n")


def _machine(facts: dict[str, str]) -> str:
    return (
        f"{facts['CPU cores']} CPU cores, {facts['GPU']}; Python {facts['Python']}, {facts['packages']}; "
        f"commit {facts['commit']}. From the first job's start to the last one's end {facts['first to last']}; "
        f"{facts['sum of jobs']} of jobs in sum; largest job {facts['largest job']} resident."
    )


def _section(section: account.Section) -> str:
    table = section.table.to_markdown(index=False, disable_numparse=True)
    return f"## {section.title}\n\n{section.about}\n\n{table}"
