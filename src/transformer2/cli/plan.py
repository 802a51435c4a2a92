"""The command that tells what a run costs before it is started."""

from pathlib import Path
from typing import Annotated

import typer

from transformer2 import config as configuration
from transformer2.cli.options import PAPER_TABLES, app, one_of
from transformer2.planning.machines import MACHINES
from transformer2.provenance import atomic_write


@app.command()
def plan(
    configfile: Path = Path("config.yaml"),
    gpu: Annotated[str, typer.Option(help=f"GPU: {', '.join(MACHINES)}")] = "h100",
    gpu_memory: Annotated[
        float | None, typer.Option(min=1, help="GB of a GPU: names the rows that it can run; that GPU's own without it")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="also write the table (Markdown) to this file")] = None,
) -> None:
    """Tell GPU-hours, memory and disk of the steps that a run still has to do, and which cells are worth them.

    Nothing is started. Run it beside the Snakefile. Seconds of steps whose like have been done come from their
    manifests, all else from formulas (docs/plan.md).
    """
    from transformer2.planning import plan
    from transformer2.planning import text as words
    from transformer2.report.verdicts import worth_the_hours
    from transformer2.reproduce import ledger
    from transformer2.reproduce.power import power_table
    from transformer2.reproduce.printed import printed_gains
    from transformer2.stages.blocks import Stages

    machine = MACHINES[one_of("gpu", gpu, tuple(MACHINES))]
    run = configuration.load(configfile)
    papers = ledger.read_all(PAPER_TABLES)
    of_models = plan.sizes(run, papers, Path("results/models"))
    jobs, seconds, loads = plan.jobs(Stages(run))
    lines = plan.lines(jobs, plan.Estimator(run, of_models, machine), seconds)
    memory = machine.memory if gpu_memory is None else gpu_memory
    text = words.page(lines, run, gpu, machine, loads) + words.what_fits(lines, run, memory)
    rows = {model.row for model in run.models.values() if model.row}
    text += "\n" + worth_the_hours(power_table(printed_gains(papers)), rows)
    print(text)
    if out is not None:
        atomic_write(out, text, with_checksum=False)
