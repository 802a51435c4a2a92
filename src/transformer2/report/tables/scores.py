"""A table of accuracies: each number of the paper beside ours."""

from collections.abc import Collection
from dataclasses import replace
from itertools import groupby
from string import ascii_lowercase, ascii_uppercase

import pandas as pd

from transformer2.config import TASK_MODULES, VISION_TASKS
from transformer2.report import text
from transformer2.report.layout import Group, Page, TextCell, TextColumn, TextRow, item_counts
from transformer2.report.tables.experts import Experts
from transformer2.report.tables.lines import cell_lines
from transformer2.report.tables.tidy import tidy
from transformer2.reproduce import audit, ledger
from transformer2.reproduce.budgets import Budgets
from transformer2.reproduce.cells import Cell, cells
from transformer2.reproduce.ledger import LedgerTable, Row
from transformer2.reproduce.statistics import N_RESAMPLES, holm
from transformer2.reproduce.verdicts import JudgedTable

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
    "p: that there is no gain over our base on the same items, by the exact McNemar test, with several seeds by the "
    "mixed model, adjusted by Holm for the number of tests in this table."
)
UNPAIRED_COUNTS = (
    "Where only counts are known, not which items were right, ours and our base are compared as independent samples: "
    "adjusted log interval, score test."
)
GAINS = (
    "gain: method minus base on the same items, in percentage points with its 95 % interval; below it the paper's, "
    "with the sampling error of two independent samples. One seed: the interval is about items alone, and says nothing "
    "of another training; several seeds: a mixed model with crossed random effects of seeds and items."
)
VERDICTS = (
    "Verdict, on gains, never on scores. Reproduced: ours is significant, has the paper's sign, and is within "
    "{margin:g} points of it (TOST). Same direction: significant and of the paper's sign, of another or an uncertain "
    "size. Not reproduced: the other sign, or none where the paper's would have been seen. Cannot tell: too few items."
)
COMPARED = (
    "score: ours minus the paper's in points, each k of its own n, as independent samples (score test). Higher, lower: "
    "p < 0.05 by Holm over the table; no difference shown: p of the cell alone at least 0.05, on as many items as the "
    "paper has. It decides no verdict."
)
BUDGETS = (
    "Unequal budgets: methods of this table were trained with different numbers of updates, or chosen from different "
    "numbers of sweep points. What differs between them may come from that alone, so no claim that compares them is "
    "more than inconclusive."
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
OWN_MODELS = (
    "Ours alone, for which the paper has no row and so no number: {}. What a method adds to such a model is measured "
    "over its own base on the same items, and its p is adjusted for the number of its own tests."
)
STANDINS = (
    "A stand-in is another model than the paper's, or was tested on other data: its absolute numbers are not compared "
    "with the paper's, only what a method adds to its own base."
)


def table(
    table: LedgerTable, everything: ledger.Ledger, scores: pd.DataFrame, experts: pd.DataFrame | None,
    computed: bool, budgets: Budgets,
) -> tuple[Page, pd.DataFrame]:  # fmt: skip
    """The page of a table, and its numbers with one row a cell.

    Args:
        table: of the ledger.
        everything: the whole ledger, in which the audit looks for what the notes say.
        scores: the frame of scores of one run.
        experts: the frame of its experts.
        computed: whether the run has files of scores, and not only the frame.
        budgets: what the run spent on each method.
    """
    run = str(scores["run"].iloc[0])
    judged = JudgedTable.of(table, everything, scores, budgets)
    judged = replace(judged, cells=_holm(judged.cells))
    lenient, of_experts = _holm(cells(table, scores, "lenient")), Experts(everything, experts)
    page = _page(judged, run, lenient, _Notes(table, everything), of_experts)
    return page, tidy(judged, run, lenient, computed, of_experts)


def _holm(measured: list[Cell]) -> list[Cell]:
    """The cells of one table, their p adjusted for its number of tests: in the paper's rows, and in those of each own
    model."""
    adjusted = []
    for _, of in groupby(measured, key=_family):
        family = list(of)
        p_values = iter(holm([cell.ours.p_value for cell in family if cell.ours]))
        adjusted += [
            replace(cell, ours=replace(cell.ours, p_value=next(p_values))) if cell.ours else cell for cell in family
        ]
    return adjusted


def _family(cell: Cell) -> str:
    """Of tests: the paper's rows are one, and each own model is one, so that it changes no number of others."""
    return cell.row.model if cell.row.own else ""


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


def _page(judged: JudgedTable, run: str, lenient: list[Cell], notes: _Notes, experts: Experts) -> Page:
    table, strict, leniently = judged.table, judged.cells, {cell.id: cell for cell in lenient}
    texts = {
        cell.id: TextCell(cell_lines(cell, leniently[cell.id], judged, experts), notes.mark(notes.of_cell(cell.id)))
        for cell in strict
    }
    return Page(
        table=table,
        run=run,
        unit="Percent",
        stub="Method",
        columns=[TextColumn(column.label, f"{column.metric}, paper n = {column.n}") for column in table.columns],
        groups=[
            _group(judged, list(of_model), texts, notes, experts)
            for _, of_model in groupby(strict, key=lambda cell: cell.row.model)
        ],
        footnotes=_footnotes(run, judged),
        items=item_counts((column.label, column.n) for column in table.columns),
        notes=[(letter, note) for note, letter in notes.letters.items()],
    )


def _group(
    judged: JudgedTable, of_model: list[Cell], texts: dict[str, TextCell], notes: _Notes, experts: Experts
) -> Group:
    """The rows of one of the paper's models, headed by the model that ran."""
    table = judged.table
    name = table.models[of_model[0].row.model]
    ours = next((cell.ours for cell in of_model if cell.ours), None)
    ran = f"{name} (not run)" if ours is None else name
    if of_model[0].row.own:
        ran = f"{name} (ours alone)"
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
        spent = _unequal(judged, list(in_column.values()))
        remark = "; ".join(part for part in (row.remark, last, counted, spent) if part)
        rows.append(TextRow(row.label, in_row, remark, notes.mark(notes.of_row(row))))
    return Group(ran, rows)


def _unequal(judged: JudgedTable, of_row: list[Cell]) -> str:
    """That the method of a row had another budget than those beside it, and which."""
    unequal = [
        cell for cell in of_row if cell.id in judged.gains.index and judged.gains.loc[cell.id, "unequal_budgets"]
    ]
    return f"unequal budgets: {judged.budgets[unequal[0].entry.method]}" if unequal else ""


def _footnotes(run: str, judged: JudgedTable) -> list[str]:
    strict = judged.cells
    measured = [(cell.entry.method, cell.ours) for cell in strict if cell.ours]
    seeds: dict[str, set[int]] = {}
    for method, ours in measured:
        seeds.setdefault(method, set()).update(ours.seeds)
    by_method = "; ".join(f"{method} {', '.join(map(str, sorted(used)))}" for method, used in seeds.items())
    standins = [STANDINS] if any(ours.standin for _, ours in measured) else []
    own = list(dict.fromkeys(cell.row.model for cell in strict if cell.row.own))
    alone = [OWN_MODELS.format(text.listed(own))] if own else []
    of_paper = [cell.ours for cell in strict if cell.ours and not cell.row.own]
    compared = [VERDICTS.format(margin=judged.margin), COMPARED] if any(not ours.standin for ours in of_paper) else []
    gains = [GAINS] if any(ours.gain for _, ours in measured) else []
    budgets = [BUDGETS] if judged.gains["unequal_budgets"].to_numpy().any() else []
    counted = [UNPAIRED_COUNTS] if any(not ours.paired for _, ours in measured) else []
    origin = f"Run: {run}. Seeds: {by_method or 'none'}. n: test items, or seeds × test items."
    states = [STATES] if any(cell.other for cell in strict) else []
    remainders = [REMAINDERS] if any(len(sizes) > 1 for sizes in _sizes(strict).values()) else []
    scored = scoring({cell.column.task for cell in strict})
    return [origin, scored, INTERVALS, *states, *counted, *remainders, *gains, *compared, *budgets, *standins, *alone]


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
