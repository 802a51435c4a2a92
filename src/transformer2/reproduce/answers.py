"""Whether a printed gain was reproduced: four questions answered apart, and one verdict by a fixed table.

1. Has our gain the sign of the printed one, beyond the sampling error of ours?
2. Does the printed gain lie in our 95 % prediction interval, which has the sampling error of both?
3. Is our gain within the margin of the printed one, by two one-sided tests (TOST; Schuirmann 1987)? The printed number
   is taken as it is printed. `equivalent_both` asks the same with the sampling error of both, as for two estimates
   (Anderson and Maxwell 2016); few of the paper's test sets are large enough for that.
4. Could the paper's number of items have seen, with a power of a third, an effect of the size that ours supports (small
   telescopes; Simonsohn 2015)?

What the paper's items show (2, 4) depends on how its base and method were paired, which is not reported. Answers take
them for independent, the wider bound; `verdict_if_paired` is the verdict at the other bound, maximal pairing.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student

from transformer2.reproduce.gains import Gain
from transformer2.reproduce.power import TELESCOPE, Z, detectable
from transformer2.reproduce.statistics import LEVEL, critical

Verdict = Literal[
    "reproduced", "same direction", "not reproduced", "cannot tell", "not comparable (stand-in)", "not run",
    "ours alone",
]  # fmt: skip
MEANING: dict[Verdict, str] = {
    "reproduced": "our gain is significant, has the sign of the paper's, and is within the margin of it",
    "same direction": "our gain is significant and has the sign of the paper's; its size differs or is too uncertain",
    "not reproduced": "our gain has the other sign, or there is none and the paper's would have been seen",
    "cannot tell": "the items are too few: the paper's gain and none at all both agree with what was measured",
    "not comparable (stand-in)": "another model, or other data, ran in the place of the paper's",
    "not run": "this run has no gain for the cell",
    "ours alone": "the paper prints no gain for the cell, or has no row for the model",
}
JUDGED: tuple[Verdict, ...] = ("reproduced", "same direction", "not reproduced", "cannot tell")
"""Verdicts by the table of rules, which only the papers' own models and data can get."""


# ---- the table of verdicts


class Rule(NamedTuple):
    """A verdict, and the answers that lead to it; None is any answer. The first rule that fits decides."""

    verdict: Verdict
    why: str
    sign: Literal["same", "opposite", "none shown", "none printed"]
    equivalence: Literal["equivalent", "different", "open"] | None = None
    telescopes: Literal["large enough", "too small", "no test"] | None = None


RULES = (
    Rule("reproduced", "a gain of the same sign and, within the margin, the same size", "same", "equivalent"),
    Rule("same direction", "a gain of the same sign, but of another size", "same", "different"),
    Rule("same direction", "a gain of the same sign; its size is too uncertain", "same"),
    Rule("not reproduced", "the other sign", "opposite"),
    Rule("not reproduced", "no gain, and the paper's is outside our prediction interval", "none shown", "different"),
    Rule("not reproduced", "too small for the paper's own number of items", "none shown", None, "too small"),
    Rule("cannot tell", "within the margin, but ours may as well be none", "none shown", "equivalent"),
    Rule("cannot tell", "too few items: the paper's gain and none both agree with ours", "none shown"),
    Rule("reproduced", "the paper prints no change, ours is within the margin of none", "none printed", "equivalent"),
    Rule("not reproduced", "the paper prints no change, ours is beyond chance", "none printed", "different"),
    Rule("cannot tell", "the paper prints no change, ours is too uncertain", "none printed"),
)  # fmt: skip


def decide(answers: pd.DataFrame) -> pd.DataFrame:
    """`verdict` and `why` by the first rule that fits the columns sign, equivalence and telescopes."""
    fits = []
    for rule in RULES:
        asked = {column: answer for column, answer in rule._asdict().items() if column not in ("verdict", "why")}
        fits.append(np.logical_and.reduce([answers[c].to_numpy() == a for c, a in asked.items() if a is not None]))
    first = np.argmax(np.vstack([*fits, np.ones(len(answers), bool)]), axis=0)
    return pd.DataFrame(
        {
            name: np.array([*(getattr(rule, name) for rule in RULES), ""], dtype=object)[first]
            for name in ("verdict", "why")
        },
        index=answers.index,
    )


# ---- the answers


def ours_as_row(gain: Gain) -> dict[str, float]:
    """What `judge` needs of a measured gain, by column."""
    return {
        "ours": gain.value, "ours_se": gain.se, "df": gain.df, "seed_variance": gain.seed_variance,
        "ours_discordant": gain.discordant, "seeds": gain.seeds, "items": gain.items,
    }  # fmt: skip


def judge(cells: pd.DataFrame, margin: float) -> pd.DataFrame:
    """Every cell with its answers and its verdict added; gains are in percentage points.

    `cells` has one row a cell: the printed gain with its sampling error at both bounds and its items (gain, se,
    se_paired, discordant, discordant_paired, n, as in `printed_gains`; NaN where none is printed), ours (`ours_as_row`;
    NaN where nothing was run), and `standin`. Added:

    ours_low, ours_high, p_value: 95 % interval of our gain, and p of the test that it is 0.
    sign (1): same, opposite, none shown (ours is not significant), none printed (the printed gain is 0).
    predicted_low, predicted_high, inside (2): 95 % prediction interval of the paper's gain, which was measured once.
    equivalence_p, equivalence (3): p of TOST; equivalent, different (not equivalent, and outside the prediction
      interval), or open. equivalent_both: TOST with the sampling error of both.
    telescope, telescopes (4): the gain that the paper's items show with a power of a third; large enough, too small
      (ours is smaller, one-sided test at 0.05), or no test, where the printed gain is within its own sampling error.
    verdict, why, verdict_if_paired.
    """
    judged = cells.assign(**_ours(cells))
    sign = np.sign(judged["gain"])
    judged["sign"] = np.select(
        [sign == 0, judged["p_value"] >= 1 - LEVEL, np.sign(judged["ours"]) == sign],
        ["none printed", "none shown", "same"],
        "opposite",
    )
    distance, one_sided = (judged["ours"] - judged["gain"]).abs(), student.ppf(LEVEL, judged["df"])
    judged["equivalence_p"] = student.sf((margin - distance) / judged["ours_se"], judged["df"])
    judged["equivalent_both"] = (margin - distance) / np.hypot(judged["ours_se"], judged["se"]) > one_sided
    at_best = decide(judged.assign(**_compared(judged, "_paired")))
    judged = judged.assign(**_compared(judged, ""))
    verdicts = decide(judged)
    judged["verdict"], judged["verdict_if_paired"] = _verdicts(judged, verdicts), _verdicts(judged, at_best)
    return judged.assign(why=verdicts["why"].where(judged["verdict"] == verdicts["verdict"], ""))


def _ours(cells: pd.DataFrame) -> dict[str, Any]:
    width = critical(cells["df"]) * cells["ours_se"]
    p_value = pd.Series(2 * student.sf(cells["ours"].abs() / cells["ours_se"], cells["df"]), index=cells.index)
    return {"ours_low": cells["ours"] - width, "ours_high": cells["ours"] + width, "p_value": p_value}


def _compared(judged: pd.DataFrame, bound: Literal["", "_paired"]) -> dict[str, Any]:
    """Questions 2 to 4 with one bound of the pairing of the printed gain, which is that of a single training."""
    gain, ours, df = judged["gain"], judged["ours"], judged["df"]
    printed_se = judged[f"se{bound}"]
    spread = np.sqrt(judged["ours_se"] ** 2 + printed_se**2 + judged["seed_variance"])
    width = critical(df) * spread
    inside = (gain - ours).abs() <= width
    telescope = 100 * detectable(judged["n"], judged[f"discordant{bound}"], TELESCOPE)
    too_small = np.sign(gain) * ours + student.ppf(LEVEL, df) * judged["ours_se"] < telescope
    return {
        "predicted_low": ours - width,
        "predicted_high": ours + width,
        "inside": inside,
        "equivalence": np.select([judged["equivalence_p"] < 1 - LEVEL, ~inside], ["equivalent", "different"], "open"),
        "telescope": telescope,
        "telescopes": np.select([gain.abs() <= Z * printed_se, too_small], ["no test", "too small"], "large enough"),
    }


def _verdicts(judged: pd.DataFrame, by_rule: pd.DataFrame) -> np.ndarray:
    return np.select(
        [judged["gain"].isna(), judged["ours"].isna(), judged["standin"].astype(bool)],
        ["ours alone", "not run", "not comparable (stand-in)"],
        by_rule["verdict"],
    )
