"""The rows of the CSV files that the page is made of."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from transformer2.checksums import verified
from transformer2.config import PAPER_MODELS
from transformer2.report.page.marks import CELL_VERDICTS
from transformer2.reproduce.answers import JUDGED
from transformer2.reproduce.verdicts import COMPARED

Record = dict[str, str]
"""One row of a CSV file, as text."""
CELL_COLUMNS = (
    "cell", "document", "table", "model", "reported", "reported_normalised", "run", "status", "model_run", "standin",
    "seeds", "files", "n", "strict_score", "strict_low", "strict_high", "strict_normalised", "strict_normalised_low",
    "strict_normalised_high", "strict_p", "lenient_score", "verdict", "difference", "difference_low",
    "difference_high", "detectable", "method", "paired", "state", "kept_steps", "other_state", "other_strict_score",
    "gain", "gain_low", "gain_high", "reported_gain", "reported_gain_se", "why", "verdict_if_paired", "unequal_budgets",
    "budget", "score_comparison",
)  # fmt: skip
CLAIM_COLUMNS = (
    "id", "document", "section", "quote", "reading", "cells", "printed", "printed_evidence", "verdict", "evidence",
)  # fmt: skip
AUDIT_COLUMNS = ("rule", "severity", "document", "place", "finding", "evidence")


def read(path: Path, columns: Sequence[str], known: Mapping[str, Iterable[str]]) -> list[Record]:
    """The rows of a CSV file as text; `known` names the values that a column may have.

    Raises:
        ValueError: a column is missing, or has another value.
    """
    frame = pd.read_csv(verified(path), dtype=str, keep_default_na=False)
    if missing := [column for column in columns if column not in frame]:
        raise ValueError(f"{path}: no column {', '.join(missing)}")
    for column, values in known.items():
        if strange := sorted(set(frame[column]) - set(values)):
            raise ValueError(f"{path}: unknown {column} {strange[0]!r}")
    return [{str(name): text for name, text in row.items()} for row in frame.to_dict("records")]


def read_cells(files: Sequence[Path]) -> list[Record]:
    """The cells of all tables of accuracies of a run, in the order of the papers.

    Raises:
        ValueError: as `read`, or there is no cell, or a stand-in's number is compared with the papers'.
    """
    records = []
    for path in files:
        if "cell" in pd.read_csv(path, nrows=0):  # a table of seconds has none
            known = {"verdict": CELL_VERDICTS, "score_comparison": ("", *COMPARED)}
            records += read(path, CELL_COLUMNS, known)
    if not records:
        raise ValueError("no table of accuracies is among the files of the page")
    for record in records:
        if is_standin(record) and (record["verdict"] in JUDGED or record["score_comparison"]):
            said = record["verdict"] if record["verdict"] in JUDGED else record["score_comparison"]
            raise ValueError(f"{record['cell']} is of a stand-in, and yet it is called {said}")
    return records


def standins(cells: Sequence[Record]) -> list[str]:
    """Which model stood in for which of the papers', in the order of the tables."""
    return list(dict.fromkeys(f"{cell['model_run']} for {cell['model']}" for cell in cells if is_standin(cell)))


def is_own(cell: Record) -> bool:
    """Whether it is of a model that stands for no row of the papers."""
    return cell["model"] not in PAPER_MODELS


def is_standin(cell: Record) -> bool:
    return cell["standin"] == "True"
