"""A base model serves one adapter after another, and is afterwards what it was when it was loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaForCausalLM

import helpers
from helpers import WORDS, model, rows, settings, tokenizer
from transformer2.adapters import strip
from transformer2.models import load_expert, new_expert
from transformer2.rollout.hf import HFEngine
from transformer2.svf import basis
from transformer2.training.loop import Trainer
from transformer2.training.recompute import recompute_layers

KINDS: list[dict[str, Any]] = [
    {"adapter": "svf", "kl_coefficient": 0.2},
    {"adapter": "lora", "modules": "mlp_attention_qv", "rank": 4, "objective": "next_token", "lora_dropout": 0.3},
    {"adapter": "dora", "modules": "attention_qv", "rank": 4, "objective": "next_token"},
    {"adapter": "ia3", "modules": "ia3", "objective": "next_token"},
    {"adapter": "vera", "modules": "attention_qv", "rank": 8, "objective": "next_token"},
    {"adapter": "tinylora", "rank": 2, "objective": "next_token"},
]
NAMES = [kind["adapter"] for kind in KINDS]
SWITCHED = {"gradient_checkpointing", "_gradient_checkpointing_func", "_require_grads_hooks"}
"""What transformers leaves where gradient checkpointing was on, with the values of a model where it never was."""


@pytest.fixture(scope="module")
def words():
    return tokenizer()


@pytest.fixture(scope="module")
def folder(words, tmp_path_factory):
    """A saved model, as every training loads it, and its bases."""
    out = tmp_path_factory.mktemp("model")
    model(len(words)).save_pretrained(out)
    basis.write_basis(basis.decoder_matrices(out, torch.float32), out / "basis.svf")
    return out


def load(folder) -> Any:
    return LlamaForCausalLM.from_pretrained(folder).eval()


def train(base: Any, kind: dict[str, Any], words: Any, folder, out, recomputes: bool) -> dict[str, torch.Tensor]:
    """Two steps of a training and the two evaluations around them; returns the trained state."""
    chosen = settings(**kind, steps=2, learning_rate=0.05, batch_size=4)
    expert = new_expert(base, chosen, folder / "basis.svf" if kind["adapter"] == "svf" else None, seed=1)
    if recomputes:
        recompute_layers(expert)
    out.mkdir(parents=True)
    trainer = Trainer(expert, HFEngine(expert, words), words, WORDS, rows(12), rows(6), chosen, 0, out)
    trainer.run()
    trainer.save()
    return trainer.last


def facts(model: nn.Module) -> dict[str, Any]:
    """What a model is made of, but for the numbers of its parameters."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modules": [(name, type(module), module.training) for name, module in model.named_modules()],
        "parameters": [(name, p.dtype, p.requires_grad, p.grad) for name, p in model.named_parameters()],
        "buffers": [name for name, _ in model.named_buffers()],
        "hooks": {name: len(getattr(module, hook)) for name, module in model.named_modules() for hook in hooks},
        "attributes": {name: vars(module).keys() - SWITCHED for name, module in model.named_modules()},
        "checkpointing": [getattr(module, "gradient_checkpointing", None) for module in model.modules()],
    }


@pytest.mark.slow
@pytest.mark.parametrize("recomputes", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_a_stripped_model_is_the_loaded_one_and_trains_the_next_adapter_to_the_same_numbers(
    kind, recomputes, words, folder, tmp_path
):
    base, fresh = load(folder), load(folder)
    train(base, kind, words, folder, tmp_path / "first", recomputes)
    assert strip(base) is base
    assert facts(base) == facts(fresh)
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), fresh.parameters(), strict=True))
    asked = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(base(asked).logits, fresh(asked).logits)
    following = KINDS[(NAMES.index(kind["adapter"]) + 1) % len(KINDS)]
    again = train(base, following, words, folder, tmp_path / "again", recomputes)
    alone = train(fresh, following, words, folder, tmp_path / "alone", recomputes)
    assert all(torch.equal(again[name], alone[name]) for name in alone)
    names = ("adapter_model.safetensors", "adapter_config.json")
    assert all((tmp_path / "again" / n).read_bytes() == (tmp_path / "alone" / n).read_bytes() for n in names)


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_a_loaded_expert_is_taken_off_through_its_peft_model(kind, words, folder, tmp_path):
    of = folder / "basis.svf" if kind["adapter"] == "svf" else None
    train(load(folder), kind, words, folder, tmp_path / "expert", False)
    fresh, asked = load(folder), torch.arange(12)[None]
    adapted = load_expert(load(folder), tmp_path / "expert", of)
    with torch.no_grad():
        expected = adapted(asked).logits
        base = strip(adapted)
        assert facts(base) == facts(fresh) and torch.equal(base(asked).logits, fresh(asked).logits)
        assert torch.equal(load_expert(base, tmp_path / "expert", of)(asked).logits, expected)


def test_a_model_without_adapters_stays_as_it_is(folder):
    assert facts(strip(load(folder))) == facts(load(folder))


def test_a_vision_language_model_is_stripped_too():
    base, _ = helpers.vision_model()
    fresh, _ = helpers.vision_model()
    adapted = new_expert(base, settings(), None, seed=1)
    recompute_layers(adapted)
    assert facts(strip(adapted)) == facts(fresh)


def test_saved_modules_give_way_to_those_of_the_model(folder):
    base, fresh = load(folder), load(folder)
    adapted: Any = get_peft_model(base, LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    with torch.no_grad():
        adapted.base_model.model.lm_head.modules_to_save["default"].weight.zero_()
    assert facts(strip(adapted)) == facts(fresh) and torch.equal(base.lm_head.weight, fresh.lm_head.weight)


def test_weights_that_were_changed_in_place_are_refused_unless_svf_kept_them(folder):
    fresh = load(folder)
    svf = new_expert(load(folder), settings(init_std=0.3), None, seed=1)
    svf.merge_adapter()
    assert all(torch.equal(a, b) for a, b in zip(strip(svf).parameters(), fresh.parameters(), strict=True))
    lora = new_expert(load(folder), settings(adapter="lora", modules="attention_qv", rank=2), None, seed=1)
    lora.merge_adapter()
    with pytest.raises(ValueError, match="merged into the base model: load the model again"):
        strip(lora)
    biased = get_peft_model(load(folder), LoraConfig(target_modules=["q_proj"], bias="all"))
    with pytest.raises(ValueError, match="biases of the base model"):
        strip(biased)


@pytest.fixture
def reads(monkeypatch) -> dict[str, int]:
    """How often files were opened, tensors read and weights hashed in `svf.basis`."""
    basis.close_bases()
    counts = {"open": 0, "q": 0, "sha256": 0}
    opened, hashed = basis.safe_open, basis._sha256

    class Counted:
        def __init__(self, *args):
            counts["open"] += 1
            self.file = opened(*args)

        def metadata(self):
            return self.file.metadata()

        def get_tensor(self, name):
            counts["q"] += name.endswith(".q")
            return self.file.get_tensor(name)

    def sha256(weight):
        counts["sha256"] += 1
        return hashed(weight)

    monkeypatch.setattr(basis, "safe_open", Counted)
    monkeypatch.setattr(basis, "_sha256", sha256)
    monkeypatch.setattr(basis, "_FINGERPRINTS", {})
    return counts


def without_row_hashes(folder: Path, out: Path) -> Path:
    """The bases of the model as a file of before 0.2.0."""
    with safe_open(folder / "basis.svf", "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "row_hashes"}
    save_file(load_file(folder / "basis.svf"), out / "basis.svf", metadata)
    return out / "basis.svf"


@pytest.mark.parametrize("row_hashes", [True, False])
def test_bases_are_read_and_weights_are_hashed_once_for_all_experts_of_a_process(folder, reads, tmp_path, row_hashes):
    base, path = load(folder), folder / "basis.svf" if row_hashes else without_row_hashes(folder, tmp_path)
    factors = []
    for seed in range(3):
        svf: Any = new_expert(base, settings(), path, seed=seed)
        factors.append({name: layer.svf_q.data_ptr() for name, layer in svf.base_model.svf_layers()})
        base = strip(svf)
    assert reads == {"open": 1, "q": 14, "sha256": 0 if row_hashes else 14}
    assert factors[0] == factors[1] == factors[2], "all experts share one Q a matrix"


def test_bases_are_read_again_from_a_new_file_and_weights_are_hashed_again_if_they_change(folder, reads, tmp_path):
    base, path = load(folder), without_row_hashes(folder, tmp_path)
    written = path.read_bytes()
    strip(new_expert(base, settings(), path, seed=0))
    path.unlink()
    path.write_bytes(written)
    base = strip(new_expert(base, settings(), path, seed=0))
    assert reads == {"open": 2, "q": 28, "sha256": 14}
    with torch.no_grad():
        base.model.layers[0].self_attn.q_proj.weight.data[0, 0] += 1
    with pytest.raises(ValueError, match=r"the weight of model\.layers\.0\.self_attn\.q_proj is another one"):
        new_expert(base, settings(), path, seed=0)
    basis.close_bases()
    strip(new_expert(load(folder), settings(), path, seed=0))
    assert reads["open"] == 3
