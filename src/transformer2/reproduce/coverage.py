"""How far each reported number and each claim has come on a ladder from "not coded" to "reproduced".

A state is derived, never typed: the two lowest rungs from the grids of configurations, the others from what a run
measured and from the verdicts on it.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import pandas as pd

from transformer2.config import Run
from transformer2.config.names import MAIN_BUDGET, REHEARSAL
from transformer2.grid import Grid
from transformer2.rehearsal.small import small_run
from transformer2.reproduce.cells import samples_of
from transformer2.reproduce.claims import (
    Captured,
    Claim,
    Classified,
    FirstPass,
    Higher,
    LowestWeight,
    Test,
    Within,
    pairs,
)
from transformer2.reproduce.claims.measured import BY_SHAPES, ON_STANDINS, Measurements
from transformer2.reproduce.ledger import Entry, Ledger, entries

Rung = Literal["not coded", "coded", "rehearsed", "run on stand-ins", "run on a real model", "reproduced"]
RUNGS: dict[Rung, str] = {
    "not coded": "no configuration has it",
    "coded": "a configuration has it, config/paper.yaml or that of this run",
    "rehearsed": "the rehearsal of config/paper.yaml, a part of continuous integration, computes it with a tiny model "
    "of the same class",
    "run on stand-ins": "this run measured it, with a toy model or on made-up data",
    "run on a real model": "this run measured it with a pretrained model and on real data, or imported scores have it; "
    "the model need not be the paper's. A claim about shapes is computed from the paper's own",
    "reproduced": "the verdict on the gain, or on the claim, says so: the paper's own model and data, and two seeds or "
    "more of what was trained",
}
"""From the lowest to the highest, and what each says."""
LADDER: tuple[Rung, ...] = tuple(RUNGS)
SEEDS = 2
"""Of a training, before a verdict on it counts as reproduced: one seed says nothing of the next."""
DISPATCHED = "prompt"
"""The way to dispatch whose seconds the paper prints."""
MEASURED_ONCE = (Classified, LowestWeight, FirstPass)
"""Tests of what a run has once, whatever its seeds: classes, mixing weights, seconds."""


class Need(NamedTuple):
    """A score that a number or a claim needs, as a grid and a frame of scores name it; None is any."""

    row: str | None
    method: str
    trained_on: str
    task: str | None

    def among(self, scores: Collection["Need"]) -> list["Need"]:
        """Those of the scores that are meant."""
        return [one for one in scores if all(a in (None, b) for a, b in zip(self, one, strict=True))]


def grid_scores(run: Run) -> set[Need]:
    """Every score that the grid of a configuration has; none for scores that were measured elsewhere."""
    if run.scores is not None:
        return set()
    grid = Grid(run)
    adapters = [(cell, grid.adapters[cell.adapter]) for cell in grid.cells]
    return {Need(run.models[cell.model].row, of.method, of.trained_on, cell.task) for cell, of in adapters}


def invented_rows(run: Run) -> set[str]:
    """Rows of the papers' tables in which this run has a toy model, or made-up data."""
    if run.scores is not None:
        return set()
    made_up = run.data == "pocket" or run.data.startswith(REHEARSAL)
    toys = [model for model in run.models.values() if made_up or model.source.startswith(("pocket:", REHEARSAL))]
    return {model.row for model in toys if model.row}


class Coverage:
    """Derives how far numbers and claims have come.

    Args:
        measured: by the run.
        run: its configuration.
        paper: config/paper.yaml, which has all that the papers report.
        verdicts: on the gains of cells (`verdicts.judge_cells`), by id.
        claim_verdicts: on the claims (`claims.measured.judge_claims`), by id.
    """

    def __init__(
        self,
        measured: Measurements,
        run: Run,
        paper: Run,
        verdicts: Mapping[str, str],
        claim_verdicts: Mapping[str, str],
    ):
        self.verdicts, self.claim_verdicts = verdicts, claim_verdicts
        self.rehearsed = grid_scores(small_run(paper))
        self.coded = grid_scores(paper) | grid_scores(run)
        self.invented = invented_rows(run)
        of_score = ["stands_in_for", "method", "trained_on", "task"]
        self.scores = pd.DataFrame(measured.scores, columns=[*of_score, "state", "seed"]).drop_duplicates()
        seeds = self.scores.groupby(of_score)["seed"].nunique()
        self.seeds = {Need(*key): int(number) for key, number in seeds.items()}  # type: ignore[misc]
        self.timed: list[Need] = []
        if measured.timings is not None:
            of_time = measured.timings[["stands_in_for", "strategy", "task"]].itertuples(index=False)
            self.timed = [Need(row, strategy, "", task) for row, strategy, task in of_time]

    def table(self, ledger: Ledger, claims: Mapping[str, Claim]) -> pd.DataFrame:
        """One row a printed score, printed number of seconds, or claim.

        Columns: kind (number or claim), id, document, place (its table or section), state (`RUNGS`), seeds (of the
        trainings or searches behind it; 0 where none is, or several things are compared), verdict.
        """
        rows = [*self._scores(ledger), *self._seconds(ledger), *self._claims(ledger, claims)]
        return pd.DataFrame(rows)

    def _scores(self, ledger: Ledger) -> Iterator[dict[str, Any]]:
        for table in ledger.scores:
            for entry in entries(table):
                if entry.reported.value is not None:
                    seeds = len(set(samples_of(entry, self.scores)["seed"]))
                    verdict = self.verdicts.get(entry.id, "")
                    reproduced = verdict == "reproduced" and seeds >= SEEDS
                    rung = self._rung([need_of(entry)], [entry.row.model] if seeds else [], reproduced)
                    trained = 0 if entry.method == "base" else seeds
                    yield _row("number", entry.id, table.document, table.number, rung, trained, verdict)

    def _seconds(self, ledger: Ledger) -> Iterator[dict[str, Any]]:
        """Nothing can be reproduced of seconds: the paper names neither model nor hardware."""
        for table in ledger.times:
            for row in table.rows:
                need = Need(None, DISPATCHED, "", row.task)
                rung = self._rung([need], [one.row for one in need.among(self.timed)], False)
                for name in ("first", "second", "ratio"):
                    yield _row("number", f"{table.id}/{row.task}/{name}", table.document, table.number, rung, 0, "")

    def _claims(self, ledger: Ledger, claims: Mapping[str, Claim]) -> Iterator[dict[str, Any]]:
        for id, claim in claims.items():
            verdict = self.claim_verdicts[id]
            rung = self._of_claim(claim, verdict, ledger)
            yield _row("claim", id, claim.document, f"section {claim.section}", rung, 0, verdict)

    def _of_claim(self, claim: Claim, verdict: str, ledger: Ledger) -> Rung:
        """A claim was measured if it was decided, or if all that it needs was measured."""
        if verdict.startswith(BY_SHAPES):
            return "reproduced" if verdict == f"{BY_SHAPES}supported" else "run on a real model"
        needs = [need for test in claim.tests for need in needs_of(test, ledger)]
        scores = [need.among(self.seeds) for need in needs]
        decided = verdict.removeprefix(ON_STANDINS) in ("supported", "not supported")
        measured = decided or (verdict != "not run" and all(scores))
        ran = {one.row for of_need in scores for one in of_need} if measured else set()
        several = all(self.seeds[one] >= SEEDS for of_need in scores for one in of_need if one.method != "base")
        once = any(isinstance(test, MEASURED_ONCE) for test in claim.tests)
        return self._rung(needs, ran, verdict == "supported" and several and not once)

    def _rung(self, needs: Collection[Need], ran: Collection[str | None], reproduced: bool) -> Rung:
        """`ran` are the rows of the papers' tables that it was measured in; none, if it was not."""
        if ran and self.invented.isdisjoint(ran):
            return "reproduced" if reproduced else "run on a real model"
        if ran:
            return "run on stand-ins"
        if all(need.among(self.rehearsed) for need in needs):
            return "rehearsed"
        return "coded" if all(need.among(self.coded) for need in needs) else "not coded"


def need_of(entry: Entry) -> Need:
    return Need(entry.row.model, entry.method, entry.trained_on, entry.column.task)


def needs_of(test: Test, ledger: Ledger) -> list[Need]:
    """The scores without which a test of a claim cannot be made, or with which what it needs is computed."""
    if isinstance(test, Higher | Within):
        return [need_of(entry) for pair in pairs(test, ledger) for entry in pair]
    if isinstance(test, Classified):
        ways = [way for way in (test.classified, test.than) if way]
        return [Need(row, way, "", task) for row in test.rows for way in ways for task in test.tasks]
    if isinstance(test, LowestWeight):
        return [Need(row, f"few_shot_{MAIN_BUDGET}", "", test.task) for row in test.rows]
    if isinstance(test, FirstPass):
        return [Need(None, DISPATCHED, "", task) for task in (test.first_pass, *test.than)]
    return [Need(row, "base", "", None) for row in test.models] if isinstance(test, Captured) else []


def _row(kind: str, id: str, document: str, place: str, state: Rung, seeds: int, verdict: str) -> dict[str, Any]:
    return {
        "kind": kind, "id": id, "document": document, "place": place, "state": state, "seeds": seeds,
        "verdict": verdict,
    }  # fmt: skip
