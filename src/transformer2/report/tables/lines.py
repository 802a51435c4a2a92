"""The text of one cell of a table of accuracies, line by line."""

import math

from transformer2.report import text
from transformer2.report.tables.experts import Experts
from transformer2.reproduce.cells import Cell, Measured
from transformer2.reproduce.ledger import Reported
from transformer2.reproduce.power import Z
from transformer2.reproduce.verdicts import JudgedTable, ScoreComparison


def cell_lines(cell: Cell, lenient: Cell, judged: JudgedTable, experts: Experts) -> dict[str, str]:
    """The lines of a cell; `lenient` is the same cell, scored leniently."""
    lines, ours = {} if cell.row.own else {"paper": _reported(cell.reported)}, cell.ours
    if ours is None or lenient.ours is None:
        return lines | {"ours": "not run"}
    of_score, of_factor = (text.span(estimate.low, estimate.high) for estimate in (ours.score, ours.normalised))
    times = f"{len(ours.seeds)} × " if len(ours.seeds) > 1 else ""
    return (
        lines
        | {
            "ours": _score(ours),
            "95 %": of_score if cell.entry.method == "base" else f"{of_score} ({of_factor})",
            "n": f"{times}{ours.items}" + ("" if math.isnan(ours.p_value) else f", {text.p_value(ours.p_value)}"),
            "lenient": _score(lenient.ours),
        }
        | _states(cell, lenient, experts)
        | _gain(cell, judged)
        | _score_line(judged.scores[cell.id])
    )


def _states(cell: Cell, lenient: Cell, experts: Experts) -> dict[str, str]:
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


def _gain(cell: Cell, judged: JudgedTable) -> dict[str, str]:
    """Our gain, the paper's, and the verdict; nothing for a base."""
    if cell.id not in judged.gains.index:
        return {}
    row = judged.gains.loc[cell.id]
    lines = {}
    if not math.isnan(row["ours"]):
        of_state = f", {row['state']} state" if row["state"] else ""
        lines["gain"] = text.gain(row["ours"], row["ours_low"], row["ours_high"]) + of_state
    if not math.isnan(row["gain"]):
        width = Z * row["se"]
        lines["paper's"] = text.gain(row["gain"], row["gain"] - width, row["gain"] + width)
    if row["verdict"] not in ("ours alone", "not run"):
        verdict = "stand-in" if row["standin"] else row["verdict"]
        lines["verdict"] = f"{verdict}, {text.seeds(int(row['seeds']))}"
    return lines


def _score_line(compared: ScoreComparison) -> dict[str, str]:
    """How our score compares with the paper's."""
    if not compared.comparison:
        return {}
    return {"score": f"{compared.comparison}, {text.signed(compared.difference.value, 2)}"}


def _reported(reported: Reported) -> str:
    if reported.value is None:
        return text.ABSENT
    return str(reported.value) if reported.normalised is None else f"{reported.value} ({reported.normalised})"


def _score(ours: Measured) -> str:
    return f"{text.fixed(ours.score.value)} ({text.fixed(ours.normalised.value)})"
