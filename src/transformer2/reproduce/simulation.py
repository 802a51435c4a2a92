"""How often each verdict falls when the truth is known: its level and its power, at the paper's own numbers of items.

python -m transformer2.reproduce.simulation 2000    # draws a cell; prints the tables of docs/verdicts.md

A draw is a run: a multinomial sample of items that both sides solve, one side alone, or neither. Its true rates are the
paper's base, and a gain that is none, half of the printed one, or the printed one. How many items are discordant is a
setting: independent, maximal pairing, or halfway between. The paper's number stands as it is printed, or is drawn anew
from the same truth, as a faithful replication would meet it.
"""

import sys
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from transformer2.reproduce.answers import JUDGED, judge
from transformer2.reproduce.gains import independent_discordant, independent_error, paired_error, paired_gain
from transformer2.reproduce.ledger import read_margin
from transformer2.reproduce.power import counts, power_table
from transformer2.reproduce.printed import read_printed

Truth = Literal["no gain", "half of the gain", "the printed gain"]
SHARE: dict[Truth, float] = {"no gain": 0.0, "half of the gain": 0.5, "the printed gain": 1.0}
Pairing = Literal["maximal", "halfway", "independent"]
INDEPENDENCE: dict[Pairing, float] = {"maximal": 0.0, "halfway": 0.5, "independent": 1.0}
Paper = Literal["as printed", "drawn anew"]


def simulate(printed: pd.DataFrame, margin: float, draws: int, seed: int = 0) -> pd.DataFrame:
    """Share of each verdict: one row a printed cell, truth, pairing, and paper as printed or drawn anew.

    With no gain and maximal pairing the method answers as its base does, item by item.
    """
    cells = printed.loc[printed["gain"].notna()].assign(standin=False)
    parts = []
    for k, (truth, pairing, paper) in enumerate(product(get_args(Truth), get_args(Pairing), get_args(Paper))):
        if truth != "the printed gain" and paper == "drawn anew":
            continue  # what the paper drew is the printed number
        rng = np.random.default_rng([seed, k])
        drawn = _draw(cells.loc[cells.index.repeat(draws)].reset_index(drop=True), truth, pairing, paper, rng)
        verdict = judge(drawn, margin)["verdict"]
        shares = pd.crosstab(drawn["cell"], verdict, normalize="index").reindex(columns=list(JUDGED), fill_value=0.0)
        kept = cells[["cell", "document", "table", "method", "task", "gain"]]
        parts.append(kept.merge(shares, on="cell").assign(truth=truth, pairing=pairing, paper=paper))
    return pd.concat(parts, ignore_index=True)


def _draw(cells: pd.DataFrame, truth: Truth, pairing: Pairing, paper: Paper, rng: np.random.Generator) -> pd.DataFrame:
    base, gain, n = cells["base"] / 100, SHARE[truth] * cells["gain"] / 100, cells["n"].to_numpy()
    loose, tight = independent_discordant(base + gain, base), gain.abs()
    discordant = tight + INDEPENDENCE[pairing] * np.maximum(loose - tight, 0)
    only_method, only_base = (discordant + gain) / 2, (discordant - gain) / 2
    rates = np.column_stack([only_method, only_base, base - only_base, 1 - base - only_method]).clip(0, 1)
    rates /= rates.sum(axis=1, keepdims=True)
    method, other, _, _ = rng.multinomial(n, rates).T
    ours = cells.assign(
        ours=100 * (method - other) / n, ours_se=paired_error(method, other, n), df=np.inf, seed_variance=0.0
    )  # fmt: skip
    if paper == "as printed":
        return ours
    method, other, both, _ = rng.multinomial(n, rates).T
    return ours.assign(
        gain=100 * (method - other) / n,
        se=independent_error(both + method, n, both + other, n),
        se_paired=paired_error(np.abs(method - other), 0, n),
        discordant=independent_discordant((both + method) / n, (both + other) / n),
        discordant_paired=np.abs(method - other) / n,
    )


def by_table(simulated: pd.DataFrame) -> pd.DataFrame:
    """Mean share of each verdict over the cells of each table, in percent, and how many cells it has."""
    where = ["truth", "pairing", "paper", "document", "table"]
    percent = simulated.assign(**{name: 100 * simulated[name] for name in JUDGED})
    means = dict.fromkeys(JUDGED, "mean") | {"cell": "size"}
    return percent.groupby(where, sort=False).agg(means).rename(columns={"cell": "cells"}).reset_index()


def overall(simulated: pd.DataFrame) -> pd.DataFrame:
    """Mean share of each verdict over all cells, in percent, and the largest share in any cell of the two that can be
    wrong: reproduced where there is no gain, not reproduced where there is the printed one."""
    where = ["truth", "pairing", "paper"]
    percent = simulated.assign(**{name: 100 * simulated[name] for name in JUDGED})
    percent = percent.assign(**{f"most {name}": percent[name] for name in ("reproduced", "not reproduced")})
    asked = dict.fromkeys(JUDGED, "mean") | {"most reproduced": "max", "most not reproduced": "max"}
    return percent.groupby(where, sort=False).agg(asked).reset_index()


# ---- several seeds


def seed_level(seeds: int, items: int, seed_sd: float, draws: int, seed: int = 0) -> float:
    """How often the test over seeds and items finds a gain where there is none.

    The base solves each item with a rate of its own, uniform from 0 to 1. A training answers half of the items anew,
    and moves all rates by a normal error with a standard deviation of `seed_sd` points and a mean of none.
    """
    rng, significant = np.random.default_rng([seed, seeds, items]), 0
    for _ in range(draws):
        rate, base = rng.random(items), rng.random(items)
        fresh = rng.random((seeds, items))
        answers = np.where(rng.random((seeds, items)) < 0.5, fresh, base)  # (seeds, items); right if below the rate
        moved = rate + rng.normal(0, seed_sd / 100, (seeds, 1))
        low, high = paired_gain(answers < moved, base < rate).interval[1:]
        significant += not low <= 0 <= high
    return significant / draws


def main(draws: int) -> None:
    """Prints the tables of docs/verdicts.md."""
    folder = Path("paper_tables")
    margin, printed = read_margin(folder / "margins.yaml").margin, read_printed(folder)
    power = power_table(printed)
    clear = power.loc[(power["document"] == "arxiv") & (power["repeats"] == "") & (power["beyond"] == "yes")]
    columns = ["cell", "gain", "low", "high", "n", "needed_paired", "needed", "power_paired", "power", "worth"]
    simulated = simulate(printed, margin, draws)
    by_tables = by_table(simulated)
    shown = by_tables["pairing"].eq("halfway") & by_tables["truth"].ne("half of the gain")
    levels = [
        {"seeds": s, "items": n, "spread of seeds": sd, "level": 100 * seed_level(s, n, sd, draws)}
        for s, n, sd in product((2, 3, 5), (100, 400), (0.0, 2.0, 5.0))
    ]
    for title, table in {
        "printed gains beyond their sampling error": counts(power),
        "those of the arXiv paper": clear[columns],
        "verdicts over all cells": overall(simulated),
        "verdicts by table, pairing halfway": by_tables.loc[shown].drop(columns="pairing"),
        "level of the test over seeds": pd.DataFrame(levels),
    }.items():
        print(f"\n{title}\n\n{table.to_markdown(index=False, floatfmt='.1f')}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
