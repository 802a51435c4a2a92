"""Experts as others get them: each form against the expert itself, on tiny models."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings, strategies
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraModel
from peft.tuners.lora.conversion import convert_to_lora
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import helpers
from conftest import ROOT
from transformer2.export import export, low_rank, relative_error, write_lora
from transformer2.models import load_expert, load_experts, load_model, load_tokenizer, new_expert
from transformer2.provenance import folder_checksums, read_json, write_json, write_jsonl
from transformer2.rollout.engine import Sampling, encode_prompt
from transformer2.rollout.hf import HFEngine
from transformer2.svf import SVFConfig
from transformer2.svf.basis import decompose, scale_weight
from transformer2.tasks import gsm8k

TEMPLATES = ROOT / "paper_tables" / "templates"
SHAPES = [(12, 7), (7, 12), (9, 9)]
KINDS = ["svf", "lora", "dora", "ia3", "vera", "tinylora"]


def change(weight: Tensor, d: Tensor) -> Tensor:
    """dW in float64, from the singular value decomposition itself."""
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    return u * (s * d) @ vh


@given(
    shape=strategies.sampled_from(SHAPES), k=strategies.integers(1, 14), lost=strategies.integers(0, 6),
    kept=strategies.integers(0, 9), seed=strategies.integers(0, 2**20),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_low_rank_is_as_close_as_the_truncated_svd(shape, k, lost, kept, seed):
    """Also with singular values of 0 (`lost` of them) and values of z that stay 1 (`kept` of them)."""
    torch.manual_seed(seed)
    u, s, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    s[len(s) - lost :] = 0
    d = 0.4 * torch.randn(min(shape))
    d[torch.randperm(len(d))[:kept]] = 0
    weight = u * s @ vh
    part = low_rank(weight, decompose(weight), d, k)
    assert part.b.shape == (shape[0], min(k, *shape)) and part.a.shape == (min(k, *shape), shape[1])
    dw = change(weight, d)
    best = torch.linalg.svdvals(dw)[k:].norm()
    torch.testing.assert_close((dw - part.b @ part.a).norm(), best, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(part.lost).sqrt(), best.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(part.total).sqrt(), dw.norm().float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_is_the_scaled_weight(shape, dtype):
    weight, d = torch.randn(shape).to(dtype), 0.4 * torch.randn(min(shape))
    basis = decompose(weight)
    part = low_rank(weight, basis, d, 99)
    assert part.lost == 0
    expected = scale_weight(weight.float(), basis.q, d)
    torch.testing.assert_close(weight.float() + part.b @ part.a, expected, rtol=1e-5, atol=1e-5)


def test_an_unchanged_weight_loses_nothing():
    weight = torch.randn(5, 8)
    part = low_rank(weight, decompose(weight), torch.zeros(5), 2)
    assert relative_error([part]) == 0 and not (part.b @ part.a).any()


def model_folder(folder: Path, source: str = "hub:someone/tiny", dtype: Any = torch.float32, seed: int = 0) -> Path:
    """A tiny base model as `transformer2 model` leaves it."""
    tokenizer = helpers.tokenizer()
    helpers.model(len(tokenizer), seed).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {"source": source, "revision": "abc123", "parameters": 1, "sha256": folder_checksums(folder)}
    write_json(folder / "manifest.json", facts)
    return folder


def expert_folder(
    folder: Path, model: Path, dtype: str = "float32", layers: str = "all", **changes: Any
) -> Path:  # fmt: skip
    """A random expert; every number that training would move is moved."""
    chosen = helpers.settings(rank=4, projection=4, lora_dropout=0.0, layers=layers, **changes)
    adapted = new_expert(load_model(model, dtype), chosen, None, seed=1)
    generator = torch.Generator().manual_seed(7)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += (0.3 * noise).to(parameter)
    adapted.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def svf(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return expert_folder(tmp_path_factory.mktemp("experts") / "svf", base)


def run(expert: Path, model: Path, out: Path, form: Any, rank: int | None = None, **options: Any) -> dict[str, Any]:
    arguments: Any = {"basis": None, "hub_id": None, "dtype": "float32", "templates": TEMPLATES} | options
    return export(expert, model, out, form, rank, **arguments)


def answers(model: Any, folder: Path) -> list[list[int]]:
    """Greedy answers, as token ids."""
    tokenizer = load_tokenizer(folder)
    prompts = [encode_prompt(tokenizer, helpers.WORDS.prompt(row)) for row in helpers.rows(6)]
    return [c.token_ids for c in HFEngine(model, tokenizer).generate(prompts, Sampling(12))]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(24).reshape(2, 12)).logits


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_answer_as_the_expert_does(kind, base, tmp_path):
    changes = {"svf": {}, "ia3": {"adapter": "ia3", "modules": "ia3"}}.get(kind, {"adapter": kind})
    expert = expert_folder(tmp_path / "expert", base, **changes)
    assert run(expert, base, tmp_path / "out", "merged") == {}
    merged = load_model(tmp_path / "out")
    adapted = load_expert(load_model(base), expert, None)
    torch.testing.assert_close(logits(merged), logits(adapted), rtol=1e-4, atol=1e-4)
    assert answers(merged, tmp_path / "out") == answers(adapted, base) != answers(load_model(base), base)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert not any(name.startswith("adapter") for name in names)


def test_merged_svf_weights_in_bfloat16_are_those_of_the_expert_bit_for_bit(tmp_path):
    model = model_folder(tmp_path / "model", dtype=torch.bfloat16)
    expert = expert_folder(tmp_path / "expert", model, "bfloat16")
    run(expert, model, tmp_path / "out", "merged", dtype="bfloat16")
    adapted = load_expert(load_model(model, "bfloat16"), expert, None)
    assert read_json(tmp_path / "out" / "config.json")["dtype"] == "bfloat16"
    assert torch.equal(logits(load_model(tmp_path / "out", "bfloat16")), logits(adapted))


@pytest.mark.parametrize("kind", ["svf", "lora"])
def test_an_adapter_is_the_expert_with_its_base_model_named(kind, base, tmp_path):
    expert = expert_folder(tmp_path / "expert", base, adapter=kind)
    run(expert, base, tmp_path / "out", "adapter")
    again = PeftModel.from_pretrained(load_model(base), tmp_path / "out").eval()
    assert torch.equal(logits(again), logits(load_expert(load_model(base), expert, None)))
    config = read_json(tmp_path / "out" / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("someone/tiny", "abc123")


@pytest.mark.parametrize("changes", [{}, {"layers": "half"}, {"parametrisation": "sigmoid_nuclear", "init_mean": 0.1}])
def test_a_lora_of_full_rank_is_the_expert(changes, base, tmp_path):
    expert = expert_folder(tmp_path / "expert", base, **changes)
    facts = run(expert, base, tmp_path / "out", "lora", 1000)
    assert facts["error"] == 0 and facts["rank"] == 32
    assert len(facts["matrices"]) == (7 if "layers" in changes else 14)
    config = read_json(tmp_path / "out" / "adapter_config.json")
    small = {name for name in facts["matrices"] if "k_proj" in name or "v_proj" in name}
    assert config["rank_pattern"] == config["alpha_pattern"] == dict.fromkeys(small, 16), "of matrices with r = 16"
    lora = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out").eval()
    assert isinstance(lora.base_model, LoraModel)
    expected = logits(load_expert(load_model(base), expert, None))
    torch.testing.assert_close(logits(lora), expected, rtol=1e-3, atol=1e-3)


def test_experts_of_a_vision_language_model_are_exported_too(tmp_path):
    llava, words = helpers.vision_model()
    llava.save_pretrained(tmp_path / "model")
    words.processor.save_pretrained(tmp_path / "model")
    expert = expert_folder(tmp_path / "expert", tmp_path / "model", layers="half")
    expected = logits(load_expert(load_model(tmp_path / "model"), expert, None))
    run(expert, tmp_path / "model", tmp_path / "merged", "merged")
    torch.testing.assert_close(logits(load_model(tmp_path / "merged")), expected, rtol=1e-4, atol=1e-4)
    assert load_tokenizer(tmp_path / "merged").processor is not None
    run(expert, tmp_path / "model", tmp_path / "lora", "lora", 32)
    lora = PeftModel.from_pretrained(load_model(tmp_path / "model"), tmp_path / "lora").eval()
    torch.testing.assert_close(logits(lora), expected, rtol=1e-3, atol=1e-3)
    assert "AutoModelForImageTextToText" in (tmp_path / "lora" / "README.md").read_text()


def test_a_lora_of_a_model_whose_weights_lie_transposed_is_the_expert(tmp_path):
    """GPT-2's layers are transformers' Conv1D."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3)
    gpt2 = GPT2LMHeadModel(config).eval()
    gpt2.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(gpt2, SVFConfig(task_type="CAUSAL_LM", init_std=0.3)).eval()
    (tmp_path / "lora").mkdir()
    write_lora(adapted, 1000, None, None, tmp_path / "lora")
    lora = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "lora").eval()
    torch.testing.assert_close(logits(lora), logits(adapted), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(logits(lora), logits(load_model(tmp_path / "base")), atol=1e-2)


def test_a_lora_of_rank_k_is_the_one_that_peft_finds_by_decomposing_the_change(svf, base, tmp_path):
    facts = run(svf, base, tmp_path / "out", "lora", 3)
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    adapted = load_experts(load_model(base), {"default": svf}, None)
    _, peft = convert_to_lora(adapted, rank=3)
    lost = total = 0.0
    for name, found in facts["matrices"].items():
        key = f"base_model.model.{name}"
        a, b = (tensors[f"{key}.lora_{side}.weight"] for side in "AB")
        theirs = peft[f"{key}.lora_B.weight"] @ peft[f"{key}.lora_A.weight"]
        torch.testing.assert_close(b @ a, theirs, rtol=1e-3, atol=1e-4)
        dw = adapted.get_submodule(key).get_delta_weight("default")  # type: ignore[operator]
        assert found["error"] == pytest.approx(((dw - b @ a).norm() / dw.norm()).item(), rel=1e-3)
        lost, total = lost + (dw - b @ a).norm().item() ** 2, total + dw.norm().item() ** 2
    assert facts["error"] == pytest.approx((lost / total) ** 0.5, rel=1e-3)
    assert read_json(tmp_path / "out" / "errors.json") == facts


def test_two_exports_are_the_same_bytes(svf, base, tmp_path):
    for name in ("one", "two"):
        run(svf, base, tmp_path / name, "lora", 2)
    assert folder_checksums(tmp_path / "one") == folder_checksums(tmp_path / "two")
    modules = read_json(tmp_path / "one" / "adapter_config.json")["target_modules"]
    assert modules == sorted(modules), "a set has another order in the next process"


def in_a_run(folder: Path, model: Path, **changes: Any) -> Path:
    """An expert among the files of the run that made it."""
    where = Path("tiny/words/svf/seed0")
    point, expert = folder / "sweeps" / where / "single", folder / "experts" / where
    inputs = {"model": read_json(model / "manifest.json")["sha256"], "train": "1f", "validation": "2f"}
    training = {
        "step": 6, "best_step": 4, "best_validation": 0.75, "last_validation": 0.5, "collapsed_at": None,
        "stopped": None, "trained_parameters": 224,
        "settings": helpers.settings().model_dump(), "seed": 0, "inputs": inputs, "task": "words", "version": 1,
    }  # fmt: skip
    expert_folder(expert, model)
    write_json(expert / "selection.json", {"chosen": "single", "validation": {"single": 0.75}, "training": training})
    facts = {
        "git": "c0ffee", "python": "3.11.7", "packages": {"peft": "0.21.2"}, "platform": "Linux", "cpus": 2,
        "seconds": 1.5, "peak_memory_mb": 300, "started": "2026-01-01T00:00:00Z",
        "command": ["train", "--model", str(model)],
    }  # fmt: skip
    write_json(point / "manifest.json", facts | changes)
    lines = [{"step": 0, "accuracy": 0.25, "n": 8}, {"step": 4, "accuracy": 0.75, "n": 8}]
    write_jsonl(point / "validation.jsonl", lines)
    right = {"svf-words": [True, True, True, False], "base": [False, False, True, False]}
    for adapter, verdicts in right.items():
        items = [{"item": f"words/test/{i}", "strict": v, "lenient": True} for i, v in enumerate(verdicts)]
        write_json(folder / "scores/tiny" / adapter / "words/seed0.json", {"task": "words", "items": items})
    write_json(folder / "data/words/test.manifest.json", {"source": "pocket"})
    return expert


@pytest.mark.parametrize(
    ("form", "library", "relation"),
    [("adapter", "peft", "adapter"), ("lora", "peft", "adapter"), ("merged", "transformers", "finetune")],
)
def test_the_card_says_what_the_run_knows(form, library, relation, base, tmp_path):
    expert = in_a_run(tmp_path / "run", base, gpu="a GPU")
    run(expert, base, tmp_path / "out", form, 2 if form == "lora" else None)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    data = card.data.to_dict()
    assert (data["base_model"], data["library_name"]) == ("someone/tiny", library)
    assert data["base_model_relation"] == relation and "svf" in data["tags"] and "license" not in data
    for said in (
        "| words, test | 4 | 75.00 % | 30.06 to 95.44 | 100.00 % | 25.00 % | pocket",
        "| words, validation (strict) | 8 | 75.00 % | 40.93 to 92.85 |",
        "| kl coefficient | 0 |",
        "at commit c0ffee",
        "peft 0.21.2",
        "a GPU; 1.5 s",
        "seed 0",
    ):
        assert said in card.text, said
    assert "lora alpha" not in card.text, "no setting of another adapter"
    assert ("import transformer2.svf" in card.text) == (form == "adapter")
    assert ("of rank 2" in card.text) == (form == "lora")


def test_the_card_tells_of_the_last_state_and_of_an_untrained_expert(base, tmp_path):
    expert = in_a_run(tmp_path / "run", base)
    choice = read_json(expert / "selection.json")
    training = choice["training"] | {"best_step": 0, "last_validation": 0.0, "collapsed_at": 5}
    for folder, state in ((expert, "best"), (expert / "last", "last")):
        expert_folder(folder, base)
        write_json(folder / "selection.json", choice | {"state": state, "training": training})
    items = [{"item": f"words/test/{i}", "strict": False, "lenient": False} for i in range(4)]
    write_json(tmp_path / "run/scores/tiny/svf-words-last/words/seed0.json", {"task": "words", "items": items})
    log = tmp_path / "run/sweeps/tiny/words/svf/seed0/single/validation.jsonl"
    write_jsonl(log, [{"step": 0, "accuracy": 0.25, "n": 8}, {"step": 6, "accuracy": 0.0, "n": 8}])
    for folder, name in ((expert, "best"), (expert / "last", "last")):
        run(folder, base, tmp_path / name, "adapter")
    of_best, of_last = ((tmp_path / name / "README.md").read_text() for name in ("best", "last"))
    assert "The expert is the state before the first step" in of_best and "or what its z, drawn around 1" in of_best
    assert "| words, test | 4 | 75.00 %" in of_best and "| words, test, last state | 4 | 0.00 %" in of_best
    assert "| words, validation (strict) | 8 | 25.00 %" in of_best and "at step 5" in of_best
    assert "This is the last state of the training" in of_last and "the expert was chosen on it" not in of_last
    assert "| words, test | 4 | 0.00 %" in of_last and "| words, test, best state | 4 | 75.00 %" in of_last
    assert "| words, validation (strict) | 8 | 0.00 %" in of_last


def test_no_place_on_this_disk_is_exported(base, tmp_path):
    expert = in_a_run(tmp_path / "run", base)
    for form in ("adapter", "merged", "lora"):
        run(expert, base, tmp_path / form, form, 2 if form == "lora" else None)
        for file in (tmp_path / form).iterdir():
            assert str(tmp_path).encode() not in file.read_bytes(), file
            assert str(base).encode() not in file.read_bytes(), file


def test_a_base_model_that_is_not_on_the_hub_has_no_id_unless_told(svf, tmp_path):
    model = model_folder(tmp_path / "secret" / "tiny", source=f"dir:{tmp_path}/secret/tiny")
    for name, hub_id in (("without", None), ("told", "someone/else")):
        run(svf, model, tmp_path / name, "adapter", hub_id=hub_id)
        assert read_json(tmp_path / name / "adapter_config.json")["base_model_name_or_path"] == hub_id
        assert ModelCard.load(tmp_path / name / "README.md").data.to_dict().get("base_model") == hub_id
        text = (tmp_path / name / "README.md").read_text()
        assert "a local folder `tiny`" in text and "secret" not in text


def test_an_expert_without_a_run_has_a_card_too(svf, base, tmp_path):
    run(svf, base, tmp_path / "out", "adapter")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "# SVF expert\n" in text and "## Use" in text and "## Scores" not in text and "## Recipe" not in text


@pytest.mark.parametrize(
    ("form", "rank", "message"),
    [
        ("lora", None, "--rank belongs to --as lora, which needs it"),
        ("merged", 4, "--rank belongs to --as lora, which needs it; not to merged"),
        ("lora", 0, "--rank must be at least 1"),
    ],
)
def test_a_rank_without_meaning_is_refused(form, rank, message, svf, base, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(svf, base, tmp_path / "out", form, rank)
    assert not list(tmp_path.iterdir())


def test_only_an_svf_expert_becomes_a_lora(base, tmp_path):
    expert = expert_folder(tmp_path / "expert", base, adapter="dora")
    with pytest.raises(ValueError, match="holds a DoRA adapter; only SVF experts are made a LoRA: use --as adapter"):
        run(expert, base, tmp_path / "out", "lora", 2)


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("kind", ["svf", "lora", "ia3"])
@pytest.mark.parametrize(("hidden", "layers"), [(48, 2), (32, 1), (32, 3)])
def test_an_expert_of_another_model_is_refused_and_nothing_is_written(kind, hidden, layers, base, tmp_path):
    expert = expert_folder(tmp_path / "expert", base, adapter=kind, modules="ia3" if kind == "ia3" else "all")
    other = model_folder(tmp_path / "other")
    config = load_model(other).config
    config.hidden_size, config.num_hidden_layers, config.layer_types = hidden, layers, None
    config.head_dim = hidden // 4
    type(load_model(other))(config).save_pretrained(other)
    with pytest.raises(ValueError, match="belongs to another model"):
        run(expert, other, tmp_path / "out", "merged")
    assert {path.name for path in tmp_path.iterdir()} == {"expert", "other"}


def test_an_expert_of_other_weights_of_the_same_shapes_is_refused(base, tmp_path):
    expert = in_a_run(tmp_path / "run", base)
    with pytest.raises(ValueError, match="was trained on other weights than those in"):
        run(expert, model_folder(tmp_path / "other", seed=5), tmp_path / "out", "adapter")


def test_what_is_there_is_never_written_over(svf, base, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="out is there already: delete it, or write to another place"):
        run(svf, base, tmp_path / "out", "adapter")


def test_folders_without_an_expert_or_a_model_are_named(svf, base, tmp_path):
    with pytest.raises(ValueError, match=r"holds no expert: there is no adapter_config\.json in it"):
        run(tmp_path, base, tmp_path / "out", "adapter")
    with pytest.raises(ValueError, match=r"holds no model: there is no config\.json in it"):
        run(svf, tmp_path, tmp_path / "out", "adapter")


def test_lm_eval_is_told_to_ask_as_we_do():
    task = yaml.safe_load((ROOT / "docs" / "lm_eval" / "gsm8k_transformer2.yaml").read_text())
    assert task["description"] == gsm8k.SYSTEM and task["doc_to_text"] == "{{question}}"
    asked = {"until": list(gsm8k.TASK.stop), "do_sample": False, "max_gen_toks": gsm8k.TASK.max_new_tokens}
    assert task["generation_kwargs"] == asked
