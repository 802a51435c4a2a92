"""The rows of the page's table of all cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from shlex import join
from urllib.parse import quote

from transformer2 import paths
from transformer2.provenance import read_json
from transformer2.report import places, text
from transformer2.report.page.marks import CELL_VERDICTS, Mark
from transformer2.report.page.records import Record, is_own, is_standin
from transformer2.reproduce.cells import name_of_test
from transformer2.reproduce.power import Z


@dataclass(frozen=True)
class Number:
    """A number as text, and what a column of it is sorted by; without a key it comes last."""

    text: str
    key: str = ""
    below: str = ""
    """A second, smaller line: its interval, or what it means."""


@dataclass(frozen=True)
class CellRow:
    id: str
    table: str
    """<document>/<table>"""
    ran: str
    mark: Mark
    rank: int
    printed_gain: Number
    gain: Number
    verdict_note: str
    """Below the verdict: on how many seeds it rests, and what limits it."""
    paper: Number
    ours: Number
    difference: Number
    n: Number
    more: str
    """What else was measured, in a sentence."""
    command: str
    """Empty if nothing was run."""
    links: list[tuple[str, str]]
    """Relative address and file: scores, and the answers that they are of."""


def cell_row(cell: Record, run: Path, page: Path, command: str) -> CellRow:
    """One row of the table of all cells; links are relative to the folder `page`."""
    files = [run / name for name in cell["files"].split()]
    links = []
    for path in files:
        links.append((address(path, page), f"scores, {path.stem}"))
        if answers := _answers(run, path):
            links.append((address(answers, page), f"answers, {path.stem}"))
    return CellRow(
        id=cell["cell"],
        table=f"{cell['document']}/{cell['table']}",
        ran=_ran(cell),
        mark=CELL_VERDICTS[cell["verdict"]],
        rank=list(CELL_VERDICTS).index(cell["verdict"]),
        printed_gain=_printed_gain(cell),
        gain=_gain(cell["gain"], cell["gain_low"], cell["gain_high"]),
        verdict_note=_verdict_note(cell),
        paper=_number(cell["reported"], below=_factor(cell["reported_normalised"]), exact=True),
        ours=_number(cell["strict_score"], below=_span(cell["strict_low"], cell["strict_high"])),
        difference=_difference(cell),
        n=Number(cell["n"] or text.ABSENT, key=cell["n"]),
        more=_more(cell),
        command=_again(files, run, command),
        links=links,
    )


def _ran(cell: Record) -> str:
    ran = cell["model_run"] or "not run"
    return f"{ran}, a stand-in" if is_standin(cell) else f"{ran}, ours alone" if is_own(cell) else ran


def _printed_gain(cell: Record) -> Number:
    """With its interval as of independent samples."""
    if not cell["reported_gain"]:
        return Number(text.ABSENT)
    value, width = float(cell["reported_gain"]), Z * float(cell["reported_gain_se"])
    return _gain(cell["reported_gain"], str(value - width), str(value + width))


def _gain(value: str, low: str, high: str) -> Number:
    if not value:
        return Number(text.ABSENT)
    return Number(text.signed(float(value)), key=value, below=text.signed_span(float(low), float(high)))


def _verdict_note(cell: Record) -> str:
    if not cell["gain"]:
        return ""
    parts = [text.seeds(len(cell["seeds"].split()))]
    parts += [f"{cell['state']} state"] if cell["state"] else []
    parts += ["unequal budgets"] if cell["unequal_budgets"] == "True" else []
    return ", ".join(parts)


def _difference(cell: Record) -> Number:
    """Of the scores, in words, with the difference and its interval below."""
    if not cell["score_comparison"]:
        return Number(text.ABSENT)
    value, low, high = (float(cell[name]) for name in ("difference", "difference_low", "difference_high"))
    below = f"{text.signed(value)} ({text.signed_span(low, high)})"
    return Number(cell["score_comparison"], key=cell["difference"], below=below)


def address(path: Path, page: Path) -> str:
    """A link from a page in the folder `page`."""
    return quote(Path(relpath(path, page)).as_posix())


def _again(scores: Sequence[Path], run: Path, command: str) -> str:
    """A command line that makes the answers behind files of scores anew, and all that comes of them."""
    if not scores:
        return ""
    removed = [str(places.as_planned(_answers(run, path) or path, run)) for path in scores]
    return f"rm {join(removed)} && {command}"


def _answers(run: Path, scores: Path) -> Path | None:
    """The file of answers that a file of scores is of; that of the chosen expert if it was a choice of one."""
    if not scores.exists():
        return None
    cell = places.read(paths.SCORES, scores, run)
    own = places.find(paths.ANSWERS, run, **cell)
    if own.exists():
        return own
    chosen = places.find(paths.ANSWERS, run, **cell | {"adapter": read_json(scores).get("chosen")})
    return chosen if chosen.exists() else None


def _more(cell: Record) -> str:
    if not cell["n"]:
        return ""
    seeds = cell["seeds"].split()
    parts = [
        f"Seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}",
        f"leniently scored {text.fixed(float(cell['lenient_score']))}",
    ]
    if cell["state"]:
        steps = f", kept after {', '.join(cell['kept_steps'].split())} steps" if cell["kept_steps"] else ""
        untrained = " (0: untrained)" if "0" in cell["kept_steps"].split() else ""
        parts.append(f"{cell['state']} state of each training{steps}{untrained}")
    if cell["other_state"]:
        parts.append(f"its {cell['other_state']} state scores {text.fixed(float(cell['other_strict_score']))}")
    if cell["method"] != "base" and cell["strict_normalised"]:
        of_factor = _span(cell["strict_normalised_low"], cell["strict_normalised_high"])
        parts.append(f"{_factor(cell['strict_normalised'])} of our base ({of_factor})")
    if cell["strict_p"]:
        test = name_of_test(len(seeds), cell["paired"] == "True")
        parts.append(f"against our base {text.p_value(float(cell['strict_p']))} ({test}, by Holm over the table)")
    if cell["detectable"]:
        parts.append(
            f"{cell['n']} items show a gain of {text.fixed(float(cell['detectable']), 1)} points with 80 % power"
        )
    if cell["budget"]:
        parts.append(f"trained with {cell['budget']}")
    if cell["why"]:
        parts.append(f"the verdict's reason: {cell['why']}")
    if cell["verdict_if_paired"] not in ("", cell["verdict"]):
        parts.append(f"it would be “{cell['verdict_if_paired']}” if the paper's base and method were paired closely")
    return "; ".join(parts) + "."


def _number(number: str, below: str, exact: bool = False) -> Number:
    """A number of a CSV file; with `exact`, in the digits that it has there."""
    return Number(number if exact else text.fixed(float(number)), number, below) if number else Number(text.ABSENT)


def _factor(number: str) -> str:
    return text.times(float(number)) if number else ""


def _span(low: str, high: str) -> str:
    return text.span(float(low), float(high)) if low and high else ""
