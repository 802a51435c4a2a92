"""A table of accuracies: each number of the paper beside ours."""

import math
from collections.abc import Collection
from dataclasses import replace
from decimal import Decimal
from itertools import groupby
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import pandas as pd

from transformer2.config import TASK_MODULES, VISION_TASKS
from transformer2.report import text
from transformer2.report.layout import Group, Page, TextCell, TextColumn, TextRow, item_counts
from transformer2.reproduce import audit, ledger
from transformer2.reproduce.cells import Cell, Measured, Scoring, cells
from transformer2.reproduce.ledger import LedgerTable, Reported, Row
from transformer2.reproduce.statistics import N_RESAMPLES, holm
from transformer2.reproduce.verdicts import Judged, judge_cells

SCORING = "“ours” is scored strictly{}. “lenient” also accepts right answers in another notation."
VQA = ", by the VQA accuracy of the whole reply; the released code has no scorer for pictures"
RULES = ", by the released code's rules, as the paper's numbers presumably are"
LESS = (
    "{}. Left out of them {}: there a reply can be right that is wrong here, so against the paper ours, with and "
    "without a method, is too low rather than too high"
)
LEFT_OUT = {
    "arc": "ARC's guess for a reply that states no letter (always the same one, right for about a quarter of them)",
    "math": "MATH's second comparison, by sympy",
    "code": "the removal of code that the function asked for does not need",
}
"""Module of tasks -> what `strict` leaves out of the released code's scorer."""
INTERVALS = (
    "95 % intervals: Wilson for scores; for normalised scores, in parentheses, a paired percentile bootstrap "
    f"over items, and over seeds where there are several ({N_RESAMPLES:,} resamples). "
    "A normalised score is undefined where our base solved nothing or was not run. "
    "p: exact McNemar test against our base on the same items, with several seeds the largest, adjusted by Holm for "
    "the number of tests in this table."
)
UNPAIRED_COUNTS = (
    "Where only counts are known, not which items were right, ours and our base are compared as independent samples: "
    "adjusted log interval, score test."
)
VERDICTS = (
    "Verdict, with ours minus the paper's in points: the two, each k of its own n, as independent samples (score "
    "test). Higher, lower: p < 0.05 by Holm over the table; reproduced: p of the cell alone at least 0.05, on as many "
    "items as the paper has."
)
REMAINDERS = (
    "Where n is below that of our base, the prompts that the method adapted or chose on are left out of its score; "
    "its normalised score and p compare it with the base on the same items."
)
STATES = (
    "Two states of each training are scored: the best on validation, which is the expert, and the last one. “ours” is "
    "the best, or the last in a row that is about what a training led to (“ours: the last state”); the other one, "
    "marked “best” or “last”, has a line where it scores otherwise. An untrained expert is the state before the first "
    "step: no other was better on validation."
)
LAST_STATE = "ours: the last state"
"""Remark on a row."""
STANDINS = (
    "A stand-in is another model than the paper's, or was tested on other data: its absolute numbers are not compared "
    "with the paper's, only what a method adds to its own base."
)


def table(
    table: LedgerTable, everything: ledger.Ledger, scores: pd.DataFrame, experts: pd.DataFrame | None = None,
    computed: bool = True,
) -> tuple[Page, pd.DataFrame]:  # fmt: skip
    """The page of a table, and its numbers with one row a cell.

    Args:
        table: of the ledger.
        everything: the whole ledger, in which the audit looks for what the notes say.
        scores: the frame of scores of one run.
        experts: the frame of its experts.
        computed: whether the run has files of scores, and not only the frame.
    """
    run = str(scores["run"].iloc[0])
    strict, lenient = _holm(cells(table, scores, "strict")), _holm(cells(table, scores, "lenient"))
    verdicts, of_experts = judge_cells(strict), _Experts(everything, experts)
    page = _page(table, run, strict, lenient, verdicts, _Notes(table, everything), of_experts)
    return page, tidy(table, run, strict, lenient, verdicts, computed, of_experts)


def _holm(measured: list[Cell]) -> list[Cell]:
    """The cells of one table, their p adjusted for its number of tests."""
    adjusted = iter(holm([cell.ours.p_value for cell in measured if cell.ours]))
    return [replace(cell, ours=replace(cell.ours, p_value=next(adjusted))) if cell.ours else cell for cell in measured]


class _Experts:
    """What is known of the experts of a table, of this run as far as it trained any."""

    def __init__(self, everything: ledger.Ledger, experts: pd.DataFrame | None):
        self._shapes, self._experts = everything.shapes, experts

    def steps(self, cell: Cell, ours: Measured) -> list[int]:
        """After how many steps the state of each seed was kept; empty where no single training is behind the cell."""
        if self._experts is None or not cell.entry.trained_on:
            return []
        place = {"model": ours.model, "method": cell.entry.method, "trained_on": cell.entry.trained_on}
        of_cell = self._experts
        for column, value in (place | {"state": ours.state}).items():
            of_cell = of_cell.loc[of_cell[column] == value]
        return of_cell.sort_values("seed")["kept_step"].tolist()

    def untrained(self, cell: Cell, ours: Measured) -> str:
        """That the expert is the state before the first step, and with how many seeds."""
        steps = self.steps(cell, ours)
        n = sum(step == 0 for step in steps)
        return "" if n == 0 else "untrained (step 0)" + (f", {n} of {len(steps)} seeds" if len(steps) > 1 else "")

    def parameters(self, row: Row, model: str | None) -> str:
        """How many a row trains: as the paper prints it, by the shapes of its model, and in this run."""
        if not row.parameters:
            return ""
        said = [f"paper: {row.parameters}M parameters"]
        if row.trains:
            said.append(f"by shapes {ledger.parameters(row.trains, self._shapes[row.model]) / 1e6:.2f}M")
        if self._experts is not None:
            mine = (self._experts["model"] == model) & (self._experts["method"] == row.method)
            said += [f"here {count:,}" for count in self._experts.loc[mine, "parameters"].unique()]
        return "; ".join(said)


class _Notes:
    """What the audit says of the cells and rows of a table, lettered in their order with the rows' own notes."""

    def __init__(self, table: LedgerTable, everything: ledger.Ledger):
        texts: dict[str, list[str]] = {}  # by place
        for finding in (*audit.of_cells(everything), *audit.counts(table, everything)):
            for place in finding.places:
                texts.setdefault(place, []).append(f"{finding.finding} ({finding.evidence}).")
        self._texts = texts
        self.letters: dict[str, str] = {}
        letters = iter(ascii_lowercase + ascii_uppercase)
        for entry in ledger.entries(table):
            for note in (self.of_row(entry.row), self.of_cell(entry.id)):
                if note and note not in self.letters:
                    self.letters[note] = next(letters)

    def of_cell(self, id: str) -> str:
        return " ".join(self._texts.get(id, []))

    def of_row(self, row: Row) -> str:
        places = [place for place in self._texts if place.endswith(f"/{row.model}/{row.method}")]
        return " ".join([row.note or "", *(note for place in places for note in self._texts[place])]).strip()

    def mark(self, note: str) -> str:
        return self.letters.get(note, "")


def tidy(
    table: LedgerTable, run: str, strict: list[Cell], lenient: list[Cell], verdicts: dict[str, Judged], computed: bool,
    experts: _Experts,
) -> pd.DataFrame:  # fmt: skip
    """One row a cell with all its numbers; those of ours are missing where nothing was run."""
    records = [
        {
            "cell": cell.id, "document": table.document, "table": table.name, "model": cell.row.model,
            "method": cell.entry.method, "task": cell.column.task, "metric": cell.column.metric,
            "reported": _printed(cell.reported.value), "reported_normalised": _printed(cell.reported.normalised),
            "reported_k": _k(cell), "reported_n": cell.column.n - cell.row.shots, "run": run,
            **_origin(cell.ours, computed), "verdict": verdicts[cell.id].verdict,
            **dict(zip(("difference", "difference_low", "difference_high"), verdicts[cell.id].difference, strict=True)),
            **_numbers(cell.ours, "strict"), **_numbers(loose.ours, "lenient"),
            "detectable": cell.ours.detectable if cell.ours else None,
            "state": cell.ours.state if cell.ours else None,
            "kept_steps": " ".join(map(str, experts.steps(cell, cell.ours))) if cell.ours else None,
            **_other(cell.other, loose.other, computed),
        }
        for cell, loose in zip(strict, lenient, strict=True)
    ]  # fmt: skip
    frame = pd.DataFrame(records)
    for name in ("n", "reported_k", "strict_correct", "lenient_correct"):
        counts = frame[name].astype("Float64")
        whole = all(count % 1 == 0 for count in counts.dropna())  # sums of shares may not be
        frame[name] = counts.astype("Int64") if whole else counts
    return frame


def _k(cell: Cell) -> int | None:
    """How many items the paper's number is, where that can be decoded."""
    value = cell.reported.value
    fitting = audit.decode(value, cell.column.n - cell.row.shots) if value is not None else []
    return fitting[0] if fitting else None


def _printed(number: Decimal | None) -> str | None:
    return None if number is None else str(number)


def _origin(ours: Measured | None, computed: bool) -> dict[str, Any]:
    """`computed`: whether the run has files of scores, and not only the frame."""
    if ours is None:
        return {
            "status": "not run",
            "model_run": None,
            "standin": None,
            "seeds": None,
            "files": None,
            "paired": None,
            "n": None,
        }
    return {
        "status": "run",
        "model_run": ours.model,
        "standin": ours.standin,
        "seeds": " ".join(map(str, ours.seeds)),
        "files": " ".join(ours.files) if computed else "",
        "paired": ours.paired,
        "n": ours.items,
    }


def _other(other: Measured | None, lenient: Measured | None, computed: bool) -> dict[str, Any]:
    """The other state of the trainings, where both are scored."""
    if other is None or lenient is None:
        return dict.fromkeys(("other_state", "other_files", "other_strict_score", "other_lenient_score"))
    files = " ".join(other.files) if computed else ""
    scores = {"other_strict_score": other.score.value, "other_lenient_score": lenient.score.value}
    return {"other_state": other.state, "other_files": files} | scores


def _numbers(ours: Measured | None, scoring: Scoring) -> dict[str, Any]:
    names = ("correct", "score", "low", "high", "normalised", "normalised_low", "normalised_high", "p")
    numbers = (ours.correct, *ours.score, *ours.normalised, ours.p_value) if ours else (None,) * len(names)
    return {f"{scoring}_{name}": number for name, number in zip(names, numbers, strict=True)}


def _page(
    table: LedgerTable, run: str, strict: list[Cell], lenient: list[Cell], verdicts: dict[str, Judged], notes: _Notes,
    experts: _Experts,
) -> Page:  # fmt: skip
    leniently = {cell.id: cell for cell in lenient}
    texts = {
        cell.id: TextCell(
            _lines(cell, leniently[cell.id], verdicts[cell.id], experts), notes.mark(notes.of_cell(cell.id))
        )
        for cell in strict
    }
    return Page(
        table=table,
        run=run,
        unit="Percent",
        stub="Method",
        columns=[TextColumn(column.label, f"{column.metric}, paper n = {column.n}") for column in table.columns],
        groups=[
            _group(table, list(of_model), texts, notes, experts)
            for _, of_model in groupby(strict, key=lambda cell: cell.row.model)
        ],
        footnotes=_footnotes(run, strict),
        items=item_counts((column.label, column.n) for column in table.columns),
        notes=[(letter, note) for note, letter in notes.letters.items()],
    )


def _group(
    table: LedgerTable, of_model: list[Cell], texts: dict[str, TextCell], notes: _Notes, experts: _Experts
) -> Group:
    """The rows of one of the paper's models, headed by the model that ran."""
    name = table.models[of_model[0].row.model]
    ours = next((cell.ours for cell in of_model if cell.ours), None)
    ran = f"{name} (not run)" if ours is None else name
    if ours and ours.standin:
        ran = f"{ours.model} in place of {name}"
    rows = []
    for _, of_row in groupby(of_model, key=lambda cell: cell.row.method):
        in_column = {cell.column.name: cell for cell in of_row}
        row = next(iter(in_column.values())).row
        in_row = [
            texts[in_column[column.name].id] if column.name in in_column else TextCell() for column in table.columns
        ]
        last = LAST_STATE if row.state == "last" else ""
        counted = experts.parameters(row, ours.model if ours else None)
        remark = "; ".join(part for part in (row.remark, last, counted) if part)
        rows.append(TextRow(row.label, in_row, remark, notes.mark(notes.of_row(row))))
    return Group(ran, rows)


def _lines(cell: Cell, lenient: Cell, judged: Judged, experts: _Experts) -> dict[str, str]:
    """The lines of a cell; `lenient` is the same cell, scored leniently."""
    lines, ours = {"paper": _reported(cell.reported)}, cell.ours
    if ours is None or lenient.ours is None:
        return lines | {"ours": "not run"}
    of_score, of_factor = (text.span(estimate.low, estimate.high) for estimate in (ours.score, ours.normalised))
    seeds = f"{len(ours.seeds)} × " if len(ours.seeds) > 1 else ""
    return (
        lines
        | {
            "ours": _score(ours),
            "95 %": of_score if cell.entry.method == "base" else f"{of_score} ({of_factor})",
            "n": f"{seeds}{ours.items}" + ("" if math.isnan(ours.p_value) else f", {text.p_value(ours.p_value)}"),
            "lenient": _score(lenient.ours),
        }
        | _states(cell, lenient, experts)
        | _verdict(judged)
    )


def _states(cell: Cell, lenient: Cell, experts: _Experts) -> dict[str, str]:
    """Which state “ours” is, where that is not what the row says or the expert is untrained, and the score of the other
    state where it is another one."""
    ours, other = cell.ours, cell.other
    assert ours and lenient.ours
    unlike = f"{ours.state} state" if ours.state not in ("", cell.row.state) else ""
    said = ", ".join(filter(None, (unlike, experts.untrained(cell, ours))))
    lines = {"expert": said} if said else {}
    if other and lenient.other and (other.correct, lenient.other.correct) != (ours.correct, lenient.ours.correct):
        lines[other.state] = ", ".join(filter(None, (_score(other), experts.untrained(cell, other))))
    return lines


def _verdict(judged: Judged) -> dict[str, str]:
    if judged.verdict == "ours alone":
        return {}
    if math.isnan(judged.difference.value):
        return {"verdict": "stand-in"}
    return {"verdict": f"{judged.verdict}, {text.signed(judged.difference.value, 2)}"}


def _reported(reported: Reported) -> str:
    if reported.value is None:
        return text.ABSENT
    return str(reported.value) if reported.normalised is None else f"{reported.value} ({reported.normalised})"


def _score(ours: Measured) -> str:
    return f"{text.fixed(ours.score.value)} ({text.fixed(ours.normalised.value)})"


def _footnotes(run: str, strict: list[Cell]) -> list[str]:
    measured = [(cell.entry.method, cell.ours) for cell in strict if cell.ours]
    seeds: dict[str, set[int]] = {}
    for method, ours in measured:
        seeds.setdefault(method, set()).update(ours.seeds)
    by_method = "; ".join(f"{method} {', '.join(map(str, sorted(used)))}" for method, used in seeds.items())
    standins = [STANDINS] if any(ours.standin for _, ours in measured) else []
    compared = [VERDICTS] if any(not ours.standin for _, ours in measured) else []
    counted = [UNPAIRED_COUNTS] if any(not ours.paired for _, ours in measured) else []
    origin = f"Run: {run}. Seeds: {by_method or 'none'}. n: test items, or seeds × test items."
    states = [STATES] if any(cell.other for cell in strict) else []
    remainders = [REMAINDERS] if any(len(sizes) > 1 for sizes in _sizes(strict).values()) else []
    scored = scoring({cell.column.task for cell in strict})
    return [origin, scored, INTERVALS, *states, *counted, *remainders, *compared, *standins]


def scoring(tasks: Collection[str]) -> str:
    """How the answers to these tasks are scored, and what of the released code's rules is left out."""
    if all(task in VISION_TASKS for task in tasks):
        return SCORING.format(VQA)
    modules = {{"mbpp_pro": "code", "humaneval": "code"}.get(task, TASK_MODULES.get(task)) for task in tasks}
    missing = [what for module, what in LEFT_OUT.items() if module in modules]
    said = f"{'is' if len(missing) == 1 else 'are'} {'; '.join(missing)}"
    return SCORING.format(LESS.format(RULES, said) if missing else RULES)


def _sizes(strict: list[Cell]) -> dict[tuple[str, str], set[int]]:
    """How many items our measurements have, for each model and column."""
    sizes: dict[tuple[str, str], set[int]] = {}
    for cell in strict:
        if cell.ours:
            sizes.setdefault((cell.row.model, cell.column.name), set()).add(cell.ours.items)
    return sizes
