"""How verdicts and severities are shown."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformer2.reproduce.answers import MEANING
from transformer2.reproduce.audit import SEVERITIES
from transformer2.reproduce.claims.measured import BY_SHAPES, ON_STANDINS
from transformer2.reproduce.verdicts import BASE


@dataclass(frozen=True)
class Mark:
    """How a verdict or a severity looks: name and sign say it all, so that no reader needs its colour."""

    name: str
    sign: str
    tone: str
    """good, bad, doubtful, other or none: its colour."""
    meaning: str = ""


def _marks(*marks: Mark) -> dict[str, Mark]:
    return {mark.name: mark for mark in marks}


CELL_VERDICTS = _marks(
    Mark("reproduced", "✓", "good", MEANING["reproduced"]),
    Mark("same direction", "→", "other", MEANING["same direction"]),
    Mark("not reproduced", "✗", "bad", MEANING["not reproduced"]),
    Mark("cannot tell", "?", "doubtful", MEANING["cannot tell"]),
    Mark("not comparable (stand-in)", "≠", "other", MEANING["not comparable (stand-in)"]),
    Mark("not run", "○", "none", MEANING["not run"]),
    Mark("ours alone", "+", "none", MEANING["ours alone"]),
    Mark(BASE, "·", "none", "a base model, over which gains are measured; only its score is compared"),
)
CLAIM_VERDICTS = _marks(
    Mark(f"{BY_SHAPES}supported", "✓", "good", "follows from the shapes of the papers' models"),
    Mark(f"{BY_SHAPES}not supported", "✗", "bad", "contradicted by the shapes of the papers' models"),
    Mark("supported", "✓", "good", "this run's numbers bear the sentence out"),
    Mark("not supported", "✗", "bad", "this run's numbers speak against the sentence"),
    Mark("inconclusive", "≈", "doubtful", "this run's numbers allow both"),
    Mark(f"{ON_STANDINS}supported", "✓", "good", "borne out by other models than the papers'"),
    Mark(f"{ON_STANDINS}not supported", "✗", "bad", "contradicted by other models than the papers'"),
    Mark(f"{ON_STANDINS}inconclusive", "≈", "doubtful", "other models than the papers' allow both"),
    Mark("not run", "○", "none", "this run did not try it"),
)
SEVERITY_MARKS = _marks(
    Mark("error", "✗", "bad", SEVERITIES["error"]),
    Mark("doubt", "?", "doubtful", SEVERITIES["doubt"]),
    Mark("rounding", "≈", "other", SEVERITIES["rounding"]),
    Mark("note", "i", "none", SEVERITIES["note"]),
)
PRINTED = ("holds", "does not hold", "no number printed")


@dataclass(frozen=True)
class Count:
    mark: Mark
    number: int
    share: str
    bar: str
    """Length of its bar, in percent of the longest."""


def count(marks: Mapping[str, Mark], names: Sequence[str]) -> list[Count]:
    """How often each name is there, in the order of `marks`; names that are not there are left out."""
    numbers = Counter(names)
    most = max(numbers.values(), default=1)
    return [
        Count(mark, numbers[name], f"{100 * numbers[name] / len(names):.0f} %", f"{100 * numbers[name] / most:.1f}")
        for name, mark in marks.items()
        if name in numbers
    ]
