"""Commands that render what a run measured beside what the documents report."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from transformer2 import config as configuration
from transformer2.cli.options import (
    PAPER_TABLES,
    Experts,
    File,
    Text,
    app,
    json_option,
    named,
    one_of,
    rows_of,
)  # fmt: skip
from transformer2.provenance import (
    atomic_write,
    manifest,
    write_json,
)
from transformer2.scoring import task_of
from transformer2.seals import seal_of, sha256


@app.command()
def table(
    ledger: File, out: File, scores: Path | None = None, timings: Path | None = None, experts: Path | None = None
) -> None:
    """Render one table of the documents: reported beside measured; scores (with the counts of parameters of the
    run's experts), or seconds."""
    from transformer2.paper import tables, times

    if (scores is None) == (timings is None):
        raise ValueError("a table is made of --scores or of --timings: give one of them")
    for path in times.render(ledger, timings, out) if timings else tables.render(ledger, scores, out, experts):  # type: ignore[arg-type]
        print(path)


@app.command()
def settings(ledger: File, run: Text, methods: Text, out: File) -> None:
    """Render a table of hyper-parameters: the document's beside a run's; `methods` is JSON, as in config.yaml."""
    from transformer2.paper.settings import render

    given = json_option("--methods", methods)
    of_run = {name: configuration.Method.model_validate(method) for name, method in given.items()}
    for path in render(ledger, run, of_run, out):
        print(path)


@app.command()
def adaptation_figure(kind: Text, data: File, out: File) -> None:
    """Draw how prompts were classified (confusion), or experts mixed (weights, convergence): files as `figure`."""
    from transformer2.paper import adaptation_figures as figures

    kinds = {"confusion": figures.confusion, "weights": figures.weights, "convergence": figures.convergence}
    kinds[one_of("figure", kind, tuple(kinds))](data, out)


@app.command()
def spectrum(
    basis: Annotated[list[str], typer.Option(help="<model>=<its basis>, repeated")], whose: Text, out: File
) -> None:  # fmt: skip
    """Say what the top singular values of every matrix hold; `whose` is JSON: run, stands_in_for, standin by model."""
    from transformer2.frames import write_frame
    from transformer2.spectrum import spectra

    write_frame(spectra(named(basis), json_option("--whose", whose)), out)


@app.command()
def spectrum_figure(spectra: File, model: Text, out: File) -> None:
    """Draw what the top singular values of one model's matrices hold: files as `figure`."""
    from transformer2.paper.spectrum_figures import draw

    draw(spectra, model, out)


@app.command()
def curves(selections: list[Path], whose: Text, out: File) -> None:
    """Put the learning curves of a run into one tidy frame; `whose` as in `spectrum`."""
    from transformer2.frames import curves, write_frame

    write_frame(curves(selections, json_option("--whose", whose)), out)


@app.command()
def learning_figure(
    curves: File, scores: File, model: Text, method: Text, out: File,
    sweep: Annotated[bool, typer.Option(help="Tell the learning rates of the sweep apart.")] = False,
) -> None:  # fmt: skip
    """Draw how the experts of one model and method were learnt: files as `figure`."""
    from transformer2.paper import learning_figures as figures

    (figures.sweep if sweep else figures.learning)(curves, scores, model, method, out)


@app.command()
def illustrate(model: File, expert: Experts, task: Text, data: File, settings: Text, out: File) -> None:
    """Take what the schematic figures show from a run's own objects; `settings` is JSON: what they say besides."""
    from transformer2.illustration import illustration

    facts = json_option("--settings", settings)
    write_json(out, illustration(model, named(expert), task, rows_of(task_of(task), data)[0], facts))


@app.command()
def schematic(kind: Text, facts: File, out: File) -> None:
    """Draw a schematic figure (overview, method, adaptation_prompt, sample): files as `figure`."""
    from transformer2.paper import schematics

    kinds = {kind.__name__: kind for kind in (
        schematics.overview, schematics.method, schematics.adaptation_prompt, schematics.sample
    )}  # fmt: skip
    kinds[one_of("schematic figure", kind, tuple(kinds))](facts, out)


@app.command()
def figure(ledger: File, scores: File, out: File) -> None:
    """Draw one table of the documents, reported beside measured: <out>.pdf, .svg, .png, and the data as .csv."""
    from transformer2.paper.figures import draw

    draw(ledger, scores, out)


@app.command()
def study(scores: File, reference: Text, out: File) -> None:
    """Compare all trained methods of a run with one of them: <out>.md, and a figure with its data."""
    from transformer2.paper.study import study

    study(scores, reference, out)


@app.command()
def audit(out: File, ledger: File = PAPER_TABLES) -> None:
    """Check the documents' numbers against each other: writes <out>.csv and <out>.md."""
    from transformer2.paper.audit import audit

    print(f"{audit(ledger, out)} findings, in {out}.csv and {out}.md")


@app.command()
def claims(frames: list[Path], out: File, ledger: File = PAPER_TABLES) -> None:
    """Judge the documents' sentences by the frames of a run (scores.csv.gz, and of decisions.csv.gz, alphas.csv.gz,
    timings.csv, spectra.csv those that it has): writes <out>.csv and <out>.md."""
    from transformer2.paper.evidence import judge

    print(f"{judge(ledger, frames, out)} claims, in {out}.csv and {out}.md")


@app.command()
def record(run: File, command: Text, out: File) -> None:
    """Keep what a finished run (results/<run>) measured as a Markdown page."""
    from transformer2.paper.record import record

    record(run, command, out)


@app.command()
def explain(cell: str, results: Path | None = None, ledger: Path = PAPER_TABLES) -> None:
    """Follow a cell of a table (arxiv/table1/llama3-8b/svf/gsm8k) back to the answers that it is counted from."""
    from transformer2.paper.explain import explain

    folder = Path("results") / configuration.load(Path("config.yaml")).run if results is None else results
    print(explain(cell, folder, ledger), end="")


@app.command()
def crate(files: list[Path], run: File, settings: Text, snakemake: Text, out: File, root: Path = Path()) -> None:
    """Pack the provenance and results of a finished run (results/<run>) as a Workflow Run RO-Crate.

    `files` are tables, figures, frames and pages to pack; `settings` is JSON: the configuration of the run; `snakemake`
    is its version, `root` the project.
    """
    from transformer2.paper.crate import crate

    crate(
        run,
        files,
        configuration.parse(json_option("--settings", settings)).model_dump(mode="json"),
        root,
        snakemake,
        out,
    )


@app.command()
def import_scores(scores: Path, run: Text, out: File, ledger: Path = PAPER_TABLES) -> None:
    """Put scores that were measured elsewhere (docs/own-scores.md) into the tidy frame of a run."""
    from transformer2.elsewhere import MANIFEST, read
    from transformer2.frames import write_frame

    with manifest(out.with_name(MANIFEST), file=str(scores), sha256=sha256(scores)) as facts:
        frame = read(scores, run, ledger)
        write_frame(frame, out)
        facts["rows"] = len(frame)
    print(f"{len(frame)} scored answers")


@app.command()
def report(
    files: list[Path],
    run: File,
    out: File,
    command: Text = "snakemake --cores all",
    templates: Path = PAPER_TABLES / "templates",
) -> None:
    """Say on one page which of the documents' numbers and claims a run (results/<run>) bears out.

    `files` are its tables (csv, html), figures (svg) and frames.
    """
    from transformer2.paper.report import render

    render(run, files, templates, command, out)


@app.command()
def check(configfile: Path = Path("config.yaml")) -> None:
    """Say whether a configuration is right; a mistake is named with its key, and one of YAML with its line."""
    run = configuration.load(configfile)
    configuration.check_folders(run)
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
            atomic_write(root / name, make())
            seal_of(root / name).unlink()  # checksums are for the files of runs
