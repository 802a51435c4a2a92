"""Prompts with pictures go the way of all prompts: answered, scored, trained on; SVF leaves the vision tower be."""

import io
import json

import pytest
import torch
from PIL import Image
from transformers import LlavaNextForConditionalGeneration

from helpers import model as language_model
from helpers import settings, tokenizer, vision_model, vision_tokenizer
from transformer2.adaptation.few_shot import score_mixes
from transformer2.adaptation.model import described
from transformer2.models import carry_over, fetch, load_expert, load_experts, load_model, load_tokenizer, new_expert
from transformer2.pocket import corpus, pictures, pretrain, vision
from transformer2.reproduce.frames import read_spectra
from transformer2.reproduce.spectrum import spectra
from transformer2.rollout.engine import Completion, Sampling, encode_prompt
from transformer2.rollout.hf import HFEngine
from transformer2.rollout.pictures import PicturePrompt, decode_picture, picture_inputs, prompt_text
from transformer2.rows import read_rows, write_rows
from transformer2.svf.basis import decoder_matrices, write_basis
from transformer2.tasks import TASKS, VISION, Prompt, Row, vqa
from transformer2.training.objective import Sample, accumulate_gradients
from transformer2.training.samples import references, rollout


@pytest.fixture(scope="module")
def llava():
    return vision_model()


@pytest.fixture(scope="module")
def prompts(llava):
    _, words = llava
    return [encode_prompt(words, TASKS["textvqa"].prompt(row)) for row in corpus.rows("textvqa", "test", 5)]


# Drawings


@pytest.mark.slow
@pytest.mark.parametrize("name", VISION)
def test_splits_of_drawings_are_disjoint_large_enough_and_the_same_each_time(name):
    splits = {split: corpus.rows(name, split, n) for split, n in (("train", 600), ("validation", 300), ("test", 400))}
    shown = {split: {row["image"] for row in rows} for split, rows in splits.items()}
    assert not (shown["train"] & shown["test"] or shown["validation"] & shown["test"])
    assert len(shown["test"]) == 400 and corpus.rows(name, "test", 50) == splits["test"][:50]
    assert set(TASKS[name].columns) <= set(splits["test"][0])


@pytest.mark.parametrize("name", VISION)
def test_the_reference_answer_is_right_and_the_careless_one_mostly_wrong(name):
    task, drawn = TASKS[name], [item for item, _ in zip(corpus.items(name, "test"), range(50), strict=False)]
    rows = [item.row for item in drawn]
    assert all(score.strict == 1 for score in task.score(rows, [task.solution(row) for row in rows]))
    assert {round(score.strict, 6) for score in task.score(rows, [item.careless for item in drawn])} == {0.3}


def test_a_drawing_is_a_picture_file_of_the_stated_size():
    row = corpus.rows("okvqa", "test", 1)[0]
    picture = Image.open(io.BytesIO(row["image"]))
    assert (picture.format, picture.size) == ("PNG", (pictures.SIZE, pictures.SIZE))


# Prompts


def test_a_prompt_with_a_picture_has_one_bos_and_a_token_for_each_piece(llava, prompts):
    model, words = llava
    row = corpus.rows("textvqa", "test", 1)[0]
    ids = prompts[0]
    assert isinstance(ids, PicturePrompt) and ids.count(words.bos_token_id) == 1 and ids[0] == words.bos_token_id
    assert ids.count(model.config.image_token_id) == 36
    asked = f"{row['question']}\n{vqa.REQUEST}"
    assert prompt_text(words, ids) == f"<|begin|><|user|><image>{asked}<|end|><|assistant|>"


def test_a_picture_for_a_model_that_takes_none_is_a_mistake():
    with pytest.raises(ValueError, match="the model takes none: use a vision-language model"):
        encode_prompt(tokenizer(), Prompt(({"role": "user", "content": "?"},), picture=b"abc"))


def test_a_batch_has_pictures_or_it_has_none(prompts):
    assert picture_inputs([[1, 2], [3]], "cpu") == {}
    with pytest.raises(ValueError, match="1 of the 2 prompts of a batch have a picture"):
        picture_inputs([prompts[0], [1, 2]], "cpu")


def test_pixels_are_those_of_the_processor_and_short_ones_are_filled_up(prompts):
    inputs = picture_inputs(prompts[:2], "cpu")
    processor = prompts[0].image_processor
    expected = processor([decode_picture(p.picture) for p in prompts[:2]], return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    assert torch.equal(inputs["image_sizes"], expected["image_sizes"])


@pytest.fixture(scope="module")
def real_rows(real_data) -> list[Row]:
    """The real questions whose pictures are at hand, with them."""
    folder = real_data / "okvqa"
    files = [folder / f"{split}_with_images.jsonl" for split in ("train", "validation")]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [row | {"image": folder / row["image"]} for row in rows]


@pytest.mark.slow
def test_the_real_pictures_go_through_the_real_processor(real_rows):
    """With the settings of the hub's llava-v1.6 family: CLIP's 336 pixels, five ways to lay out tiles."""
    words = vision_tokenizer(336, 14, [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]])
    shapes = set()
    for row in real_rows:
        ids = encode_prompt(words, TASKS["okvqa"].prompt(row))
        (pixels,), (size,) = picture_inputs([ids], "cpu").values()
        width, height = decode_picture(row["image"]).size
        assert size.tolist() == [height, width] and pixels.shape[1:] == (3, 336, 336) and len(pixels) in (3, 4, 5)
        assert pixels.isfinite().all() and pixels.std() > 0.1
        assert 24 * 24 < ids.count(words.processor.image_token_id) <= 24 * 24 * 5 + 48
        shapes.add((len(pixels), ids.count(words.processor.image_token_id)))
    assert len(real_rows) == 120 and len(shapes) > 5


@pytest.mark.slow
def test_real_pictures_of_many_shapes_are_answered_side_by_side(llava, real_rows):
    """As many tokens stand for a picture as the model makes of it; a batch gives what its rows give alone."""
    model, words = llava
    prompts = [encode_prompt(words, TASKS["okvqa"].prompt(row)) for row in real_rows]
    together = HFEngine(model, words, batch_rows=8).generate(prompts[:16], Sampling(4))
    alone = HFEngine(model, words, batch_rows=1).generate(prompts[:16], Sampling(4))
    assert together == alone


# Answers, log-probabilities, training


def test_answers_in_a_batch_equal_an_argmax_loop(llava, prompts):
    model, words = llava
    for prompt, completion in zip(prompts, HFEngine(model, words).generate(prompts, Sampling(4)), strict=True):
        ids = list(prompt)
        for _ in range(len(completion.token_ids)):
            logits = model(input_ids=torch.tensor([ids]), **picture_inputs([prompt], "cpu")).logits
            ids.append(int(logits[0, -1].argmax()))
        assert completion.token_ids == ids[len(prompt) :]


def test_the_picture_changes_the_logprobs_and_a_batch_does_not(llava, prompts):
    model, words = llava
    engine, answers = HFEngine(model, words), [[5, 6], [7], [8, 9, 10], [11], [12]]
    together = engine.logprobs(prompts, answers)
    for prompt, answer, actual in zip(prompts, answers, together, strict=True):
        inputs = picture_inputs([prompt], "cpu")
        logits = model(input_ids=torch.tensor([[*prompt, *answer]]), **inputs).logits[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(
            actual, logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0], rtol=1e-4, atol=1e-4
        )
    other = PicturePrompt(prompts[0], prompts[1].picture, prompts[0].image_processor)
    assert not torch.allclose(engine.logprobs([other], [answers[0]])[0], together[0])


def test_an_answer_never_asks_for_a_piece_of_the_picture(prompts):
    """A policy that draws all tokens alike would sample the placeholder, which leaves no picture for its place."""
    model, words = vision_model()
    torch.nn.init.zeros_(model.lm_head.weight)
    drawn = HFEngine(model, words).generate(prompts * 8, Sampling(256, temperature=1.0))
    tokens = [token for completion in drawn for token in completion.token_ids]
    assert len(tokens) > 8 * len(words) and model.config.image_token_id not in tokens


def test_svf_scales_the_upper_half_of_the_language_model_alone():
    model, _ = vision_model()
    expert = new_expert(model, settings(init_std=0.1, layers="half"), None, seed=0)
    trained = [name for name, p in expert.named_parameters() if p.requires_grad]
    assert len(trained) == 7 and all("language_model.layers.1." in name for name in trained)


def test_lora_leaves_the_vision_tower_be():
    model, _ = vision_model()
    expert = new_expert(model, settings(adapter="lora", modules="attention_qv"), None, seed=0)
    trained = [name for name, p in expert.named_parameters() if p.requires_grad]
    assert len(trained) == 8 and all("language_model.layers." in name for name in trained)


def test_a_basis_from_the_files_fits_the_model(tmp_path):
    model, words = vision_model()
    model.save_pretrained(tmp_path)
    words.processor.save_pretrained(tmp_path)
    loaded, tokens = load_model(tmp_path), load_tokenizer(tmp_path)
    assert isinstance(loaded, LlavaNextForConditionalGeneration) and tokens.processor.image_token_id == 302
    names = [name for name, _ in decoder_matrices(tmp_path, torch.float32)]
    assert len(names) == 14 and all(name.startswith("model.language_model.layers.") for name in names)
    write_basis(decoder_matrices(tmp_path, torch.float32), tmp_path / "basis.safetensors")
    new_expert(loaded, settings(), tmp_path / "basis.safetensors", seed=0)
    whose = {"llava": {"run": "toy", "stands_in_for": "llava-next-8b", "standin": True}}
    spectra({"llava": tmp_path / "basis.safetensors"}, whose).to_csv(tmp_path / "spectra.csv", index=False)
    measured = read_spectra(tmp_path / "spectra.csv")  # refuses a matrix that is there twice, as the tower's would be
    assert len(measured.groupby(["module", "layer"])) == 14


def test_a_wrong_answer_about_a_picture_earns_the_small_negative_reward(llava):
    model, words = llava
    rows = corpus.rows("textvqa", "train", 3)
    engine = HFEngine(model, words)
    samples, seen = rollout(engine, words, TASKS["textvqa"], rows, settings(reward_wrong=-0.1), seed=0)
    assert {sample.reward for sample in samples} <= {1.0, -0.1}
    assert all(isinstance(sample.prompt_ids, PicturePrompt) for sample in samples)
    said = [rows[0]["answers"][0], pictures.UNANSWERABLE, f"The {rows[2]['answers'][0].upper()}."]  # 8, 1 and 8 of ten
    engine.generate = lambda *_: [Completion([5], text, "stop") for text in said]  # type: ignore[method-assign]
    samples, _ = rollout(engine, words, TASKS["textvqa"], rows, settings(reward_wrong=-0.1), seed=0)
    assert [sample.reward for sample in samples] == [1.0, -0.1, 1.0]


def test_the_gradient_of_z_sees_the_picture(llava):
    model, words = vision_model()
    expert = new_expert(model, settings(init_std=0.1), None, seed=0)
    rows = corpus.rows("textvqa", "train", 2)
    one, other = references(words, TASKS["textvqa"])(rows)

    def gradient(sample: Sample) -> torch.Tensor:
        expert.zero_grad()
        accumulate_gradients(expert, [sample], settings(kl_coefficient=0.1))
        return torch.cat([p.grad for p in expert.parameters() if p.requires_grad])  # type: ignore[misc]

    exchanged = PicturePrompt(one.prompt_ids, other.prompt_ids.picture, one.prompt_ids.image_processor)
    assert gradient(one).norm() > 0
    assert not torch.allclose(gradient(one), gradient(Sample(exchanged, one.completion_ids, 1.0)))


@pytest.mark.parametrize("changes", [{}, {"adapter": "lora", "modules": "attention_qv"}])
def test_an_expert_of_the_backbone_does_the_same_inside_the_vision_language_model(tmp_path, changes):
    """On text: the language model with its expert, and the LlavaNext around it with that expert carried over."""
    backbone = language_model(320)
    llava, words = vision_model()
    layers = {name: weight for name, weight in backbone.model.state_dict().items() if "embed" not in name}
    llava.model.language_model.load_state_dict(layers, strict=False)
    for ours, theirs in (
        (llava.get_input_embeddings(), backbone.get_input_embeddings()),
        (llava.lm_head, backbone.lm_head),
    ):
        ours.weight.data[:320] = theirs.weight.data
    chosen = settings(init_std=0.3, **changes)
    expert = new_expert(backbone, chosen, None, seed=0)
    for name, p in expert.named_parameters():
        if "lora_B" in name:  # it starts as zero
            torch.nn.init.normal_(p)
    expert.save_pretrained(str(tmp_path / "text"))
    carry_over(tmp_path / "text", tmp_path / "vision")
    adapted = load_expert(llava, tmp_path / "vision", None)
    ids = torch.tensor([[0, 10, 11, 12, 13]])
    torch.testing.assert_close(adapted(input_ids=ids).logits[..., :320], expert.eval()(input_ids=ids).logits)
    with adapted.disable_adapter():
        assert not torch.allclose(adapted(input_ids=ids).logits[..., :320], expert(input_ids=ids).logits, atol=1e-3)


def test_experts_of_the_backbone_are_mixed_row_by_row_on_prompts_with_pictures(tmp_path):
    llava, words = vision_model()
    for seed, name in enumerate(("math", "code")):
        expert = new_expert(language_model(320), settings(init_std=0.5), None, seed=seed)
        expert.save_pretrained(str(tmp_path / "text" / name))
        carry_over(tmp_path / "text" / name, tmp_path / name)
    model = load_experts(llava, {name: tmp_path / name for name in ("math", "code")}, None)
    engine, task, rows = HFEngine(model, words), TASKS["okvqa"], corpus.rows("okvqa", "test", 4)
    alphas = [torch.tensor([[0.5, 0.5], [0.5, 0.5]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])]
    found = score_mixes(engine, words, task, rows, ["math", "code"], alphas, "strict", 4)
    prompts = [encode_prompt(words, task.prompt(row)) for row in rows]
    for alpha, (accuracy, _) in zip(alphas, found, strict=True):
        engine.mix("one", ["math", "code"], alpha)
        engine.set_expert("one")
        texts = [completion.text for completion in engine.generate(prompts, Sampling(4))]
        assert accuracy == pytest.approx(sum(score.strict for score in task.score(rows, texts)) / len(rows))


@pytest.mark.slow
def test_pretraining_repeats_bit_for_bit_and_starts_from_its_backbone(tmp_path):
    pretrain.pretrain("llama", 7, tmp_path / "backbone", steps=3)
    facts = [fetch("pocket:llava-next", tmp_path / n, seed=1, steps=3, backbone=tmp_path / "backbone") for n in "ab"]
    assert facts[0]["loss"] == facts[1]["loss"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    model, words = load_model(tmp_path / "a"), load_tokenizer(tmp_path / "a")
    backbone = load_model(tmp_path / "backbone")
    shapes = [
        {name: p.shape for name, p in of.layers.named_parameters()}
        for of in (model.model.language_model, backbone.model)
    ]
    assert shapes[0] == shapes[1] and len(words) == model.get_input_embeddings().num_embeddings
    prompt = encode_prompt(words, TASKS["okvqa"].prompt(corpus.rows("okvqa", "test", 1)[0]))
    assert HFEngine(model, words).generate([prompt], Sampling(2))[0].token_ids


def test_the_vision_language_stand_in_needs_a_backbone(tmp_path):
    with pytest.raises(ValueError, match="pocket:llava-next needs a backbone"):
        fetch("pocket:llava-next", tmp_path)


def test_the_language_model_starts_from_the_weights_of_its_backbone():
    words, backbone = vision_tokenizer(), language_model(320)
    wanted = {name: weight.clone() for name, weight in backbone.model.layers.state_dict().items()}
    started = vision.new_model(backbone, words.processor, seed=0)
    for name, weight in started.model.language_model.layers.state_dict().items():
        assert torch.equal(weight, wanted[name])


def test_a_search_knows_its_shots_by_their_pictures_wherever_these_lie(tmp_path):
    """What was scored before is looked up by the shots, as JSON."""
    drawn = corpus.rows("okvqa", "test", 3)
    write_rows(tmp_path / "test.jsonl", drawn, pictures=True)
    read = read_rows(TASKS["okvqa"], tmp_path / "test.jsonl")
    assert not isinstance(read[0]["image"], bytes)
    assert json.loads(json.dumps(described(read))) == described(drawn)
    assert described([read[0] | {"image": drawn[1]["image"]}]) != described(read[:1])
    assert described([{"prompt": "?"}]) == [{"prompt": "?"}]
