"""Self-adaptation: each fast routine against its naive twin, and base weights that stay what they are, bit for bit."""

import json
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from typer.testing import CliRunner

from helpers import WORDS, model, rows, tokenizer
from transformer2 import evaluation, models
from transformer2.adaptation import cem, dispatch, few_shot
from transformer2.adaptation.choice import choose, shots
from transformer2.adaptation.model import SelfAdaptiveModel
from transformer2.cli import app
from transformer2.config import CEM, ConfigError, Search
from transformer2.models import load_experts, load_model, load_tokenizer
from transformer2.provenance import read_json, write_jsonl
from transformer2.rollout import hf
from transformer2.rollout.engine import Sampling, encode_prompt
from transformer2.rollout.hf import HFEngine
from transformer2.stages import work
from transformer2.svf import SVFConfig
from transformer2.tasks import TASKS, Score, classify, everyday
from transformer2.tasks.classify import CLASSES, adaptation_prompt, labelled, read_class, shares, strict_class
from transformer2.training.samples import step_rows

PROMPTS = [[0, 10, 11, 12], [0, 13], [0, 14, 15, 16, 17, 18, 19], [0, 20, 21]]
EXPERTS = ("code", "math", "reasoning")
TARGETS = ["q_proj", "down_proj"]
SEARCH = {"population": 12, "elites": 3, "iterations": 30, "initial_mean": None, "initial_std": 0.5,
          "smallest_std": 0.01, "patience": 30}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Folder of a tiny base model."""
    folder = tmp_path_factory.mktemp("base")
    words = tokenizer()
    llama = model(len(words))
    llama.config.max_position_embeddings = 2048
    llama.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_expert(base: Path, folder: Path, seed: int, **config) -> Path:
    peft_model = get_peft_model(
        load_model(base), SVFConfig(**{"target_modules": TARGETS, "task_type": "CAUSAL_LM"} | config)
    )
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in peft_model.named_parameters():
        if "svf_z" in name:
            parameter.data = 1 + 0.5 * torch.randn(parameter.shape, generator=generator)
    peft_model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory) -> dict[str, Path]:
    """Three experts and a classification expert, in a folder each."""
    root = tmp_path_factory.mktemp("experts")
    return {name: save_expert(base, root / name, seed) for seed, name in enumerate((*EXPERTS, "cls"))}


@pytest.fixture
def engine(base, folders) -> HFEngine:
    return HFEngine(load_experts(load_model(base), folders, None), load_tokenizer(base), batch_rows=3)


def base_weights(engine: HFEngine) -> dict[str, torch.Tensor]:
    named = engine.model.get_base_model().named_parameters()
    return {name: weight.detach().clone() for name, weight in named if "svf_z" not in name}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Mixing ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [torch.tensor([0.2, 0.5, 0.9]), torch.tensor([[0.2, 1.0], [0.5, 0.0], [0.0, 0.3]])])
def test_a_mix_holds_the_weighted_sum_of_its_experts_vectors(engine, alpha):
    engine.mix("default", EXPERTS, alpha)
    for name, layer in engine.model.base_model.svf_layers():
        column = alpha if alpha.ndim == 1 else alpha[:, int(".layers.1." in name)]
        expected = sum(a * layer.svf_z[expert] for a, expert in zip(column, EXPERTS, strict=True))
        torch.testing.assert_close(layer.svf_z["default"], expected)


def test_mixing_sigmoid_experts_mixes_their_z_not_what_they_train(base, tmp_path):
    kinds = {
        name: save_expert(base, tmp_path / name, i, parametrisation="sigmoid_nuclear") for i, name in enumerate("ab")
    }
    engine = HFEngine(load_experts(load_model(base), kinds, None), None)
    engine.mix("mix", ["a", "b"], torch.tensor([0.25, 0.75]))
    for _, layer in engine.model.base_model.svf_layers():
        torch.testing.assert_close(layer.z("mix"), 0.25 * layer.z("a") + 0.75 * layer.z("b"))


@pytest.mark.parametrize(
    ("experts", "alpha", "message"),
    [
        (EXPERTS, torch.zeros(3), "alpha is zero for all experts"),
        (EXPERTS, torch.tensor([[1.0, 0], [1, 0], [1, 0]]), "alpha is zero for all experts"),
        (EXPERTS, torch.ones(2), r"alpha has the shape \(2,\); for 3 experts and 2 layers"),
        (("code", "poetry"), torch.ones(2), "no adapter named poetry; there are code, math"),
    ],
)
def test_a_mix_that_makes_no_sense_is_refused(engine, experts, alpha, message):
    with pytest.raises(ValueError, match=message):
        engine.mix("mix", experts, alpha)


def test_experts_that_scale_other_matrices_cannot_be_mixed(base, folders, tmp_path):
    other = save_expert(base, tmp_path / "other", 5, target_modules=["q_proj", "up_proj"])
    engine = HFEngine(load_experts(load_model(base), {"math": folders["math"], "other": other}, None), None)
    with pytest.raises(ValueError, match="math and other scale other matrices"):
        engine.mix("mix", ["math", "other"], torch.ones(2))


def test_an_expert_of_another_model_is_refused_with_the_vectors_that_do_not_fit(base, folders, tmp_path):
    words = load_tokenizer(base)
    wide = model(len(words))
    wide.config.hidden_size = 64
    type(wide)(wide.config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"belongs to another model: .*layers.0.* \(32; the model's is"):
        load_experts(load_model(tmp_path), folders, None)
    with pytest.raises(ValueError, match="holds no expert"):
        load_experts(load_model(base), {"math": tmp_path}, None)


def test_an_expert_of_a_shallower_model_is_refused(base, folders, tmp_path):
    words = load_tokenizer(base)
    deep = model(len(words))
    deep.config.num_hidden_layers = 3
    deep.config.layer_types = None
    type(deep)(deep.config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"belongs to another model: it has no vector for 2 matrices .*layers\.2\."):
        load_experts(load_model(tmp_path), folders, None)


def test_alpha_has_a_column_for_each_layer_that_the_experts_scale(base, tmp_path):
    upper = {name: save_expert(base, tmp_path / name, i, layers_to_transform=[1]) for i, name in enumerate("ab")}
    engine = HFEngine(load_experts(load_model(base), upper, None), None)
    assert engine.model.base_model.scaled_layers("a") == [1]
    engine.mix("mix", ["a", "b"], torch.tensor([[0.25], [0.5]]))
    for _, layer in engine.model.base_model.svf_layers():
        torch.testing.assert_close(layer.svf_z["mix"], 0.25 * layer.svf_z["a"] + 0.5 * layer.svf_z["b"])
    with pytest.raises(ValueError, match=r"for 2 experts and 1 layers it must be \(2,\) or \(2, 1\)"):
        engine.mix("mix", ["a", "b"], torch.ones(2, 2))


# One engine, an expert for each row -----------------------------------------------------------------------------------


def test_rows_with_experts_of_their_own_answer_as_each_expert_does_alone(engine):
    names = ["code", None, "math", "reasoning"]
    together = engine.generate(PROMPTS, Sampling(8), names)
    logprobs = engine.logprobs(PROMPTS, [c.token_ids for c in together], names)
    for prompt, name, completion, logprob in zip(PROMPTS, names, together, logprobs, strict=True):
        engine.set_expert(name)
        (alone,) = engine.generate([prompt], Sampling(8))
        assert completion.token_ids == alone.token_ids
        torch.testing.assert_close(logprob, engine.logprobs([prompt], [alone.token_ids])[0], atol=1e-4, rtol=1e-4)
    assert len({tuple(c.token_ids) for c in engine.generate([PROMPTS[0]] * 4, Sampling(8), names)}) > 1


def test_next_logprobs_are_those_of_one_token_completions(engine):
    engine.set_expert("math")
    tokens = [5, 9, 30]
    found = engine.next_logprobs(PROMPTS, tokens)
    for j, token in enumerate(tokens):
        expected = torch.cat(engine.logprobs(PROMPTS, [[token]] * len(PROMPTS)))
        torch.testing.assert_close(found[:, j], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ask", [lambda e, p: e.generate(p, Sampling(4)), lambda e, p: e.next_logprobs(p, [5])])
def test_a_prompt_longer_than_the_context_is_refused(engine, ask):
    with pytest.raises(ValueError, match="prompt 2 of 2 has 3000 tokens; the context of the model holds 2048"):
        ask(engine, [[0, 1], [0] * 3000])


# Dispatch -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ("Classification: \\boxed{math}", "math", "math"),
        ("\\boxed{ Math }", "others", "math"),
        ("\\boxed{\\text{code}}", "others", "code"),
        ("\\boxed{'reasoning'}", "others", "reasoning"),
        ("I would say math", "others", "others"),
        ("\\boxed{poetry}", "others", "others"),
        ("\\boxed{code} or rather \\boxed{math}", "code", "code"),
        ("", "others", "others"),
    ],
)
def test_the_first_box_is_read_in_any_case_and_spacing(reply, strict, lenient):
    assert (strict_class(reply), read_class(reply)) == (strict, lenient)


def test_the_labels_compared_are_the_likeliest_answer(engine):
    words = engine.tokenizer
    questions = ["say yes", "say one word 3", "the answer is no"]
    found = dispatch.classify(engine, words, questions, "labels", None, 8)
    opening, _ = classify.label_tokens(words)
    for question, decision in zip(questions, found, strict=True):
        prompt = [*encode_prompt(words, adaptation_prompt(question)), *opening]
        logprobs = {}
        for name in CLASSES:
            answer = words("Classification: \\boxed{" + name, add_special_tokens=False).input_ids
            assert answer[: len(opening)] == opening
            logprobs[name] = float(engine.logprobs([prompt], [answer[len(opening) :][:1]])[0])
        assert decision.chosen == max(logprobs, key=logprobs.__getitem__)
        assert decision.evidence == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("first_pass", ["generation", "labels"])
def test_classification_runs_on_the_base_weights_whatever_ran_before(engine, first_pass):
    before = base_weights(engine)
    fresh = dispatch.classify(engine, engine.tokenizer, ["say yes"], first_pass, None, 8)
    engine.set_expert("math")
    engine.generate(PROMPTS, Sampling(4))
    assert dispatch.classify(engine, engine.tokenizer, ["say yes"], first_pass, None, 8) == fresh
    with_classifier = dispatch.classify(engine, engine.tokenizer, ["say yes"], first_pass, "cls", 8)
    assert with_classifier[0].evidence != fresh[0].evidence
    assert same(base_weights(engine), before)


def test_after_a_classification_that_fails_the_engine_holds_the_base_model(engine, monkeypatch):
    before, expected = base_weights(engine), load_model_answers(engine)
    monkeypatch.setattr(hf, "decode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dispatch.classify(engine, engine.tokenizer, ["say yes"], "generation", "cls", 8)
    monkeypatch.undo()
    assert same(base_weights(engine), before) and engine.generate(PROMPTS, Sampling(8)) == expected


class Breaks:
    """A streamer that fails after some tokens: in the middle of a generation."""

    def __init__(self):
        self.tokens = 0

    def put(self, _):
        self.tokens += 1
        if self.tokens > 3:
            raise RuntimeError("the terminal is gone")


@pytest.mark.parametrize("expert", ["math", None])
def test_after_an_answer_that_fails_half_way_the_base_model_is_what_it_was(engine, expert):
    before, expected = base_weights(engine), load_model_answers(engine)
    with pytest.raises(RuntimeError, match="the terminal is gone"):
        engine.generate(PROMPTS[:1], Sampling(8), [expert], Breaks())
    engine.set_expert(None)
    assert same(base_weights(engine), before) and engine.generate(PROMPTS, Sampling(8)) == expected


def load_model_answers(engine: HFEngine) -> list:
    """What the base model answers, from its own files, without PEFT."""
    plain = HFEngine(load_model(Path(engine.model.peft_config["math"].base_model_name_or_path)), engine.tokenizer, 3)
    return plain.generate(PROMPTS, Sampling(8))


@pytest.mark.parametrize("strategy", ["prompt", "cls"])
@pytest.mark.parametrize("first_pass", ["generation", "labels"])
def test_others_are_answered_by_the_base_weights_bit_for_bit(base, folders, strategy, first_pass, monkeypatch):
    experts = {name: folders[name] for name in EXPERTS}
    classifier = folders["cls"] if strategy == "cls" else None
    adaptive = SelfAdaptiveModel.from_pretrained(
        base, experts, strategy, classifier=classifier, first_pass=first_pass, batch_rows=3
    )
    before = base_weights(adaptive.engine)
    decided = [dispatch.Decision(name, "") for name in ("others", "math", "others", "code")]
    monkeypatch.setattr(adaptive, "classify", lambda *_: decided)
    questions = [row["question"] for row in rows(4)]
    answers = adaptive.generate(questions, max_new_tokens=8)
    plain = HFEngine(load_model(base), load_tokenizer(base))
    encoded = [encode_prompt(adaptive.tokenizer, TASKS["own"].prompt({"prompt": text})) for text in questions]
    expected = plain.generate(encoded, Sampling(8))
    assert [answers.completions[i] for i in (0, 2)] == [expected[i] for i in (0, 2)]
    assert answers.classes == ["others", "math", "others", "code"] and answers.alpha is None
    assert same(base_weights(adaptive.engine), before)
    with torch.no_grad(), adaptive.engine.model.disable_adapter():
        ids = torch.tensor([encoded[0]])
        assert torch.equal(adaptive.engine.model(ids).logits, load_model(base)(ids).logits)


def test_a_class_without_an_expert_is_answered_by_the_base_weights(base, folders, monkeypatch):
    adaptive = SelfAdaptiveModel.from_pretrained(base, {"math": folders["math"]})
    monkeypatch.setattr(adaptive, "classify", lambda *_: [dispatch.Decision("code", "")])
    prompt = encode_prompt(adaptive.tokenizer, TASKS["own"].prompt({"prompt": "say yes"}))
    expected = HFEngine(load_model(base), adaptive.tokenizer).generate([prompt], Sampling(8))
    assert adaptive.generate(["say yes"], 8).completions == expected


@pytest.mark.parametrize(
    ("experts", "strategy", "classifier", "message"),
    [
        ((), "prompt", False, "at least one expert"),
        (("poetry",), "prompt", False, "no expert can be for 'poetry'"),
        (("others",), "prompt", False, "'others' is answered by the base weights"),
        (("math",), "cls", False, "needs a classifier"),
        (("math",), "prompt", True, "needs a classifier"),
        (("default",), "few-shot", False, "'default' is a name that the search for a mix uses itself"),
        (("candidate0",), "few-shot", False, "'candidate0' is a name that the search"),
    ],
)
def test_a_self_adaptive_model_that_cannot_work_is_refused(base, folders, experts, strategy, classifier, message):
    chosen = {name: folders.get(name, folders["math"]) for name in experts}
    with pytest.raises(ValueError, match=message):
        SelfAdaptiveModel.from_pretrained(base, chosen, strategy, classifier=folders["cls"] if classifier else None)


# The search -----------------------------------------------------------------------------------------------------------


def nearness(target: torch.Tensor):
    """Scores that grow towards a target; the share of right answers is always the same, so likelihood decides."""
    return lambda alphas: [(0.5, -float((alpha - target).square().sum())) for alpha in alphas]


def test_the_search_finds_the_maximum_by_likelihood_alone():
    target = torch.tensor([[0.1, 0.8], [0.6, 0.3], [0.9, 0.5]])
    found = cem.search(
        nearness(target), (3, 2), CEM(**SEARCH | {"population": 40, "elites": 8}), normalised=False, seed=0
    )
    torch.testing.assert_close(found.alpha, target, atol=0.05, rtol=0)
    assert found.score[1] == max(step["best_loglik"] for step in found.history)


def test_normalised_candidates_sum_to_one_over_the_experts():
    target = torch.tensor([[0.7], [0.2], [0.1]])
    found = cem.search(
        nearness(target), (3, 1), CEM(**SEARCH | {"population": 40, "elites": 8}), normalised=True, seed=0
    )
    torch.testing.assert_close(found.alpha, target, atol=0.05, rtol=0)
    assert sum(found.alpha[:, 0]) == pytest.approx(1)


def test_no_candidate_is_scored_twice_and_the_uniform_mix_is_the_first():
    seen: list[torch.Tensor] = []

    def evaluate(alphas):
        seen.extend(alphas)
        return [(0.5, 0.0) for _ in alphas]

    cem.search(evaluate, (2, 1), CEM(**SEARCH), normalised=False, seed=0)
    torch.testing.assert_close(seen[0], torch.full((2, 1), 0.5))
    assert len({tuple(alpha.flatten().tolist()) for alpha in seen}) == len(seen)
    assert all((alpha > 0).any(0).all() for alpha in seen), "no column of zeros"


def test_one_expert_normalised_leaves_nothing_to_search():
    scored: list[int] = []
    found = cem.search(
        lambda alphas: scored.append(len(alphas)) or [(0.3, -1.0)] * len(alphas), (1, 1),
        CEM(**SEARCH | {"patience": 2}), normalised=True, seed=0,
    )  # fmt: skip
    assert sum(scored) == 1 and float(found.alpha) == 1 and found.stopped.startswith("converged")


def test_an_initial_mean_moves_the_draws_and_not_the_uniform_mix():
    settings = CEM(**SEARCH | {"initial_mean": 1, "iterations": 1})
    found = cem.search(lambda alphas: [(0.5, -float(a.std())) for a in alphas], (3, 1), settings, True, seed=0)
    torch.testing.assert_close(found.alpha, torch.full((3, 1), 1 / 3))


def test_without_one_right_answer_there_is_no_signal_and_the_uniform_mix_is_kept():
    found = cem.search(
        lambda alphas: [(0.0, -math.inf)] * len(alphas),
        (3, 1),
        CEM(**SEARCH | {"patience": 3}),
        normalised=False,
        seed=0,
    )
    assert found.stopped == cem.NO_SIGNAL and torch.equal(found.alpha, torch.full((3, 1), 1 / 3))
    assert len(found.history) == 4, "the first iteration and three without a better candidate"
    assert json.loads(json.dumps(found.history))[0]["best_loglik"] is None


def test_the_best_ever_is_kept_and_the_deviation_has_a_floor():
    def noisy(alphas):  # a lucky draw early on that the elite mean moves away from
        return [(1.0, 0.0) if 0.45 < float(alpha[0]) < 0.55 else (0.5, float(alpha[0])) for alpha in alphas]

    found = cem.search(noisy, (2, 1), CEM(**SEARCH | {"smallest_std": 0.07}), normalised=False, seed=1)
    bests = [step["best_accuracy"] for step in found.history]
    assert bests == sorted(bests) and found.score[0] == 1.0
    assert min(min(column) for step in found.history for column in step["std"]) == pytest.approx(0.07)


def test_elites_that_tie_on_right_answers_are_ranked_by_likelihood():
    def evaluate(alphas):
        return [(1.0, float(alpha[0])) for alpha in alphas]

    found = cem.search(evaluate, (1, 1), CEM(**SEARCH | {"iterations": 1}), normalised=False, seed=0)
    drawn = cem.draw(torch.ones(1, 1), torch.full((1, 1), 0.5), 11, False, torch.Generator().manual_seed(0))
    best = sorted([1.0, *(float(alpha) for alpha in drawn)], reverse=True)[:3]
    assert found.history[0]["mean"][0][0] == pytest.approx(sum(best) / 3)


def test_all_mixes_in_one_batch_score_as_one_by_one(engine):
    few = rows(5)
    alphas = [torch.tensor([[0.2], [0.5], [0.9]]), torch.tensor([[1.0, 0.1], [0.3, 0.3], [0.0, 1.5]])]
    together = few_shot.score_mixes(engine, engine.tokenizer, WORDS, few, EXPERTS, alphas, "strict", 6)
    for alpha, (accuracy, loglik) in zip(alphas, together, strict=True):
        engine.mix("alone", EXPERTS, alpha[:, 0] if alpha.shape[1] == 1 else alpha)
        engine.set_expert("alone")
        prompts = [encode_prompt(engine.tokenizer, WORDS.prompt(row)) for row in few]
        answers = engine.generate(prompts, Sampling(6))
        right = [i for i, s in enumerate(WORDS.score(few, [a.text for a in answers])) if s.strict]
        assert accuracy == len(right) / 5
        logprobs = engine.logprobs([prompts[i] for i in right], [answers[i].token_ids for i in right])
        assert loglik == pytest.approx(float(torch.cat(logprobs).mean()), abs=1e-3) if right else loglik == -math.inf


def test_a_search_is_the_same_with_the_same_seed(engine):
    layerwise = {"iterations": 3, "granularity": "layer", "normalised": True, "score": "strict", "max_new_tokens": 6}
    settings = Search(**SEARCH | layerwise)
    one, two, other = (
        few_shot.adapt(engine, engine.tokenizer, WORDS, rows(3), EXPERTS, 2, settings, seed) for seed in (0, 0, 1)
    )
    assert one.history == two.history != other.history


@pytest.mark.parametrize("experts", [EXPERTS, ("math",)])
def test_shots_that_no_mix_answers_leave_the_uniform_mix_and_say_so(base, folders, experts):
    adaptive = SelfAdaptiveModel.from_pretrained(base, {name: folders[name] for name in experts}, strategy="few-shot")
    never = {"prompt": "say yes", "answer": "no such answer"}
    result = adaptive.adapt([never, never], patience=2, population=3, elites=2, max_new_tokens=4)
    assert result.stopped == cem.NO_SIGNAL
    torch.testing.assert_close(adaptive.alpha, torch.full((len(experts), 1), 1 / len(experts)))


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(base, folders, tmp_path, monkeypatch):
    settings = SEARCH | {"iterations": 5, "max_new_tokens": 6, "score": "strict"}
    counted: list[int] = []
    scoring = few_shot.score_mixes

    def counting(*arguments):
        counted.append(1)
        if len(counted) == 3 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise KeyboardInterrupt
        return scoring(*arguments)

    def run(file: Path) -> cem.Result:
        adaptive = SelfAdaptiveModel.from_pretrained(base, {n: folders[n] for n in EXPERTS}, strategy="few-shot")
        return adaptive.adapt(rows(3), WORDS, 0, file, **settings)

    undisturbed = run(tmp_path / "one.jsonl")
    monkeypatch.setattr(few_shot, "score_mixes", counting)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "two.jsonl")
    with open(tmp_path / "two.jsonl", "a") as file:
        file.write('[["cut off", 1.0, 0.0]')
    counted.clear()
    again = run(tmp_path / "two.jsonl")
    assert again.history == undisturbed.history and len(counted) == 3, "two of five iterations were remembered"
    assert (tmp_path / "one.jsonl").read_text() == (tmp_path / "two.jsonl").read_text()
    counted.clear()
    settings["score"] = "lenient"
    run(tmp_path / "two.jsonl")
    assert len(counted) == 5, "scores of another job are not used"


@pytest.mark.parametrize(
    ("answer", "completion", "strict", "lenient"),
    [
        ("5", "5", True, True),
        ("5", "Let me see.\nThe answer is 5.", False, True),
        ("5", "It is 1.5", False, False),
        ("5", "It is -5", False, False),
        ("5", "It is 5,000", False, False),
        ("5", "5 it was.\nNo, 6.", False, False),
        ("New York", "new  york!", False, True),
        ("yes", "", False, False),
    ],
)
def test_a_users_own_answers_are_read_from_the_last_line(answer, completion, strict, lenient):
    (verdict,) = TASKS["own"].score([{"prompt": "?", "answer": answer}], [completion])
    assert (verdict.strict, verdict.lenient) == (strict, lenient)


# Shots, choice, prompts to classify -----------------------------------------------------------------------------------


def test_shots_are_nested_and_those_of_the_release():
    every = [{"item": str(i)} for i in range(1172)]
    order = list(range(1172))
    random.Random(38).shuffle(order)
    assert [int(row["item"]) for row in shots(TASKS["arc_challenge"], every, 20)] == order[:20]
    assert shots(TASKS["arc_challenge"], every, 3) == shots(TASKS["arc_challenge"], every, 20)[:3]
    with pytest.raises(ValueError, match="there must be at least one, and one left over"):
        shots(TASKS["arc_challenge"], every[:10], 10)


def scored(verdicts: str) -> list[dict]:
    return [{"item": str(i), "strict": v == "1", "lenient": True} for i, v in enumerate(verdicts)]


def test_the_honest_choice_sees_the_shots_alone_and_the_papers_sees_the_rest():
    candidates = {"a": scored("110000"), "b": scored("001111"), "c": scored("111000")}
    assert choose(candidates, {"0", "1"}, "test") == ("b", scored("001111")[2:])
    assert choose(candidates, {"0", "1"}, "shots") == ("a", scored("110000")[2:])
    assert choose(candidates, {"0", "1"}, "shots", {"a": -0.9, "b": 0.0, "c": -0.1})[0] == "c"
    assert choose(candidates, (), "test")[1] == scored("001111")


def test_a_choice_among_different_items_is_refused():
    with pytest.raises(ValueError, match="different items"):
        choose({"a": scored("11"), "b": scored("111")}, {"0"}, "shots")


def prompts_of(**sizes: int) -> list:
    """Rows of tasks whose prompts are of the classes math, code and reasoning."""
    return [
        (
            TASKS[name],
            [{"question": f"q{i}", "prompt": f'"""q{i}\nassert f"""', "choices": {"text": []}} for i in range(n)],
        )
        for name, n in sizes.items()
    ]


def test_equal_classes_have_no_weights_and_no_everyday_request_is_in_two_splits():
    made = labelled(prompts_of(gsm8k=50), "train", 40)
    assert Counter(row["class"] for row in made) == {"math": 20, "others": 20}
    assert len({row["item"] for row in made}) == 40 and not any("weight" in row for row in made)
    splits = [set(everyday.prompts(split)) for split in everyday.BUCKETS]
    assert all(splits) and sum(map(len, splits)) == len(set().union(*splits))
    assert sum(map(len, splits[:3])) > 1000


def test_a_small_class_gives_all_that_it_has_and_weighs_as_much_as_the_others():
    made = labelled(prompts_of(gsm8k=900, mbpp_pro=20, arc_easy=900), "train", 500)
    n = Counter(row["class"] for row in made)
    assert n == {"code": 20, "math": 160, "reasoning": 160, "others": 160}
    weight = {name: sum(row["weight"] for row in made if row["class"] == name) for name in n}
    assert list(weight.values()) == pytest.approx([125] * 4)  # a mean of 1 over 500 rows
    drawn = Counter(row["class"] for step in range(20) for row in step_rows(made, 100, step, seed=0))
    assert all(abs(drawn[name] - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for name in n), drawn
    assert step_rows(made, 100, 3, seed=0) == step_rows(made, 100, 3, seed=0) != step_rows(made, 100, 3, seed=1)


def test_without_a_limit_every_prompt_is_taken():
    made = labelled(prompts_of(gsm8k=50), "test", None)
    assert Counter(row["class"] for row in made) == {"math": 50, "others": len(everyday.prompts("test"))}


def test_validation_is_the_mean_over_classes(engine, monkeypatch):
    made = labelled(prompts_of(gsm8k=3), "validation", 12)
    right = [Score(row["class"] == "math", True, None) for row in made]
    assert Counter(row["class"] for row in made) == {"math": 3, "others": 9}
    task = replace(TASKS["classify"], score=lambda rows, completions: right)
    assert evaluation.accuracy(engine, engine.tokenizer, task, made, 1, "strict") == pytest.approx(0.5)


@pytest.mark.parametrize("limit", [1, 4000])
def test_more_prompts_than_there_are_or_fewer_than_classes_are_refused(limit):
    there = len(everyday.prompts("test"))
    with pytest.raises(
        ValueError, match=rf"{limit} prompts of 2 classes: set between 2 and {there + 50} \(math 50, others"
    ):
        labelled(prompts_of(gsm8k=50), "test", limit)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.data())
def test_shares_make_the_limit_and_no_class_gets_fewer_than_a_larger_share(sizes, data):
    named = {str(i): n for i, n in enumerate(sizes)}
    limit = data.draw(st.integers(len(sizes), sum(sizes)))
    taken = shares(named, limit)
    assert sum(taken.values()) == limit and all(0 < taken[name] <= named[name] for name in named)
    most = max(taken.values())
    assert all(taken[name] == named[name] or taken[name] >= most - 1 for name in named)


# As a user ------------------------------------------------------------------------------------------------------------


def test_few_shot_adaptation_saves_an_expert_that_peft_loads(base, folders, tmp_path):
    adaptive = SelfAdaptiveModel.from_pretrained(base, {n: folders[n] for n in EXPERTS}, strategy="few-shot")
    with pytest.raises(ValueError, match="few-shot adaptation comes first"):
        adaptive.generate(["say yes"])
    with pytest.raises(ConfigError, match="unknown key 'iteration'; did you mean 'iterations'"):
        adaptive.adapt([{"prompt": "say yes", "answer": "y"}], iteration=3)
    result = adaptive.adapt(
        [{"prompt": "say yes", "answer": "y"}], iterations=2, population=4, elites=2, max_new_tokens=8
    )
    answers = adaptive.generate(["say yes", "say no"], max_new_tokens=8)
    assert torch.equal(answers.alpha, result.alpha) and answers.classes is None and answers.first_seconds == 0
    adaptive.engine.model.save_pretrained(str(tmp_path), selected_adapters=["default"])
    again = HFEngine(PeftModel.from_pretrained(load_model(base), tmp_path), load_tokenizer(base))
    prompts = [encode_prompt(again.tokenizer, TASKS["own"].prompt({"prompt": text})) for text in ("say yes", "say no")]
    assert again.generate(prompts, Sampling(8)) == answers.completions


def test_the_commands_adapt_and_ask_do_it_from_a_terminal(base, folders, tmp_path):
    experts = next(iter(folders.values())).parent
    write_jsonl(
        tmp_path / "shots.jsonl", [{"prompt": "say yes", "answer": "yes"}, {"prompt": "say no", "answer": "no"}]
    )
    settings = '{"iterations": 2, "population": 4, "elites": 2, "max_new_tokens": 6}'
    arguments = [
        "adapt",
        "--shots",
        str(tmp_path / "shots.jsonl"),
        "--out",
        str(tmp_path / "mix"),
        "--settings",
        settings,
    ]
    for name in EXPERTS:
        arguments += ["--expert", f"{name}={folders[name]}"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "shots right" in done.output
    adaptation = read_json(tmp_path / "mix" / "adaptation.json")
    assert adaptation["experts"] == list(EXPERTS) and len(adaptation["alpha"]) == 3
    PeftModel.from_pretrained(load_model(base), tmp_path / "mix")
    assert not (tmp_path / "mix" / "candidates.jsonl").exists(), "a finished search leaves no scores to replay"

    for strategy in ("prompt", "cls"):
        asked = ["ask", "say yes", "--experts", str(experts), "--strategy", strategy, "--max-new-tokens", "5"]
        done = CliRunner().invoke(app, asked, catch_exceptions=False)
        assert done.exit_code == 0 and "[class " in done.stderr


def test_the_scores_of_a_search_stay_until_its_mix_is_written(base, folders, tmp_path, monkeypatch):
    write_jsonl(tmp_path / "shots.jsonl", [{"prompt": "say yes", "answer": "yes"}])
    arguments = {
        "model": base, "experts": {name: folders[name] for name in EXPERTS}, "task": "own",
        "shots": tmp_path / "shots.jsonl", "out": tmp_path / "mix", "n": None, "identity": {},
        "settings": {"iterations": 1, "population": 2, "elites": 1, "max_new_tokens": 2},
    }  # fmt: skip

    def full_disk(*_, **__):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(models, "save_expert", full_disk)
        work.adapt(**arguments)
    assert (tmp_path / "mix" / "candidates.jsonl").exists()
    work.adapt(**arguments)
    assert not (tmp_path / "mix" / "candidates.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shots", "empty.jsonl", "--expert", "a=b", "--model", "m"], "empty.jsonl has no rows"),
        (["--shots", "some.jsonl", "--expert", "a"], "'a' is not <name>=<path>"),
        (["--shots", "some.jsonl", "--experts", "."], "no expert in ."),
        (["--shots", "some.jsonl"], "no expert"),
        (["--shots", "some.jsonl", "--expert", "a=x", "--expert", "a=y"], "a is given twice: x and y"),
        (["--shots", "some.jsonl", "--expert", "a=x"], "x holds no expert"),
        (
            ["--shots", "other.jsonl", "--expert", "a=x", "--model", "m"],
            "other.jsonl, line 1: no column answer; it has prompt",
        ),
    ],
)
def test_bad_input_to_adapt_is_named(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").write_text("")
    write_jsonl(Path("some.jsonl"), [{"prompt": "p", "answer": "a"}])
    write_jsonl(Path("other.jsonl"), [{"prompt": "p"}])
    with pytest.raises(ValueError, match=message):
        CliRunner().invoke(app, ["adapt", "--out", "mix", *arguments], catch_exceptions=False)
    assert not Path("mix").exists()
