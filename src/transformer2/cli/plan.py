"""The command that tells what a run costs before it is started."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from transformer2 import config as configuration
from transformer2.cli.options import app, one_of
from transformer2.planning.machines import MACHINES
from transformer2.provenance import atomic_write

ANY_CARDS = 10**6
"""More cards than any job asks for."""


@app.command()
def plan(
    configfile: Path = Path("config.yaml"),
    card: Annotated[str, typer.Option(help=f"GPU: {', '.join(MACHINES)}")] = "h100",
    gpu_memory: Annotated[
        float | None, typer.Option(min=1, help="GB of a GPU: names the rows that it can run; the card's without it")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="also write the table (Markdown) to this file")] = None,
) -> None:
    """Tell GPU-hours, memory and disk of the jobs that a run still has to do; nothing is started.

    Run it beside the Snakefile. Jobs come from Snakemake's dry run, seconds of jobs whose like have run from their
    benchmark files, all else from formulas (docs/plan.md).
    """
    from transformer2.paper import ledger
    from transformer2.planning import plan

    machine = MACHINES[one_of("card", card, tuple(MACHINES))]
    run = configuration.load(configfile)
    of_models = plan.sizes(run, ledger.read_all(Path("paper_tables")), Path("results/models"))
    seconds = plan.measured(plan.jobs_of(_dry_run(configfile, "--forceall")), Path())
    found = plan.lines(plan.jobs_of(_dry_run(configfile)), plan.Estimator(run, of_models, machine), seconds)
    memory = machine.memory if gpu_memory is None else gpu_memory
    text = plan.page(found, run, card, machine) + plan.what_fits(found, run, memory)
    print(text)
    if out is not None:
        atomic_write(out, text)


def _dry_run(configfile: Path, *options: str) -> str:
    """What `snakemake -n` prints of the jobs of a run."""
    command = [sys.executable, "-m", "snakemake", "-n", "--nolock", "--configfile", str(configfile), *options]
    command += ["--resources", f"gpu={ANY_CARDS}"]  # a machine's limit would be said of jobs that ask for more
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ValueError(f"snakemake -n failed: {said[-1] if said else 'it said nothing'}")
    return done.stdout + done.stderr
