"""Renders the table of what two-pass inference takes: the paper's seconds, then those of each model that ran."""

from pathlib import Path
from typing import Any

import pandas as pd

from transformer2.paper import ledger
from transformer2.paper.layout import Group, Page, TextCell, TextColumn, TextRow, write
from transformer2.paper.ledger import TimeRow, TimeTable
from transformer2.paper.measured import read_timings

MEASURED = (
    "Seconds for the whole problem set, measured once for each line, in one process after a warm-up (other jobs may "
    "have shared the machine); in parentheses the first pass in percent of the second."
)
INCOMPARABLE = (
    "The document names neither its model nor its hardware: of its numbers only the percentages can be compared "
    "with ours, and these too depend on how long the answers are."
)


def render(ledger_file: Path, timings_file: Path, out_dir: Path) -> list[Path]:
    """Writes `<out_dir>/<document>/<table>.{md,tex,html,csv}` and returns the four paths.

    `ledger_file` is a table of times, `paper_tables/<document>/<table>.yaml`, with the templates in
    `paper_tables/templates/`; `timings_file` is the frame of seconds of one run.
    """
    table = ledger.read_times(ledger_file)
    timings = read_timings(timings_file)
    run = str(timings["run"].iloc[0])
    standins = list(dict.fromkeys(timings.loc[timings["standin"], "model"]))
    named = [f"Stand-ins, no models of the paper: {', '.join(standins)}."] if standins else []
    reported = Group("The paper (neither model nor hardware named)", [_reported(row) for row in table.rows])
    page = Page(
        table=table,
        run=run,
        unit="Seconds",
        stub="Task",
        columns=[TextColumn("1st pass", "seconds (percent of the 2nd)"), TextColumn("2nd pass", "seconds")],
        groups=[reported, *_groups(table, timings)],
        footnotes=[f"Run: {run}. {MEASURED}", INCOMPARABLE, *named],
    )
    return write(page, tidy(table, timings), ledger_file.parents[1] / "templates", out_dir)


def tidy(table: TimeTable, timings: pd.DataFrame) -> pd.DataFrame:
    """One row a line of the rendered table below the paper's, with the paper's numbers beside ours."""
    reported = pd.DataFrame(
        [
            {
                "document": table.document, "table": table.name, "task": row.task, "reported_n": row.n,
                "reported_first": str(row.first), "reported_second": str(row.second),
                "reported_percent": str(row.ratio),
            }
            for row in table.rows
        ]
    )  # fmt: skip
    ours = timings.loc[timings["strategy"].isin(list(table.strategies))].rename(
        columns={"model": "model_run", "items": "n"}
    )
    ours = ours.assign(percent=_percent(ours["first_seconds"], ours["second_seconds"]))
    return reported.merge(ours, on="task", how="left").astype({"n": "Int64"})


def _groups(table: TimeTable, timings: pd.DataFrame) -> list[Group]:
    groups = []
    for model, of_model in timings.groupby("model", sort=False):
        for strategy, label in table.strategies.items():
            seconds = of_model.loc[of_model["strategy"] == strategy].set_index("task")
            if len(seconds):
                groups.append(Group(f"{model}: {label}", [_measured(row, seconds) for row in table.rows]))
    return groups


def _reported(row: TimeRow) -> TextRow:
    first, second = {"paper": f"{row.first} ({row.ratio}%)", "n": str(row.n)}, {"paper": str(row.second)}
    return TextRow(row.label, [TextCell(first), TextCell(second)])


def _measured(row: TimeRow, seconds: pd.DataFrame) -> TextRow:
    if row.task not in seconds.index:
        return TextRow(row.label, [TextCell({"ours": "not run"}), TextCell({"ours": "not run"})])
    n, first, second = seconds.loc[row.task, ["items", "first_seconds", "second_seconds"]]
    in_first = {"ours": f"{first:.2f} ({_percent(first, second):.1f}%)", "n": f"{n:.0f}"}
    return TextRow(row.label, [TextCell(in_first), TextCell({"ours": f"{second:.2f}"})])


def _percent(first: Any, second: Any) -> Any:
    return 100 * first / second
