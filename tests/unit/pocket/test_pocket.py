"""The stand-ins' data are the real tasks' in form, and a stand-in is a model like any other."""

import gzip
import itertools
import json
from collections import Counter
from math import log

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, MistralForCausalLM

from conftest import ROOT
from transformer2.config import load
from transformer2.models import load_model, load_tokenizer
from transformer2.pocket import corpus, pretrain
from transformer2.pocket.muon import Muon, orthogonalise
from transformer2.rollout.engine import encode_prompt
from transformer2.tasks import BENCHMARKS, TASKS
from transformer2.tasks.classify import CLASSES

VOCABULARY = 969
ZIPPED = ("math",)
NOT_IN_POCKET = {"math": {"answer", "unique_id"}}
"""Columns that some sources add to the data set's own."""


@pytest.fixture(scope="module")
def tokens():
    return pretrain.tokenizer()


@pytest.mark.parametrize("careful", [True, False])
def test_families_learn_the_same_text_cut_where_their_prompt_ends(tokens, careful):
    """Mistral's prompt of ARC does not open the reply; no other task asks families in other ways."""
    for task in corpus.STREAMS:
        item = next(iter(corpus.items(task, "pretraining")))
        (prompt, reply), (of_mistral, longer) = (
            pretrain.encode(tokens, item, careful, family) for family in ("llama", "mistral")
        )
        assert (prompt != of_mistral) == task.startswith("arc_")
        assert tokens.decode(prompt + reply) == tokens.decode(of_mistral + longer)


@pytest.mark.parametrize("task", BENCHMARKS)
def test_rows_have_the_columns_of_the_real_data(task, real_data):
    (pocket,) = corpus.rows(task, "test", 1)
    folder = real_data / task
    with gzip.open(folder / "test.jsonl.gz", "rt") if task in ZIPPED else open(folder / "test.jsonl") as file:
        real = json.loads(file.readline())
    assert set(pocket) - {"item"} == set(real) - NOT_IN_POCKET.get(task, set())


@pytest.mark.parametrize("task", BENCHMARKS)
def test_splits_are_disjoint_large_enough_and_the_same_each_time(task):
    splits = {split: corpus.rows(task, split, n) for split, n in (("train", 600), ("validation", 300), ("test", 400))}
    prompts = {split: {str(TASKS[task].prompt(row)) for row in rows} for split, rows in splits.items()}
    assert not (prompts["train"] & prompts["test"] or prompts["validation"] & prompts["test"])
    assert len({row["item"] for row in splits["test"]}) == len(prompts["test"]) == 400
    assert corpus.rows(task, "test", 400) == splits["test"] and corpus.rows(task, "test", 50) == splits["test"][:50]


@pytest.mark.slow
@pytest.mark.parametrize("task", BENCHMARKS)
def test_pretraining_never_sees_an_item_of_another_split(task):
    seen = {item.key for item, _ in zip(corpus.items(task, "pretraining", seed=3), range(3000), strict=False)}
    for split in ("train", "validation", "test"):
        assert not seen & {item.key for item, _ in zip(corpus.items(task, split), range(3000), strict=False)}


@pytest.mark.slow
@pytest.mark.parametrize("task", BENCHMARKS)
def test_a_pretraining_corpus_seldom_shows_the_rare_items_that_every_other_split_has(task):
    def share(split: str) -> float:
        return sum(item.rare for item, _ in zip(corpus.items(task, split), range(2000), strict=False)) / 2000

    assert all(abs(share(split) - corpus.RARE_SHARE) < 0.05 for split in ("train", "validation", "test"))
    assert 0 < share("pretraining") < corpus.RARE_SHARE / 2


@pytest.mark.parametrize("task", ["gsm8k", "arc_easy", "math", "arc_challenge"])
def test_careful_answers_are_right_and_careless_ones_mostly_wrong(task):
    drawn = [item for item, _ in zip(corpus.items(task, "test"), range(300), strict=False)]
    rows = [item.row for item in drawn]
    careful = TASKS[task].score(rows, [TASKS[task].solution(row) for row in rows])
    careless = TASKS[task].score(rows, [item.careless for item in drawn])
    assert all(score.strict and score.lenient for score in careful)
    assert sum(score.strict for score in careless) < 0.35 * len(rows)


@pytest.mark.parametrize("name", ["mbpp_pro", "humaneval"])
def test_careful_programs_pass_their_tests_and_careless_ones_fail(name):
    drawn = [item for item, _ in zip(corpus.items(name, "test"), range(20), strict=False)]
    rows, task = [item.row for item in drawn], TASKS[name]
    assert all(score.strict and score.lenient for score in task.score(rows, [task.solution(row) for row in rows]))
    careless = task.score(rows, [item.careless for item in drawn])
    assert sum(score.strict for score in careless) <= 2  # "increase it by 5 and then reduce it by 5"


def test_programs_of_evaluated_splits_are_in_no_corpus_of_either_code_task():
    held_out = {row["task_id"] for task in ("mbpp_pro", "humaneval") for row in corpus.rows(task, "test", 300)}
    for task in ("mbpp_pro", "humaneval"):
        drawn = [item for item, _ in zip(corpus.items(task, "pretraining"), range(3000), strict=False)]
        assert not held_out & {item.row["task_id"] for item in drawn}


def test_a_corpus_asks_for_classes_and_answers_carelessly_as_often_as_it_says():
    drawn = [item for item, _ in zip(corpus.items("classify", "pretraining"), range(2000), strict=False)]
    classes = Counter(item.row["class"] for item in drawn)
    assert set(classes) == set(CLASSES) and min(classes.values()) > 350
    assert {item.row["class"]: item.careful_share for item in drawn} == {"others": 1.0} | corpus.CLASS_SHARE


def test_asking_for_more_items_than_there_are_says_how_many_there_are():
    with pytest.raises(ValueError, match=r"pocket arc_easy/test has about \d+ distinct items"):
        corpus.rows("arc_easy", "test", 100_000)


@pytest.mark.parametrize("task", BENCHMARKS)
def test_the_real_prompts_are_short_and_begin_with_one_bos(task, tokens):
    for row in corpus.rows(task, "test", 20):
        ids = encode_prompt(tokens, TASKS[task].prompt(row))
        assert ids.count(tokens.bos_token_id) == 1 and ids[0] == tokens.bos_token_id and len(ids) < 110
        answer = tokens(TASKS[task].solution(row), add_special_tokens=False).input_ids
        assert tokens.decode(answer) == TASKS[task].solution(row)


@pytest.mark.parametrize("file", ["config.yaml", "config/smoke.yaml"])
def test_the_longest_answer_of_a_run_holds_every_reference_answer(file, tokens):
    run = load(ROOT / file)
    for task in corpus.GENERATORS:
        longest = run.data_of[task].max_new_tokens
        assert longest is not None
        for item in itertools.islice(corpus.items(task, "test"), 100):
            lengths = [len(pretrain.encode(tokens, item, True, family)[1]) for family in ("llama", "mistral")]
            assert max(lengths) <= longest, (task, lengths)


def test_text_outside_the_corpus_survives_the_tokenizer(tokens):
    text = "Zürich → 東京, x² ≠ 17\n\tπ"
    assert tokens.decode(tokens(text, add_special_tokens=False).input_ids) == text


def test_llama_and_mistral_have_the_same_shapes_and_the_papers_classes(tokens):
    llama, mistral = (pretrain.new_model(name, tokens) for name in ("llama", "mistral"))
    assert isinstance(llama, LlamaForCausalLM) and isinstance(mistral, MistralForCausalLM)
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (llama, mistral)]
    assert shapes[0] == shapes[1]
    assert pretrain.new_model("llama-deep", tokens).config.num_hidden_layers > llama.config.num_hidden_layers


def test_stand_ins_of_the_same_shapes_have_a_common_ancestor(tokens):
    models = [pretrain.new_model(name, tokens) for name in ("llama", "mistral")]
    for one, other in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(one, other)
    families, steps = ("llama", "mistral"), 10
    one, other = (list(pretrain.corpus(tokens, steps, seed, name)) for seed, name in enumerate(families))
    first = int(pretrain.CAREFUL_STEPS * steps)
    assert one[:first] == other[:first] and all(a != b for a, b in zip(one[first:], other[first:], strict=True))


def test_every_language_model_has_its_number_of_steps():
    assert pretrain.STEPS.keys() == pretrain.ARCHITECTURES.keys()


def test_an_unknown_architecture_is_named_with_the_valid_ones(tokens):
    with pytest.raises(ValueError, match="unknown pocket architecture 'llma'; valid are llama, mistral, llama-deep"):
        pretrain.new_model("llma", tokens)


@pytest.mark.slow
def test_pretraining_repeats_bit_for_bit_and_loads_as_any_model(tmp_path):
    facts = [pretrain.pretrain("llama", 7, tmp_path / name, steps=12) for name in ("one", "two")]
    assert facts[0]["loss"] == facts[1]["loss"] < log(VOCABULARY) - 0.2, "as good as guessing"
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "one"), LlamaForCausalLM)
    assert AutoTokenizer.from_pretrained(tmp_path / "one").padding_side == "left"
    model, tokens = load_model(tmp_path / "one"), load_tokenizer(tmp_path / "one")
    assert model.config.vocab_size == len(tokens) == VOCABULARY


def test_a_step_in_float32_is_that_of_muon_up_to_the_precision_of_its_bfloat16():
    torch.manual_seed(0)
    shapes = [(8, 8), (16, 8), (8, 16), (8, 16), (8, 8)]
    ours, theirs = ([torch.nn.Parameter(torch.zeros(shape)) for shape in shapes] for _ in range(2))
    muon = Muon(ours, lr=0.1)
    rival = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for one, other in zip(ours[:-1], theirs, strict=False):  # the last has no gradient
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        muon.step()
        rival.step()
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= 0.02 * other.norm()


@pytest.mark.parametrize("shape", [(3, 5, 5), (2, 4, 9), (2, 9, 4)])
def test_orthogonalised_matrices_keep_their_singular_vectors(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    scales = torch.diagonal(u.mT @ orthogonalise(matrices) @ vt.mT, dim1=1, dim2=2)
    assert (scales > 0.5).all() and (scales < 1.3).all()
