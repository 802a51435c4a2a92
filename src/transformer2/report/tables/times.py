"""A table of what two-pass inference takes: the paper's seconds, then those of each model that ran."""

from typing import Any

import pandas as pd

from transformer2.report import text
from transformer2.report.layout import Group, Page, TextCell, TextColumn, TextRow
from transformer2.reproduce.ledger import TimeRow, TimeTable

MEASURED = (
    "Seconds for the whole problem set, measured once for each line, in one process after a warm-up (other jobs may "
    "have shared the machine); in parentheses the first pass in percent of the second."
)
INCOMPARABLE = (
    "The paper names neither its model nor its hardware: of its numbers only the percentages can be compared "
    "with ours, and these too depend on how long the answers are."
)


def table(table: TimeTable, timings: pd.DataFrame) -> tuple[Page, pd.DataFrame]:
    """The page of a table of seconds by the frame of seconds of one run, and its numbers (`tidy`)."""
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
    return page, tidy(table, timings)


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
                alone = "" if seconds["stands_in_for"].iloc[0] else " (ours alone)"
                groups.append(Group(f"{model}{alone}: {label}", [_measured(row, seconds) for row in table.rows]))
    return groups


def _reported(row: TimeRow) -> TextRow:
    first, second = {"paper": f"{row.first} ({row.ratio}%)", "n": str(row.n)}, {"paper": str(row.second)}
    return TextRow(row.label, [TextCell(first), TextCell(second)])


def _measured(row: TimeRow, seconds: pd.DataFrame) -> TextRow:
    if row.task not in seconds.index:
        return TextRow(row.label, [TextCell({"ours": "not run"}), TextCell({"ours": "not run"})])
    n, first, second = seconds.loc[row.task, ["items", "first_seconds", "second_seconds"]]
    percent = text.fixed(_percent(first, second), 1)
    in_first = {"ours": f"{text.fixed(first)} ({percent}%)", "n": f"{n:.0f}"}
    return TextRow(row.label, [TextCell(in_first), TextCell({"ours": text.fixed(second)})])


def _percent(first: Any, second: Any) -> Any:
    return 100 * first / second
