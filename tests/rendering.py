"""Tables and figures of one ledger file and frames in files: what the tests of rendering share."""

from pathlib import Path

from transformer2.config import Method
from transformer2.report.figures import scores as score_figures
from transformer2.report.layout import write
from transformer2.report.tables import scores, settings, times
from transformer2.reproduce import ledger
from transformer2.reproduce.budgets import Budgets
from transformer2.reproduce.frames import read_experts, read_scores, read_timings


def render(
    ledger_file: Path, scores_file: Path, out: Path, experts_file: Path | None = None, budgets: Budgets | None = None
) -> list[Path]:
    """A table of accuracies in all formats, in `out`."""
    experts = read_experts(experts_file) if experts_file else None
    everything = ledger.read_all(ledger_file.parents[1])
    made = scores.table(ledger.read(ledger_file), everything, read_scores(scores_file), experts, True, budgets or {})
    return write(*made, ledger_file.parents[1] / "templates", out)


def render_times(ledger_file: Path, timings_file: Path, out: Path) -> list[Path]:
    made = times.table(ledger.read_times(ledger_file), read_timings(timings_file))
    return write(*made, ledger_file.parents[1] / "templates", out)


def render_settings(ledger_file: Path, run: str, methods: dict[str, Method], out: Path) -> list[Path]:
    made = settings.table(ledger.read_settings(ledger_file), run, methods)
    return write(*made, ledger_file.parents[1] / "templates", out)


def draw(ledger_file: Path, scores_file: Path, out: Path) -> None:
    """The picture of a table of accuracies."""
    score_figures.draw(ledger.read(ledger_file), read_scores(scores_file), out)
