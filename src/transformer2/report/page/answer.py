"""The page in a few sentences."""

from collections import Counter
from collections.abc import Mapping, Sequence

from transformer2.report import text
from transformer2.report.page.marks import SEVERITY_MARKS
from transformer2.report.page.records import Record, is_own
from transformer2.reproduce.answers import JUDGED
from transformer2.reproduce.claims.measured import BY_SHAPES, ON_STANDINS
from transformer2.reproduce.statistics import LEVEL
from transformer2.reproduce.verdicts import BASE, COMPARED


def answer(cells: Sequence[Record], claims: Sequence[Record], findings: Sequence[Record]) -> dict[str, str]:
    """The page in a few sentences, each below what it is about."""
    answers = {"Gains": _answer_gains(Counter(cell["verdict"] for cell in cells))}
    if own := [cell for cell in cells if is_own(cell) and cell["gain"]]:
        answers["Ours alone"] = _answer_own(own)
    if compared := Counter(cell["score_comparison"] for cell in cells if cell["score_comparison"]):
        parts = [f"{compared[name]} {name}" for name in COMPARED if compared[name]]
        answers["Scores"] = f"Of {sum(compared.values())} scores beside the papers', {text.listed(parts)}."
    if claims:
        answers["Claims"] = _answer_claims(Counter(claim["verdict"] for claim in claims))
    if sure := _answer_sure([cell for cell in cells if cell["gain"]]):
        answers["How sure"] = sure
    if findings:
        graded = Counter(finding["severity"] for finding in findings)
        names = dict.fromkeys(SEVERITY_MARKS) | {"rounding": "rounding slip"}
        left = [text.counted(graded[name], word or name) for name, word in names.items() if graded[name]]
        answers["The papers"] = f"Checked against themselves and against each other, they leave {text.listed(left)}."
    return answers


def _answer_gains(verdicts: Mapping[str, int]) -> str:
    printed = sum(verdicts.values()) - verdicts["ours alone"] - verdicts[BASE]
    sentences = []
    if judged := sum(verdicts[name] for name in JUDGED):
        parts = text.listed(f"{verdicts[name]} {name}" for name in JUDGED)
        sentences.append(
            f"The papers' tables print {printed} gains of a method over its base. {judged} of them were measured here "
            f"with the papers' own models: {parts}."
        )
    else:
        sentences.append(
            f"None of the {printed} gains over a base in the papers' tables was put to the test: none of the papers' "
            "models was measured on them."
        )
    if beside := verdicts["not comparable (stand-in)"]:
        sentences.append(
            f"{beside} have a stand-in's gain beside them. It shows that the cell can be computed and what the method "
            "does to that stand-in, but not whether the paper's gain is right."
        )
    if absent := verdicts["not run"]:
        sentences.append(f"{absent} {text.were(absent)} not run.")
    return " ".join(sentences)


def _answer_own(cells: Sequence[Record]) -> str:
    """On the gains of models that stand for no row of the papers."""
    beyond = [cell for cell in cells if cell["strict_p"] and float(cell["strict_p"]) < 1 - LEVEL]
    above = sum(float(cell["gain"]) > 0 for cell in beyond)
    models = text.listed(dict.fromkeys(cell["model"] for cell in cells))
    return (
        f"The papers have no row for {models}. Of {text.counted(len(cells), 'gain')} over their own base in all "
        f"tables, {above} {text.were(above)} positive and {len(beyond) - above} negative beyond chance."
    )


def _answer_sure(measured: Sequence[Record]) -> str:
    """On how many seeds the gains rest, in which state of training, and how small a gain would have been seen."""
    if not measured:
        return ""
    seeds = Counter(len(cell["seeds"].split()) for cell in measured)
    alone = "All" if len(seeds) == 1 else f"{seeds[1]} of {len(measured)}"
    sentences = ["Every gain has a 95 % interval."]
    if seeds[1]:
        sentences.append(f"{alone} of ours rest on one seed: nothing is known of how another training would end.")
    states = Counter(cell["state"] for cell in measured)
    if states["best"]:
        sentences.append(
            f"{states['best']} show the state of training that was best on validation, a choice that favours the "
            f"method; {states['last']} show the last state, as rows about harm do."
        )
    if seen := [float(cell["detectable"]) for cell in measured if cell["detectable"] not in ("", "inf")]:
        sentences.append(
            f"Depending on the cell, its test set shows a gain of {min(seen):.1f} to {max(seen):.1f} points with a "
            "power of 80 %; a smaller one may go unnoticed."
        )
    return " ".join(sentences)


def _answer_claims(verdicts: Mapping[str, int]) -> str:
    parts = []
    for prefix, where in (
        ("", "with the papers' own models"),
        (ON_STANDINS, "on stand-ins"),
        (BY_SHAPES, "by the shapes of the papers' models"),
    ):
        names = [name for name in ("supported", "not supported", "inconclusive") if verdicts[prefix + name]]
        if names:
            parts.append(f"{text.listed(f'{verdicts[prefix + name]} {name}' for name in names)} {where}")
    if absent := verdicts["not run"]:
        parts.append(f"{absent} not run")
    return f"{text.counted(sum(verdicts.values()), 'claim')} of the papers' text: {'; '.join(parts)}."
