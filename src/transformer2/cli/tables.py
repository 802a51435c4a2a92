"""Commands that make the frames of a run, and tables, figures and pages of them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transformer2 import config as configuration
from transformer2 import trackers
from transformer2.cli.options import PAPER_TABLES, File, Text, app
from transformer2.provenance import atomic_write, write_json

if TYPE_CHECKING:
    from transformer2.report.contents import Contents

RunFile = Annotated[Path, typer.Option("--run", help="results/<run>/run.json, the resolved configuration")]
PaperRun = Annotated[Path, typer.Option(help="the configuration that has all that the papers report")]
PAPER_RUN = Path(__file__).parents[1] / "config" / "paper.yaml"
Only = Annotated[list[str], typer.Option(help="one that is wanted, such as arxiv/table1; repeated; all without it")]


def run_of(file: Path) -> tuple[configuration.Run, Path]:
    """The run of a resolved configuration, and its folder, in which the file lies.

    Raises:
        ValueError: the folder is that of another run, or is not in `results/`.
    """
    run, folder = configuration.load(file), file.absolute().parent
    if (folder.parent.name, folder.name) != ("results", run.run):
        raise ValueError(f"{file} is of run {run.run}: it must lie in results/{run.run}/")
    return run, folder


def contents_of(run: configuration.Run, ledger: Path) -> "Contents":
    """What a run has to show: its tables, figures and frames, and the results of its steps."""
    from transformer2.report.contents import Contents
    from transformer2.reproduce.ledger import read_all
    from transformer2.stages.blocks import Stages

    return Contents.of(run, read_all(ledger), Stages(run).results())


@app.command()
def frames(run: RunFile, ledger: Path = PAPER_TABLES) -> None:
    """Put what a run measured into tidy frames beside its configuration: scores, experts, decisions, ..."""
    from transformer2.reproduce.collect import write_frames

    for path in write_frames(*run_of(run), ledger):
        print(path)


@app.command()
def illustrate(run: RunFile, out: File) -> None:
    """Take what the schematic figures show from a run's own models and experts."""
    from transformer2.reproduce.illustration import of_run

    write_json(out, of_run(*run_of(run)))


@app.command()
def tables(run: RunFile, only: Only = [], ledger: Path = PAPER_TABLES) -> None:  # noqa: B006
    """Render the papers' tables, reported beside measured: results/<run>/paper_tables/<table>.{md,tex,html,csv}."""
    from transformer2.report.tables import write_tables
    from transformer2.reproduce.ledger import read_all

    print(*write_tables(*run_of(run), read_all(ledger), ledger / "templates", only), sep="\n")


@app.command()
def figures(run: RunFile, only: Only = [], ledger: Path = PAPER_TABLES) -> None:  # noqa: B006
    """Draw the figures of a run: results/<run>/figures/<figure>.{pdf,svg,png}, and what they show as .csv."""
    from transformer2.report.figures import write_figures
    from transformer2.reproduce.ledger import read_all

    print(*write_figures(*run_of(run), read_all(ledger), only), sep="\n")


@app.command()
def audit(out: File, ledger: File = PAPER_TABLES) -> None:
    """Check the papers' numbers against each other, and what their gains can show: writes <out>.csv, <out>.md, and the
    gains with the items that they need as <out>-gains.{csv,pdf,svg,png}."""
    from transformer2.report.figures.gains import draw_power
    from transformer2.report.verdicts import write_audit
    from transformer2.reproduce.power import power_table
    from transformer2.reproduce.printed import read_printed

    print(f"{write_audit(ledger, out)} findings, in {out}.csv and {out}.md")
    draw_power(power_table(read_printed(ledger)), out.with_name(f"{out.name}-gains"))
    print(f"what the printed gains can show, in {out}-gains.csv, .pdf, .svg and .png")


@app.command()
def verdicts(run: RunFile, paper: PaperRun = PAPER_RUN, ledger: Path = PAPER_TABLES) -> None:
    """Judge the papers' gains and claims by what a run measured, say how far each number has come, and audit the papers
    themselves: writes verdicts.{csv,md}, verdicts-pooled.csv, claims.{csv,md}, coverage.csv and audit.{csv,md} beside
    the run's configuration."""
    from transformer2.report.verdicts import write_audit, write_claims, write_coverage, write_gains
    from transformer2.reproduce.budgets import budgets
    from transformer2.reproduce.claims.measured import Measurements
    from transformer2.reproduce.frames import Frames
    from transformer2.reproduce.inventory import frame_files
    from transformer2.reproduce.ledger import read_all

    of_run, folder = run_of(run)
    measured = Measurements.read(Frames(folder), frame_files(of_run), budgets(of_run))
    cells = write_gains(read_all(ledger), measured, folder / "verdicts")
    print(f"{cells} cells with a method, in {folder}/verdicts.csv and verdicts.md")
    print(f"{write_claims(ledger, measured, folder / 'claims')} claims, in {folder}/claims.csv and claims.md")
    covered = write_coverage(ledger, measured, of_run, configuration.load(paper), folder)
    print(f"{covered} numbers and claims, in {folder}/coverage.csv")
    print(f"{write_audit(ledger, folder / 'audit')} findings, in {folder}/audit.csv and audit.md")


@app.command()
def report(
    run: RunFile, command: Text = "snakemake --cores all", paper: PaperRun = PAPER_RUN, ledger: Path = PAPER_TABLES
) -> None:
    """Say on one page which of the papers' numbers and claims a run reproduces: results/<run>/report.html."""
    from transformer2.planning.plan import whole_gpu_hours
    from transformer2.report.page import render
    from transformer2.reproduce.ledger import read_all

    of_run, folder = run_of(run)
    hours = whole_gpu_hours(configuration.load(paper), read_all(ledger))
    render(folder, contents_of(of_run, ledger), ledger / "templates", command, hours, folder / "report.html")


@app.command()
def record(run: RunFile, command: Text, out: File, ledger: Path = PAPER_TABLES) -> None:
    """Keep what a finished run measured as a Markdown page; `command` is how it was made."""
    from transformer2.report import summary

    of_run, folder = run_of(run)
    summary.write(folder, contents_of(of_run, ledger), command, out)


@app.command()
def explain(cell: str, results: Path | None = None, ledger: Path = PAPER_TABLES) -> None:
    """Follow a cell of a table (arxiv/table1/llama3-8b/svf/gsm8k) back to the answers that it is counted from."""
    from transformer2.report.trace import explain

    folder = Path("results") / configuration.load(Path("config.yaml")).run if results is None else results
    print(explain(cell, folder, ledger), end="")


@app.command()
def crate(run: RunFile, snakemake: Text, root: Path = Path(), ledger: Path = PAPER_TABLES) -> None:
    """Pack the provenance and results of a finished run as a Workflow Run RO-Crate: results/<run>/run.crate.zip.

    `snakemake` is its version, `root` the project.
    """
    from transformer2.report.crate import write_crate

    of_run, folder = run_of(run)
    write_crate(of_run, folder, contents_of(of_run, ledger), root, ledger, snakemake)


@app.command()
def import_scores(scores: Path, run: Text, out: File, ledger: Path = PAPER_TABLES) -> None:
    """Put scores that were measured elsewhere (docs/own-scores.md) into the tidy frame of a run."""
    from transformer2.reproduce.collect import import_scores

    print(f"{import_scores(scores, run, out, ledger)} scored answers")


@app.command()
def check(configfile: Path = Path("config.yaml")) -> None:
    """Say whether a configuration is right; a mistake is named with its key, and one of YAML with its line."""
    run = configuration.load(configfile)
    configuration.check_folders(run)
    trackers.check(run.report_to)
    print(f"{configfile}: run {run.run} is right: {len(run.models)} models, {len(run.trained)} methods")


@app.command()
def schema(
    root: Path = Path(), check: Annotated[bool, typer.Option(help="Only say whether the files are stale.")] = False
) -> None:
    """Write config.yaml and its JSON schema from the configuration classes."""
    targets: dict[str, Callable[[], str]] = {
        "config.yaml": configuration.default_yaml,
        "workflow/schemas/config.schema.json": configuration.json_schema,
    }
    for name, make in targets.items():
        if check and (not (root / name).exists() or (root / name).read_text(encoding="utf-8") != make()):
            raise ValueError(f"{name} is stale: run `python -m transformer2 schema`")
        if not check:
            atomic_write(root / name, make(), with_checksum=False)
