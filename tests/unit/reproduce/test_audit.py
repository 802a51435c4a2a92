"""The audit finds what is wrong with the documents' numbers, by rule, and finds nothing where nothing is wrong."""

import shutil
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
import yaml

from conftest import ROOT
from transformer2.report.verdicts import write_audit
from transformer2.reproduce.audit import SEVERITIES, Finding, decode, findings
from transformer2.reproduce.claims import read_claims
from transformer2.reproduce.ledger import Trained, parameters, read_all

FOLDER = ROOT / "paper_tables"


def audited(folder: Path) -> list[Finding]:
    return findings(read_all(folder), read_claims(folder / "claims.yaml"))


@pytest.fixture(scope="module")
def found() -> dict[str, list[Finding]]:
    by_place: dict[str, list[Finding]] = {}
    for finding in audited(FOLDER):
        for place in finding.places:
            by_place.setdefault(place, []).append(finding)
    return by_place


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "paper_tables"))


def edit(folder: Path, table: str, old: str, new: str) -> None:
    file = folder / f"{table}.yaml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


# ---- what is known to be wrong


@pytest.mark.parametrize(
    ("place", "rule", "severity", "words"),
    [
        ("arxiv/table4/llama3-8b/svf_mlp_attention_pg/math", "normalised score", "error", "is 1.02"),
        ("arxiv/table4/llama3-8b/lora/gsm8k", "normalised score", "error", "is 1.02"),
        ("arxiv/table4/llama3-8b/lora_mlp_attention_ntp/gsm8k", "normalised score", "error", "is 1.00"),
        ("workshop/table5/llama3-8b/svf_mlp_attention_pg/math", "normalised score", "error", "is 1.02"),
        ("arxiv/table1/mistral-7b/lora/arc_easy", "normalised score", "error", "is 0.99"),
        ("arxiv/table7b/llama3-8b/dora_on_test/math", "normalised score", "rounding", "is 1.00"),
        ("arxiv/table9/mistral-7b/svf_from_llama3-8b_shuffled/mbpp_pro", "k of N", "doubt", "it is 76/164 (humaneval)"),
        ("arxiv/table2/llama3-8b/cls/arc_challenge", "k of N", "doubt", "81.37 is no k of 1172"),
        ("arxiv/table2/llama3-8b/few_shot_10_on_test/arc_challenge", "k of N", "rounding", "960 of 1162"),
        ("arxiv/table10/llama3-8b/few_shot_light_on_test/arc_challenge", "k of N", "doubt", "962/1172, of all items"),
        ("arxiv/table1/mistral-7b/base/gsm8k", "k of N", "rounding", "565 of 1319"),
        ("workshop/table1/mistral-7b/base/arc_easy", "repeated column", "doubt", "49.50, 47.47"),
        ("workshop/table1/mistral-7b/base/arc_easy", "same number twice", "error", "81.65 or 49.50"),
        ("workshop/table1/llama3-8b/lora/gsm8k", "same number twice", "doubt", "77.18 or 70.58"),
        ("workshop/table1/mistral-7b/svf/arc_easy", "same number twice", "doubt", "85.14 is 1.04 or 1.72"),
        ("workshop/table4", "same setting twice", "doubt", "Learning rate of lora"),
        ("arxiv/table4/llama3-8b/svf_mlp_attention_pg", "parameters", "error", "0.56M by the shapes"),
        ("arxiv/claims/svf-outperforms-lora", "prose", "note", "66.67 against 67.68"),  # all within sampling error
        ("arxiv/claims/lora-unseen-marginal-arc", "prose", "doubt", "83.70 against 87.63"),
        ("arxiv/claims/fewer-parameters-orders", "prose", "doubt", "0.58M of 35.13M"),
        ("arxiv/claims/vision-gain", "prose", "note", "no number to check it by"),
        ("arxiv/table1", "sampling error", "note", "6 of 18"),
    ],
)
def test_what_is_known_to_be_wrong_is_found(place, rule, severity, words, found):
    of_rule = [finding for finding in found[place] if finding.rule == rule]
    assert [finding.severity for finding in of_rule] == [severity]
    assert words in f"{of_rule[0].finding} {of_rule[0].evidence}"


@pytest.mark.parametrize(
    "place",
    [
        "arxiv/table1/llama3-8b/svf/gsm8k",  # 1044/1319, 79.15/75.89 = 1.043
        "arxiv/table2/llama3-8b/few_shot_10_on_test/humaneval",  # 97/154, of the items left without the shots
        "arxiv/table2/mistral-7b/few_shot_10_on_test/math",  # 668/4990
        "arxiv/table4/llama3-8b/svf_mlp_pg",  # 0.39M
        "arxiv/table4/llama3-8b/lora_mlp_attention_ntp",  # 35.13M
        "arxiv/table3/math",
        "arxiv/claims/fewer-parameters-tenth",
        "arxiv/claims/next-token-hinders",
    ],
)
def test_what_is_right_is_not_found(place, found):
    assert place not in found


# ---- what would be wrong if it were printed otherwise


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "old", "new", "place", "rule"),
    [
        ("arxiv/table1", '"79.15", normalised: "1.04"', '"79.15", normalised: "1.05"',
         "arxiv/table1/llama3-8b/svf/gsm8k", "normalised score"),
        ("arxiv/table1", '"79.15"', '"79.19"', "arxiv/table1/llama3-8b/svf/gsm8k", "k of N"),
        ("arxiv/table1", '"79.15"', '"79.23"', "arxiv/table1/llama3-8b/svf/gsm8k", "same number twice"),
        ("arxiv/table4", 'parameters: "0.39"', 'parameters: "0.72"', "arxiv/table4/llama3-8b/svf_mlp_pg", "parameters"),
        ("arxiv/table3", 'ratio: "13"', 'ratio: "14"', "arxiv/table3/math", "percentage"),
        ("arxiv/table6", 'values: ["32"]', 'values: ["16"]', "arxiv/table6", "same setting twice"),
        ("claims", "at_least: 7}", "at_least: 9}", "arxiv/claims/svf-gains-nearly-everywhere", "prose"),
    ],
)  # fmt: skip
def test_a_number_that_is_changed_is_found(table, old, new, place, rule, copy):
    edit(copy, table, old, new)
    assert any(finding.rule == rule and place in finding.places for finding in audited(copy))


def test_a_ledger_without_faults_has_no_findings(tmp_path):
    rows = [("base", "50.00", "1.00"), ("svf", "75.00", "1.50")]
    table = {
        "number": "Table 1", "caption": "c", "source": {"section": "4", "file": "f", "lines": [1, 2]},
        "columns": [{"task": "gsm8k", "label": "G", "metric": "accuracy", "n": 1000}],
        "models": {"llama3-8b": "L"},
        "rows": [
            {"model": "llama3-8b", "method": method, "label": method, "cells": {"gsm8k": {"value": v, "normalised": r}}}
            for method, v, r in rows
        ],
    }  # fmt: skip
    (tmp_path / "arxiv").mkdir()
    (tmp_path / "arxiv/table1.yaml").write_text(yaml.safe_dump(table))
    shape = "{layers: 1, hidden: 2, key_value: 1, intermediate: 4, vocabulary: 8}"
    (tmp_path / "models.yaml").write_text(f"llama3-8b: {shape}\n")
    (tmp_path / "margins.yaml").write_text('margin: "2.0"\nwhy: because\n')
    (tmp_path / "claims.yaml").write_text("{}\n")
    (note,) = audited(tmp_path)
    assert (
        note.finding
        == "1 of 1 printed gains over the base are beyond sampling error, 0 more if base and method are paired closely"
    )


# ---- the arithmetic


@pytest.mark.parametrize(
    ("value", "n", "k"),
    [("79.15", 1319, [1044]), ("64.65", 99, [64]), ("24.54", 5000, [1227]), ("25.47", 5000, []),
     ("25.47", 4990, [1271]), ("100.00", 99, [99]), ("0.00", 99, [0]), ("46.34", 99, []), ("46.34", 164, [76]),
     ("12.50", 8, [1]),
     ("0.01", 20000, [1, 2, 3])],
)  # fmt: skip
def test_a_score_is_decoded_into_its_count(value, n, k):
    assert decode(Decimal(value), n) == k
    assert k == [i for i in range(n + 1) if abs(Decimal(100 * i) / n - Decimal(value)) <= Decimal("0.005")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trained", "count"),
    [
        ({"adapter": "svf", "modules": ["mlp"]}, 32 * 3 * 4096),
        ({"adapter": "svf", "modules": ["attention_qv"]}, 32 * (4096 + 1024)),
        ({"adapter": "svf", "modules": ["all"]}, 32 * (5 * 4096 + 2 * 1024)),
        ({"adapter": "svf", "modules": ["mlp", "up_proj"]}, 32 * 3 * 4096),
        ({"adapter": "lora", "modules": ["attention_qv"], "rank": 16}, 6_815_744),
        ({"adapter": "ia3", "modules": ["k_proj", "v_proj", "down_proj"]}, 524_288),
    ],
)
def test_parameters_follow_from_the_shapes(trained, count):
    assert parameters(Trained(**trained), read_all(FOLDER).shapes["llama3-8b"]) == count


def test_findings_are_written_the_gravest_first(tmp_path):
    n = write_audit(FOLDER, tmp_path / "audit")
    frame = pd.read_csv(tmp_path / "audit.csv", keep_default_na=False)
    assert len(frame) == n > 40
    order = [list(SEVERITIES).index(severity) for severity in frame["severity"]]
    assert order == sorted(order) and set(order) == {0, 1, 2, 3}
    assert not frame.duplicated().any()
    counts = frame["severity"].value_counts()
    text = (tmp_path / "audit.md").read_text(encoding="utf-8")
    assert f"- error: {counts['error']} (cannot be as printed)" in text
