"""The files for PEFT's method comparison: the experiment, and entries of its table made from a run of ours."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, get_peft_model
from safetensors.torch import load_file

from helpers import WORDS, model, rows, settings, tokenizer
from transformer2.config import Method, Model, Run, TaskData
from transformer2.models import new_expert
from transformer2.provenance import manifest, write_json
from transformer2.reproduce.frames import COLUMNS, write_frame
from transformer2.rollout.hf import HFEngine
from transformer2.svf import SVFConfig
from transformer2.training.loop import Trainer
from transformer2.training.selection import select

FOLDER = Path(__file__).parents[3] / "examples" / "peft_comparison"
EXPERIMENT = FOLDER / "experiments" / "svf" / "llama-3.2-3B-default"
peft_result = runpy.run_path(str(FOLDER / "results.py"))["peft_result"]
RIGHT, ITEMS = 3, 8
RUN = Run(
    run="toy", models={"toy": Model(source="pocket:llama", row="llama3-8b")},
    methods={"svf": Method(settings={"steps": 6})}, tasks={"gsm8k": TaskData(train=24, validation=16, test=ITEMS)},
    unseen={}, adaptation=None,
)  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run with one expert that was really trained, and made-up scores of both of its states."""
    import pandas as pd

    folder, words = tmp_path / "results" / "toy", tokenizer()
    base = model(len(words))
    base.save_pretrained(tmp_path / "results/models/toy/base")
    out, chosen = folder / "sweeps/toy/gsm8k/svf/seed0/single", settings(learning_rate=0.05)
    out.mkdir(parents=True)
    with manifest(out / "manifest.json", arguments={"dtype": "float32"}):
        expert = new_expert(base, chosen, None, 0)
        inputs = {"train": "f" * 64}
        trainer = Trainer(expert, HFEngine(expert, words), words, WORDS, rows(24), rows(16), chosen, 0, out, inputs)
        trainer.run()
        trainer.save()
    select([out], folder / "experts/toy/gsm8k/svf/seed0")
    write_json(folder / "run.json", RUN.model_dump())
    of_both = [
        {"run": "toy", "model": "toy", "stands_in_for": "llama3-8b", "standin": True, "method": "svf",
         "trained_on": "gsm8k", "state": state, "task": "gsm8k", "seed": 0, "item": f"gsm8k/test/{i}",
         "strict": i < right, "lenient": True, "new_tokens": 3, "finish_reason": "stop"}
        for state, right in (("best", ITEMS), ("last", RIGHT)) for i in range(ITEMS)
    ]  # fmt: skip
    write_frame(pd.DataFrame(of_both, columns=list(COLUMNS)), folder / "scores.csv.gz")
    return folder


def test_an_entry_has_what_their_app_reads_and_the_numbers_of_the_run(run):
    entry = json.loads(json.dumps(peft_result(run, "toy", "svf")))
    info, trained = entry["run_info"], entry["train_info"]
    assert info["peft_config"]["peft_type"] == "SVF"
    assert (info["train_config"]["max_steps"], info["train_config"]["optimizer_kwargs"]["lr"]) == (6, 0.05)
    vectors = load_file(run / "experts/toy/gsm8k/svf/seed0/last/adapter_model.safetensors")
    assert trained["num_trainable_params"] == sum(v.numel() for v in vectors.values())
    assert trained["num_total_params"] == trained["num_trainable_params"] + model(len(tokenizer())).num_parameters()
    assert [line["step"] for line in trained["metrics"]] == [2, 4, 6, 6]
    last = trained["metrics"][-1]
    assert last["test accuracy"] == RIGHT / ITEMS  # of the last state, as in their table, not of the best one
    assert last["train samples"] == 6 * 8 and last["train total tokens"] > 6 * 8 * 3
    assert trained["accelerator_memory_max"] > 2**20 and trained["train_time"] > 0
    # What `processing.py` of the comparison reads of every entry, beside the above.
    assert {"created_at", "total_time", "experiment_name", "peft_branch"} <= info.keys()
    assert {"transformers-version", "peft-version", "datasets-version", "torch-version", "bitsandbytes-version"} == (
        entry["meta_info"]["package_info"].keys()
    )


def test_an_expert_that_a_run_does_not_have_is_named(run):
    with pytest.raises(ValueError, match="no last state of an expert .toy, lora, gsm8k, seed 0."):
        peft_result(run, "toy", "lora")


def test_the_experiment_is_read_by_peft_and_changes_nothing_before_training():
    config = PeftConfig.from_pretrained(str(EXPERIMENT))
    assert isinstance(config, SVFConfig)
    base, ids = model(320), torch.tensor([[0, 5, 6, 7]])
    before = base(ids).logits
    assert torch.equal(get_peft_model(base, config)(ids).logits, before)


@pytest.mark.parametrize(("decay", "norm_shrinks"), [(None, True), (0.0, False)])
def test_weight_decay_is_off_in_the_experiment_since_it_would_pull_z_to_zero(decay, norm_shrinks):
    options = json.loads((EXPERIMENT / "training_params.json").read_text())["optimizer_kwargs"]
    assert options["weight_decay"] == 0.0
    adapted = get_peft_model(model(320), PeftConfig.from_pretrained(str(EXPERIMENT)))
    z = [p for p in adapted.parameters() if p.requires_grad]
    for one in z:
        one.grad = torch.zeros_like(one)  # nothing to learn: what is left is the decay
    optimizer = torch.optim.AdamW(z, lr=options["lr"], **({} if decay is None else {"weight_decay": decay}))
    for _ in range(10):
        optimizer.step()
    assert all(bool((one < 1).all()) is norm_shrinks for one in z)
