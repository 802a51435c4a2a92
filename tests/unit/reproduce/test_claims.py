"""The documents' sentences: each stands in its document, is tied to cells, and is judged by what they hold."""

import re

import pandas as pd
import pytest
import yaml
from test_tables import scores_of, write

from conftest import ROOT
from transformer2.report.verdicts import write_claims
from transformer2.reproduce.budgets import Budget
from transformer2.reproduce.claims import Claim, cells_of, on_paper, read_claims, summary
from transformer2.reproduce.claims.measured import Measurements, by_run
from transformer2.reproduce.frames import Frames
from transformer2.reproduce.ledger import Ledger, entries, read_all

FILE = ROOT / "paper_tables" / "claims.yaml"
CLAIMS = read_claims(FILE)


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return read_all(ROOT / "paper_tables")


def claim(*tests: dict, document: str = "arxiv") -> Claim:
    return Claim(document=document, section="1", quote="q", reading="r", tests=tests)  # type: ignore[arg-type]


WHERE = {"rows": ["llama3-8b"], "tasks": ["math"]}
SVF_GAINS = {"higher": "arxiv/table1/*/svf/*", "than": ["base"]}
CAPTURED = {"captured": "ratio", "modules": "mlp", "models": ["llama3-8b"], "below": "0.5"}


# ---- the sentences


def letters(text: str) -> str:
    """Only letters and digits: a sentence may be broken and hyphenated anywhere, and marked up."""
    return re.sub(r"[^a-z0-9.%]", "", re.sub(r"<sup>\d</sup>|[²³]|\\\w+", "", text).lower())


@pytest.mark.parametrize("id", CLAIMS)
def test_a_sentence_stands_in_its_document(id, paper):
    file = {"arxiv": "arxiv.txt", "workshop": "workshop.md"}[CLAIMS[id].document]
    text = letters((paper / file).read_text(encoding="utf-8"))
    parts = [re.escape(letters(part)) for part in (CLAIMS[id].scan or CLAIMS[id].quote).split("…")]
    assert all(parts) and re.search(".{0,2500}?".join(parts), text)


def test_there_are_at_least_thirty_and_each_is_tied_to_cells_or_frames(ledger):
    assert len(CLAIMS) >= 30
    known = {entry.id for table in ledger.scores for entry in entries(table)}
    rows = {id.rsplit("/", 1)[0] for id in known}
    for id, of in CLAIMS.items():
        cells = cells_of(of, ledger)
        assert set(cells) <= known | rows, id
        frames = {"Classified", "LowestWeight", "FirstPass", "Captured"}
        assert cells or {type(test).__name__ for test in of.tests} <= frames, id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reading": None}, "x: reading: "),
        ({"colour": "red"}, "x: colour: unknown key 'colour'"),
        ({"tests": []}, "x: tests: "),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_claim(change, message, tmp_path):
    entry = {"document": "arxiv", "section": "1", "quote": "q", "reading": "r", "tests": [SVF_GAINS]} | change
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"x": entry}))
    with pytest.raises(ValueError, match=rf"claims\.yaml: {message}") as caught:
        read_claims(tmp_path / "claims.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "test", [{"higher": "arxiv/table1/*/svg/*", "than": ["base"]}, {"higher": "arxiv/table1/*/svf/*", "than": ["bas"]}]
)
def test_a_test_of_unknown_cells_is_refused(test, ledger):
    with pytest.raises(ValueError, match="no cell of the ledger is arxiv/table1"):
        on_paper(claim(test), ledger)


# ---- by the documents' own numbers


@pytest.mark.parametrize(
    ("test", "printed"),
    [
        (SVF_GAINS, "does not hold"),  # 80.81 against 80.81, 88.47 against 89.10
        (SVF_GAINS | {"at_least": 7}, "holds"),
        (SVF_GAINS | {"at_least": 8}, "does not hold"),
        ({"higher": "arxiv/table1/mistral-7b/svf/gsm8k", "than": ["base"], "factor": "1.16"}, "holds"),
        ({"higher": "arxiv/table1/mistral-7b/svf/gsm8k", "than": ["base"], "factor": "1.17"}, "does not hold"),
        ({"within": "arxiv/table8/llama3-8b/few_shot_5/transformer2", "of": "few_shot_3", "points": "0.2"}, "holds"),
        ({"within": "arxiv/table8/llama3-8b/few_shot_5/transformer2", "of": "few_shot_3", "points": "0.1"},
         "does not hold"),
        ({"parameters": "arxiv/table4/llama3-8b/svf_mlp_attention_pg", "than": "lora", "below": "0.1"}, "holds"),
        ({"parameters": "arxiv/table4/llama3-8b/svf_mlp_attention_pg", "than": "lora", "below": "0.08"},
         "does not hold"),
        ({"first_pass": "arc_challenge", "than": ["math"]}, "holds"),
        ({"first_pass": "math", "than": ["humaneval"]}, "does not hold"),
        ({"classified": "cls", "than": "prompt"} | WHERE, "no number printed"),
        (CAPTURED, "no number printed"),
        ({"higher": "arxiv/figure5/llava-next-8b/svf/textvqa", "than": ["base"], "factor": "1.39"},
         "no number printed"),
    ],
)  # fmt: skip
def test_a_claim_is_held_against_the_printed_numbers(test, printed, ledger):
    assert on_paper(claim(test), ledger)[0] == printed


def test_all_tests_of_a_claim_must_hold(ledger):
    easy = SVF_GAINS | {"at_least": 1}
    assert on_paper(claim(easy, easy), ledger)[0] == "holds"
    assert on_paper(claim(easy, SVF_GAINS), ledger)[0] == "does not hold"


def test_an_honest_choice_is_printed_as_the_one_selected_on_test_and_only_printed_cells_count(ledger):
    printed, found = on_paper(claim({"higher": "arxiv/table2/*/few_shot_10/*", "than": ["base"]}), ledger)
    evidence = summary(found)
    assert printed == "holds"
    assert "6 of 6 comparisons support it" in evidence
    assert "25.47 against 24.54" in evidence and "llama3-70b" not in evidence


# ---- by a run


def run_of(rows: list[dict], tmp_path) -> Measurements:
    write(rows, tmp_path / "scores.csv.gz")
    return Measurements.read(Frames(tmp_path), ["scores.csv.gz"], {})


def rows_of(gains: dict[str, int], standin: bool = True, base: int = 10) -> list[dict]:
    """Scores of 40 items a cell of Table 1 for one model: a base, and SVF that solves so many more."""
    rows = []
    for task, gain in gains.items():
        rows += scores_of("toy", "llama3-8b", "base", task, base, standin=standin)
        rows += scores_of("toy", "llama3-8b", "svf", task, base + gain, standin=standin)
    return rows


LLAMA = {"higher": "arxiv/table1/llama3-8b/svf/*", "than": ["base"]}


@pytest.mark.parametrize(
    ("gains", "at_least", "verdict"),
    [
        ((20, 20, 20), None, "supported"),
        ((20, 20, 2), None, "inconclusive"),  # two more right answers are no evidence
        ((20, 20, 2), 2, "supported"),
        ((20, 20, -10), None, "not supported"),
        ((20, -10, -10), 2, "not supported"),
        ((20, -10, 2), 2, "inconclusive"),
        ((0, 0, 0), 1, "inconclusive"),
        ((7, 7, 7), None, "supported"),  # p = 0.0156 each, 0.047 by Holm
        ((6, 6, 6), None, "supported"),  # p = 0.03125 each, and all of them are needed
        ((6, 6, 6), 2, "inconclusive"),  # where some are enough, Holm asks for more
        ((-6, 2, 2), None, "inconclusive"),  # to refute it, too
    ],
)
@pytest.mark.parametrize("standin", [True, False])
def test_a_claim_is_judged_by_the_paired_tests_of_a_run(gains, at_least, verdict, standin, ledger, tmp_path):
    rows = rows_of(dict(zip(("gsm8k", "mbpp_pro", "arc_easy"), gains, strict=True)), standin)
    of = claim(LLAMA | {"at_least": at_least})
    assert by_run(of, ledger, run_of(rows, tmp_path))[0] == ("on stand-ins: " if standin else "") + verdict


def test_a_claim_of_which_a_part_was_run_can_be_refuted_but_not_supported(ledger, tmp_path):
    found = run_of(rows_of({"gsm8k": 20}), tmp_path)
    assert by_run(claim(SVF_GAINS), ledger, found)[0] == "on stand-ins: inconclusive"
    assert by_run(claim(SVF_GAINS | {"at_least": 1}), ledger, found)[0] == "on stand-ins: supported"
    refuted = run_of(rows_of({"gsm8k": -10}), tmp_path)
    assert by_run(claim(SVF_GAINS), ledger, refuted)[0] == "on stand-ins: not supported"


def test_what_was_not_run_has_no_verdict(ledger, tmp_path):
    found = run_of(rows_of({"gsm8k": 3}), tmp_path)
    for test in (
        {"higher": "arxiv/table4/llama3-8b/svf_mlp_pg/gsm8k", "than": ["base"]},
        {"classified": "cls", "than": "prompt"} | WHERE,
        {"lowest_weight": "gsm8k", "task": "math", "rows": ["llama3-8b"]},
        {"first_pass": "arc_challenge", "than": ["math"]},
        CAPTURED,
    ):
        assert by_run(claim(test), ledger, found) == ("not run", "")


def test_a_cell_must_be_above_all_that_it_is_compared_with(ledger, tmp_path):
    rows = rows_of({"gsm8k": 20}) + scores_of("toy", "llama3-8b", "lora", "gsm8k", 29)
    both = {"higher": "arxiv/table1/llama3-8b/svf/gsm8k", "than": ["base", "lora"]}
    verdict, evidence = by_run(claim(both), ledger, run_of(rows, tmp_path))
    assert verdict == "on stand-ins: inconclusive" and "1 of 2 comparisons support it; open: 1" in evidence


COLLAPSED = {
    "base": {"": 20},
    "lora_attention_pg": {"best": 20, "last": 2},
    "svf_attention_pg": {"best": 30, "last": 30},
}
"""Method -> state -> items of GSM8K that it solves."""


def ablation(solved: dict[str, dict[str, int]], tmp_path) -> Measurements:
    rows = []
    for method, of_state in solved.items():
        for state, right in of_state.items():
            rows += scores_of("toy", "llama3-8b", method, "gsm8k", right, state=state)
    return run_of(rows, tmp_path)


def test_the_collapse_of_a_training_is_seen_although_its_best_state_is_the_base(ledger, tmp_path):
    found = ablation(COLLAPSED, tmp_path)
    verdict, evidence = by_run(CLAIMS["lora-rl-collapses"], ledger, found)
    assert verdict == "on stand-ins: supported" and "+45.0 points" in evidence
    by_best = claim({"higher": "arxiv/table4/llama3-8b/base/gsm8k", "than": ["lora_attention_pg"]})
    assert by_run(by_best, ledger, found)[0] == "on stand-ins: inconclusive"
    stable = ablation(COLLAPSED | {"lora_attention_pg": {"best": 28, "last": 28}}, tmp_path)
    assert by_run(CLAIMS["lora-rl-collapses"], ledger, stable)[0] == "on stand-ins: not supported"


def test_both_sides_of_a_comparison_are_in_the_same_state(ledger, tmp_path):
    one = {"higher": "arxiv/table4/llama3-8b/svf_attention_pg/gsm8k", "than": ["lora_attention_pg"]}
    found = ablation(COLLAPSED | {"svf_attention_pg": {"best": 40, "last": 2}}, tmp_path)
    assert by_run(claim(one), ledger, found)[1].count("+50.0 points") == 1
    assert by_run(claim(one | {"state": "last"}), ledger, found)[1].count("+0.0 points") == 1


@pytest.mark.parametrize(
    "id", [id for id, of in CLAIMS.items() if re.search("degrad|deterior|hinder|collaps|instab", of.quote)]
)
def test_sentences_about_harm_by_training_are_judged_by_last_states(id):
    shuffled = "shuffl" in CLAIMS[id].quote  # no training is behind that
    assert all(test.state == ("best" if shuffled else "last") for test in CLAIMS[id].tests)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("gain", "points", "verdict"),
    [(0, "10", "supported"), (0, "1", "inconclusive"), (2, "1", "inconclusive"), (20, "5", "not supported")],
)
def test_a_plateau_needs_an_interval_within_the_points(gain, points, verdict, ledger, tmp_path):
    within = {"within": "arxiv/table1/llama3-8b/svf/gsm8k", "of": "base", "points": points}
    assert by_run(claim(within), ledger, run_of(rows_of({"gsm8k": gain}), tmp_path))[0] == f"on stand-ins: {verdict}"


@pytest.mark.parametrize(("factor", "verdict"), [("1.5", "supported"), ("3", "inconclusive"), ("9", "not supported")])
def test_a_factor_needs_an_interval_of_the_ratio_beyond_it(factor, verdict, ledger, tmp_path):
    test = {"higher": "arxiv/table1/llama3-8b/svf/gsm8k", "than": ["base"], "factor": factor}
    assert by_run(claim(test), ledger, run_of(rows_of({"gsm8k": 20}), tmp_path))[0] == f"on stand-ins: {verdict}"


def test_counts_of_parameters_need_no_run(ledger, tmp_path):
    fewer = claim({"parameters": "arxiv/table4/llama3-8b/svf_mlp_attention_pg", "than": "lora", "below": "0.1"})
    verdict, evidence = by_run(fewer, ledger, run_of(rows_of({"gsm8k": 0}), tmp_path))
    assert verdict == "by the models' shapes: supported" and "557,056 of 6,815,744" in evidence


def adapted(tmp_path, **frames: list[dict]) -> Measurements:
    for name, rows in ({"scores": rows_of({"gsm8k": 0})} | frames).items():
        suffix = "csv" if name in ("timings", "spectra") else "csv.gz"
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.{suffix}", index=False)
    return Measurements.read(Frames(tmp_path), ["scores.csv.gz", *frames], {})


WHO = {"run": "toy", "model": "toy", "stands_in_for": "llama3-8b", "standin": True}


def decisions_of(strategy: str, right: int) -> list[dict]:
    same = WHO | {"task": "math", "strategy": strategy, "domain": "math"}
    return [same | {"item": f"math/test/{i}", "class": "math" if i < right else "code"} for i in range(40)]


@pytest.mark.parametrize(
    ("prompt", "cls", "than", "above"),
    [(10, 40, "supported", "supported"), (10, 11, "inconclusive", "not supported"),
     (40, 10, "not supported", "not supported"), (10, 22, "supported", "inconclusive")],
)  # fmt: skip
def test_classification_is_judged_on_the_same_prompts(prompt, cls, than, above, ledger, tmp_path):
    found = adapted(tmp_path, decisions=decisions_of("prompt", prompt) + decisions_of("cls", cls))
    better, most = {"classified": "cls", "than": "prompt"} | WHERE, {"classified": "cls", "above": "0.5"} | WHERE
    assert by_run(claim(better), ledger, found)[0] == f"on stand-ins: {than}"
    assert by_run(claim(most), ledger, found)[0] == f"on stand-ins: {above}"


@pytest.mark.parametrize(
    ("lowest", "verdict"), [((1, 1), "supported"), ((1, 0), "inconclusive"), ((0, 0), "not supported")]
)
def test_the_lowest_weight_is_that_of_the_last_iteration(lowest, verdict, ledger, tmp_path):
    rows = []
    for normalised, low in zip((False, True), lowest, strict=True):
        for iteration in (0, 1):
            for expert in ("gsm8k", "mbpp_pro"):
                best = 0.1 if (expert == "gsm8k") == (bool(low) if iteration else not low) else 0.9
                rows.append(WHO | {
                    "task": "math", "budget": "10", "granularity": "vector", "normalised": normalised,
                    "iteration": iteration, "layer": -1, "expert": expert, "std": 0.1, "best": best,
                    "best_accuracy": 0.5,
                })  # fmt: skip
    test = claim({"lowest_weight": "gsm8k", "task": "math", "rows": ["llama3-8b"]})
    assert by_run(test, ledger, adapted(tmp_path, alphas=rows))[0] == f"on stand-ins: {verdict}"


@pytest.mark.parametrize(("first", "verdict"), [(9.0, "supported"), (2.0, "not supported")])
def test_the_first_pass_is_compared_as_a_share_of_the_second(first, verdict, ledger, tmp_path):
    rows = [
        WHO | {"strategy": "prompt", "task": task, "items": 40, "first_seconds": seconds, "second_seconds": 10.0}
        for task, seconds in (("arc_challenge", first), ("math", 4.0))
    ]
    test = claim({"first_pass": "arc_challenge", "than": ["math"]})
    assert by_run(test, ledger, adapted(tmp_path, timings=rows))[0] == f"on stand-ins: {verdict}"


@pytest.mark.parametrize(
    ("measure", "below", "verdict"),
    [("ratio", "0.45", "supported"), ("ratio", "0.4", "not supported"), ("variance_ratio", "0.45", "not supported")],
)
@pytest.mark.parametrize("standin", [True, False])
def test_what_singular_values_hold_is_judged_by_the_values_at_the_same_share_of_the_rank(
    measure, below, verdict, standin, ledger, tmp_path
):
    rows = [  # r = 4 is 256 of 4096 for a largest rank of 64; mean over the MLP 0.4 and 0.6
        WHO | {"standin": standin, "module": module, "layer": layer, "rank": 64, "full_rank": 64, "r": r,
               "ratio": (ratio + layer / 5) * r / 4, "variance_ratio": (ratio + 0.2 + layer / 5) * r / 4}
        for layer in (0, 1) for r in (4, 1) for module, ratio in (("up_proj", 0.3), ("q_proj", 0.8))
    ]  # fmt: skip
    found = adapted(tmp_path, spectra=rows)
    test = claim(CAPTURED | {"captured": measure, "below": below})
    printed, evidence = by_run(test, ledger, found)
    assert printed == ("on stand-ins: " if standin else "") + verdict
    assert "top 4 of 64 singular values (toy)" in evidence and "over 2 matrices" in evidence


def test_all_claims_are_written_with_both_verdicts(tmp_path):
    write(rows_of({"gsm8k": 20, "mbpp_pro": 20, "arc_easy": 20}), tmp_path / "scores.csv.gz")
    measured = Measurements.read(Frames(tmp_path), ["scores.csv.gz"], {})
    assert write_claims(ROOT / "paper_tables", measured, tmp_path / "claims") == len(CLAIMS)
    frame = pd.read_csv(tmp_path / "claims.csv", keep_default_na=False).set_index("id")
    assert list(frame.index) == list(CLAIMS)
    assert set(frame["printed"]) == {"holds", "does not hold", "no number printed"}
    shapes = {f"by the models' shapes: {verdict}" for verdict in ("supported", "not supported")}
    assert set(frame["verdict"]) == {"on stand-ins: inconclusive", "not run", *shapes}
    assert "reproduced" not in (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert frame.loc["svf-gains-nearly-everywhere", "cells"].split()[0] == "arxiv/table1/llama3-8b/svf/gsm8k"


def test_seeds_that_contradict_each_other_are_no_evidence(ledger, tmp_path):
    rows = scores_of("toy", "llama3-8b", "base", "gsm8k", 20)
    for seed, solved in enumerate((36, 8)):
        rows += scores_of("toy", "llama3-8b", "svf", "gsm8k", solved, seed=seed)
    test = claim({"higher": "arxiv/table1/llama3-8b/svf/gsm8k", "than": ["base"]})
    verdict, evidence = by_run(test, ledger, run_of(rows, tmp_path))
    assert verdict == "on stand-ins: inconclusive" and "2 seeds" in evidence
    assert float(re.search(r"p = ([\d.]+)", evidence)[1]) > 0.5  # type: ignore[index]


def test_a_base_of_one_seed_may_stand_on_either_side(ledger, tmp_path):
    rows = scores_of("toy", "llama3-8b", "base", "gsm8k", 30)
    for seed in range(3):
        rows += scores_of("toy", "llama3-8b", "lora", "gsm8k", 10 + seed, seed=seed)
    test = claim({"higher": "arxiv/table1/llama3-8b/base/gsm8k", "than": ["lora"]})
    assert by_run(test, ledger, run_of(rows, tmp_path))[0] == "on stand-ins: supported"


def test_a_part_of_the_models_and_tasks_that_a_sentence_names_is_not_enough(ledger, tmp_path):
    found = adapted(tmp_path, decisions=decisions_of("prompt", 10) + decisions_of("cls", 40))
    both = {"rows": ["llama3-8b", "mistral-7b"], "tasks": ["math"]}
    test = claim({"classified": "cls", "than": "prompt"} | both)
    assert by_run(test, ledger, found)[0] == "on stand-ins: inconclusive"


def test_items_with_no_name_in_common_are_not_compared(ledger, tmp_path):
    rows = scores_of("toy", "llama3-8b", "base", "gsm8k", 10)
    rows += [row | {"item": f"x{row['item']}"} for row in scores_of("toy", "llama3-8b", "lora", "gsm8k", 30)]
    test = claim({"higher": "arxiv/table1/llama3-8b/lora/gsm8k", "than": ["base"]})
    assert by_run(test, ledger, run_of(rows, tmp_path)) == ("not run", "")


def test_a_bound_above_says_nothing_of_what_is_below(ledger, tmp_path):
    found = run_of(rows_of({"gsm8k": -10}), tmp_path)
    within = {"within": "arxiv/table1/llama3-8b/svf/gsm8k", "of": "base", "points": "2"}
    assert by_run(claim(within), ledger, found)[0] == "on stand-ins: not supported"
    assert by_run(claim(within | {"only_above": True}), ledger, found)[0] == "on stand-ins: supported"


def test_a_factor_over_a_base_that_solves_nothing_is_open(ledger, tmp_path):
    test = {"higher": "arxiv/table1/llama3-8b/svf/gsm8k", "than": ["base"], "factor": "1.39"}
    found = run_of(rows_of({"gsm8k": 5}, base=0), tmp_path)
    assert by_run(claim(test), ledger, found)[0] == "on stand-ins: inconclusive"


def test_methods_with_unequal_budgets_are_not_told_apart(ledger, tmp_path):
    """However far apart they are, which of them is better cannot be said; each against its base still can."""
    rows = rows_of({"gsm8k": 25}) + scores_of("toy", "llama3-8b", "lora", "gsm8k", 2)
    write(rows, tmp_path / "scores.csv.gz")
    above = {"higher": "arxiv/table1/llama3-8b/svf/gsm8k", "than": ["lora"]}
    below = {"higher": "arxiv/table1/llama3-8b/lora/gsm8k", "than": ["svf"]}
    over_base = {"higher": "arxiv/table1/llama3-8b/svf/gsm8k", "than": ["base"]}
    equal, unequal = {"svf": Budget(12, 2), "lora": Budget(12, 2)}, {"svf": Budget(12, 2), "lora": Budget(20, 4)}
    for budgets, verdicts in ((equal, ("supported", "not supported")), (unequal, ("inconclusive", "inconclusive"))):
        found = Measurements.read(Frames(tmp_path), ["scores.csv.gz"], budgets)
        told = [by_run(claim(test), ledger, found) for test in (above, below)]
        assert [verdict.removeprefix("on stand-ins: ") for verdict, _ in told] == list(verdicts)
        assert all(("unequal budgets: " in evidence) == (budgets is unequal) for _, evidence in told)
        assert by_run(claim(over_base), ledger, found)[0] == "on stand-ins: supported"
    assert "12 updates × 2 sweep points, 20 updates × 4 sweep points" in told[0][1]


def test_evidence_says_on_how_many_seeds_and_which_states_it_rests(ledger, tmp_path):
    verdict, evidence = by_run(CLAIMS["lora-rl-collapses"], ledger, ablation(COLLAPSED, tmp_path))
    assert evidence.startswith("1 of 1 comparisons support it; one seed") and "last state" in evidence
    rows = scores_of("toy", "llama3-8b", "base", "gsm8k", 20)
    for seed in range(3):
        rows += scores_of("toy", "llama3-8b", "svf", "gsm8k", 30 + seed, seed=seed, state="best")
    test = claim({"higher": "arxiv/table1/llama3-8b/svf/gsm8k", "than": ["base"]})
    evidence = by_run(test, ledger, run_of(rows, tmp_path))[1]
    assert "; 3 seeds" in evidence and "best state" in evidence
