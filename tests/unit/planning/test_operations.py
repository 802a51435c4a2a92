"""Planned operations of training are those that are counted, whatever the batch, the layers and the objective."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import settings
from transformer2.models import new_expert
from transformer2.planning import costs
from transformer2.planning.costs import Adapted, Size
from transformer2.training.objective import Sample, accumulate_gradients
from transformer2.training.recompute import recompute_layers, set_training_mode

SIZE = Size(layers=8, hidden=64, key_value=32, intermediate=160, vocabulary=200, tied=True)
PROMPT, ANSWER = 10, 6


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=SIZE.vocabulary, hidden_size=SIZE.hidden, intermediate_size=SIZE.intermediate,
        num_hidden_layers=SIZE.layers, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    ))  # fmt: skip


def counted(model: Any, samples: list[Sample], chosen: Any) -> int:
    """Operations of products of matrices in a step, without attention's products of states with states."""
    with FlopCounterMode(display=False) as counter:
        accumulate_gradients(model, samples, chosen)
    of_kinds = counter.get_flop_counts()["Global"]
    return sum(number for kind, number in of_kinds.items() if "attention" not in str(kind))


@pytest.mark.parametrize("answers", [4, 24])
@pytest.mark.parametrize("modules", ["mlp", "all"])
@pytest.mark.parametrize("layers", ["all", "half"])
@pytest.mark.parametrize("kl, recomputed", [(0.0, False), (0.1, False), (0.0, True)])
def test_planned_operations_of_a_step_are_those_counted(answers, modules, layers, kl, recomputed):
    chosen = settings(modules=modules, layers=layers, kl_coefficient=kl, micro_batch_tokens=8 * (PROMPT + ANSWER))
    model = new_expert(llama(), chosen, None, seed=0)
    if recomputed:
        recompute_layers(model)
    set_training_mode(model, dropout=False)
    samples = [Sample([5] * PROMPT, [7] * ANSWER, 1.0)] * answers
    adapted = Adapted("svf", modules, SIZE.layers // (2 if layers == "half" else 1))
    tokens = answers * (PROMPT + ANSWER)
    planned = costs.learning_operations(
        SIZE, adapted, tokens, answers * ANSWER, min(tokens, chosen.micro_batch_tokens), kl > 0, recomputed
    )
    # With the MLP alone, nothing goes back through attention of the lowest adapted layer.
    assert counted(model, samples, chosen) == pytest.approx(planned, rel=0.02 if modules == "mlp" else 1e-9)
