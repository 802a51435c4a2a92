"""Models of a run that stand for no row of the paper: rows of their own in its tables, which change nothing else."""

from pathlib import Path

import pandas as pd
import pytest
from test_tables import scores_of

from conftest import ROOT
from transformer2.config import parse
from transformer2.report.figures import write_figures
from transformer2.report.tables import write_tables
from transformer2.reproduce import ledger
from transformer2.reproduce.answers import JUDGED
from transformer2.reproduce.cells import cells
from transformer2.reproduce.claims import read_claims
from transformer2.reproduce.claims.measured import Measurements, judge_claims
from transformer2.reproduce.frames import write_frame
from transformer2.reproduce.own_models import own_models, with_rows, with_scored
from transformer2.reproduce.printed import printed_gains
from transformer2.reproduce.verdicts import JudgedTable, judge_cells

LEDGER = ledger.read_all(ROOT / "paper_tables")


def paper() -> list[dict]:
    """The paper's own Llama, and a stand-in for Mistral."""
    rows = []
    for task in ("gsm8k", "arc_easy"):
        for method, solved in (("base", 16), ("svf", 30), ("lora", 17)):
            rows += scores_of("llama", "llama3-8b", method, task, solved, standin=False)
            rows += scores_of("toy", "mistral-7b", method, task, solved - 8)
    return rows


def own() -> list[dict]:
    """Another model, which trained SVF alone, with two seeds."""
    rows = scores_of("next", "", "base", "gsm8k", 10, standin=False)
    for seed, solved in enumerate((24, 26)):
        rows += scores_of("next", "", "svf", "gsm8k", solved, seed=seed, standin=False)
    return rows


def table(of: ledger.Ledger, name: str = "arxiv/table1") -> ledger.LedgerTable:
    return next(table for table in of.scores if table.id == name)


@pytest.mark.parametrize("others", [paper(), []], ids=["beside the paper's", "by itself"])
def test_an_own_model_has_a_row_for_each_method_that_it_ran_below_the_papers(others):
    scores = pd.DataFrame(others + own())
    beside = with_scored(LEDGER, scores)
    assert own_models(scores) == ["next"]
    found = table(beside)
    assert found.rows[:-2] == table(LEDGER).rows
    base, svf = found.rows[-2:]
    assert (base.method, base.label, svf.method, svf.label) == ("base", "next", "svf", "+ SVF (Ours)")
    assert all(row.own and row.model == "next" for row in (base, svf)) and found.models["next"] == "next"
    assert {cell for row in (base, svf) for cell in row.cells.values()} == {ledger.Reported()}
    measured = {cell.id: cell.ours for cell in cells(found, scores, "strict")}
    assert measured["arxiv/table1/next/svf/arc_easy"] is None
    ours = measured["arxiv/table1/next/svf/gsm8k"]
    assert ours and ours.gain and (ours.model, ours.standin, ours.seeds) == ("next", False, (0, 1))
    assert ours.gain.value == pytest.approx(100 * 15 / 40) and ours.gain.interval.low > 0


def test_tables_to_which_it_contributes_nothing_are_as_before():
    beside = with_scored(LEDGER, pd.DataFrame(paper() + own()))
    with_it = {one.id for one in beside.scores if any(row.own for row in one.rows)}
    assert with_it == {"arxiv/table1", "workshop/table1", "arxiv/table7a"}  # Table 4 has its base, and no method of it
    for name in ("arxiv/table2", "arxiv/table4", "arxiv/figure5"):
        assert name not in with_it and table(beside, name) == table(LEDGER, name)


def test_a_model_that_no_method_was_tried_on_has_its_base_wherever_that_is_scored():
    base = scores_of("next", "", "base", "gsm8k", 10, standin=False)
    tables = {one.id: [row for row in one.rows if row.own] for one in with_scored(LEDGER, pd.DataFrame(base)).scores}
    assert {"arxiv/table1", "arxiv/table4", "arxiv/table7a"} <= {name for name, rows in tables.items() if rows}
    assert all(row.method == "base" and "gsm8k" in row.cells for rows in tables.values() for row in rows)


def test_without_own_models_the_ledger_is_as_it_was():
    assert with_scored(LEDGER, pd.DataFrame(paper())) is LEDGER


def test_every_method_of_a_table_may_have_a_row_with_the_cells_of_all_the_papers_rows():
    beside = with_rows(LEDGER, ["next"])
    for printed, extended in zip(LEDGER.scores, beside.scores, strict=True):
        mine = [row for row in extended.rows if row.own]
        assert [row.method for row in mine] == list(dict.fromkeys(row.method for row in printed.rows))
        for row in mine:
            same = [other for other in printed.rows if other.method == row.method]
            assert row.parameters is None and row.shots == same[0].shots
            for column, cell in row.cells.items():
                assert (cell is None) == all(other.cells[column] is None for other in same)
                assert cell is None or (cell.value, cell.normalised) == (None, None)
    on_shots = {cell.id for cell in cells(table(beside, "arxiv/table8"), pd.DataFrame(paper()), "strict")}
    assert "arxiv/table8/next/ia3_100_3/ia3_100" in on_shots  # a column with a method of its own


def test_its_gains_are_ours_alone_and_no_verdict_of_the_papers_rows_changes():
    before, scores = pd.DataFrame(paper()), pd.DataFrame(paper() + own())
    beside = with_scored(LEDGER, scores)
    judged = JudgedTable.of(table(beside), beside, scores, {}).gains
    same = JudgedTable.of(table(LEDGER), LEDGER, before, {}).gains
    pd.testing.assert_frame_equal(judged.loc[same.index], same)
    mine = judged.loc[judged.index.difference(same.index)]
    assert set(mine["verdict"]) == {"ours alone"} and mine["gain"].isna().all()
    assert judge_cells(cells(table(beside), scores, "strict"), printed_gains(beside), 2.0).index.equals(judged.index)


def test_claims_are_about_the_papers_models_alone():
    claims = read_claims(ROOT / "paper_tables" / "claims.yaml")
    seconds = {"run": "toy", "strategy": "prompt", "items": 5, "second_seconds": 10.0}
    timings = pd.DataFrame([
        seconds | {"model": "next", "stands_in_for": "", "standin": False, "task": task, "first_seconds": first}
        for task, first in (("math", 9.0), ("humaneval", 1.0), ("arc_challenge", 1.0))
    ])  # fmt: skip
    before = judge_claims(LEDGER, claims, Measurements(pd.DataFrame(paper())))
    after = judge_claims(LEDGER, claims, Measurements(pd.DataFrame(paper() + own()), timings=timings))
    pd.testing.assert_frame_equal(after, before)
    of_another = timings.assign(stands_in_for="llama3-8b", standin=True)
    moved = judge_claims(LEDGER, claims, Measurements(pd.DataFrame(paper()), timings=of_another))
    assert (moved["verdict"] != before["verdict"]).any()  # the same seconds in a row of the paper count


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables and pictures of a run whose scores are a stand-in's and an own model's."""
    folder = tmp_path_factory.mktemp("run")
    write_frame(pd.DataFrame(paper() + own()), folder / "scores.csv.gz")
    run = parse({"run": "toy", "scores": "scores.json"})
    write_tables(run, folder, LEDGER, ROOT / "paper_tables" / "templates", ["arxiv/table1", "arxiv/table2"])
    write_figures(run, folder, LEDGER, ["arxiv/table1", "arxiv/table1-gains"])
    return folder


@pytest.mark.parametrize("kind", ["md", "html", "tex"])
def test_every_format_of_a_table_heads_its_rows_and_shows_its_gain(shown, kind):
    text = (shown / "paper_tables" / "arxiv" / f"table1.{kind}").read_text(encoding="utf-8")
    paper_rows, _, rest = text.partition("next (ours alone)")
    assert "toy in place of Mistral" in paper_rows and "(ours alone)" not in paper_rows
    rows = rest.partition("Test items" if kind == "md" else "Run: toy")[0]
    assert "+37.5" in rows and ("95 \\%" if kind == "tex" else "95 %") in rows
    for verdict in (*JUDGED, "stand-in"):
        assert verdict not in rows
    assert "for which the paper has no row and so no number: next." in rest
    assert "ours alone" not in (shown / "paper_tables" / "arxiv" / f"table2.{kind}").read_text(encoding="utf-8")


def test_the_numbers_of_a_table_have_its_rows_and_the_papers_as_they_were(shown, tmp_path):
    numbers = pd.read_csv(shown / "paper_tables" / "arxiv" / "table1.csv").set_index("cell")
    mine = numbers.loc[numbers["model"] == "next"]
    assert list(mine["method"]) == ["base"] * 3 + ["svf"] * 3 and mine["reported"].isna().all()
    assert mine["score_comparison"].isna().all() and set(mine["verdict"]) == {"base", "ours alone"}
    svf = mine.loc["arxiv/table1/next/svf/gsm8k"]
    assert (svf["status"], svf["n"], svf["seeds"]) == ("run", 40, "0 1") and svf["gain"] == pytest.approx(37.5)
    assert svf["gain_low"] < svf["gain"] < svf["gain_high"] and svf["strict_p"] < 0.05
    write_frame(pd.DataFrame(paper()), tmp_path / "scores.csv.gz")
    run = parse({"run": "toy", "scores": "scores.json"})
    write_tables(run, tmp_path, LEDGER, ROOT / "paper_tables" / "templates", ["arxiv/table1"])
    lines = [(of / "paper_tables" / "arxiv" / "table1.csv").read_text().splitlines() for of in (shown, tmp_path)]
    assert [line for line in lines[0] if "/next/" not in line] == lines[1]


def test_the_pictures_have_its_rows(shown):
    drawn = pd.read_csv(shown / "figures" / "arxiv" / "table1.csv").set_index("cell")
    assert drawn.loc["arxiv/table1/next/base/gsm8k", "ours"] == 25
    assert pd.isna(drawn.loc["arxiv/table1/next/base/gsm8k", "reported"])
    gains = pd.read_csv(shown / "figures" / "arxiv" / "table1-gains.csv").set_index("cell")
    assert gains.loc["arxiv/table1/next/svf/gsm8k", "verdict"] == "ours alone"
