"""What SVF costs in products of matrices, counted: exact numbers that hold on every machine."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from test_svf import TARGETS, randomise, tiny_llama
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from transformer2.svf import SVFConfig
from transformer2.svf.basis import decompose, scale_weight
from transformer2.svf.layer import Linear

SHAPES = [(48, 16), (16, 48), (32, 32)]


def operations(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def layer(m: int, n: int) -> Linear:
    torch.manual_seed(m)
    base = nn.Linear(n, m, bias=False)
    return Linear(base, decompose(base.weight.data), "default", SVFConfig(init_std=0.1))


def expert() -> PeftModel:
    model = get_peft_model(tiny_llama(), SVFConfig(target_modules=TARGETS))
    randomise(model, "default")
    return model.eval()


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_a_scaled_weight_takes_the_square_product_first(m, n):
    r, longer = min(m, n), max(m, n)
    weight = torch.randn(m, n)
    q, d = decompose(weight).q, torch.randn(r)
    assert operations(lambda: scale_weight(weight, q, d)) == 2 * r * r * (r + longer)


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_a_basis_takes_five_eighths_of_a_gram_matrix_beside_its_eigenvectors(m, n):
    r, longer = min(m, n), max(m, n)
    assert operations(lambda: decompose(torch.randn(m, n))) == 2 * r * r * longer * 5 // 8


@pytest.mark.parametrize(("m", "n"), SHAPES)
@pytest.mark.parametrize("tokens", [8, 100])
def test_forward_and_backward_cost_those_of_a_frozen_weight_and_the_gradient_of_z(m, n, tokens):
    r, svf = min(m, n), layer(m, n)
    x = torch.randn(tokens, n, requires_grad=True)
    svf(x)  # W' is there from now on
    gradient_of_z = 2 * r * r * (tokens + r) if tokens > r else 4 * r * r * tokens
    assert operations(lambda: svf(x).sum().backward()) == 4 * m * n * tokens + gradient_of_z


def test_answering_with_an_expert_costs_what_the_base_model_costs_once_its_weights_are_made():
    model, ids = expert(), torch.arange(12)[None]
    with torch.no_grad():
        with model.disable_adapter():
            base = operations(lambda: model(input_ids=ids))
        composing = operations(lambda: model(input_ids=ids)) - base
        again = operations(lambda: model(input_ids=ids)) - base
    layers = [one for _, one in model.base_model.svf_layers()]  # type: ignore[operator]
    sizes = [(min(one.base_layer.weight.shape), max(one.base_layer.weight.shape)) for one in layers]
    assert composing == sum(2 * r * r * (r + longer) for r, longer in sizes), "each W' is made once"
    assert again == 0


def test_rows_with_experts_of_their_own_cost_two_square_products_a_token_and_no_scaled_weight():
    model, ids = expert(), torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        with model.disable_adapter():
            base = operations(lambda: model(input_ids=ids))
        mixed = operations(lambda: model(input_ids=ids, adapter_names=["default", "__base__"]))
    layers = [one for _, one in model.base_model.svf_layers()]  # type: ignore[operator]
    assert mixed - base == ids.numel() * sum(4 * len(one.svf_s) ** 2 for one in layers)
