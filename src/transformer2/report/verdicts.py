"""The verdicts on the papers' claims, and the findings of the audit, as files: CSV to read on, Markdown to read."""

from pathlib import Path

import pandas as pd

from transformer2.provenance import atomic_write
from transformer2.report.layout import markdown
from transformer2.reproduce.audit import SEVERITIES, audit
from transformer2.reproduce.claims import read_claims
from transformer2.reproduce.claims.measured import Measurements, judge_claims
from transformer2.reproduce.ledger import read_all

SHOWN = ["quote", "reading", "printed", "printed_evidence", "verdict", "evidence"]
"""Columns of the claims that Markdown shows."""


def write_claims(ledger_folder: Path, measured: Measurements, out: Path) -> int:
    """Writes the verdict on every claim to `<out>.csv` and `<out>.md`; returns their number."""
    claims = judge_claims(read_all(ledger_folder), read_claims(ledger_folder / "claims.yaml"), measured)
    title = f"# The papers' claims, run “{measured.scores['run'].iloc[0]}”"
    _write(claims, f"{title}\n\n{markdown(claims.loc[:, SHOWN])}\n", out)
    return len(claims)


def write_audit(ledger_folder: Path, out: Path) -> int:
    """Writes all findings to `<out>.csv` and `<out>.md`; returns their number."""
    findings = audit(ledger_folder)
    counted = findings["severity"].value_counts()
    counts = "\n".join(f"- {name}: {counted.get(name, 0)} ({meaning})" for name, meaning in SEVERITIES.items())
    title = "# What does not fit in the papers themselves\n\nFound by rule from the printed numbers."
    _write(findings, f"{title}\n\n{counts}\n\n{markdown(findings)}\n", out)
    return len(findings)


def _write(frame: pd.DataFrame, page: str, out: Path) -> None:
    atomic_write(out.with_suffix(".csv"), frame.to_csv(index=False))
    atomic_write(out.with_suffix(".md"), page)
