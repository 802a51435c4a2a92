"""The page of a run, made from a small invented one: what it says, and how it behaves in a browser."""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from test_tables import scores_of

from conftest import ROOT
from transformer2.provenance import write_json
from transformer2.report import summary
from transformer2.report.contents import Contents, Figure, Table
from transformer2.report.page import render
from transformer2.report.page.marks import CELL_VERDICTS, CLAIM_VERDICTS, SEVERITY_MARKS
from transformer2.report.page.records import CELL_COLUMNS, CLAIM_COLUMNS
from transformer2.reproduce.answers import JUDGED
from transformer2.reproduce.coverage import RUNGS

TEMPLATES = ROOT / "paper_tables" / "templates"
COMMAND = "snakemake --cores all --configfile config/toy.yaml"
HOSTILE = "<script>alert(1)</script>\"'><img src=https://example.org/x onerror=alert(2)>&amp;{{ 7 * 7 }}"
STANDIN, OWN = "toy-llama", "llama3-8b"


def cell(column: str, verdict: str, method: str = "svf", **changes) -> dict:
    """A row of the CSV file of a table: measured as far as its verdict says so."""
    standin = verdict == "not comparable (stand-in)" or changes.pop("standin", False)
    row = dict.fromkeys(CELL_COLUMNS, "") | {
        "cell": f"arxiv/table1/llama3-8b/{method}/{column}", "document": "arxiv", "table": "table1",
        "model": "llama3-8b", "method": method, "run": "toy", "status": "not run", "verdict": verdict,
    }  # fmt: skip
    if verdict != "ours alone":
        row |= {"reported": "75.90", "reported_normalised": "1.04"}
    if verdict != "not run":
        model = STANDIN if standin else OWN
        row |= {
            "status": "run", "model_run": model, "standin": str(standin), "seeds": "0", "n": "40",
            "files": f"scores/{model}/{method}-gsm8k/gsm8k/seed0.json", "strict_score": "70", "strict_low": "54.5726",
            "strict_high": "81.9309", "strict_normalised": "1.4", "strict_normalised_low": "1.11",
            "strict_normalised_high": "inf", "strict_p": "0.0004", "lenient_score": "72.5", "detectable": "17.25",
            "gain": "20", "gain_low": "7.5", "gain_high": "32.5", "state": "best", "paired": "True",
            "budget": "12 updates × 2 sweep points", "unequal_budgets": "False",
        }  # fmt: skip
    if verdict not in ("ours alone", "base"):
        row |= {"reported_gain": "3.26", "reported_gain_se": "1.6"}
    if verdict in JUDGED:
        row |= {"difference": "-5.9", "difference_low": "-20.04", "difference_high": "8.3"}
        row |= {"score_comparison": "open", "why": "the other sign", "verdict_if_paired": "not reproduced"}
    return row | changes


def claim(verdict: str, **changes) -> dict:
    return {
        "id": verdict.replace(" ", "-").replace(":", ""), "document": "arxiv", "section": "4.2",
        "quote": f"SVF is {verdict}.", "reading": "SVF above its base.",
        "cells": "arxiv/table1/llama3-8b/svf/c0 workshop/table9/not/there", "printed": "holds",
        "printed_evidence": "9 of 9", "verdict": verdict, "evidence": "smallest gain 3.1",
    } | changes  # fmt: skip


def finding(severity: str, **changes) -> dict:
    return {
        "rule": "sum", "severity": severity, "document": "workshop",
        "place": "workshop/table2/x/svf/gsm8k workshop/table2/y/svf/gsm8k",
        "finding": "The parts are not the whole.", "evidence": "1 + 1 = 3",
    } | changes  # fmt: skip


STATES = {"reproduced": "reproduced", "not run": "rehearsed", "not comparable (stand-in)": "run on stand-ins"}


def covered(cells: list[dict], claims: list[dict]) -> list[dict]:
    """Rows of coverage.csv: the cells that have a printed number, and the claims."""
    kinds = [("number", one["cell"], "Table 1", one) for one in cells if one["reported"]]
    kinds += [("claim", one["id"], "section 4.2", one) for one in claims]
    return [
        {
            "kind": kind, "id": id, "document": one["document"], "place": place,
            "state": STATES.get(one["verdict"], "run on a real model"), "seeds": 1, "verdict": one["verdict"],
        }
        for kind, id, place, one in kinds
    ]  # fmt: skip


def write_run(run: Path, cells: list[dict], claims: list[dict], findings: list[dict]) -> Path:
    """A finished run with these cells, one figure that is a table's and one that is not, and what its jobs left."""
    tables, figures = run / "paper_tables" / "arxiv", run / "figures"
    for folder in (tables, figures / "arxiv", run / "scores", run / "data" / "gsm8k"):
        folder.mkdir(parents=True)
    pd.DataFrame(cells).to_csv(tables / "table1.csv", index=False)
    pd.DataFrame({"task": ["math"], "first_seconds": [1.0]}).to_csv(tables / "table3.csv", index=False)
    for name in ("table1", "table3"):
        note = '<sup><a href="#note-a">a</a></sup>'
        (tables / f"{name}.html").write_text(
            f"<main><table><caption><strong>Table {name[-1]} (arxiv): paper and ours</strong> Of it.</caption>"
            f'<thead><tr><th scope="col">Method</th></tr></thead><tbody><tr><td>x{note}</td></tr></tbody></table>'
            '<footer><p id="note-a">Note.</p></footer></main>'
        )
    (run / "audit.md").write_text("# Audit\n")
    for name in ("arxiv/table1", "arxiv/table1-gains", "printed-gains", "convergence"):
        (figures / f"{name}.svg").write_text(
            '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="60"><rect width="90" height="60"/></svg>'
        )
    (figures / "convergence.csv").write_text("iteration\n1\n")
    pd.DataFrame(claims, columns=list(CLAIM_COLUMNS)).to_csv(run / "claims.csv", index=False)
    pd.DataFrame(findings, columns=list(finding("note"))).to_csv(run / "audit.csv", index=False)
    pd.DataFrame(covered(cells, claims)).to_csv(run / "coverage.csv", index=False)
    half = {"model": STANDIN, "method": "svf", "task": "gsm8k", "base": 0.5, "best": [0.75, 0.5], "n": 32}
    half |= {"seed": [0, 1], "updates": [4, None], "samples": [1024, None]}
    pd.DataFrame(half).to_csv(run / "half_gain.csv", index=False)
    for file in {file for row in cells for file in row["files"].split()}:
        write_json(run / file, {"items": []})
        answers = run / file.replace("scores/", "generations/").replace(".json", ".jsonl")
        answers.parent.mkdir(parents=True)
        answers.write_text("{}\n")
    scored = scores_of(STANDIN, "llama3-8b", "base", "gsm8k", 9) + scores_of(STANDIN, "llama3-8b", "svf", "gsm8k", 12)
    pd.DataFrame(scored).to_csv(run / "scores.csv.gz", index=False)
    write_json(
        run / "data" / "gsm8k" / "test.manifest.json",
        {
            "cpus": 2, "python": "3.11.7", "git": "abc", "platform": "Linux", "started": "2026-01-02T03:04:05Z",
            "seconds": 120.0, "packages": {"torch": "2.13", "transformers": "5.19", "peft": "0.21"},
        },
    )  # fmt: skip
    (run / "data" / "gsm8k" / "test.benchmark.tsv").write_text("s\tmax_rss\n90.0\t512.5\n")
    (run / "frames.benchmark.tsv").write_text("s\tmax_rss\n30.0\t-\n")
    return run


CONTENTS = Contents(
    (Table("arxiv/table1", "scores", ()), Table("arxiv/table3", "times", ())),
    (
        Figure("arxiv/table1", "table", "Table 1 (arxiv)"),
        Figure("convergence", "convergence", "Convergence"),
        Figure("arxiv/table1-gains", "gains", "Gains in Table 1 (arxiv)"),
        Figure("printed-gains", "power", "What the papers' own gains can show"),
    ),  # fmt: skip
    ("scores.csv.gz", "half_gain.csv"),
    frozenset([Path("data/gsm8k/test.manifest.json"), Path("sweeps")]),
)


def page_of(run: Path, command: str = COMMAND) -> str:
    render(run, CONTENTS, TEMPLATES, command, 726.7, run / "report.html")
    return (run / "report.html").read_text(encoding="utf-8")


def own_run(folder: Path) -> Path:
    """The paper's own model: every verdict that it can get, with other numbers in each row."""
    verdicts = ["reproduced", "reproduced", "same direction", "not reproduced", "cannot tell", "not run", "ours alone"]
    cells = [
        cell(f"c{i}", verdict, **({} if verdict == "not run" else {"strict_score": str(70 - 11 * i)}))
        for i, verdict in enumerate(verdicts)
    ]
    claims = [claim(verdict) for verdict in CLAIM_VERDICTS if "stand-ins" not in verdict and "shapes" not in verdict]
    return write_run(folder / "results" / "toy", cells, claims, [finding(name) for name in (*SEVERITY_MARKS, "error")])


def run_with_another(folder: Path) -> Path:
    """A stand-in, and a model that the papers have no row for, with a gain, a loss by chance, and a base."""
    mine = {"model": "next", "model_run": "next", "standin": "False", "reported": "", "reported_normalised": ""}
    cells = [
        cell("c0", "not comparable (stand-in)"),
        cell("c1", "ours alone", **mine),
        cell("c2", "ours alone", **mine | {"gain": "-2", "gain_low": "-9", "gain_high": "5", "strict_p": "0.6"}),
        cell("c3", "base", "base", **mine | {"gain": "", "gain_low": "", "gain_high": "", "strict_p": ""}),
    ]  # fmt: skip
    return write_run(folder / "results" / "toy", cells, [claim("not run")], [finding("note")])


def standin_run(folder: Path) -> Path:
    names = ("not comparable (stand-in)", "not comparable (stand-in)", "not run", "ours alone")
    cells = [cell(f"c{i}", name, **({"standin": True} if name == "ours alone" else {})) for i, name in enumerate(names)]
    claims = [claim(verdict) for verdict in CLAIM_VERDICTS if "stand-ins" in verdict or verdict == "not run"]
    return write_run(folder / "results" / "toy", cells, claims, [finding("note")])


class _Page(HTMLParser):
    """Tags with their attributes in order, all text, and what stands in each row of each table."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.rows: list[str] = []
        self.silent = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.silent = tag in ("script", "style")
        if tag == "tr":
            self.rows.append("")

    def handle_endtag(self, tag):
        self.silent = self.silent and tag not in ("script", "style")

    def handle_data(self, data):
        if not self.silent:
            self.text += data
            if self.rows:
                self.rows[-1] += f" {data.strip()}"

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


# ---- what it says


def test_a_model_of_no_row_of_the_papers_is_ours_alone_and_no_stand_in(tmp_path):
    page = _Page(page_of(run_with_another(tmp_path)))
    assert (
        "The papers have no row for next. Of 2 gains over their own base in all tables, 1 was positive and 0 negative"
        in page.text
    )
    assert "None of the 1 gains" in page.text and "toy-llama for llama3-8b." in page.text
    assert page.text.count("next, ours alone") == 3 and "next for" not in page.text


def test_every_verdict_is_counted_and_explained_first_beside_a_forest_plot(tmp_path):
    page = _Page(page_of(own_run(tmp_path)))
    rows = [re.sub(r"\s+", " ", row) for row in page.rows]
    for name, kind in CELL_VERDICTS.items():
        number = {"reproduced": 2, "not comparable (stand-in)": 0}.get(name, 1)
        counted = [row for row in rows if f"{kind.name} {kind.meaning}" in row]
        assert len(counted) == (name != "base"), name
        assert all(f"{kind.meaning} {number} " in row for row in counted), name
    for kinds, n in ((CLAIM_VERDICTS, 4), (SEVERITY_MARKS, 5)):
        for name, kind in kinds.items():
            absent = "stand-in" in name or "shapes" in name
            number = 0 if absent else 2 if name == "error" else 1
            counted = [row for row in rows if f"{kind.name} {kind.meaning}" in row]
            assert sum(f"{number} {100 * number / n:.0f} %" in row for row in counted) == bool(number), name
    order = ["Gains in Table 1 (arxiv)", "What the verdicts mean", "In short", "How it is tested", "Paper's gain"]
    first = page.text.index("Were the papers' gains reproduced?")
    assert sorted(order, key=lambda text: page.text.index(text, first)) == order
    assert "print 6 gains of a method over its base. 5 of them were measured here with the papers' own" in page.text
    assert "2 reproduced, 1 same direction, 1 not reproduced and 1 cannot tell." in page.text
    assert "Of 5 scores beside the papers', 5 open." in page.text
    assert "All of ours rest on one seed" in page.text
    assert "6 show the state of training that was best on validation" in page.text
    assert "4 claims of the papers' text: 1 supported, 1 not supported and 1 inconclusive with" in page.text
    assert "they leave 2 errors, 1 doubt, 1 rounding slip and 1 note." in page.text
    assert "Stand-ins cannot" not in page.text


def test_a_run_of_stand_ins_says_so_and_calls_nothing_reproduced(tmp_path):
    page = _Page(page_of(standin_run(tmp_path)))
    assert "Stand-ins cannot give the papers' numbers." in page.text
    assert "toy-llama for llama3-8b" in page.text and "toy-llama, a stand-in" in page.text
    assert "None of the 3 gains over a base in the papers' tables was put to the test" in page.text
    assert "1 supported, 1 not supported and 1 inconclusive on stand-ins; 1 not run." in page.text
    verdicts = [a["data-verdict"] for _, a in page.tags if "data-verdict" in a and "data-table" in a]
    assert Counter(verdicts) == {"not comparable (stand-in)": 2, "not run": 1, "ours alone": 1}
    rows = [re.sub(r"\s+", " ", row).strip() for row in page.rows]
    counted = [row for row in rows if f"✓ reproduced {CELL_VERDICTS['reproduced'].meaning}" in row]
    assert len(counted) == 1 and counted[0].endswith(f"{CELL_VERDICTS['reproduced'].meaning} 0")
    assert "✓ reproduced 0 0" in rows


def test_a_cell_says_on_how_many_seeds_its_verdict_rests_and_what_limits_it(tmp_path):
    several = {"seeds": "0 1 2", "state": "last", "unequal_budgets": "True", "budget": "20 updates × 1 sweep point"}
    cells = [cell("c0", "not reproduced"), cell("c1", "cannot tell", **several)]
    page = _Page(page_of(write_run(tmp_path / "results" / "toy", cells, [claim("not run")], [])))
    rows = [re.sub(r"\s+", " ", row) for row in page.rows if row.strip().startswith("arxiv /") or "svf/ c" in row]
    assert "not reproduced one seed, best state" in rows[0] and "reason: the other sign" in rows[0]
    assert "cannot tell 3 seeds, last state, unequal budgets" in rows[1]
    assert "trained with 20 updates × 1 sweep point" in rows[1] and "(mixed model, by Holm" in rows[1]
    assert "would be “not reproduced” if the paper's base and method were paired closely" in rows[1]


def test_a_stand_in_that_is_compared_with_the_document_is_refused(tmp_path):
    run = write_run(tmp_path / "toy", [cell("c0", "reproduced", standin=True)], [claim("not run")], [])
    with pytest.raises(ValueError, match="svf/c0 is of a stand-in, and yet it is called reproduced"):
        page_of(run)


def test_numbers_stand_as_they_were_printed_and_ours_rounded_once(tmp_path):
    page = _Page(page_of(own_run(tmp_path)))
    row = next(row for row in page.rows if "svf/ c0" in row or row.strip().startswith("arxiv /"))
    shown = re.sub(r"\s+", " ", row)
    for text in ("+3.3 +0.1 to +6.4", "+20.0 +7.5 to +32.5", "75.90 × 1.04", "70.00 54.57–81.93", " 40 ",
                 "open −5.9 (−20.0 to +8.3)", "× 1.40 of our base (1.11–∞)", "show a gain of 17.2 points"):  # fmt: skip
        assert text in shown, shown
    assert "leniently scored 72.50" in shown and "against our base p < 0.001 (exact McNemar" in shown


def test_a_cell_has_the_command_that_makes_it_again_and_links_to_its_files(tmp_path):
    run = own_run(tmp_path)
    page = _Page(page_of(run))
    file = "scores/llama3-8b/svf-gsm8k/gsm8k/seed0.json"
    answers = "results/toy/generations/llama3-8b/svf-gsm8k/gsm8k/seed0.jsonl"
    assert f"rm {answers} && {COMMAND}" in page.text
    assert {file, "generations/llama3-8b/svf-gsm8k/gsm8k/seed0.jsonl"} <= set(page.values("href"))


def test_the_answers_of_a_choice_are_those_of_the_expert_that_was_chosen(tmp_path):
    run = own_run(tmp_path)
    shutil.move(run / "generations/llama3-8b/svf-gsm8k", run / "generations/llama3-8b/lora-arc_easy")
    write_json(run / "scores/llama3-8b/svf-gsm8k/gsm8k/seed0.json", {"chosen": "lora-arc_easy"})
    assert "generations/llama3-8b/lora-arc_easy/gsm8k/seed0.jsonl" in _Page(page_of(run)).values("href")


def test_claims_findings_machine_and_cost_are_told(tmp_path):
    page = _Page(page_of(own_run(tmp_path)))
    for text in (
        "SVF is supported.", "arxiv, section 4.2", "SVF above its base.", "9 of 9", "smallest gain 3.1",
        "2 places", "workshop/table2/y/svf/gsm8k", "The parts are not the whole.", "1 + 1 = 3", "2 CPU cores, no GPU",
        "begun 2026-01-02 03:04, last one ended 2026-01-02 03:06", "2 minutes of jobs in sum", "512 MB",
    ):  # fmt: skip
        assert text in page.text, text
    assert any(row.split()[:5] == ["frames", "1", "30.0", "30.0", "–"] for row in page.rows)


def test_a_document_without_findings_needs_no_table_of_them(tmp_path):
    run = write_run(tmp_path / "toy", [cell("c0", "not run")], [claim("not run")], [])
    assert "Nothing was found." in page_of(run)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("claims.csv", {"verdict": "maybe"}, r"claims\.csv: unknown verdict 'maybe'"),
        ("audit.csv", {"severity": "grave"}, r"audit\.csv: unknown severity 'grave'"),
        ("paper_tables/arxiv/table1.csv", {"verdict": "same"}, r"table1\.csv: unknown verdict 'same'"),
        ("claims.csv", "reading", r"claims\.csv: no column reading"),
        ("coverage.csv", {"state": "done"}, r"coverage\.csv: unknown state 'done'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(file, change, message, tmp_path):
    run = own_run(tmp_path)
    frame = pd.read_csv(run / file)
    (frame.drop(columns=change) if isinstance(change, str) else frame.assign(**change)).to_csv(run / file, index=False)
    with pytest.raises(ValueError, match=message) as caught:
        page_of(run)
    assert "\n" not in str(caught.value)


def test_nothing_that_stands_in_a_file_becomes_markup(tmp_path):
    hostile = dict.fromkeys(("quote", "reading", "section", "printed_evidence", "evidence"), HOSTILE)
    cells = [cell("c0", "same direction", cell=HOSTILE.replace(" ", ""), model_run=HOSTILE, seeds=HOSTILE)]
    findings = [finding("error", **dict.fromkeys(("rule", "place", "finding", "evidence"), HOSTILE))]
    run = write_run(tmp_path / "toy", cells, [claim("supported", **hostile, cells=HOSTILE)], findings)
    page = _Page(page_of(run, HOSTILE))
    assert page.text.count("alert(1)") >= 12, "shown as what it is"
    assert "{{ 7 * 7 }}" in page.text
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.values("src"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_each_number_and_claim_has_a_square_that_says_how_far_it_has_come(tmp_path):
    page = _Page(page_of(own_run(tmp_path)))
    rows = [re.sub(r"\s+", " ", row).strip() for row in page.rows]
    numbers = {"rehearsed": (1, 1), "run on stand-ins": (0, 0), "run on a real model": (3, 3), "reproduced": (2, 0)}
    first = next(i for i, row in enumerate(rows) if row.startswith("○ not coded"))
    for i, (name, meaning) in enumerate(RUNGS.items()):
        counts, said = rows[first + 2 * i : first + 2 * i + 2]
        assert counts.endswith(" {} {} {}".format(name, *numbers.get(name, (0, 0)))) and said.startswith(meaning)
        assert ("One further:" in said) == (name != "reproduced")
    assert "Of 6 printed numbers, 6 are coded and 6 are rehearsed. 5 were measured by this run, 5 of them" in page.text
    assert "all of config/paper.yaml takes about 730 GPU-hours" in page.text
    squares = [a["aria-label"] for _, a in page.tags if a.get("role") == "img"]
    assert len(squares) == 6 + 4
    assert "llama3-8b/svf/c3: run on a real model; verdict: not reproduced, one seed" in squares
    assert (
        "llama3-8b/svf/c5: rehearsed" in squares and "supported: run on a real model; verdict: supported" in squares[6]
    )
    assert "Table 1 (arxiv)1 rehearsed, 3 run on a real model, 2 reproduced" in page.text


def test_updates_to_half_of_the_gain_and_what_the_form_adds_stand_by_expert(tmp_path):
    rows = [re.sub(r"\s+", " ", row).strip() for row in _Page(page_of(own_run(tmp_path))).rows]
    row, form = [row for row in rows if row.startswith("toy-llama svf gsm8k")]
    assert "100.0 → 100.0 27.5 → 35.0 +7.5 +0.0 +7.5 (" in form
    assert row.startswith("toy-llama svf gsm8k 50.0; 50.0 75.0; 50.0 32; 32 4; not reached 1,024; not reached")
    run = standin_run(tmp_path / "imported")
    contents = replace(CONTENTS, frames=("scores.csv.gz",))
    render(run, contents, TEMPLATES, COMMAND, 1.0, run / "report.html")
    assert "to half of the gain" not in (run / "report.html").read_text(encoding="utf-8")


# ---- what it is made of


@pytest.mark.parametrize("make", [own_run, standin_run])
def test_the_page_loads_nothing_and_its_links_lead_somewhere(make, tmp_path):
    run = make(tmp_path)
    text = page_of(run)
    page = _Page(text)
    assert not re.search(r"@import|url\(|https?://", text)
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; img-src data:;"), "a browser would refuse what is loaded by mistake"
    ids = page.values("id")
    assert [id for id, n in Counter(ids).items() if n > 1] == []
    links = [link for tag, a in page.tags if tag == "a" and (link := a["href"])]
    assert {unquote(link[1:]) for link in links if link.startswith("#")} <= set(ids)
    files = [link for link in links if not link.startswith("#")]
    assert len(files) >= 4 and all((run / unquote(link)).is_file() for link in files)
    assert not any(link.startswith("/") for link in files)


def test_tables_forms_and_pictures_are_named(tmp_path):
    page = _Page(page_of(own_run(tmp_path)))
    tags = Counter(tag for tag, _ in page.tags)
    assert tags["main"] == tags["h1"] == tags["nav"] == 1
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    assert tags["label"] == tags["input"] + tags["select"] > 0
    assert all(attributes.get("aria-label") for _, attributes in page.tags if attributes.get("tabindex") == "0")


def test_the_same_run_gives_the_same_page(tmp_path):
    run = own_run(tmp_path)
    assert page_of(run) == page_of(run)


def test_a_run_says_every_machine_it_ran_on(tmp_path):
    run = own_run(tmp_path)
    other = summary.manifests(run, CONTENTS)[0] | {"git": "def", "gpu": "H100", "started": "2026-01-01T00:00:00Z"}
    write_json(run / "sweeps" / "manifest.json", other)
    manifests = summary.manifests(run, CONTENTS)
    assert summary.machine(manifests)["commit"] == "abc; def" and summary.machine(manifests)["GPU"] == "H100"
    assert [f"{time:%d %H:%M}" for time in summary.span(manifests)] == ["01 00:00", "02 03:06"]
    with pytest.raises(ValueError, match="no manifest says"):
        summary.manifests(tmp_path / "nothing", CONTENTS)


# ---- in a browser

CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.body.querySelectorAll("*:not(script)")) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    if (!element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) low.push(`${element.textContent.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return low;
}"""
OPEN_ALL = "() => document.querySelectorAll('details').forEach((one) => { one.open = true; })"
CHROMIUM = shutil.which("chromium")
OFFLINE = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync")  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no chromium here (Debian: chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here (pip install -e '.[dev]')")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(OFFLINE))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory) -> dict[str, str]:
    """Of a page of each kind."""
    found = {}
    for make in (own_run, standin_run):
        run = make(tmp_path_factory.mktemp(make.__name__))
        page_of(run)
        found[make.__name__] = (run / "report.html").as_uri()
    return found


@pytest.fixture
def opened(browser, addresses) -> Iterator:
    """Opens a page; at the end there was no complaint in its console, and nothing was asked of any network."""
    contexts, complaints, requests = [], [], []

    def visit(name: str = "own_run", width: int = 1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(addresses[name])
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} <= set(addresses.values())


def shown(page, table: str = "cells-table") -> list[str]:
    """Last part of the first cell of each visible row."""
    rows = page.locator(f"#{table} tbody tr:visible")
    return [row.get_attribute("id").split("/")[-1] for row in rows.all()]


@pytest.mark.slow
def test_columns_are_sorted_by_mouse_and_by_keyboard_and_what_is_missing_stays_last(opened):
    page = opened()
    header = page.locator("#cells-table th", has_text="Our score")
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert shown(page) == ["c6", "c4", "c3", "c2", "c1", "c0", "c5"]
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert shown(page) == ["c0", "c1", "c2", "c3", "c4", "c6", "c5"]
    page.locator("#cells-table th", has_text="Verdict").get_by_role("button").click()
    assert header.get_attribute("aria-sort") is None
    assert shown(page)[:2] == ["c0", "c1"] and shown(page)[-1] == "c6"


def test_rows_are_filtered_and_their_number_is_announced(opened):
    page = opened()
    form = page.locator("form[data-filters=cells-table]")
    form.get_by_label("Verdict").select_option("reproduced")
    assert shown(page) == ["c0", "c1"]
    assert form.get_by_role("status").inner_text() == "2 of 7 rows"
    form.get_by_label("Text").fill("svf C1")
    assert shown(page) == ["c1"]
    form.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelectorAll('#cells-table tbody tr[hidden]').length === 0")
    assert form.get_by_role("status").inner_text() == "7 of 7 rows"


def test_a_link_to_a_cell_that_is_filtered_away_shows_it(opened):
    page = opened()
    page.locator("form[data-filters=cells-table]").get_by_label("Verdict").select_option("not run")
    assert shown(page) == ["c5"]
    page.locator("#claims-table summary").first.click()
    page.locator("#claims-table .ids a").first.click()
    page.wait_for_function("document.getElementById('arxiv/table1/llama3-8b/svf/c0').checkVisibility()")
    assert len(shown(page)) == 7


def test_the_first_key_leads_to_the_answer(opened):
    page = opened()
    page.keyboard.press("Tab")
    link = page.get_by_role("link", name="Skip to the answer")
    assert link.evaluate("(link) => link === document.activeElement")
    assert link.bounding_box()["x"] >= 0


def test_without_scripts_everything_is_there_and_nothing_pretends_to_sort(opened):
    page = opened(java_script_enabled=False)
    assert shown(page) == [f"c{i}" for i in range(7)]
    assert page.locator("form:visible").count() == page.locator("th button").count() == 0
    page.locator("#cells-table summary").first.click()
    assert page.locator("#cells-table pre").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["own_run", "standin_run"])
def test_every_text_stands_out_from_its_ground(name, scheme, opened):
    page = opened(name, color_scheme=scheme)
    page.evaluate(OPEN_ALL)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    assert dark == (scheme == "dark")
    assert page.evaluate(CONTRASTS) == []


@pytest.mark.parametrize("name", ["own_run", "standin_run"])
def test_a_phone_never_scrolls_sideways(name, opened):
    page = opened(name, width=360)
    page.evaluate(OPEN_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert (
        page.locator("#cells-table tbody td").first.evaluate("(cell) => getComputedStyle(cell, '::before').content")
        == '"Paper\'s gain"'
    )
