"""Several processes that train together go through the steps of one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import multiprocessing
from torch.distributed.tensor import DTensor

from helpers import WORDS, model, rows, settings, tokenizer
from transformer2.models import new_expert
from transformer2.provenance import read_json, read_jsonl
from transformer2.rollout.engine import Completion, Sampling
from transformer2.svf.layer import Linear
from transformer2.training import loop
from transformer2.training.team import ALONE, Team, decoder_layers, join, shard_layers

KINDS = {
    "svf": settings(kl_coefficient=0.1, init_std=0.1, micro_batch_tokens=64),
    "lora": settings(adapter="lora", modules="attention_qv", lora_dropout=0.0, micro_batch_tokens=64),
}


class Canned:
    """An engine whose answers depend on the prompt and the seed alone, of many lengths."""

    def __init__(self, words: Any):
        self.words, self.asked = words, 0

    def refresh(self) -> None:
        self.asked += 1

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, experts: Any = None) -> list[Completion]:
        answers = []
        for i, prompt in enumerate(prompts):
            generator = torch.Generator().manual_seed(sum(prompt) + i + sampling.seed % 1000)
            ids = torch.randint(4, 200, (1 + i % 6,), generator=generator).tolist()
            answers.append(Completion(ids, self.words.decode(ids), "stop"))
        return answers


def train(team: Team, chosen: dict[str, Any], out: Path) -> loop.Trainer:
    words = tokenizer()
    expert = new_expert(model(len(words)), chosen, None, 0)
    if team.size > 1:
        shard_layers(expert, team)
    engine: Any = Canned(words) if team.is_main else None
    one = loop.Trainer(expert, engine, words, WORDS, rows(24), rows(16), chosen, 0, out, None, team)
    one.run(3)  # a checkpoint is left at step 2
    one.progress = loop.Progress()
    one.run()
    one.save()
    return one


def member(rank: int, size: int, folder: Path, chosen: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    team = join(rank, size, folder / "rendezvous")
    out = folder / "together"
    one = train(team, chosen, out)
    states: list[Any] = [None] * size
    dist.all_gather_object(states, {name: p.detach() for name, p in one.parameters.items()})
    assert all(torch.equal(value, states[0][name]) for state in states for name, value in state.items())
    weights = [p for p in decoder_layers(one.model)[0].parameters() if not p.requires_grad]
    assert weights and all(isinstance(p, DTensor) for p in weights), "in shards"
    layers = [module for module in one.model.modules() if isinstance(module, Linear)]
    assert all(layer.sharded and layer.composed is None for layer in layers), "no whole W' beside the shards"
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_three_processes_train_what_one_trains(tmp_path, kind):
    for folder in ("alone", "together"):
        (tmp_path / folder).mkdir()
    one = train(ALONE, KINDS[kind], tmp_path / "alone")
    multiprocessing.start_processes(member, (3, tmp_path, KINDS[kind]), 3, start_method="spawn")
    lines = [read_jsonl(tmp_path / folder / "metrics.jsonl") for folder in ("alone", "together")]
    assert len(lines[0]) == len(lines[1]) == 6
    for alone, together in zip(*lines, strict=True):
        for name in ("loss", "kl", "gradient_norm", "reward", "answer_tokens"):
            assert together[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-6), name
    assert read_json(tmp_path / "together" / "training.json")["step"] == one.progress.step == 6
    ours, theirs = (load_file(tmp_path / f / "last/adapter_model.safetensors") for f in ("alone", "together"))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, atol=2e-5, rtol=1e-3)
    assert any(value.std() > 0.01 for value in ours.values()), "it has learnt something"


def test_each_batch_has_one_owner_and_all_take_as_many_turns():
    batches = [[0, 1], [2], [3], [4], [5]]
    shares = [Team(rank, 3).share(batches) for rank in range(3)]
    assert {len(share) for share in shares} == {2}
    owned = [batch for share in shares for batch, weight in share if weight]
    assert sorted(owned) == batches
    assert [share[-1] for share in shares] == [([4], 1.0), ([5], 1.0), ([0, 1], 0.0)]
    assert ALONE.share(batches) == [(batch, 1.0) for batch in batches]
