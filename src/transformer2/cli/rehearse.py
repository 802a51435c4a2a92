"""The command that goes through a run before it is started."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from transformer2 import config as configuration
from transformer2.cli.options import app


@app.command()
def rehearse(
    configfile: Path = Path("config.yaml"),
    cores: Annotated[int | None, typer.Option(help="CPU cores; all without it")] = None,
    keep: Annotated[Path | None, typer.Option(help="new folder that is left with all that was made")] = None,
) -> None:
    """Go through every rule, table and figure of a run in minutes, and name the rules that would fail.

    Run it beside the Snakefile. Models are tiny ones of the same classes with random weights, data are made up; nothing
    is downloaded, and nothing is left in results/ (docs/rehearse.md).
    """
    from transformer2.rehearsal.rehearse import rehearse, seconds
    from transformer2.rehearsal.small import differences

    if not Path("Snakefile").is_file():
        raise ValueError("there is no Snakefile here: run this in the folder of the project")
    if keep is not None and keep.exists():
        raise ValueError(f"{keep} exists: name a folder that does not")
    started, run = time.monotonic(), configuration.load(configfile)
    for line in differences(run):
        typer.echo(line)
    kept = None if keep is None else keep.resolve()
    outcome = rehearse(run, Path.cwd(), cores or len(os.sched_getaffinity(0)), kept)
    for failure in outcome.failures:
        typer.echo(f"\n{failure}")
    typer.echo(f"\n{configfile}: {outcome.done} of {outcome.total} jobs went through in {seconds(started)}")
    if outcome.failures:
        typer.echo(f"{len(outcome.failures)} failed; jobs that need their results were not tried")
        raise typer.Exit(1)
