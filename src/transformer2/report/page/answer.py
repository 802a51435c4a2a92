"""The page in a few sentences."""

from collections import Counter
from collections.abc import Mapping, Sequence

from transformer2.report import text
from transformer2.report.page.marks import COMPARED, SEVERITY_MARKS
from transformer2.report.page.records import Record
from transformer2.reproduce.claims.measured import BY_SHAPES, ON_STANDINS


def answer(cells: Sequence[Record], claims: Sequence[Record], findings: Sequence[Record]) -> dict[str, str]:
    """The page in a few sentences, each below what it is about."""
    verdicts = Counter(cell["verdict"] for cell in cells)
    answers = {"Numbers": _answer_numbers(verdicts)}
    if claims:
        answers["Claims"] = _answer_claims(Counter(claim["verdict"] for claim in claims))
    if gains := [float(cell["detectable"]) for cell in cells if cell["detectable"] not in ("", "inf")]:
        answers["How sure"] = (
            "Every number of ours has a 95 % interval. Depending on the cell, its test set would have shown, with 80 % "
            f"power, a gain over the base of {min(gains):.1f} to {max(gains):.1f} percentage points; a smaller one may "
            "go unnoticed."
        )
    if findings:
        graded = Counter(finding["severity"] for finding in findings)
        names = dict.fromkeys(SEVERITY_MARKS) | {"rounding": "rounding slip"}
        left = [text.counted(graded[name], word or name) for name, word in names.items() if graded[name]]
        answers["The papers"] = f"Checked against themselves and against each other, they leave {text.listed(left)}."
    return answers


def _answer_numbers(verdicts: Mapping[str, int]) -> str:
    printed = sum(verdicts.values()) - verdicts["ours alone"]
    sentences = []
    if compared := sum(verdicts[name] for name in COMPARED):
        sentences.append(
            f"The papers' tables print {printed} numbers. {compared} of them were measured here with the papers' "
            f"own models: {verdicts['reproduced']} were reproduced, {verdicts['higher']} are higher here, "
            f"{verdicts['lower']} lower, and for {verdicts['inconclusive']} this run is too small to tell."
        )
    else:
        sentences.append(
            f"None of the {printed} numbers that the papers' tables print was put to the test: none of "
            "their models was measured on them."
        )
    if beside := verdicts["not comparable (stand-in)"]:
        sentences.append(
            f"{beside} have a stand-in's number beside them, which shows that the cell can be computed and what a "
            "method adds to its own base, but not whether the paper's number is right."
        )
    if absent := verdicts["not run"]:
        sentences.append(f"{absent} {text.were(absent)} not run.")
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
