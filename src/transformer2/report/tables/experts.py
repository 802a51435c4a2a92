"""What a table of accuracies says of the experts behind its cells."""

import pandas as pd

from transformer2.reproduce import ledger
from transformer2.reproduce.cells import Cell, Measured
from transformer2.reproduce.ledger import Row


class Experts:
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
        if not row.parameters and not (row.own and row.trains):
            return ""
        said = [f"paper: {row.parameters}M parameters"] if row.parameters else []
        if row.trains and not row.own:
            said.append(f"by shapes {ledger.parameters(row.trains, self._shapes[row.model]) / 1e6:.2f}M")
        if self._experts is not None:
            mine = (self._experts["model"] == model) & (self._experts["method"] == row.method)
            unit = " parameters" * row.own
            said += [f"here {count:,}{unit}" for count in self._experts.loc[mine, "parameters"].unique()]
        return "; ".join(said)
