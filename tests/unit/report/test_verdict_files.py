"""The verdicts of a run and the audit as files: what they hold, and that they agree with the tables."""

import pandas as pd
import pytest
from test_tables import scores_of, write

from conftest import ROOT
from transformer2.report.figures.gains import draw, draw_power
from transformer2.report.verdicts import what_gains_show, worth_the_hours, write_audit, write_gains
from transformer2.reproduce.budgets import Budget
from transformer2.reproduce.claims.measured import Measurements
from transformer2.reproduce.frames import Frames
from transformer2.reproduce.ledger import Ledger, read_all
from transformer2.reproduce.power import power_table
from transformer2.reproduce.printed import printed_gains
from transformer2.reproduce.verdicts import JudgedTable

SVF = "arxiv/table1/llama3-8b/svf/gsm8k"
BUDGETS = {"svf": Budget(12, 2), "lora": Budget(20, 4)}


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return read_all(ROOT / "paper_tables")


@pytest.fixture(scope="module")
def power(ledger) -> pd.DataFrame:
    return power_table(printed_gains(ledger))


@pytest.fixture
def measured(tmp_path) -> Measurements:
    """The paper's own Llama on two tasks, a stand-in for Mistral."""
    rows = []
    for task, n, base, svf in (("gsm8k", 1319, 1001, 1044), ("arc_easy", 2376, 2105, 2128)):
        for method, solved in (("base", base), ("svf", svf), ("lora", base)):
            rows += scores_of("l", "llama3-8b", method, task, solved, standin=False, items=range(n))
            rows += scores_of("toy", "mistral-7b", method, task, solved // 2, items=range(n))
    write(rows, tmp_path / "scores.csv.gz")
    return Measurements.read(Frames(tmp_path), ["scores.csv.gz"], BUDGETS)


@pytest.mark.slow
def test_every_cell_with_a_method_has_one_verdict(measured, ledger, tmp_path):
    n = write_gains(ledger, measured, tmp_path / "verdicts")
    frame = pd.read_csv(tmp_path / "verdicts.csv").set_index("cell")
    assert n == len(frame) == len(printed_gains(ledger)) and frame["verdict"].notna().all()
    assert frame.loc[SVF, "verdict"] == "reproduced" and frame.loc[SVF, "seeds"] == 1
    assert frame.loc[SVF.replace("llama3-8b", "mistral-7b"), "verdict"] == "not comparable (stand-in)"
    text = (tmp_path / "verdicts.md").read_text(encoding="utf-8")
    assert "**cannot tell**: " in text and "reproduced, one seed, unequal budgets" in text


@pytest.mark.slow
def test_stand_ins_are_pooled_apart_and_not_compared(measured, ledger, tmp_path):
    write_gains(ledger, measured, tmp_path / "verdicts")
    pooled = pd.read_csv(tmp_path / "verdicts-pooled.csv").set_index(["table", "method", "standin"])
    own, standin = (pooled.loc[("arxiv/table1", "svf", of)] for of in (False, True))
    assert own["cells"] == standin["cells"] == 2
    assert own["ours_low"] < own["ours"] < own["ours_high"] and own["difference"] == pytest.approx(0, abs=0.2)
    assert pd.isna(standin["difference"]) and standin["ours"] > 0


def test_a_forest_plot_shows_each_verdict_and_what_ran(measured, ledger, tmp_path):
    table = next(table for table in ledger.scores if table.id == "arxiv/table1")
    draw(JudgedTable.of(table, ledger, measured.scores, BUDGETS), "toy", tmp_path / "gains")
    text = (tmp_path / "gains.svg").read_text(encoding="utf-8")
    for said in ("Table 1 of the paper: gains over the base, run “toy”, one seed", "SVF, GSM8K", "(toy here)",
                 "reproduced, unequal budgets", "stand-in, unequal budgets", "not run", "SVF (2 cells)",
                 "SVF (2 cells, stand-ins)"):  # fmt: skip
        assert said in text, said
    assert pd.read_csv(tmp_path / "gains.csv")["verdict"].eq("reproduced").any()


def test_a_table_without_any_gain_is_drawn_empty(ledger, tmp_path):
    table = next(table for table in ledger.scores if table.id == "arxiv/figure5")
    scores = pd.read_csv(write(scores_of("m", "", "base", "gsm8k", 1), tmp_path / "s.csv"), keep_default_na=False)
    draw(JudgedTable.of(table, ledger, scores, {}), "toy", tmp_path / "gains")
    assert (tmp_path / "gains.png").stat().st_size > 1000


def test_the_audit_says_which_gains_can_be_shown_and_on_how_many_items(power, tmp_path):
    write_audit(ROOT / "paper_tables", tmp_path / "audit")
    assert what_gains_show(power) in (tmp_path / "audit.md").read_text(encoding="utf-8")
    line = next(line for line in worth_the_hours(power).splitlines() if "table1/mistral-7b/svf/gsm8k" in line)
    assert line == "| arxiv/table1/mistral-7b/svf/gsm8k | +6.91 (+3.1 to +10.7) | 1319 | 112 to 819 | yes |"


def test_a_number_that_several_tables_print_is_listed_once(power):
    text = worth_the_hours(power)
    assert text.count("/svf/gsm8k | +6.91") == 1 and "workshop/table1/mistral-7b/svf/gsm8k" not in text


def test_the_plan_of_a_run_lists_the_rows_that_it_has(power):
    text = worth_the_hours(power, {"llama3-70b"})
    cells = [line for line in text.splitlines() if line.startswith("| arxiv") or line.startswith("| workshop")]
    assert cells and all("/llama3-70b/" in line for line in cells)
    assert "There is none." in worth_the_hours(power, {"llava-next-8b"})


def test_what_gains_show_is_drawn_with_one_dot_a_printed_number(power, tmp_path):
    draw_power(power, tmp_path / "power")
    text = (tmp_path / "power.svg").read_text(encoding="utf-8")
    assert "gsm8k, n = 1319" in text and "not seen even with maximal pairing" in text
    assert len(pd.read_csv(tmp_path / "power.csv")) == len(power)
