"""A model in parts on two devices, without cards: torch's fake tensors have a device and a shape but no numbers, and
refuse to be mixed with those of another device. Of a backward pass torch knows but one pretended device."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import torch
import torch.utils.backend_registration as backends
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers import model, settings
from transformer2.models import new_expert
from transformer2.svf import layer
from transformer2.svf.basis import scale_weight
from transformer2.training.recompute import recompute_layers, set_training_mode

FIRST, SECOND = (
    ("model.embed_tokens", "model.rotary_emb", "model.layers.0"),
    ("model.layers.1", "model.norm", "lm_head"),
)
PARTS = dict.fromkeys(FIRST, 0) | dict.fromkeys(SECOND, 1)


class TwoDevices(backends._DummyBackendModule):
    def device_count(self) -> int:
        return 2


def composed_without_looking(layers: list[layer.Linear]) -> None:
    for one in layers:
        with torch.no_grad():
            scaled = scale_weight(one.base_weight(), one.svf_q, one.d(one.active_adapters))
            one.composed = layer.Composed(one._key(), one._vectors(), scaled, divides=True)


def move(module: torch.nn.Module, device: Any, *_: Any, **__: Any) -> torch.nn.Module:
    """`Module.to`, which fails on fake tensors."""
    for part in module.modules():
        part._buffers |= {name: t.to(device) for name, t in part._buffers.items() if t is not None}
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = torch.nn.Parameter(p.detach().to(device), p.requires_grad)
    return module


def place(base: Any, hooks: bool) -> None:
    """Puts the parts where accelerate's `dispatch_model` would, with its hooks."""
    for name, device in PARTS.items():
        move(base.get_submodule(name), f"pretended:{device}")
        if hooks:
            add_hook_to_module(base.get_submodule(name), AlignDevicesHook(torch.device(f"pretended:{device}")))


def pretend() -> None:
    """Gives a process two devices, which stay with it."""
    backends._setup_privateuseone_for_python_backend("pretended", TwoDevices())
    torch.nn.Module.to = move  # type: ignore[method-assign]
    # The question whether a vector has changed, or is almost zero, has no answer without numbers.
    layer.compose = composed_without_looking


def devices(adapter: str, rows: bool, hooks: bool = True) -> list[str]:
    """Where the states are that leave each layer of an adapted model, and the logits."""
    with FakeTensorMode():
        base = model(320)
        place(base, hooks)
        adapted = new_expert(base, settings(adapter=adapter), None, seed=0)
        recompute_layers(adapted)
        set_training_mode(adapted, dropout=False)
        found: list[str] = []
        for part in (*base.model.layers, base.lm_head):
            part.register_forward_hook(lambda _, __, output: found.append(str(output.device)))
        ids = torch.ones(2, 5, dtype=torch.long, device="pretended:0")
        mask = torch.ones_like(ids)
        if rows:
            with torch.no_grad(), adapted.eval()._enable_peft_forward_hooks(adapter_names=["default", "__base__"]):
                base(input_ids=ids, attention_mask=mask, use_cache=False)
        else:
            base(input_ids=ids, attention_mask=mask, use_cache=False)
        assert {str(p.device) for p in adapted.parameters() if p.requires_grad} == {"pretended:0", "pretended:1"}
        return found


def mixing() -> str:
    try:
        devices("svf", rows=False, hooks=False)
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    """A process that has the pretended devices."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=pretend) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "rows"), [("svf", False), ("svf", True), ("lora", False)])
def test_states_move_to_the_device_of_each_part(adapter, rows, elsewhere):
    assert elsewhere.submit(devices, adapter, rows).result() == ["pretended:0", "pretended:1", "pretended:1"]


@pytest.mark.slow
def test_without_hooks_they_do_not(elsewhere):
    assert "found at least two devices, pretended:1 and pretended:0" in elsewhere.submit(mixing).result()
