"""SVF against its naive twins, and as a PEFT method."""

import json

import pytest
import torch
import torch.nn.functional as F
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from transformer2.svf import SVFConfig, basis
from transformer2.svf.basis import (
    BasisFile,
    decoder_matrices,
    decompose,
    join_bases,
    row_hashes,
    scale_weight,
    write_basis,
)
from transformer2.svf.layer import Linear, ScaledLinear

SHAPES = [(12, 7), (7, 12), (9, 9)]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_llama(seed: int = 0, tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=tied, max_position_embeddings=64,
        )
    ).eval()  # fmt: skip


def randomise(model: PeftModel, adapter: str, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if f"svf_z.{adapter}" in name:
            parameter.data = 1 + 0.3 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randint(0, 50, (3, 11), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def model() -> PeftModel:
    peft_model = get_peft_model(tiny_llama(), SVFConfig(target_modules=TARGETS))
    randomise(peft_model, "default")
    return peft_model.eval()


@pytest.mark.parametrize("shape", SHAPES)
def test_basis_equals_the_singular_value_decomposition(shape):
    w = torch.randn(shape, dtype=torch.float64)
    basis, (u, s, vh) = decompose(w), torch.linalg.svd(w, full_matrices=False)
    reference = vh.T if shape[0] >= shape[1] else u
    torch.testing.assert_close(basis.s.double(), s, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((basis.q * reference).sum(0).abs(), torch.ones(min(shape), dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
def test_scaled_weight_equals_u_s_z_v(shape):
    w, z = torch.randn(shape), 1 + 0.5 * torch.randn(min(shape))
    u, s, vh = torch.linalg.svd(w.double(), full_matrices=False)
    torch.testing.assert_close(scale_weight(w, decompose(w).q, z - 1), (u * (s * z) @ vh).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_scaled_weight_at_z_one_is_the_weight_bit_for_bit(shape, dtype):
    w = torch.randn(shape).to(dtype)
    assert torch.equal(scale_weight(w, decompose(w).q, torch.zeros(min(shape))), w)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("tokens", [5, 50])  # fewer and more than r: two ways to the same diagonal
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_from_activations_equal_autograd_through_the_weight(shape, tokens, biased):
    w = torch.randn(shape, dtype=torch.float64)
    bias = torch.randn(shape[0], dtype=torch.float64) if biased else None
    q = decompose(w).q
    x = torch.randn(1, tokens, shape[1], dtype=torch.float64, requires_grad=True)
    d = (0.4 * torch.randn(min(shape), dtype=torch.float64)).requires_grad_()
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    signs = ((vh.T if shape[0] >= shape[1] else u) * q).sum(0).sign()  # same vectors, perhaps another sign
    naive = F.linear(x, u * signs * (s * (1 + d)) @ (vh.T * signs).T, bias)
    upstream = torch.randn_like(naive)
    expected = torch.autograd.grad(naive, (x, d), upstream)
    delta = (w @ q * d.detach()) @ q.T if shape[0] >= shape[1] else (q * d.detach()) @ (q.T @ w)
    actual = torch.autograd.grad(ScaledLinear.apply(x, d, w + delta, q, bias), (x, d), upstream)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_factored_form_equals_the_scaled_weight_for_each_row(shape):
    w = torch.randn(shape)
    basis, x, d = decompose(w), torch.randn(4, 5, shape[1]), 0.4 * torch.randn(4, 1, min(shape))
    base = nn.Linear(shape[1], shape[0])
    base.weight.data = w
    svf = Linear(base, basis, "default", SVFConfig(target_modules=["x"]))
    naive = torch.stack([F.linear(row, scale_weight(w, basis.q, z[0]), base.bias) for row, z in zip(x, d, strict=True)])
    torch.testing.assert_close(svf._factored(x, d), naive, rtol=1e-4, atol=1e-5)


def test_a_new_adapter_is_the_base_model_bit_for_bit(inputs):
    base = tiny_llama()
    expected = base(inputs).logits
    model = get_peft_model(base, SVFConfig(target_modules=TARGETS)).eval()
    with torch.no_grad():
        assert torch.equal(model(inputs).logits, expected)


def test_only_z_is_trained_and_one_step_moves_it(inputs):
    model = get_peft_model(tiny_llama(), SVFConfig(target_modules=TARGETS))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("svf_z.default" in name for name in trained)
    assert sum(p.numel() for p in trained.values()) == 2 * (16 + 8 + 8 + 16 + 16 + 16 + 16)
    optimizer = torch.optim.Adam(trained.values(), lr=0.1)
    before = model(inputs, labels=inputs).loss
    before.backward()
    optimizer.step()
    assert all(not torch.equal(p, torch.ones_like(p)) for p in trained.values())
    assert model(inputs, labels=inputs).loss < before


def test_a_z_of_zero_still_gets_its_gradient(inputs):
    model = get_peft_model(tiny_llama(), SVFConfig(target_modules=["up_proj", "down_proj"]))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data[0] = 0.0
    model(inputs, labels=inputs).loss.backward()
    for parameter in model.parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad[0] != 0


def test_save_writes_z_alone_and_load_brings_it_back(model, inputs, tmp_path):
    expected = model(inputs).logits
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len(tensors) == 14 and all(key.endswith(".svf_z") and t.ndim == 1 for key, t in tensors.items())
    assert "basis_path" not in json.loads((tmp_path / "adapter_config.json").read_text())
    assert isinstance(PeftConfig.from_pretrained(tmp_path), SVFConfig)
    again = PeftModel.from_pretrained(tiny_llama(), tmp_path).eval()
    assert torch.equal(again(inputs).logits, expected)


def test_several_adapters_switch_and_disable_to_the_base_bit_for_bit(model, inputs, tmp_path):
    first = model(inputs).logits
    model.add_adapter("second", SVFConfig(target_modules=TARGETS))
    assert torch.equal(model(inputs).logits, first), "adding an adapter does not activate it"
    randomise(model, "second", seed=2)
    model.set_adapter("second")
    assert not torch.allclose(model(inputs).logits, first)
    model.set_adapter("default")
    assert torch.equal(model(inputs).logits, first)
    with model.disable_adapter():
        assert torch.equal(model(inputs).logits, tiny_llama()(inputs).logits)


def test_merge_and_unmerge_restore_the_weights_bit_for_bit(model, inputs):
    weights = {name: p.clone() for name, p in model.named_parameters()}
    expected = model(inputs).logits
    model.merge_adapter()
    torch.testing.assert_close(model(inputs).logits, expected)
    assert any(not torch.equal(p, weights[name]) for name, p in model.named_parameters())
    model.unmerge_adapter()
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(inputs).logits, expected)


def test_each_row_of_a_batch_can_have_its_own_adapter(model, inputs):
    model.add_adapter("second", SVFConfig(target_modules=TARGETS))
    randomise(model, "second", seed=2)
    with torch.no_grad():
        mixed = model(inputs, adapter_names=["default", "second", "__base__"]).logits
        model.set_adapter("default")
        torch.testing.assert_close(mixed[0], model(inputs).logits[0], rtol=1e-4, atol=1e-5)
        model.set_adapter("second")
        torch.testing.assert_close(mixed[1], model(inputs).logits[1], rtol=1e-4, atol=1e-5)
        with model.disable_adapter():
            assert torch.equal(mixed[2], model(inputs).logits[2])


def test_an_unknown_adapter_in_a_row_is_named(model, inputs):
    with pytest.raises(ValueError, match="no adapter named nobody"):
        model(inputs, adapter_names=["default", "nobody", "__base__"])


@pytest.mark.parametrize("tied", [True, False])
def test_the_output_head_is_never_touched(tied):
    with pytest.raises(ValueError, match="output head"):
        get_peft_model(tiny_llama(tied=tied), SVFConfig(target_modules=[*TARGETS, "lm_head"]))
    model = get_peft_model(tiny_llama(tied=tied), SVFConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    assert not any("lm_head" in name for name in model.targeted_module_names)


def test_half_of_the_layers_can_be_left_alone():
    model = get_peft_model(tiny_llama(), SVFConfig(target_modules=TARGETS, layers_to_transform=[1]))
    assert all(".layers.1." in name for name in model.targeted_module_names) and len(model.targeted_module_names) == 7


def test_sigmoid_nuclear_keeps_the_nuclear_norm_and_trains(inputs):
    config = SVFConfig(target_modules=["up_proj"], parametrisation="sigmoid_nuclear", init_mean=0.1, init_std=0.5)
    torch.manual_seed(5)
    model = get_peft_model(tiny_llama(), config)
    layer = model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    torch.testing.assert_close((layer.z("default") * layer.svf_s).sum(), layer.svf_s.sum())
    p = layer.svf_z["default"]
    mask = torch.sigmoid(p.detach())
    torch.testing.assert_close(layer.z("default").detach(), mask * layer.svf_s.sum() / (mask * layer.svf_s).sum())
    model(inputs, labels=inputs).loss.backward()
    assert p.grad is not None and p.grad.abs().max() > 0


def test_a_cached_basis_gives_the_same_model_and_a_foreign_one_is_refused(model, inputs, tmp_path):
    base = tiny_llama()
    base.save_pretrained(tmp_path / "model")
    assert write_basis(decoder_matrices(tmp_path / "model", torch.float32), tmp_path / "basis.safetensors") == 14
    model.save_pretrained(tmp_path / "expert")
    again = PeftModel.from_pretrained(base, tmp_path / "expert", basis_path=str(tmp_path / "basis.safetensors")).eval()
    assert torch.equal(again(inputs).logits, model(inputs).logits)
    with pytest.raises(ValueError, match="does not belong to this model"):
        get_peft_model(
            tiny_llama(seed=9), SVFConfig(target_modules=TARGETS, basis_path=str(tmp_path / "basis.safetensors"))
        )
    with pytest.raises(ValueError, match=r"no basis of nowhere\.up_proj"):
        BasisFile(tmp_path / "basis.safetensors").load("nowhere.up_proj", torch.ones(2, 2))


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_a_basis_by_blocks_of_layers_is_the_one_that_is_made_at_once(tmp_path, blocks):
    llama = LlamaForCausalLM(LlamaConfig(**tiny_llama().config.to_dict() | {"num_hidden_layers": 5, "dtype": None}))
    llama.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    write_basis(decoder_matrices(tmp_path / "model", torch.float32), tmp_path / "whole")
    files = [tmp_path / f"{block}" for block in range(blocks)]
    for block, file in enumerate(files):
        write_basis(decoder_matrices(tmp_path / "model", torch.float32, block, blocks), file)
    assert join_bases(files, tmp_path / "joined") == 5 * 7
    joined, whole = (load_file(tmp_path / name) for name in ("joined", "whole"))
    assert joined.keys() == whole.keys() and all(torch.equal(joined[name], whole[name]) for name in whole)
    name, weight = next(decoder_matrices(tmp_path / "model", torch.float32))
    one, other = (BasisFile(tmp_path / name) for name in ("joined", "whole"))
    assert torch.equal(one.load(name, weight).q, whole[f"{name}.q"])
    assert (one.fingerprints, one.row_hashes) == (other.fingerprints, other.row_hashes) and len(one.row_hashes) == 5 * 7
    with pytest.raises(ValueError, match="and so does another of the files"):
        join_bases([*files, files[0]], tmp_path / "joined")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_row_hashes_are_of_other_weights_others_and_do_not_depend_on_where_numbers_lie(dtype):
    torch.manual_seed(0)
    weight = torch.randn(6, 4).to(dtype)
    nudged = weight.clone()
    nudged[3, 2] *= 1 + torch.finfo(dtype).eps
    others = [
        nudged,
        weight.flip(0),
        weight[:5],
        weight.float() if dtype == torch.bfloat16 else weight.double(),
        -weight,
        weight.flip(1),
    ]
    assert len({row_hashes(one) for one in [weight, *others]}) == 7
    assert row_hashes(weight.T.contiguous().T) == row_hashes(weight)


def test_a_weight_whose_row_hashes_are_others_is_recognised_by_its_bytes(tmp_path, monkeypatch):
    """Whatever another device or version of torch makes of the hashes, sha256 decides."""
    weight = torch.eye(3)
    write_basis([("a", weight)], tmp_path / "basis")
    monkeypatch.setattr(basis, "row_hashes", lambda _: "another")
    assert torch.equal(BasisFile(tmp_path / "basis").load("a", weight).s, torch.ones(3))
    with pytest.raises(ValueError, match="does not belong to this model"):
        BasisFile(tmp_path / "basis").load("a", 2 * weight)


def test_matrices_are_decomposed_on_the_device_that_is_asked_for(tmp_path, monkeypatch):
    """Without a GPU the device of tensors that hold no numbers stands for one."""
    devices = []

    def decomposed(weight):
        devices.append(weight.device.type)
        return decompose(torch.eye(3))

    write_basis([("a", torch.eye(3))], tmp_path / "cpu", "cpu")
    monkeypatch.setattr(basis, "decompose", decomposed)
    write_basis([("a", torch.eye(3))], tmp_path / "meta", "meta")
    assert devices == ["meta"]
    here, there = (BasisFile(tmp_path / name) for name in ("cpu", "meta"))
    assert here.fingerprints == there.fingerprints, "those of the weight as it was"
    assert torch.equal(here.load("a", torch.eye(3)).q, there.load("a", torch.eye(3)).q)


def test_a_block_that_is_not_there_is_refused(tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    for block, blocks in ((2, 2), (0, 3), (-1, 1)):
        with pytest.raises(ValueError, match="2 layers make 1 to 2 blocks, from 0 on"):
            write_basis(decoder_matrices(tmp_path, torch.float32, block, blocks), tmp_path / "basis")


def test_a_basis_is_made_for_the_dtype_that_the_model_runs_in(inputs, tmp_path):
    tiny_llama().save_pretrained(tmp_path / "model")
    path = tmp_path / "basis.safetensors"
    config = SVFConfig(target_modules=TARGETS, basis_path=str(path))
    write_basis(decoder_matrices(tmp_path / "model", torch.bfloat16), path)
    base = tiny_llama().bfloat16()
    expected = base(inputs).logits
    model = get_peft_model(base, config)
    assert torch.equal(model(inputs).logits, expected)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    model(inputs, labels=inputs).loss.backward()
    with pytest.raises(ValueError, match="does not belong to this model"):
        get_peft_model(tiny_llama(), config)


def test_gradient_checkpointing_gives_the_same_gradients(inputs):
    gradients = []
    for checkpointing in (False, True):
        model = get_peft_model(tiny_llama(), SVFConfig(target_modules=TARGETS))
        randomise(model, "default")
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()
        model(inputs, labels=inputs).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_an_unknown_parametrisation_and_layers_beside_a_pattern_are_refused():
    with pytest.raises(ValueError, match="parametrisation is 'cubic'"):
        SVFConfig(target_modules=TARGETS, parametrisation="cubic")
    for pattern in ("all-linear", ".*mlp.*"):
        with pytest.raises(ValueError, match="layers_to_transform needs target_modules as a list"):
            SVFConfig(target_modules=pattern, layers_to_transform=[1])


def test_a_module_that_is_not_linear_is_refused():
    with pytest.raises(ValueError, match=r"SVF adapts torch\.nn\.Linear and transformers' Conv1D, not Embedding"):
        get_peft_model(tiny_llama(), SVFConfig(target_modules=["embed_tokens"]))
    assert isinstance(tiny_llama().model.embed_tokens, nn.Embedding)
