"""Which frames, tables and figures a run has, by its configuration; and that nothing of a report imports torch."""

import subprocess
import sys

import pytest

from commands import run as run_command
from conftest import ROOT
from transformer2.config import Run, load
from transformer2.report.contents import Contents, Figure, chosen, figures_of, tables_of
from transformer2.report.figures import DRAW
from transformer2.reproduce.collect import FRAMES
from transformer2.reproduce.frames import Frames
from transformer2.reproduce.inventory import frame_files, illustrated_model
from transformer2.reproduce.ledger import Ledger, read_all


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return read_all(ROOT / "paper_tables")


@pytest.fixture(scope="module")
def tiny() -> Run:
    return load(ROOT / "tests" / "config" / "tiny.yaml")


@pytest.fixture(scope="module")
def unadapted(tiny) -> Run:
    """Without self-adaptation, and with a model of no row of the paper's figures."""
    models = {"other": {"source": "pocket:llama", "row": "llama3-70b"}}
    changes = {"models": models, "adaptation": None, "unseen": {}, "methods": {"svf": {}}, "reference": "svf"}
    tasks = {task: settings.model_dump() for task, settings in tiny.tasks.items() if task != "textvqa"}
    return Run.model_validate(tiny.model_dump() | changes | {"tasks": tasks})


@pytest.fixture(scope="module")
def imported(tiny) -> Run:
    return Run.model_validate(tiny.model_dump() | {"scores": "scores.json"})


def of_tables(ledger: Ledger) -> set[str]:
    """The figures that the ledger alone decides."""
    return {"printed-gains"} | {f"{table.id}{end}" for table in ledger.scores for end in ("", "-gains")}


def names(items) -> set[str]:
    return {item.name for item in items}


def test_a_run_that_does_everything_has_every_table_and_figure(tiny, ledger):
    every = {table.id for tables in (ledger.scores, ledger.times, ledger.settings) for table in tables}
    assert names(tables_of(tiny, ledger)) == every
    schematics = {f"arxiv/figure{n}" for n in (1, 2, 3, 8)}
    others = {"arxiv/figure4", "arxiv/figure6", "arxiv/figure7", "arxiv/figure9", "arxiv/figure10", "convergence"}
    of_scores = of_tables(ledger)
    own = {f"{kind}-{model}" for kind in ("spectrum", "learning") for model in ("tiny-llava", "tiny-next")}
    assert names(figures_of(tiny, ledger)) == of_scores | schematics | others | own


def test_a_run_without_adaptation_has_nothing_of_it(unadapted, ledger):
    tables, figures = tables_of(unadapted, ledger), figures_of(unadapted, ledger)
    assert "times" not in {table.kind for table in tables} and "settings" in {table.kind for table in tables}
    of_scores = of_tables(ledger)
    assert names(figures) == of_scores | {"spectrum-other", "learning-other", "study"}
    assert next(figure for figure in figures if figure.name == "study").formats == ("pdf", "svg", "png", "csv", "md")
    assert set(frame_files(unadapted)) == {
        "scores.csv.gz",
        "experts.csv",
        "curves.csv.gz",
        "half_gain.csv",
        "spectra.csv",
    }


def test_scores_that_were_measured_elsewhere_fill_tables_of_scores_alone(imported, ledger):
    assert {table.kind for table in tables_of(imported, ledger)} == {"scores"}
    assert {figure.kind for figure in figures_of(imported, ledger)} == {"table", "gains", "power"}
    assert frame_files(imported) == ["scores.csv.gz"]


def test_every_frame_and_every_figure_has_a_function_that_makes_it(tiny, unadapted, ledger):
    for run in (tiny, unadapted):
        contents = Contents.of(run, ledger, frozenset())
        assert set(contents.frames) <= set(FRAMES)
        assert {figure.kind for figure in contents.figures} <= {*DRAW, "table", "gains", "power"}
        readers = {name for figure in contents.figures for name in figure.about.frames}
        readers |= {name for table in contents.tables for name in table.frames}
        assert all(hasattr(Frames, name) for name in readers)
        made = {name.split(".")[0] for name in contents.frames} | {"illustration"}
        assert readers <= made, "a figure reads a frame that the run has not"


def test_the_schematic_figures_show_the_model_in_the_place_of_the_papers(tiny):
    assert illustrated_model(tiny) == "tiny-llama"


def test_one_that_the_run_has_not_is_named_with_the_nearest(tiny, ledger):
    figures = figures_of(tiny, ledger)
    assert [figure.name for figure in chosen("figure", figures, ["convergence"])] == ["convergence"]
    assert chosen("figure", figures, []) == figures
    with pytest.raises(ValueError, match="unknown figure 'arxiv/figure66'; did you mean"):
        chosen("figure", figures, ["arxiv/figure66"])
    assert isinstance(figures[0], Figure)


def test_a_configuration_in_the_folder_of_another_run_is_refused(tiny, tmp_path):
    file = tmp_path / "results" / "other" / "run.json"
    file.parent.mkdir(parents=True)
    file.write_text(tiny.model_dump_json())
    result = run_command("tables", f"--run={file}")
    assert result.returncode == 2 and "it must lie in results/tiny/" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


REPORTING = ("tables", "figures", "verdicts", "page", "trace", "crate", "summary")
DRAWING = ("tables", "figures", "verdicts", "page", "crate")
IMPORT = """
import importlib, sys
for module in sys.argv[2:]:
    for absent in sys.argv[1].split():
        sys.modules[absent] = None
    importlib.import_module(f"transformer2.{module}")
    assert not {"torch", "transformers", "peft"} & sys.modules.keys(), module
"""
"""Imports modules one after the other in a process of their own, and names the first that imports too much."""


@pytest.mark.slow
def test_what_reports_a_run_imports_neither_torch_nor_transformers():
    modules = ["reproduce.collect", *(f"report.{name}" for name in REPORTING)]
    subprocess.run([sys.executable, "-c", IMPORT, "", *modules], check=True)


@pytest.mark.slow
def test_what_draws_needs_what_its_environment_has_alone():
    """envs/report.yaml names no safetensors and no tqdm; the page says what the paper's run costs."""
    modules = [*(f"report.{name}" for name in DRAWING), "planning.plan"]
    subprocess.run([sys.executable, "-c", IMPORT, "safetensors tqdm", *modules], check=True)


def test_reproduce_imports_nothing_of_report():
    for path in (ROOT / "src" / "transformer2" / "reproduce").rglob("*.py"):
        assert "transformer2.report" not in path.read_text(encoding="utf-8"), path
