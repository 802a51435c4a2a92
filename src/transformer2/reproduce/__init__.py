"""What the papers report against what a run measured: ledger, frames, cells, statistics, claims and verdicts."""
