"""The verdicts on the papers' gains and claims, and the findings of the audit, as files: CSV to read on, Markdown to
read."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from transformer2.checksums import verified
from transformer2.config import Run
from transformer2.provenance import atomic_write
from transformer2.report import text
from transformer2.report.layout import markdown
from transformer2.reproduce.answers import MEANING
from transformer2.reproduce.audit import SEVERITIES, audit
from transformer2.reproduce.claims import read_claims
from transformer2.reproduce.claims.measured import Measurements, judge_claims
from transformer2.reproduce.coverage import Coverage
from transformer2.reproduce.ledger import Ledger, read_all
from transformer2.reproduce.own_models import with_scored
from transformer2.reproduce.pooled import pool_methods
from transformer2.reproduce.power import Z, counts, power_table
from transformer2.reproduce.printed import read_printed
from transformer2.reproduce.verdicts import JudgedTable

SHOWN = ["quote", "reading", "printed", "printed_evidence", "verdict", "evidence"]
"""Columns of the claims that Markdown shows."""


def write_gains(ledger: Ledger, measured: Measurements, out: Path) -> int:
    """Writes the verdict on every cell with a method to `<out>.csv` and `<out>.md`, and the pooled gain of every method
    of a table to `<out>-pooled.csv`; returns the number of cells."""
    ledger = with_scored(ledger, measured.scores)
    tables = [JudgedTable.of(table, ledger, measured.scores, measured.budgets) for table in ledger.scores]
    every = pd.concat([judged.gains for judged in tables], ignore_index=True)
    pooled = {judged.table.id: pool_methods(judged.gains) for judged in tables}
    parts = [
        f"# Verdicts on the papers' gains, run “{measured.scores['run'].iloc[0]}”",
        "\n".join(f"- **{verdict}**: {meaning}" for verdict, meaning in MEANING.items()),
        "Gains are in percentage points with 95 % intervals; sign, prediction, equivalence and telescopes are the four "
        "questions of docs/verdicts.md. Stand-ins answer none of them.",
    ]
    for judged in tables:
        parts += [f"## {judged.table.number} ({judged.table.document})", markdown(_gains(judged.gains))]
        if len(of_table := pooled[judged.table.id]):
            parts += ["Over all cells of a method (random effects):", markdown(_pooled(of_table))]
    _write(every, "\n\n".join(parts) + "\n", out)
    known = [frame.assign(table=id) for id, frame in pooled.items() if len(frame)]
    every_pooled = pd.concat(known, ignore_index=True) if known else pd.DataFrame(columns=["table", "method"])
    atomic_write(out.with_name(f"{out.name}-pooled.csv"), every_pooled.to_csv(index=False, float_format="%.6g"))
    return len(every)


def _gains(gains: pd.DataFrame) -> pd.DataFrame:
    """The judged gains of a table as text."""
    answered = gains["ours"].notna() & gains["gain"].notna() & ~gains["standin"]
    width = Z * gains["se"]
    printed = zip(gains["gain"], gains["gain"] - width, gains["gain"] + width, strict=True)
    ours = zip(gains["ours"], gains["ours_low"], gains["ours_high"], strict=True)
    seeds = gains["seeds"].map(lambda number: "" if pd.isna(number) else text.seeds(int(number)))
    spent = gains["unequal_budgets"].map(lambda unequal: "unequal budgets" if unequal else "")
    shown = {
        "model": gains["model"], "method": gains["method"], "task": gains["task"],
        "the paper's gain": [text.gain(*numbers) for numbers in printed],
        "ours": [text.gain(*numbers) for numbers in ours],
        "sign": gains["sign"], "prediction": gains["inside"].map(lambda inside: "inside" if inside else "outside"),
        "equivalence": gains["equivalence"], "telescopes": gains["telescopes"],
    }  # fmt: skip
    frame = pd.DataFrame(shown, index=gains.index)
    frame.loc[~answered, ["sign", "prediction", "equivalence", "telescopes"]] = text.ABSENT
    remarks = [", ".join(filter(None, parts)) for parts in zip(gains["verdict"], seeds, spent, strict=True)]
    return frame.assign(verdict=remarks, why=gains["why"])


def _pooled(pooled: pd.DataFrame) -> pd.DataFrame:
    """The pooled gains of a table as text."""
    columns = {"the paper's gain": "gain", "ours": "ours", "ours less the paper's": "difference"}
    frame = pd.DataFrame({"method": pooled["label"], "cells": pooled["cells"]})
    for title, name in columns.items():
        if name in pooled:  # stand-ins have no difference
            ends = zip(*(pooled[f"{name}{end}"] for end in ("", "_low", "_high")), strict=True)
            frame[title] = [text.gain(*numbers) for numbers in ends]
    return frame.assign(of=pooled["standin"].map(lambda standin: "stand-ins" if standin else "the papers' models"))


def write_claims(ledger_folder: Path, measured: Measurements, out: Path) -> int:
    """Writes the verdict on every claim to `<out>.csv` and `<out>.md`; returns their number."""
    claims = judge_claims(read_all(ledger_folder), read_claims(ledger_folder / "claims.yaml"), measured)
    title = f"# The papers' claims, run “{measured.scores['run'].iloc[0]}”"
    _write(claims, f"{title}\n\n{markdown(claims.loc[:, SHOWN])}\n", out)
    return len(claims)


def write_coverage(ledger_folder: Path, measured: Measurements, run: Run, paper: Run, folder: Path) -> int:
    """Writes how far each number and claim has come (`coverage.Coverage`) to `coverage.csv` in the folder of a run,
    by the verdicts that lie there; returns their number. `paper` is config/paper.yaml."""
    gains = pd.read_csv(verified(folder / "verdicts.csv"), index_col="cell")["verdict"]
    of_claims = pd.read_csv(verified(folder / "claims.csv"), index_col="id")["verdict"]
    known = Coverage(measured, run, paper, gains.to_dict(), of_claims.to_dict())
    frame = known.table(read_all(ledger_folder), read_claims(ledger_folder / "claims.yaml"))
    atomic_write(folder / "coverage.csv", frame.to_csv(index=False))
    return len(frame)


def write_audit(ledger_folder: Path, out: Path) -> int:
    """Writes all findings to `<out>.csv` and `<out>.md`, there with what the papers' own gains can show; returns their
    number."""
    findings = audit(ledger_folder)
    counted = findings["severity"].value_counts()
    by_severity = "\n".join(f"- {name}: {counted.get(name, 0)} ({meaning})" for name, meaning in SEVERITIES.items())
    title = "# What does not fit in the papers themselves\n\nFound by rule from the printed numbers."
    shown = what_gains_show(power_table(read_printed(ledger_folder)))
    _write(findings, f"{title}\n\n{by_severity}\n\n{markdown(findings)}\n\n{shown}", out)
    return len(findings)


def what_gains_show(power: pd.DataFrame) -> str:
    """What the printed gains (`power.power_table`) can show, as a section of Markdown."""
    return "\n\n".join([
        "## What the papers' own gains can show",
        "How many printed gains exceed their sampling error: “yes” if they do even when base and method are taken for "
        "independent, “if paired” if they would with (near) maximal pairing, “no” if not even then.",
        markdown(counts(power)),
        worth_the_hours(power),
    ])  # fmt: skip


def worth_the_hours(power: pd.DataFrame, rows: Collection[str] | None = None) -> str:
    """Which printed gains (`power.power_table`) a replication can find, with the items that it needs, as a section of
    Markdown; `rows` are slugs of the paper's models, all without it."""
    once = power.drop_duplicates(["model", "method", "task", "score"])
    once = once if rows is None else once.loc[once["model"].isin(list(rows))]
    worth = once.loc[once["worth"] != "no"].sort_values(["worth", "cell"], ascending=[False, True])
    hopeless = once.loc[once["worth"] == "no"].groupby(["document", "table", "task"], sort=False).size()
    return "\n\n".join([
        "## Which cells are worth the hours",
        "Cells whose printed gain, if it is true, a replication on the paper's n items finds with a power of 80 %: "
        "“yes” however base and method are paired, “if paired” only if they are paired closely. Items needed for that "
        "power, from maximal pairing to independence: where a run has fewer, it cannot tell. A number that several "
        "tables print stands here once.",
        markdown(_worth(worth)) if len(worth) else "There is none.",
        "Not worth the hours for the sake of their gain on the paper's test set, however base and method are paired: "
        + ("; ".join(f"{document}/{table} {task} ({n})" for (document, table, task), n in hopeless.items()) or "none")
        + ".",
    ]) + "\n"  # fmt: skip


def _worth(power: pd.DataFrame) -> pd.DataFrame:
    needed = zip(power["needed_paired"], power["needed"], strict=True)
    gains = zip(power["gain"], power["low"], power["high"], strict=True)
    return pd.DataFrame({
        "cell": power["cell"], "gain": [text.gain(*numbers) for numbers in gains], "n": power["n"],
        "n for 80 % power": [f"{low:.0f} to {high:.0f}" for low, high in needed],
        "worth the hours": power["worth"],
    })  # fmt: skip


def _write(frame: pd.DataFrame, page: str, out: Path) -> None:
    atomic_write(out.with_suffix(".csv"), frame.to_csv(index=False))
    atomic_write(out.with_suffix(".md"), page)
