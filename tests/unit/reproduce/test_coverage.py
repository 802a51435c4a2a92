"""How far numbers and claims have come: every rung is derived, and falls when what it rests on is taken away."""

from pathlib import Path

import pandas as pd
import pytest
from test_tables import scores_of, write

from conftest import ROOT
from transformer2.config import Run, load
from transformer2.reproduce.claims import Claim, read_claims
from transformer2.reproduce.claims.measured import BY_SHAPES, ON_STANDINS, Measurements
from transformer2.reproduce.coverage import LADDER, Coverage, grid_scores
from transformer2.reproduce.frames import Frames
from transformer2.reproduce.ledger import Ledger, entries, read_all

SVF, BASE = "arxiv/table1/llama3-8b/svf/gsm8k", "arxiv/table1/llama3-8b/base/gsm8k"
SECONDS = "arxiv/table3/math/first"
MODELS = {"real": "hub:meta-llama/Meta-Llama-3-8B-Instruct", "toy": "pocket:llama"}


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return read_all(ROOT / "paper_tables")


@pytest.fixture(scope="module")
def claims() -> dict[str, Claim]:
    return read_claims(ROOT / "paper_tables" / "claims.yaml")


@pytest.fixture(scope="module")
def paper() -> Run:
    return load(ROOT / "config" / "paper.yaml")


def small(source: str = MODELS["real"], **changes) -> Run:
    """A run of SVF on GSM8K."""
    model = {"source": source, "row": "llama3-8b"}
    task = {"gsm8k": {"train": 8, "validation": 8, "test": 8}}
    return Run.model_validate(
        {"run": "toy", "data": "hub", "models": {"one": model}, "tasks": task, "unseen": {}, "adaptation": None}
        | {"methods": {"svf": {}}}
        | changes
    )


def measured(folder: Path, *methods: str, seeds: int = 1) -> Measurements:
    rows = []
    for method in methods:
        for seed in range(1 if method == "base" else seeds):
            of_seed = scores_of("one", "llama3-8b", method, "gsm8k", 4, seed, standin=False)
            rows += [row | {"trained_on": "gsm8k" if method == "svf" else ""} for row in of_seed]
    write(rows or scores_of("one", "llama3-8b", "svf", "math", 4), folder / "scores.csv.gz")
    return Measurements.read(Frames(folder), ["scores.csv.gz"], {})


def states(of: Measurements, run: Run, paper: Run, ledger: Ledger, claims=None, verdicts=None, judged=None) -> dict:
    table = Coverage(of, run, paper, verdicts or {}, judged or {}).table(ledger, claims or {})
    return table.set_index("id")["state"].to_dict()


def test_every_printed_number_and_claim_has_one_state(ledger, claims, paper, tmp_path):
    none = dict.fromkeys(claims, "not run")
    table = Coverage(measured(tmp_path), small(), paper, {}, none).table(ledger, claims)
    printed = [e.id for of in ledger.scores for e in entries(of) if e.reported.value is not None]
    assert table["id"].is_unique and set(table["state"]) <= set(LADDER)
    numbers = set(table.loc[table["kind"] == "number", "id"])
    assert numbers == {*printed, *(f"arxiv/table3/{row.task}/{name}" for of in ledger.times for row in of.rows
                                   for name in ("first", "second", "ratio"))}  # fmt: skip
    assert set(table.loc[table["kind"] == "claim", "id"]) == set(claims)


def test_the_papers_configuration_has_all_that_the_papers_print(ledger, claims, paper, tmp_path):
    known = states(measured(tmp_path), small(), paper, ledger, claims, judged=dict.fromkeys(claims, "not run"))
    assert set(known.values()) == {"rehearsed"}


def test_what_no_configuration_has_is_not_coded_and_what_this_run_alone_has_is_not_rehearsed(ledger, paper, tmp_path):
    less = paper.model_copy(update={"methods": {k: v for k, v in paper.methods.items() if not k.startswith("svf_")}})
    cell = "arxiv/table4/llama3-8b/svf_mlp_pg/gsm8k"
    assert states(measured(tmp_path), small(), less, ledger)[cell] == "not coded"
    own = small(methods={"svf_mlp_pg": {}})
    assert states(measured(tmp_path), own, less, ledger)[cell] == "coded"


@pytest.mark.parametrize(
    ("source", "data", "verdict", "seeds", "state"),
    [
        (MODELS["toy"], "pocket", "not comparable (stand-in)", 3, "run on stand-ins"),
        (MODELS["real"], "pocket", "not comparable (stand-in)", 3, "run on stand-ins"),
        (f"rehearsal:llama-3:{MODELS['real']}", "rehearsal:hub", "reproduced", 3, "run on stand-ins"),
        ("hub:HuggingFaceTB/SmolLM2-135M-Instruct", "hub", "not comparable (stand-in)", 3, "run on a real model"),
        (MODELS["real"], "hub", "not reproduced", 3, "run on a real model"),  # as a method that does nothing
        (MODELS["real"], "hub", "same direction", 3, "run on a real model"),
        (MODELS["real"], "hub", "reproduced", 1, "run on a real model"),
        (MODELS["real"], "hub", "reproduced", 2, "reproduced"),
    ],
)
def test_a_number_climbs_as_far_as_model_data_verdict_and_seeds_let_it(
    source, data, verdict, seeds, state, ledger, paper, tmp_path
):
    run, of = small(source, data=data), measured(tmp_path, "base", "svf", seeds=seeds)
    known = states(of, run, paper, ledger, verdicts={SVF: verdict})
    assert known[SVF] == state
    assert known[BASE] == min(state, "run on a real model", key=LADDER.index), "a base has no gain"


def test_without_its_score_a_number_falls_back_to_its_rehearsal(ledger, paper, tmp_path):
    run = small()
    before = states(measured(tmp_path, "base", "svf", seeds=2), run, paper, ledger, verdicts={SVF: "reproduced"})
    after = states(measured(tmp_path, "base"), run, paper, ledger)
    assert before[SVF] == "reproduced" and after[SVF] == "rehearsed"
    assert before[BASE] == after[BASE] == "run on a real model"
    assert {id for id in before if before[id] != after[id]} == {
        id for id in before if id.endswith("/llama3-8b/svf/gsm8k")
    }


def test_scores_that_were_measured_elsewhere_are_of_a_real_model(ledger, paper, tmp_path):
    run = small().model_copy(update={"scores": "scores.json"})
    known = states(measured(tmp_path, "base", "svf", seeds=2), run, paper, ledger)
    assert grid_scores(run) == set() and known[SVF] == "run on a real model"


def test_seconds_are_measured_and_never_reproduced(ledger, paper, tmp_path):
    of = measured(tmp_path, "base")
    timings = pd.DataFrame({"stands_in_for": ["llama3-8b"], "strategy": ["prompt"], "task": ["math"]})
    for source, state in ((MODELS["toy"], "run on stand-ins"), (MODELS["real"], "run on a real model")):
        timed = Measurements(of.scores, timings=timings)
        known = states(timed, small(source), paper, ledger)
        assert known[SECONDS] == state and known[SECONDS.replace("math", "humaneval")] == "rehearsed"


ABOVE, SHAPES, CLASSES = "above", "shapes", "classes"
CLAIMS = {
    ABOVE: {"higher": "arxiv/table1/llama3-8b/svf/gsm8k", "than": ["base"]},
    SHAPES: {"parameters": "arxiv/table4/llama3-8b/svf_mlp_pg", "about": 1},
    CLASSES: {"classified": "prompt", "above": 0.5, "rows": ["llama3-8b"], "tasks": ["gsm8k"]},
}


@pytest.mark.parametrize(
    ("claim", "source", "verdict", "methods", "seeds", "state"),
    [
        (ABOVE, "real", "not run", ("base",), 2, "rehearsed"),
        (ABOVE, "real", "inconclusive", ("base",), 2, "rehearsed"),  # one half of it was not run
        (ABOVE, "real", "inconclusive", ("base", "svf"), 2, "run on a real model"),
        (ABOVE, "toy", f"{ON_STANDINS}supported", ("base", "svf"), 2, "run on stand-ins"),
        (ABOVE, "real", f"{ON_STANDINS}supported", ("base", "svf"), 2, "run on a real model"),
        (ABOVE, "real", "supported", ("base", "svf"), 1, "run on a real model"),
        (ABOVE, "real", "supported", ("base", "svf"), 2, "reproduced"),
        (ABOVE, "real", "not supported", ("base", "svf"), 2, "run on a real model"),
        (SHAPES, "toy", f"{BY_SHAPES}supported", ("base",), 1, "reproduced"),
        (SHAPES, "toy", f"{BY_SHAPES}not supported", ("base",), 1, "run on a real model"),
        (CLASSES, "real", "supported", ("prompt",), 2, "run on a real model"),  # prompts are classified once
    ],
)
def test_a_claim_climbs_as_far_as_its_verdict_and_what_it_rests_on_let_it(
    claim, source, verdict, methods, seeds, state, ledger, paper, tmp_path
):
    one = {claim: Claim(document="arxiv", section="1", quote="q", reading="r", tests=(CLAIMS[claim],))}  # type: ignore[arg-type]
    known = states(
        measured(tmp_path, *methods, seeds=seeds), small(MODELS[source]), paper, ledger, one,
        judged={claim: verdict},
    )  # fmt: skip
    assert known[claim] == state
