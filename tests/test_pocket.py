"""The stand-ins: their data are the real tasks in small, their tokenizer keeps text, their pretraining can be repeated."""

from itertools import islice

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from transformer2.pocket import pretrain as pretraining
from transformer2.pocket.corpus import BUCKETS, GENERATORS, items, rows
from transformer2.rollout.engine import encode_prompt
from transformer2.tasks import TASKS

COLUMNS = {
    "gsm8k": {"question", "answer"},
    "mbpp_pro": {"task_id", "prompt", "entry_point", "canonical_solution", "test_imports", "test", "test_list"},
    "arc_easy": {"id", "question", "choices", "answerKey"},
}
SIZES = {"train": 600, "validation": 600, "test": 400}

every_task = pytest.mark.parametrize("task", GENERATORS)


@pytest.fixture(scope="module")
def tokens():
    return pretraining.tokenizer()


@every_task
def test_rows_have_the_columns_of_the_real_data_set_and_their_place(task):
    for split in SIZES:
        for index, row in enumerate(rows(task, split, 20)):
            assert set(row) == COLUMNS[task] | {"item"}
            assert row["item"] == f"{task}/{split}/{index}"


@every_task
def test_rows_have_the_columns_of_the_real_files(task, real_data):
    import json

    with open(real_data / task / "test.jsonl", encoding="utf-8") as file:
        assert set(json.loads(file.readline())) == COLUMNS[task]


@every_task
def test_splits_are_disjoint_and_large_enough(task):
    prompts = {
        split: {str(TASKS[task].prompt(row)) for row in rows(task, split, size)} for split, size in SIZES.items()
    }
    assert {split: len(found) for split, found in prompts.items()} == SIZES
    assert sum(SIZES.values()) == len(set.union(*prompts.values()))


@every_task
def test_pretraining_never_draws_an_item_of_another_split(task):
    drawn = {split: {item.key for item in islice(items(task, split), 2000)} for split in BUCKETS}
    for split in SIZES:
        assert not drawn["pretraining"] & drawn[split]


@every_task
def test_rows_are_the_same_on_every_call_and_a_prefix_of_more_rows(task):
    assert rows(task, "test", 50) == rows(task, "test", 50) == rows(task, "test", 80)[:50]


def test_too_many_rows_are_refused_by_name():
    with pytest.raises(ValueError, match="arc_easy/test"):
        rows("arc_easy", "test", 10**5)


@every_task
def test_reference_answers_pass_the_real_scorer_and_careless_ones_mostly_fail(task):
    drawn = list(islice(items(task, "test"), 60))
    sample = [item.row | {"item": f"{task}/test/{i}"} for i, item in enumerate(drawn)]
    right = TASKS[task].score(sample, [TASKS[task].solution(row) for row in sample])
    careless = TASKS[task].score(sample, [item.careless for item in drawn])
    assert all(score.strict and score.lenient for score in right)
    assert sum(score.strict for score in careless) < 0.4 * len(sample)


@every_task
def test_the_tokenizer_gives_every_text_back(task, tokens):
    for item in islice(items(task, "validation"), 50):
        for text in (TASKS[task].solution(item.row), item.careless):
            assert tokens.decode(tokens(text, add_special_tokens=False).input_ids) == text


@every_task
def test_prompts_are_short_and_begin_with_the_only_bos(task, tokens):
    for row in rows(task, "test", 50):
        ids = encode_prompt(tokens, TASKS[task].prompt(row))
        assert [i for i, token in enumerate(ids) if token == tokens.bos_token_id] == [0]
        assert len(ids) < 60


def test_every_fixed_phrase_stands_in_a_prompt_as_one_token(tokens):
    prompts = {i for task in GENERATORS for i in encode_prompt(tokens, TASKS[task].prompt(rows(task, "test", 1)[0]))}
    for phrase in pretraining.PHRASES:
        assert tokens.convert_tokens_to_ids(phrase) in prompts


def test_the_tokenizer_survives_being_saved(tokens, tmp_path):
    tokens.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    prompt = TASKS["arc_easy"].prompt(rows("arc_easy", "test", 1)[0])
    assert again.padding_side == "left"
    assert encode_prompt(again, prompt) == encode_prompt(tokens, prompt)


def test_the_corpus_has_one_batch_a_step_and_only_careful_answers_first(tokens):
    steps = 40
    batches = list(pretraining.corpus(tokens, steps, seed=0))
    careful = int(pretraining.CAREFUL_STEPS * steps)
    guess = tokens(". The answer is (A).", add_special_tokens=False).input_ids
    guesses = [sum(completion[:-1] == guess for _, completion in batch) for batch in batches]
    assert [len(batch) for batch in batches] == [pretraining.BATCH_SIZE] * steps
    assert sum(guesses[:careful]) == 0 < sum(guesses[careful:])


def test_llama_and_mistral_have_the_same_shapes_and_other_weights(tokens):
    llama, mistral = (pretraining.new_model(name, tokens, seed) for seed, name in enumerate(("llama", "mistral")))
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (llama, mistral)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(llama.get_output_embeddings().weight, mistral.get_output_embeddings().weight)


def test_an_unknown_architecture_is_refused_by_name(tokens):
    with pytest.raises(ValueError, match="'gpt'.*llama, mistral, llama-deep"):
        pretraining.new_model("gpt", tokens, 0)


def test_a_short_pretraining_learns_reloads_and_is_the_same_for_the_same_seed(tmp_path):
    first, second = (pretraining.pretrain("mistral", 3, tmp_path / name, steps=12) for name in ("a", "b"))
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("a", "b")]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert first["loss"] == second["loss"] < 6.0  # a uniform guess costs log(vocabulary) = 6.3
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert type(model).__name__ == "MistralForCausalLM"
    assert model.num_parameters() == first["parameters"]


@pytest.mark.slow
def test_careful_pretraining_teaches_code_in_300_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "CAREFUL_STEPS", 1.0)
    monkeypatch.setattr(pretraining, "TASK_WEIGHTS", {"gsm8k": 0.0, "mbpp_pro": 1.0, "arc_easy": 0.0})
    assert pretraining.pretrain("llama", 0, tmp_path, steps=300)["loss"] < 0.1
