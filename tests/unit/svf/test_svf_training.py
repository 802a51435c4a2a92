"""SVF in trainers that know nothing of it: other optimisers, dtypes, autocast, quantised weights."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model, inject_adapter_in_model, prepare_model_for_kbit_training
from test_svf import SHAPES, TARGETS, randomise, tiny_llama
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainingArguments

from transformer2.svf import SVFConfig
from transformer2.svf.basis import decompose, scale_weight
from transformer2.svf.layer import Linear, ScaledLinear


def inputs(rows: int = 3) -> Tensor:
    return torch.randint(0, 50, (rows, 11), generator=torch.Generator().manual_seed(3))


def expert(dtype: torch.dtype = torch.float32) -> PeftModel:
    model = get_peft_model(tiny_llama().to(dtype), SVFConfig(target_modules=TARGETS))
    randomise(model, "default")
    return model


def vectors(model: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if "svf_z.default" in name]


def merged_logits(model: PeftModel) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).merge_and_unload()(inputs()).logits  # type: ignore[operator]


def adamw8bit(parameters: list[nn.Parameter]):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    return bitsandbytes.optim.AdamW8bit(parameters, lr=0.05, min_8bit_size=8)


OPTIMISERS: dict[str, Callable] = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=False),
    "AdamW, foreach": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=True),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=0.05, fused=True),
    "SGD, fused": lambda p: torch.optim.SGD(p, lr=5.0, fused=True),
    "AdamW, 8 bit": adamw8bit,
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_model_is_that_of_its_vectors_after_every_step_of_any_optimiser(name):
    model = expert()
    optimiser = OPTIMISERS[name](vectors(model))
    losses = []
    for _ in range(3):
        output = model(inputs(), labels=inputs())
        torch.testing.assert_close(output.logits, merged_logits(model), rtol=1e-4, atol=1e-5)
        output.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(output.loss.item())
    assert losses[0] > losses[1] > losses[2]


WRITES: dict[str, Callable[[nn.Parameter], object]] = {
    "in place": lambda p: p.data.add_(0.3),
    "another tensor": lambda p: setattr(p, "data", p.data + 0.3),
    "through numpy": lambda p: p.detach().numpy().__iadd__(0.3),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", WRITES)
def test_vectors_written_behind_the_back_of_autograd_are_seen(name, grad):
    model = expert()
    with torch.set_grad_enabled(grad):
        before = model(inputs()).logits
        for parameter in vectors(model):
            WRITES[name](parameter)
        after = model(inputs()).logits
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, merged_logits(model), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_what_the_trainer_of_transformers_trains_at_its_defaults_is_what_it_saves(tmp_path):
    model = get_peft_model(tiny_llama(), SVFConfig(task_type="CAUSAL_LM"))
    data = [{"input_ids": row, "labels": row} for row in inputs(8)]
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=4, learning_rate=0.05, logging_steps=1, report_to=[], use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    assert "fused" in arguments.optim, "the default that leaves torch's version counter alone"
    trainer = Trainer(model, arguments, train_dataset=data)  # type: ignore[arg-type]
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4 and losses[-1] < losses[0]
    trainer.save_model(str(tmp_path / "saved"))
    again = PeftModel.from_pretrained(tiny_llama(), tmp_path / "saved")
    with torch.no_grad():
        torch.testing.assert_close(again(inputs()).logits, model.eval()(inputs()).logits)
    torch.testing.assert_close(model(inputs()).logits, merged_logits(model), rtol=1e-4, atol=1e-5)


def test_a_forward_pass_in_inference_mode_does_not_stop_training():
    model = expert()
    with torch.inference_mode():
        expected = model(inputs()).logits
    output = model(inputs(), labels=inputs())
    torch.testing.assert_close(output.logits, expected)
    output.loss.backward()
    assert all(p.grad is not None for p in vectors(model))


class Comparisons(TorchDispatchMode):
    """Counts what the host must wait for on a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten.equal.default, torch.ops.aten._local_scalar_dense.default)
        return func(*args, **kwargs or {})


def test_a_step_of_training_compares_the_vectors_of_all_layers_at_once():
    model = expert()
    base = tiny_llama()
    counts = []
    for one in (base, model, model):  # W' is made in the first pass of `model`
        with Comparisons() as counted:
            one(inputs()).logits.sum().backward()
        counts.append(counted.count)
    assert counts[2] - counts[0] == 1


def test_answers_are_generated_with_one_comparison_however_long_they_are():
    model = expert().eval()
    model(inputs())
    counts = []
    for tokens in (2, 6):
        with Comparisons() as counted:
            model.generate(input_ids=inputs(), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        with Comparisons() as base, model.disable_adapter():
            model.generate(input_ids=inputs(), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        counts.append(counted.count - base.count)
    assert counts == [1, 1]


def test_vectors_of_rows_are_made_once_for_all_tokens_and_again_for_the_next_answers(monkeypatch):
    model = expert().eval()
    rows = ["default", "__base__", "default"][: len(inputs())]
    of_names, original = [], Linear.d
    monkeypatch.setattr(Linear, "d", lambda layer, names: (of_names.append(names), original(layer, names))[1])
    options = {"adapter_names": rows, "max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    first = model.generate(input_ids=inputs(), output_logits=True, return_dict_in_generate=True, **options)
    layers = len(model.base_model.svf_layers())
    assert len(of_names) == layers * len(set(rows)), "once a layer and adapter, not once a token"
    for vector in vectors(model):
        vector.data *= 1.5
    second = model.generate(input_ids=inputs(), output_logits=True, return_dict_in_generate=True, **options)
    assert len(of_names) == 2 * layers * len(set(rows))
    assert not torch.equal(first.logits[0][0], second.logits[0][0]), "changed vectors are seen"
    assert torch.equal(first.logits[0][1], second.logits[0][1]), "the base model's row is as before"


def gradients(model: nn.Module, autocast: bool = False) -> list[Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(inputs(), labels=inputs()).loss
    loss.backward()
    return [p.grad for p in vectors(model) if p.grad is not None]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("zero", [False, True])  # with some z = 0 the other form of the product is used
def test_autocast_with_the_backward_pass_outside_of_it(zero, checkpointing):
    model = expert()
    if zero:
        for parameter in vectors(model):
            parameter.data[0] = 0.0
    exact = gradients(copy.deepcopy(model))
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    cast = gradients(model, autocast=True)
    assert len(cast) == 14 and all(g.dtype == torch.float32 for g in cast)
    for a, b in zip(cast, exact, strict=True):
        assert torch.cosine_similarity(a, b, dim=0) > 0.99


def test_autocast_gives_the_dtype_and_at_z_one_the_numbers_of_the_base_model():
    model = get_peft_model(tiny_llama(), SVFConfig(target_modules=TARGETS))
    for grad in (True, False):
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(grad):
            found, expected = model(inputs()).logits, tiny_llama()(inputs()).logits
        assert found.dtype == expected.dtype and torch.equal(found, expected)


@pytest.mark.parametrize("cast", ["bfloat16", "half"])
def test_vectors_stay_in_float32_and_move_when_the_model_is_cast(cast):
    model = expert()
    before = [p.detach().clone() for p in vectors(model)]
    model(inputs()).logits.sum().backward()
    getattr(model, cast)()
    assert all(torch.equal(p, old) for p, old in zip(vectors(model), before, strict=True)), "no bit is lost"
    assert model.get_submodule("base_model.model.model.layers.0.mlp.up_proj").svf_s.dtype == torch.float32
    assert {p.dtype for name, p in model.named_parameters() if "svf_z" not in name} == {getattr(torch, cast)}
    optimiser = torch.optim.AdamW(vectors(model), lr=1e-4, weight_decay=0.0)
    optimiser.zero_grad()
    model(inputs(), labels=inputs()).loss.backward()
    optimiser.step()
    moved = torch.cat([(p - old).abs() for p, old in zip(vectors(model), before, strict=True)])
    assert (moved > 5e-5).float().mean() > 0.95, "in bfloat16 a step of 1e-4 from z near 1 would round to nothing"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [6, 400])
@pytest.mark.parametrize("shape", [(64, 24), (24, 64), (32, 32)])
def test_gradients_in_half_precision_are_those_of_the_formula(shape, tokens, dtype):
    torch.manual_seed(0)
    w, x, d = torch.randn(shape) / 8, torch.randn(1, tokens, shape[1]), 0.3 * torch.randn(min(shape))
    w, x = w.to(dtype), x.to(dtype)
    q = decompose(w).q
    g = torch.randn(1, tokens, shape[0]).to(dtype)
    d.requires_grad_()
    (found,) = torch.autograd.grad(ScaledLinear.apply(x, d, scale_weight(w, q, d.detach()), q, None), d, g)
    exact = d.detach().double().requires_grad_()
    delta = (w.double() @ q.double() * exact) @ q.double().T if shape[0] >= shape[1] else (
        q.double() * exact @ (q.double().T @ w.double())
    )  # fmt: skip
    (expected,) = torch.autograd.grad(F.linear(x.double(), w.double() + delta), exact, g.double())
    assert torch.cosine_similarity(found.double(), expected, dim=0) > 0.999


class Int8Linear(nn.Linear):
    """As int8 quantisers do: whole numbers in the place of the weight."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = nn.Parameter((linear.weight.data * 127).to(torch.int8), requires_grad=False)


class PackedLinear(nn.Linear):
    """As 4-bit quantisers do: two numbers a byte, in one column."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = nn.Parameter(torch.zeros(linear.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)


class PartitionedLinear(nn.Linear):
    """As DeepSpeed's ZeRO-3 leaves a weight on a process: nothing of it."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = nn.Parameter(torch.empty(0))


class WrappedLinear(nn.Linear):
    """As torchao does: the parameter is a tensor of another kind, which says that it is of floating point."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = nn.Parameter(TwoTensor(linear.weight.data, linear.weight.data))


class Float8Linear(nn.Linear):
    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = nn.Parameter(linear.weight.data.to(torch.float8_e4m3fn), requires_grad=False)


@pytest.mark.parametrize("kind", [Int8Linear, PackedLinear, PartitionedLinear, WrappedLinear, Float8Linear])
def test_a_weight_that_is_not_plain_numbers_is_refused_in_one_line(kind):
    base = tiny_llama()
    base.model.layers[1].mlp.up_proj = kind(base.model.layers[1].mlp.up_proj)
    with pytest.raises(
        ValueError, match=r"cannot decompose model\.layers\.1\.mlp\.up_proj: its weight is a .*load the"
    ) as error:
        get_peft_model(base, SVFConfig(target_modules=["up_proj"]))
    assert "\n" not in str(error.value)


def test_a_model_on_the_meta_device_is_refused_in_one_line():
    with torch.device("meta"):
        base = tiny_llama()
    with pytest.raises(ValueError, match="on meta.*load the model whole"):
        get_peft_model(base, SVFConfig(target_modules=["up_proj"]))


class OwnForward(nn.Linear):
    """As FalconLinear: a linear map, computed in its own way."""

    def forward(self, input: Tensor) -> Tensor:
        return input @ self.weight.T + self.bias


@pytest.mark.parametrize("shape", SHAPES)
def test_a_linear_module_with_a_forward_pass_of_its_own_keeps_it(shape):
    torch.manual_seed(0)
    own = nn.Sequential(OwnForward(shape[1], shape[0]))
    plain = nn.Sequential(nn.Linear(shape[1], shape[0]))
    plain.load_state_dict(own.state_dict())
    outputs = []
    for model in (own, plain):
        torch.manual_seed(1)
        adapted = get_peft_model(model, SVFConfig(target_modules=["0"], init_std=0.3))
        outputs.append(adapted(torch.ones(2, shape[1])))
        outputs[-1].sum().backward()
        outputs.append(vectors(adapted)[0].grad)
    torch.testing.assert_close(outputs[:2], outputs[2:], rtol=1e-4, atol=1e-5)


def test_a_plain_model_that_knows_no_output_head_trains_without_a_peft_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4))
    x = torch.randn(5, 6)
    expected = model(x)
    inject_adapter_in_model(SVFConfig(target_modules=["0", "2"]), model)
    assert torch.equal(model(x), expected)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=True)
    losses = []
    for _ in range(4):
        loss = model(x).square().sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert sorted(losses, reverse=True) == losses and len({*losses}) == 4
    assert sum(isinstance(module, Linear) for module in model.modules()) == 2


def quantised(bits: int):
    """A tiny Llama of bitsandbytes' layers, and the same one with their weights as plain numbers."""
    bnb = pytest.importorskip("bitsandbytes")
    base = tiny_llama().bfloat16()
    for layer in base.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear):
                    options = (
                        {"compute_dtype": torch.bfloat16, "quant_type": "nf4"}
                        if bits == 4
                        else {"has_fp16_weights": False}
                    )
                    kind = bnb.nn.Linear4bit if bits == 4 else bnb.nn.Linear8bitLt
                    new = kind(linear.in_features, linear.out_features, bias=False, **options)
                    new.load_state_dict(linear.state_dict())
                    setattr(part, name, new.to("cpu"))
    return base


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_quantised_by_bitsandbytes_are_adapted_as_peft_reads_them(bits):
    base = quantised(bits)
    with torch.no_grad():
        expected = base(inputs()).logits
    model = get_peft_model(
        prepare_model_for_kbit_training(base, use_gradient_checkpointing=False), SVFConfig(target_modules=TARGETS)
    )
    with torch.no_grad():
        torch.testing.assert_close(model(inputs()).logits.float(), expected.float(), rtol=0.05, atol=0.02)
    randomise(model, "default")
    reference = tiny_llama()  # W' in float32, from the very weights that the quantised layers stand for
    for name, layer in model.base_model.svf_layers():  # type: ignore[operator]
        weight = scale_weight(layer.base_weight().float(), layer.svf_q, layer.d(["default"]).detach())
        reference.get_submodule(name.removeprefix("model.")).weight.data = weight
    with torch.no_grad():
        found, wanted = model(inputs()).logits.float(), reference(inputs()).logits
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    model(inputs(), labels=inputs()).loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in vectors(model))
    with torch.no_grad():
        model.merge_adapter()
        torch.testing.assert_close(model(inputs()).logits.float(), wanted, rtol=0.2, atol=0.1)
        model.unmerge_adapter()
        torch.testing.assert_close(model(inputs()).logits.float(), found, rtol=0.05, atol=0.02)
