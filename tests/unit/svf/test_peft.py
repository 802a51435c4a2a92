"""What docs/peft.md says of SVF in PEFT's own terms, line by line."""

import copy
import json
import re

import pytest
import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    convert_to_lora,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file
from test_svf import TARGETS, randomise, tiny_llama
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForSequenceClassification,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from conftest import ROOT
from transformer2.svf import SVFConfig, SVFModel
from transformer2.svf.config import PEFT_TYPE

TESTS = {file.name: file for file in (ROOT / "tests" / "unit").rglob("test_*.py")}
IDS = torch.randint(0, 50, (3, 11), generator=torch.Generator().manual_seed(3))


def tiny_gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=64)).eval()


def tiny_qwen() -> PreTrainedModel:  # its q, k and v have a bias
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


MODELS = {"llama": tiny_llama, "gpt2": tiny_gpt2, "qwen": tiny_qwen}


@pytest.fixture(params=MODELS)
def base(request) -> PreTrainedModel:
    return MODELS[request.param]()


def two_experts(base: PreTrainedModel) -> PeftModel:
    model = get_peft_model(base, SVFConfig(task_type="CAUSAL_LM"), "first")
    model.add_adapter("second", SVFConfig(task_type="CAUSAL_LM"))
    for seed, name in enumerate(("first", "second")):
        randomise(model, name, seed)
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, **options) -> Tensor:
    return model(input_ids=IDS, **options).logits


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_every_line_of_the_page_names_a_test_that_is_there():
    page = (ROOT / "docs" / "peft.md").read_text()
    (section,) = re.findall(r"^## What it can do$(.*?)^## ", page, re.M | re.S)
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 20
    for row in rows:
        file, _, name = re.fullmatch(r".*\| `(.*)` \|", row)[1].rpartition("::")  # type: ignore[index]
        assert f"\ndef {name}(" in TESTS[file or "test_peft.py"].read_text(), row


def test_the_package_imports_nothing_else_of_transformer2():
    for file in (ROOT / "src" / "transformer2" / "svf").glob("*.py"):
        assert not re.search(r"^\s*(from|import) (transformer2|\.\.)", file.read_text(), re.MULTILINE), file


def test_conv1d_is_adapted_as_linear_is():
    expected = logits(tiny_gpt2())
    model = get_peft_model(tiny_gpt2(), SVFConfig(target_modules=["c_attn", "c_proj", "c_fc"])).eval()
    assert len(model.targeted_module_names) == 2 * 4
    assert torch.equal(logits(model), expected), "z = 1 is the base model"
    assert torch.equal(model(input_ids=IDS).logits, expected), "also where gradients are wanted"
    randomise(model, "default")
    model(input_ids=IDS, labels=IDS).loss.backward()
    name = "transformer.h.0.mlp.c_fc"
    layer = model.get_submodule(f"base_model.model.{name}")
    u, s, vh = torch.linalg.svd(tiny_gpt2().get_submodule(name).weight.T.double(), full_matrices=False)
    merged = copy.deepcopy(model).merge_and_unload()  # type: ignore[operator]
    weight = merged.get_submodule(name).weight
    close(weight.T.detach().double(), ((u * (s * layer.z("default").double())) @ vh).detach())
    weight.requires_grad_()
    merged(input_ids=IDS, labels=IDS).loss.backward()
    expected = s * (u.T @ weight.grad.T.double() @ vh.T).diagonal()
    torch.testing.assert_close(layer.svf_z["default"].grad.double(), expected, rtol=1e-3, atol=1e-7)


def test_other_layers_are_refused_in_one_line():
    for name, kind in (("embed_tokens", "Embedding"), ("input_layernorm", "LlamaRMSNorm")):
        with pytest.raises(ValueError, match=f"not {kind}") as error:
            get_peft_model(tiny_llama(), SVFConfig(target_modules=[name]))
        assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="target_parameters"):
        SVFConfig(target_parameters=["up_proj.weight"])  # type: ignore[call-arg]


def test_target_modules_by_name_by_pattern_and_all_linear():
    def chosen(**options) -> set[str]:
        names = get_peft_model(tiny_llama(), SVFConfig(**options)).targeted_module_names
        return {name.removeprefix("model.layers.") for name in names}

    mlp = {f"{layer}.mlp.{name}_proj" for layer in (0, 1) for name in ("gate", "up", "down")}
    assert chosen(target_modules=["gate_proj", "up_proj", "down_proj"]) == mlp
    assert chosen(target_modules=r".*\.mlp\.\w+_proj") == mlp
    assert chosen(target_modules="all-linear") == chosen() and len(chosen()) == 14
    assert chosen(target_modules="all-linear", exclude_modules=r".*self_attn.*") == mlp
    second = {name for name in mlp if name.startswith("1.")}
    for options in ({}, {"layers_pattern": "layers"}):
        assert chosen(target_modules=["gate_proj", "up_proj", "down_proj"], layers_to_transform=1, **options) == second


def test_every_architecture_that_peft_knows_for_lora_has_default_targets(base):
    table = SVFModel.target_module_mapping
    assert {*TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING} <= {*table}
    model = get_peft_model(base, SVFConfig())
    assert model.targeted_module_names and not any("head" in name for name in model.targeted_module_names)


@pytest.mark.parametrize("parametrisation", ["linear", "sigmoid_nuclear"])
def test_init_weights_decides_whether_a_new_adapter_is_the_base_model(base, parametrisation):
    expected = logits(base)
    same = get_peft_model(copy.deepcopy(base), SVFConfig(parametrisation=parametrisation)).eval()
    other = get_peft_model(base, SVFConfig(parametrisation=parametrisation, init_weights=False)).eval()
    if parametrisation == "linear":
        assert torch.equal(logits(same), expected)
    close(logits(same), expected)
    assert not torch.allclose(logits(other), expected, atol=1e-3)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_save_and_load_keep_the_outputs_and_hold_vectors_alone(base, low_cpu_mem_usage, tmp_path):
    model = get_peft_model(copy.deepcopy(base), SVFConfig(init_std=0.3, target_modules="all-linear")).eval()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert tensors and all(key.endswith(".svf_z") and tensor.ndim == 1 for key, tensor in tensors.items())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "SVF" and config["target_modules"] == sorted(config["target_modules"])
    assert PeftConfig.from_pretrained(str(tmp_path)).peft_type.value == "SVF"
    again = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(logits(again), logits(model))


def test_the_name_of_the_method_is_a_string_that_survives_copies():
    import pickle

    for same in (PEFT_TYPE, copy.deepcopy(PEFT_TYPE), pickle.loads(pickle.dumps(PEFT_TYPE))):
        assert (same, same.value, json.dumps(same)) == ("SVF", "SVF", '"SVF"')


def test_adapters_are_added_switched_and_deleted(base):
    model = two_experts(base)
    first = logits(model)
    model.set_adapter("second")
    second = logits(model)
    assert not torch.allclose(first, second, atol=1e-3)
    model.set_adapter("first")
    assert torch.equal(logits(model), first)
    model.delete_adapter("first")
    assert [*model.peft_config] == ["second"] and torch.equal(logits(model), second)


def test_the_deltas_of_several_active_adapters_add_up(base):
    model = two_experts(base)
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if "base_layer.weight" in name}
    layers = {f"base_model.{name}.base_layer.weight": layer for name, layer in model.base_model.svf_layers()}
    model.base_model.set_adapter(["first", "second"])  # type: ignore[operator]
    found = logits(model)
    for name, layer in layers.items():
        weights[name] += layer.get_delta_weight("first") + layer.get_delta_weight("second")
    with model.disable_adapter(), torch.no_grad():
        for name, layer in layers.items():
            layer.base_layer.weight.data = weights[name]
        close(found, logits(model))


def test_a_disabled_adapter_is_the_base_model_bit_for_bit(base):
    expected = logits(base)
    model = two_experts(base)
    for merged in (False, True):
        if merged:
            model.merge_adapter()
        with model.disable_adapter():
            assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_gives_the_same_outputs_and_unmerging_the_same_weights(base, dtype):
    model = two_experts(base.to(dtype))
    before = {name: p.clone() for name, p in model.named_parameters()}
    expected = logits(model)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(logits(model), expected)
    model.unmerge_adapter()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    model.merge_adapter(["first"])
    model.merge_adapter(["second"])
    both = logits(model)
    model.to(torch.float32)
    model.unmerge_adapter()
    assert all(torch.equal(p, before[name].float()) for name, p in model.named_parameters()), "also cast while merged"
    model.to(dtype)
    model.merge_adapter(["first", "second"])
    torch.testing.assert_close(logits(model), both)
    unloaded = model.merge_and_unload()  # type: ignore[operator]
    torch.testing.assert_close(logits(unloaded), both)


def test_what_is_not_finite_is_not_merged_safely(base):
    model = two_experts(base)
    next(p for name, p in model.named_parameters() if "svf_z.first" in name).data[0] = torch.nan
    with pytest.raises(ValueError, match="the adapter first gives a weight that is not finite"):
        model.merge_adapter(safe_merge=True)


def test_the_delta_of_a_weight_does_not_depend_on_merging(base):
    model = two_experts(base)
    layers = [layer for _, layer in model.base_model.svf_layers()]  # type: ignore[operator]
    before = [layer.get_delta_weight("second") for layer in layers]
    unmerged = [layer.base_layer.weight.clone() for layer in layers]
    model.merge_adapter(["first"])
    assert all(
        torch.equal(layer.get_delta_weight("second"), delta) for layer, delta in zip(layers, before, strict=True)
    )
    model.unmerge_adapter()
    model.merge_adapter(["second"])
    for layer, delta, weight in zip(layers, before, unmerged, strict=True):
        close(layer.base_layer.weight - weight, delta)


ROWS = ["first", "__base__", "second"]


def test_each_row_has_its_own_adapter_also_with_beams(base):
    model = two_experts(base)
    alone, answers = [], []
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 2, "num_return_sequences": 2, "pad_token_id": 0}
    for row, name in enumerate(ROWS):
        model.set_adapter(name if name != "__base__" else "first")
        with model.disable_adapter() if name == "__base__" else torch.no_grad():
            alone.append(logits(model)[row])
            answers.append(model.generate(input_ids=IDS[row : row + 1], do_sample=False, **options))
    mixed = logits(model, adapter_names=ROWS)
    close(mixed, torch.stack(alone))
    assert torch.equal(mixed[1], alone[1]), "the base model bit for bit"
    assert torch.equal(
        model.generate(input_ids=IDS, adapter_names=ROWS, do_sample=False, **options), torch.cat(answers)
    )


def test_rows_that_cannot_have_adapters_of_their_own_are_refused():
    model = two_experts(tiny_llama())
    for names, message in (
        (["first", "nobody", "second"], "no adapter named nobody; there are first, second and __base__"),
        (["first", "second"], "2 names for 3 rows"),
        (["first"], "1 names for 3 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            logits(model, adapter_names=names)
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"while one is merged: call unmerge_adapter\(\) first"):
        logits(model, adapter_names=["__base__"] * 3)
    model.unmerge_adapter()
    model.train()
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        logits(model, adapter_names=ROWS)


def test_rows_of_plain_vectors_have_adapters_of_their_own_and_saved_modules():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4), nn.Linear(4, 2)).eval()
    config = SVFConfig(target_modules=["0", "2"], init_weights=False, modules_to_save=["3"])
    model = get_peft_model(base, config, "first")
    model.add_adapter("second", config)
    for name, p in model.named_parameters():
        if "modules_to_save.second" in name:
            p.data += 0.5
    model.eval()
    x = torch.randn(4, 6)
    names = ["first", "second", "__base__", "second"]
    mixed = model(x, adapter_names=names)
    for row, name in enumerate(names):
        model.set_adapter(name if name != "__base__" else "first")
        if name == "__base__":
            with model.disable_adapter():
                close(mixed[row], model(x)[row])
        else:
            close(mixed[row], model(x)[row])
    with pytest.raises(ValueError, match="3 names for 4 rows"):
        model(x, adapter_names=names[:3])


def test_a_weighted_adapter_is_the_mix_of_vectors(base):
    model = two_experts(base)
    model.add_weighted_adapter(["first", "second"], [0.25, 0.75], "mix")  # type: ignore[operator]
    model.add_weighted_adapter(["first", "second"], torch.tensor([[1.0, 0.5], [0.0, 0.5]]), "by layer")  # type: ignore[operator]
    for name, layer in model.base_model.svf_layers():  # type: ignore[operator]
        first, second = layer.z("first"), layer.z("second")
        close(layer.z("mix"), 0.25 * first + 0.75 * second)
        alpha = (1.0, 0.0) if ".0." in name else (0.5, 0.5)
        close(layer.z("by layer"), alpha[0] * first + alpha[1] * second)
    before = logits(model)
    model.set_adapter("mix")
    assert not torch.allclose(logits(model), before, atol=1e-4)


def test_a_mix_is_written_over_no_adapter_that_cannot_hold_it():
    model = two_experts(tiny_llama())
    mix = [["first", "second"], [0.5, 0.5]]
    model.add_weighted_adapter(*mix, "mix")  # type: ignore[operator]
    model.add_weighted_adapter(["first", "second"], [0.0, 1.0], "mix")  # type: ignore[operator]
    assert all(torch.equal(layer.z("mix"), layer.z("second")) for _, layer in model.base_model.svf_layers())  # type: ignore[operator]
    model.add_adapter("sigmoid", SVFConfig(task_type="CAUSAL_LM", parametrisation="sigmoid_nuclear"))
    model.add_adapter("fewer", SVFConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(
        ValueError, match="^the adapter sigmoid is there, and its parametrisation sigmoid_nuclear cannot"
    ):
        model.add_weighted_adapter(*mix, "sigmoid")  # type: ignore[operator]
    with pytest.raises(ValueError, match="^the adapter fewer is there, and scales other matrices than the experts"):
        model.add_weighted_adapter(*mix, "fewer")  # type: ignore[operator]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_names_without_a_number_are_mixed_by_one_weight_an_expert():
    model = get_peft_model(nn.Sequential(nn.Linear(6, 4)), SVFConfig(target_modules=["0"], init_std=0.3), "a")
    model.add_adapter("b", SVFConfig(target_modules=["0"], init_std=0.3))
    model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "mix")  # type: ignore[operator]
    layer = model.base_model.model[0]  # type: ignore[index]
    close(layer.z("mix"), (layer.z("a") + layer.z("b")) / 2)
    with pytest.raises(ValueError, match=r"for 2 experts and 0 layers it must be \(2,\) or \(2, 0\)"):
        model.add_weighted_adapter(["a", "b"], torch.ones(2, 1), "other")  # type: ignore[operator]


def test_modules_to_save_are_trained_and_saved(tmp_path):
    def classifier() -> PreTrainedModel:
        torch.manual_seed(0)
        return LlamaForSequenceClassification(tiny_llama().config).eval()

    classifier().save_pretrained(tmp_path / "base")
    model = get_peft_model(classifier(), SVFConfig(task_type="SEQ_CLS"))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"score" in name for name in trained} == {True, False} and len(trained) == 15
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.05)
    model(input_ids=IDS[:1], labels=torch.tensor([1])).loss.backward()
    optimiser.step()
    model.save_pretrained(tmp_path / "expert")
    keys = {*load_file(tmp_path / "expert" / "adapter_model.safetensors")}
    assert sum(key.endswith(".svf_z") for key in keys) == 14 and sum("score" in key for key in keys) == 1
    again = PeftModel.from_pretrained(classifier(), tmp_path / "expert")
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS[:1]).logits, model.eval()(input_ids=IDS[:1]).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_vectors_take_the_dtype_of_the_base_model_on_request_alone(base, dtype):
    for autocast, expected in ((True, torch.float32), (False, dtype)):
        model = get_peft_model(copy.deepcopy(base).to(dtype), SVFConfig(), autocast_adapter_dtype=autocast)
        vectors = [p for name, p in model.named_parameters() if "svf_z" in name]
        assert vectors and all(p.dtype == expected and p.requires_grad for p in vectors)
        model(input_ids=IDS, labels=IDS).loss.backward()
        assert all(p.grad is not None and p.grad.dtype == expected for p in vectors)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_of_either_kind_gives_the_same_gradients(base, reentrant):
    model = two_experts(base).train()
    model.enable_input_require_grads()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.zero_grad()
        torch.manual_seed(1)  # dropout
        model(input_ids=IDS, labels=IDS).loss.backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(model.targeted_module_names)
    torch.testing.assert_close(*found)


def test_an_adapter_becomes_a_lora(base):
    model = get_peft_model(copy.deepcopy(base), SVFConfig(init_std=0.3, task_type="CAUSAL_LM")).eval()
    shapes = [layer.svf_s.numel() for _, layer in model.base_model.svf_layers()]  # type: ignore[operator]
    config, state = convert_to_lora(model, rank=min(shapes))
    assert isinstance(config, LoraConfig) and state
    if len({*shapes}) == 1:  # at full rank nothing is lost
        lora = get_peft_model(base, config).eval()
        set_peft_model_state_dict(lora, state)
        torch.testing.assert_close(logits(lora), logits(model), rtol=1e-3, atol=1e-4)


def test_vectors_are_swapped_in_place_and_hotswap_is_refused(base, tmp_path):
    model = two_experts(base)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    model.set_adapter("second")
    second = logits(model)
    set_peft_model_state_dict(model, get_peft_model_state_dict(model, adapter_name="first"), adapter_name="second")
    assert torch.equal(logits(model), expected) and not torch.equal(second, expected)
    with pytest.raises(ValueError, match="SVF was passed"):
        hotswap_adapter(model, str(tmp_path / "first"), "second", torch_device="cpu")


def test_a_mixed_model_is_refused_by_peft():
    with pytest.raises(ValueError, match="'SVF' is not compatible"):
        get_peft_model(tiny_llama(), SVFConfig(target_modules=TARGETS), mixed=True)
