"""From a cell back to its answers, on a run that is written here by hand."""

import json
import re
from pathlib import Path

import pytest

from commands import run
from conftest import ROOT
from transformer2.checksums import sha256
from transformer2.grid import adapter_folder
from transformer2.provenance import read_json, write_json, write_jsonl
from transformer2.report.trace import explain
from transformer2.reproduce.collect import scores
from transformer2.reproduce.frames import write_frame

SVF = "arxiv/table1/llama3-8b/svf/gsm8k"
FEW_SHOT = "arxiv/table2/llama3-8b/few_shot_10/math"
CLS = "arxiv/table2/llama3-8b/cls/math"
ITEMS = 8
WHO = {"run": "pocket", "model": "toy", "stands_in_for": "llama3-8b", "standin": True, "seed": 0}
VERSIONS = {"started": "2026-11-01T00:00:00Z", "git": "abc", "packages": {"torch": "2.13.0", "transformers": "5.19.0"}}


def scored(folder: Path, method: str, trained_on: str, task: str, solved: int, **more) -> Path:
    """A file of scores, of which the first `solved` are right."""
    name = adapter_folder(method, trained_on, more.get("state", ""))
    items = [
        {"item": f"{task}/test/{i}", "strict": i < solved, "lenient": i < solved, "answer": str(i), "new_tokens": 3,
         "finish_reason": "stop"} for i in range(ITEMS)
    ]  # fmt: skip
    path = folder / "scores" / "toy" / name / task / "seed0.json"
    who = WHO | {"method": method, "trained_on": trained_on, "state": "", "task": task, "task_version": 1}
    write_json(path, who | more | {"items": items})
    return path


def answered(folder: Path, name: str, task: str, **facts) -> Path:
    path = folder / "generations" / "toy" / name / task / "seed0.jsonl"
    rows = [{"item": f"{task}/test/{i}", "prompt": f"What is {i}? " * 40, "completion": f"#### {i}"} for i in range(8)]
    write_jsonl(path, rows)
    data = folder / "data" / task / "test.jsonl"
    write_jsonl(data, [{"item": row["item"]} for row in rows])
    found = {"model": "results/models/toy/base", "answers": ITEMS, "sha256": sha256(path)} | VERSIONS | facts
    write_json(path.with_suffix(".manifest.json"), found | {"data_sha256": sha256(data)})
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A run in which one model has an SVF expert, a choice among mixes, and dispatch by the classification expert."""
    folder = tmp_path / "results" / "pocket"
    files = [scored(folder, "base", "", task, 3) for task in ("gsm8k", "math")]
    files += [scored(folder, "svf", "gsm8k", "gsm8k", 5), scored(folder, "cls", "", "math", 4)]
    scored(folder, "few_shot_10-vector", "", "math", 6)
    files.append(scored(folder, "few_shot_10", "", "math", 6, chosen="few_shot_10-vector", by="shots"))
    write_frame(scores(files), folder / "scores.csv.gz")

    expert = "results/pocket/experts/toy/gsm8k/svf/seed0"
    training = {
        "best_step": 4, "step": 12, "collapsed_at": None, "stopped": None, "trained_parameters": 1536,
        "settings": {"adapter": "svf"},
        "inputs": {"model": {"model.safetensors": "feed" * 16}},
    }  # fmt: skip
    write_json(
        folder / "experts/toy/gsm8k/svf/seed0/selection.json",
        {"chosen": "single", "state": "best", "validation": {"single": 0.9}, "training": training},
    )
    mix = folder / "mixes/toy/math/10/vector/seed0"
    found = {"alpha": [[0.75]], "experts": ["gsm8k"], "granularity": "vector", "normalised": False, "accuracy": 0.5}
    write_json(mix / "adaptation.json", found | {"shots": 10, "stopped": "converged", "history": [{"evaluated": 64}]})
    write_json(mix / "manifest.json", {"experts": {"gsm8k": expert}})
    answered(folder, "base", "gsm8k", expert=None)
    answered(folder, "svf-gsm8k", "gsm8k", expert=expert)
    answered(folder, "few_shot_10-vector", "math", expert="results/pocket/mixes/toy/math/10/vector/seed0")
    dispatched = answered(folder, "cls", "math", experts={"math": expert}, classifier=expert)
    decisions = [{"item": f"math/test/{i}", "class": "math" if i else "code"} for i in range(ITEMS)]
    seconds = {"first_seconds": 1.0, "second_seconds": 2.0}
    write_json(dispatched.with_suffix(".decisions.json"), {"domain": "math", "items": decisions} | seconds)
    write_json(
        folder.parent / "models/toy/base/manifest.json",
        {"source": "pocket:llama", "sha256": {"model.safetensors": "feed" * 16}} | VERSIONS,
    )
    return folder


def explained(cell: str, results: Path) -> str:
    return explain(cell, results, ROOT / "paper_tables")


def test_a_cell_of_an_expert_is_followed_to_its_answers(results):
    text = explained(SVF, results)
    for fact in (
        "prints  79.15, normalised 1.04", "Table 1 of the paper, section 4.2; arxiv.txt, lines 428 to 441",
        "toy, a stand-in for Llama3-8B-Instruct", "5 right of 8 items", "5 of 8 right, leniently 5; task gsm8k",
        f"{results}/generations/toy/svf-gsm8k/gsm8k/seed0.jsonl",
        "chosen single on validation of the best states: single 0.900",
        "best at step 4 of 12; all steps; 1,536 parameters", "source pocket:llama", "sha256 feedfeedfeed",
        "right: gsm8k/test/0", "wrong: gsm8k/test/5", "answer  #### 5",
        "snakemake --cores all --force results/pocket/scores/toy/svf-gsm8k/gsm8k/seed0.json",
    ):  # fmt: skip
        assert fact in text
    assert text.count("checksum OK") == 2 and "missing" not in text and "corrupt" not in text
    assert max(map(len, re.findall("prompt  (.*)", text))) < 250


def test_the_test_of_several_seeds_is_named_as_what_it_is(results):
    assert "(exact McNemar, this cell alone)" in explained(SVF, results)
    file = results / "scores/toy/svf-gsm8k/gsm8k/seed0.json"
    other = read_json(file) | {"seed": 1}
    other["items"][0]["strict"] = False
    write_json(file.with_name("seed1.json"), other)
    files = [results / "scores/toy/base/gsm8k/seed0.json", file, file.with_name("seed1.json")]
    write_frame(scores(files), results / "scores.csv.gz")
    assert "(mixed model, this cell alone)" in explained(SVF, results)


def test_a_row_about_last_states_is_followed_to_the_last_one(results):
    file = scored(results, "lora_attention_pg", "gsm8k", "gsm8k", 1, state="last")
    write_frame(scores([*results.glob("scores/toy/base/*/*.json"), file]), results / "scores.csv.gz")
    expert = "results/pocket/experts/toy/gsm8k/lora_attention_pg/seed0/last"
    training = read_json(results / "experts/toy/gsm8k/svf/seed0/selection.json")["training"] | {"collapsed_at": 9}
    choice = {"chosen": "single", "state": "last", "validation": {"single": 0.0}, "training": training}
    write_json(results / expert.removeprefix("results/pocket/") / "selection.json", choice)
    best = expert.removesuffix("/last")
    answered(results, "lora_attention_pg-gsm8k-last", "gsm8k", expert=expert, answers_of=best)
    text = explained("arxiv/table4/llama3-8b/lora_attention_pg/gsm8k", results)
    for fact in (
        "state       last of each training", "generations/toy/lora_attention_pg-gsm8k-last/gsm8k/seed0.jsonl",
        f"those of {best}, the same state", "chosen single on validation of the last states: single 0.000",
        "the last state, after 12 steps, collapsed at step 9; all steps",
    ):  # fmt: skip
        assert fact in text
    assert "missing" not in text and "corrupt" not in text


def test_what_was_not_run_of_a_last_state_is_made_by_its_own_name(tmp_path):
    run = tmp_path / "results" / "pocket"
    run.mkdir(parents=True)
    text = explained("arxiv/table4/llama3-8b/lora_attention_pg/gsm8k", run)
    assert "results/pocket/scores/pocket-llama/lora_attention_pg-gsm8k-last/gsm8k/seed0.json" in text


def test_an_expert_that_is_the_start_is_called_untrained(results):
    file = results / "experts/toy/gsm8k/svf/seed0/selection.json"
    choice = read_json(file)
    choice["training"]["best_step"] = 0
    write_json(file, choice)
    assert "best at step 0 of 12, the start: the expert is untrained; all steps" in explained(SVF, results)


def test_the_base_model_has_no_expert(results):
    assert "expert   none: the base model answered" in explained("arxiv/table1/llama3-8b/base/gsm8k", results)


def test_a_cell_of_a_model_of_no_row_of_the_paper_is_followed_likewise(results):
    who = {"stands_in_for": "", "standin": False}
    files = [scored(results, "base", "", "gsm8k", 3, **who), scored(results, "svf", "gsm8k", "gsm8k", 5, **who)]
    write_frame(scores(files), results / "scores.csv.gz")
    text = explained("arxiv/table1/toy/svf/gsm8k", results)
    assert "prints  nothing: only this project has the row" in text and "row     toy: + SVF (Ours)" in text
    assert "toy, ours alone: the paper has no row for it" in text and "5 right of 8 items" in text
    assert "missing" not in text and "corrupt" not in text
    needs = explained("arxiv/table1/toy/lora/gsm8k", results)
    assert "Not run" in needs and "needs a model named toy, without a `row`, under `models:`" in needs
    with pytest.raises(ValueError, match="unknown cell 'arxiv/table1/toyy/svf/gsm8k'; did you mean"):
        explained("arxiv/table1/toyy/svf/gsm8k", results)


def test_a_choice_is_followed_to_the_mix_that_was_chosen(results):
    text = explained(FEW_SHOT, results)
    assert "prints  nothing: only this project has the row" in text
    assert "chosen   few_shot_10-vector by: shots" in text and "alpha gsm8k 0.750; not normalised" in text
    assert "5 of 10 shots right; converged; 64 candidates" in text
    assert f"expert   of gsm8k {results}/experts/toy/gsm8k/svf/seed0" in text


def test_experts_of_another_model_and_equal_weights_are_followed_to_the_experts(results):
    expert = "results/pocket/experts/toy/gsm8k/svf/seed0"
    moved = "results/pocket/transfers/toy/gsm8k/svf_from_llama3-8b_shuffled/seed2"
    found = {"expert": expert, "mapping": None, "shuffle": 2, "matrices": 14, "parameters": 1536}
    write_json(results / moved.removeprefix("results/pocket/") / "manifest.json", found)
    mix = "results/pocket/mixes/toy/uniform/seed0"
    experts = {"gsm8k": expert, "llama3-8b:gsm8k": moved}
    write_json(results / "mixes/toy/uniform/seed0/manifest.json", {"experts": experts})
    answered(results, "uniform", "math", expert=mix)
    scored(results, "uniform", "", "math", 5)
    files = [*results.glob("scores/toy/base/*/*.json")]
    files.append(scored(results, "uniform_mix", "", "math", 5, chosen="uniform", by="shots"))
    write_frame(scores(files), results / "scores.csv.gz")
    text = explained("arxiv/section4/llama3-8b/uniform_mix/math", results)
    assert f"{results}/mixes/toy/uniform/seed0" in text and "equal weights, not searched" in text
    assert "z of another model, shuffled with seed 2: 1,536 z of 14 matrices" in text
    assert text.count("chosen single on validation") == 2 and "missing" not in text and "corrupt" not in text
    (results / moved.removeprefix("results/pocket/") / "manifest.json").unlink()
    assert "missing: " in explained("arxiv/section4/llama3-8b/uniform_mix/math", results)


def test_dispatch_names_its_decisions_and_every_expert(results):
    text = explained(CLS, results)
    assert "8 prompts of domain math: 7 to math, 1 to code" in text and "first pass 1.00 s, second 2.00 s" in text
    assert "expert   of math " in text and "expert   of classification " in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("scores/toy/svf-gsm8k/gsm8k/seed0.json", "missing: {}"),
        ("generations/toy/svf-gsm8k/gsm8k/seed0.jsonl", "sha256 "),
        ("generations/toy/svf-gsm8k/gsm8k/seed0.manifest.json", "missing: {}"),
        ("data/gsm8k/test.jsonl", "missing: {}"),
        ("experts/toy/gsm8k/svf/seed0/selection.json", "missing: {}"),
        ("../models/toy/base/manifest.json", "missing: "),
        ("scores.csv.gz", "missing: {}"),
    ],
)
def test_a_missing_or_corrupt_link_is_named_in_its_place(results, file, line):
    whole = explained(SVF, results)
    (results / file).unlink()
    missing = explained(SVF, results)
    assert line.format(results / file) in missing and "missing: " in missing and missing != whole
    for content in ("{", "[]", "{}", "\x00"):
        (results / file).write_text(content)
        text = explained(SVF, results)
        assert "corrupt: " in text or "DIFFERS" in text
        assert "prints  79.15" in text


def test_a_file_of_answers_that_changed_is_told(results):
    path = results / "generations/toy/svf-gsm8k/gsm8k/seed0.jsonl"
    path.write_text(path.read_text() + json.dumps({"item": "more"}) + "\n")
    assert "DIFFERS: the file now has sha256" in explained(SVF, results)


def test_scores_that_changed_since_they_were_collected_are_told(results):
    assert "DIFFERS" not in explained(SVF, results)
    scored(results, "svf", "gsm8k", "gsm8k", 7)
    assert "DIFFERS     7 right in the files of scores, 5 in scores.csv.gz" in explained(SVF, results)


def test_scores_that_were_measured_elsewhere_end_at_their_file(results, tmp_path):
    (tmp_path / "own.json").write_text("{}")
    found = {"file": str(tmp_path / "own.json"), "sha256": sha256(tmp_path / "own.json"), "started": "2026-11-01"}
    write_json(results / "scores.manifest.json", found)
    text = explained(SVF, results)
    assert "own.json, sha256 44136fa355b3, read 2026-11-01; checksum OK" in text and "Seed 0" not in text
    text = explained("arxiv/table1/llama3-8b/lora/gsm8k", results)
    assert "needs an entry in the file of scores: row llama3-8b, method lora, trained_on gsm8k, task gsm8k" in text


@pytest.mark.parametrize(
    ("cell", "need"),
    [
        ("arxiv/table1/llama3-8b/lora/gsm8k", "made by snakemake --cores all"),
        ("arxiv/table7a/llama3-8b/ia3/gsm8k", "made by snakemake --cores all"),
        ("arxiv/table7b/llama3-8b/dora_on_test/math", "dora_on_test/math/seed0.json"),
        ("arxiv/table8/llama3-8b/ia3_100_3/ia3_100", "ia3_100_3/arc_challenge/seed0.json"),
        ("arxiv/figure5/llava-next-8b/base/textvqa", "pocket-llava/base/textvqa/seed0.json"),
        ("arxiv/table2/llama3-70b/prompt/math", "made by snakemake --cores all"),
        ("arxiv/table5/mistral-7b/svf_from_llama3-8b_shuffled/math", "shuffled-gsm8k/math/seed2.json"),
        ("arxiv/table5/mistral-7b/few_shot_10_cross/math", "few_shot_10_cross/math/seed0.json"),
        ("arxiv/section4/llama3-8b/uniform_mix/math", "uniform_mix/math/seed0.json"),
        ("arxiv/table10/llama3-8b/few_shot_3_on_test/arc_challenge", "few_shot_3_on_test/arc_challenge/seed0.json"),
    ],
)
def test_a_cell_that_was_not_run_says_what_it_needs(results, cell, need):
    text = explained(cell, results)
    assert f"Not run: {results} has no score for it" in text and need in text


def test_a_cell_that_does_not_exist_is_one_line_with_the_nearest(results):
    with pytest.raises(ValueError, match=f"unknown cell 'arxiv/table1/lama3-8b/svf/gsm8k'; did you mean '{SVF}'"):
        explained("arxiv/table1/lama3-8b/svf/gsm8k", results)
    with pytest.raises(ValueError, match="unknown cell '.'; a cell is <document>/<table>/<model>") as caught:
        explained("?", results)
    assert len(str(caught.value)) < 200


def test_the_command_prints_the_chain(results):
    arguments = ("--results", str(results), "--ledger", str(ROOT / "paper_tables"))
    assert run("explain", SVF, *arguments).stdout.startswith(f"{SVF}\n\nThe paper\n")
