"""Experts of one model on another: what is moved, what is refused, and what the cells make of it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_adaptation import save_expert
from test_tables import scores_of, write
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from conftest import ROOT
from helpers import tokenizer
from rendering import draw, render
from transformer2.cli import app
from transformer2.config import ConfigError, Run, parse
from transformer2.models import load_expert, load_experts, load_model
from transformer2.provenance import read_json
from transformer2.reproduce import ledger
from transformer2.reproduce.cells import cells
from transformer2.reproduce.claims import read_claims
from transformer2.reproduce.claims.measured import Measurements, by_run
from transformer2.reproduce.frames import read_scores
from transformer2.reproduce.statistics import wilson
from transformer2.svf.basis import decoder_matrices, singular_values, write_basis
from transformer2.transfer import check_same_matrices, resampled, shuffled

WEIGHTS = "adapter_model.safetensors"
TARGETS = ["q_proj", "k_proj", "down_proj"]
TABLES = ("arxiv/table5", "arxiv/table9", "workshop/table3", "workshop/table7", "arxiv/section4")
Z = {f"model.layers.{i}.mlp.up_proj": torch.arange(40.0) + i for i in range(2)}


def make_base(folder: Path, seed: int, layers: int = 2, width: int = 16) -> Path:
    """A tiny base model with its basis."""
    torch.manual_seed(seed)
    words = tokenizer()
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        )
    )  # fmt: skip
    llama.save_pretrained(folder / "base")
    words.save_pretrained(folder / "base")
    write_basis(decoder_matrices(folder / "base", torch.float32), folder / "basis.safetensors")
    return folder


def make_expert(of: Path, folder: Path, seed: int = 0, **config) -> Path:
    return save_expert(of / "base", folder, seed, **{"target_modules": TARGETS} | config)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Two models of the same shapes, one deeper, one wider; all with other weights."""
    root = tmp_path_factory.mktemp("models")
    sizes = {"llama": {}, "mistral": {}, "deep": {"layers": 3}, "wide": {"width": 24}}
    return {name: make_base(root / name, seed, **size) for seed, (name, size) in enumerate(sizes.items())}


@pytest.fixture(scope="module")
def expert(models, tmp_path_factory) -> Path:
    return make_expert(models["llama"], tmp_path_factory.mktemp("expert"))


def transfer(expert: Path, source: Path, target: Path, out: Path, *options: str) -> Path:
    arguments = ["transfer", "--expert", expert, "--source-basis", source / "basis.safetensors"]
    arguments += ["--model", target / "base", "--basis", target / "basis.safetensors", "--out", out, *options]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


# ---- the vectors


def test_a_shuffle_keeps_the_values_of_each_vector_and_is_seeded_by_its_name_alone():
    one, other = shuffled(Z, 0), shuffled(Z, 1)
    for name, vector in Z.items():
        assert torch.equal(one[name].sort().values, vector) and not torch.equal(one[name], vector)
        assert not torch.equal(one[name], other[name])
        assert torch.equal(shuffled({name: vector}, 0)[name], one[name]), "whatever else is shuffled"
    first, second = one.values()
    assert not torch.equal(first + 1, second), "each matrix has an order of its own"


def test_models_with_other_matrices_are_refused_with_all_that_do_not_fit():
    source = {"model.layers.0.mlp.up_proj": 16, "model.layers.0.self_attn.q_proj": 16}
    target = {"model.layers.0.mlp.up_proj": 24, "model.layers.1.mlp.up_proj": 24, "model.layers.0.self_attn.q_proj": 16}
    with pytest.raises(ValueError, match="2 of 3 matrices") as caught:
        check_same_matrices(source, target)
    line = str(caught.value)
    assert "layers.0.mlp.up_proj (16 against 24), model.layers.1.mlp.up_proj (missing against 24)" in line
    assert "q_proj" not in line and "\n" not in line
    check_same_matrices(source, dict(source))


@pytest.mark.parametrize(("layers", "r"), [(1, 40), (2, 40), (2, 24), (3, 100), (5, 1)])
def test_resampling_interpolates_over_the_relative_index_in_the_layer_of_the_same_depth(layers, r):
    target = {f"model.layers.{i}.mlp.up_proj": r for i in range(layers)}
    found = resampled(Z, {name: 40 for name in Z}, target)
    assert list(found) == list(target)
    for i, vector in enumerate(found.values()):
        source = Z[f"model.layers.{round(i / max(layers - 1, 1))}.mlp.up_proj"]
        positions = [k * 39 / (r - 1) if r > 1 else 0 for k in range(r)]
        expected = [
            float(source[int(at)] + (at - int(at)) * (source[min(int(at) + 1, 39)] - source[int(at)]))
            for at in positions
        ]
        np.testing.assert_allclose(vector, expected, rtol=1e-6)
    assert (layers, r) != (2, 40) or all(torch.equal(found[name], Z[name]) for name in Z)


def test_other_kinds_of_matrices_cannot_be_mapped():
    with pytest.raises(ValueError, match=r"\(mlp.fc_proj, mlp.up_proj in one of them only\): nothing can be mapped"):
        resampled(Z, {name: 40 for name in Z}, {"model.layers.0.mlp.fc_proj": 40})


# ---- the command


@pytest.mark.parametrize("mapping", [(), ("--mapping", "resampled")])
@pytest.mark.parametrize("layers", [None, [1]])
def test_a_transfer_onto_the_experts_own_model_is_the_identity_bit_for_bit(models, tmp_path, mapping, layers):
    own = make_expert(models["llama"], tmp_path / "own", layers_to_transform=layers)
    moved = transfer(own, models["llama"], models["llama"], tmp_path / "moved", *mapping)
    before, after = load_file(own / WEIGHTS), load_file(moved / WEIGHTS)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    ids = torch.tensor([[0, 5, 9, 7]])
    logits = [load_expert(load_model(models["llama"] / "base"), folder, None)(ids).logits for folder in (own, moved)]
    assert torch.equal(*logits)
    found = read_json(moved / "manifest.json")
    assert (found["shuffle"], found["matrices"]) == (None, len(before)) and found["sha256"]


@pytest.mark.parametrize("parametrisation", ["linear", "sigmoid_nuclear"])
def test_a_transferred_expert_scales_the_targets_singular_values_by_index(models, tmp_path, parametrisation):
    own = make_expert(models["llama"], tmp_path / "own", parametrisation=parametrisation)
    moved = transfer(own, models["llama"], models["mistral"], tmp_path / "moved")
    source = dict(decoder_matrices(models["llama"] / "base", torch.float32))
    trained = load_file(own / WEIGHTS)
    adapted = load_expert(load_model(models["mistral"] / "base"), moved, models["mistral"] / "basis.safetensors")
    scaled = dict(adapted.base_model.svf_layers())  # type: ignore[operator]
    assert len(scaled) == len(trained) == 2 * len(TARGETS)
    for name, layer in scaled.items():
        name = f"model.{name.removeprefix('model.model.')}"
        p = trained[f"base_model.model.{name}.svf_z"].double()
        s = torch.linalg.svdvals(source[name].double())
        z = p if parametrisation == "linear" else p.sigmoid() * s.sum() / (s * p.sigmoid()).sum()
        weight = layer.get_base_weight()
        u, s, vt = torch.linalg.svd(weight.double(), full_matrices=False)
        expected = u @ torch.diag(s * z) @ vt
        torch.testing.assert_close((weight + layer.get_delta_weight("default")).double(), expected, atol=1e-5, rtol=0)


def test_shuffles_hold_the_values_of_the_ordered_expert_and_differ_by_seed(models, expert, tmp_path):
    ordered, *others = (
        load_file(transfer(expert, models["llama"], models["mistral"], tmp_path / str(i), *options) / WEIGHTS)
        for i, options in enumerate(((), ("--shuffle", "0"), ("--shuffle", "1")))
    )
    for key, vector in ordered.items():
        assert all(torch.equal(other[key].sort().values, vector.sort().values) for other in others)
    assert not all(torch.equal(others[0][key], others[1][key]) for key in ordered)


@pytest.mark.parametrize("name", ["deep", "wide"])
def test_other_shapes_are_refused_unless_they_are_mapped(models, expert, tmp_path, name):
    fitting = {"deep": "3 of 9 matrices", "wide": "6 of 6 matrices"}[name]
    with pytest.raises(ValueError, match=f"{fitting} have other sizes"):
        transfer(expert, models["llama"], models[name], tmp_path / "refused")
    assert not (tmp_path / "refused" / WEIGHTS).exists()
    moved = transfer(expert, models["llama"], models[name], tmp_path / "moved", "--mapping", "resampled")
    adapted = load_experts(load_model(models[name] / "base"), {"other": moved}, models[name] / "basis.safetensors")
    assert len(adapted.base_model.svf_layers()) == 3 * {"deep": 3, "wide": 2}[name]  # type: ignore[operator]


def test_an_expert_of_the_upper_half_stays_in_the_upper_half(models, tmp_path):
    upper = make_expert(models["llama"], tmp_path / "upper", layers_to_transform=[1])
    moved = transfer(upper, models["llama"], models["deep"], tmp_path / "moved", "--mapping", "resampled")
    assert read_json(moved / "adapter_config.json")["layers_to_transform"] == [2]
    assert all(".layers.2." in key for key in load_file(moved / WEIGHTS))


def test_mistakes_are_named(models, expert, tmp_path):
    for at, options, message in (
        (tmp_path, (), "holds no expert: there is no adapter_config.json in it"),
        (expert, ("--mapping", "resample"), "unknown mapping 'resample'; did you mean 'resampled'"),
    ):
        with pytest.raises(ValueError, match=message):
            transfer(at, models["llama"], models["mistral"], tmp_path / "out", *options)
    with pytest.raises(ValueError, match="belongs to another model: 6 vectors do not fit"):
        transfer(expert, models["wide"], models["mistral"], tmp_path / "out")


def test_singular_values_come_in_the_order_of_the_layers(models):
    names = list(singular_values(models["deep"] / "basis.safetensors"))
    assert [int(name.split(".")[2]) for name in names] == sorted([*range(3)] * 7)


def test_equal_weights_are_the_mean_of_the_experts_z(models, tmp_path):
    folders = [make_expert(models["llama"], tmp_path / f"e{i}", seed=i) for i in range(3)]
    pairs = [argument for i, folder in enumerate(folders) for argument in ("--expert", f"llama3-8b:e{i}={folder}")]
    arguments = ["mix", "--model", str(models["llama"] / "base"), "--out", str(tmp_path / "mix"), *pairs]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    mixed, *own = (load_file(folder / WEIGHTS) for folder in (tmp_path / "mix", *folders))
    for key, z in mixed.items():
        torch.testing.assert_close(z, torch.stack([one[key] for one in own]).mean(0))
    assert read_json(tmp_path / "mix" / "manifest.json")["alpha"] == [1 / 3] * 3


# ---- the configuration


def with_transfer(**changes) -> dict:
    raw = json.loads(Run().model_dump_json())
    raw["models"]["pocket-mistral"]["transfer"] |= changes.pop("transfer", {})
    raw["models"]["pocket-mistral"] |= changes.pop("model", {})
    raw["methods"] |= {changes.pop("method"): {}} if "method" in changes else {}
    return raw | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transfer": {"experts_of": "pocket-lama"}}, "experts_of: unknown model 'pocket-lama'; did you mean 'pocket-"),
        ({"transfer": {"experts_of": "pocket-mistral"}}, "pocket-mistral already has its own experts"),
        ({"transfer": {"shuffles": 0}}, "models.pocket-mistral.transfer.shuffles: must be greater than or equal to 1"),
        ({"transfer": {"mapping": "nearest"}}, "models.pocket-mistral.transfer.mapping: must be 'resampled'"),
        ({"model": {"strategies": ["prompt"]}}, "add few-shot to the strategies of pocket-mistral"),
        ({"adaptation": None}, "models.pocket-mistral.transfer: without `adaptation` no experts are named"),
        (
            {"method": "svf_from_llama3-8b"},
            "methods.svf_from_llama3-8b: 'svf_from_llama3-8b' is a name of experts of another model",
        ),
    ],
)
def test_a_transfer_that_makes_no_sense_is_one_line(changes, message):
    with pytest.raises(ConfigError) as error:
        parse(with_transfer(**changes))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_default_run_tries_three_shuffles_and_mixes_both_models_experts():
    run = Run()
    assert run.transferred("pocket-mistral") == {"svf_from_llama3-8b": [0], "svf_from_llama3-8b_shuffled": [0, 1, 2]}
    assert run.transferred("pocket-llama") == {}
    cross = run.budgets["10_cross"]
    assert (cross.rows, cross.shots) == (["mistral-7b"], 10)
    assert "10_cross" not in parse(with_transfer(model={"transfer": None})).budgets
    assert run.search("10_cross", "layer", "math") == run.search("10", "layer", "math")


# ---- the cells


def scores(
    method: str, trained_on: str, task: str, solved: int, seed: int = 0, row: str = "mistral-7b", items=range(40)
):
    rows = scores_of("toy", row, method, task, solved, seed=seed, items=items)
    return [one | {"trained_on": trained_on} for one in rows]


@pytest.fixture
def frame(tmp_path) -> Path:
    """Base 20 of 40, ordered 30, three shuffles 4, 6 and 8; ten shots are left out of the mixes."""
    rows = []
    tasks = (("math", "gsm8k"), ("humaneval", "mbpp_pro"), ("arc_challenge", "arc_easy"))
    for task, trained_on in (*tasks, *((own, own) for _, own in tasks)):
        rows += scores("base", "", task, 20) + scores("svf_from_llama3-8b", trained_on, task, 30)
        for seed in range(3):
            rows += scores("svf_from_llama3-8b_shuffled", trained_on, task, 4 + 2 * seed, seed)
    for task, _ in tasks:
        for method in ("few_shot_10_cross", "few_shot_10_cross_on_test"):
            rows += scores(method, "", task, 40, items=range(10, 40))
    for method, solved in (("base", 20), ("uniform_mix", 25), ("few_shot_10", 30), ("few_shot_10_on_test", 30)):
        items = range(40) if method == "base" else range(10, 40)
        rows += [
            one | {"model": "toy_llama"} for one in scores(method, "", "math", solved, row="llama3-8b", items=items)
        ]
    return write(rows, tmp_path / "scores.csv")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["arxiv/table5", "arxiv/table9", "workshop/table3", "workshop/table7", "arxiv/section4"]
)
def test_every_cell_of_the_tables_of_transfer_is_measured_and_drawn(name, frame, tmp_path):
    file = ROOT / "paper_tables" / f"{name}.yaml"
    found = cells(ledger.read(file), read_scores(frame), "strict")
    for cell in found:
        assert cell.ours is not None
        if cell.entry.method == "svf_from_llama3-8b_shuffled":
            assert cell.ours.seeds == (0, 1, 2) and cell.ours.score.value == pytest.approx(100 * 6 / 40)
            low, high = wilson(6, 40)
            assert cell.ours.score[1:] == pytest.approx((100 * low, 100 * high))
            assert cell.ours.normalised.low < 6 / 20 < cell.ours.normalised.high
            assert cell.ours.files[2].startswith("scores/toy/svf_from_llama3-8b_shuffled-")
        if "few_shot" in cell.entry.method or cell.entry.method == "uniform_mix":
            assert cell.ours.items == 30
    render(file, frame, tmp_path)
    assert "ours **not run**" not in (tmp_path / f"{name}.md").read_text()
    draw(file, frame, tmp_path / "figure")
    assert len(pd.read_csv(tmp_path / "figure.csv")) >= len(found)


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("transfer-positive", "supported"),
        ("transfer-shuffled-degrades", "supported"),
        ("transfer-training-tasks-order", "supported"),
        ("transfer-few-shot-across-the-board", "supported"),
        ("uniform-mix-worse", "inconclusive"),
    ],
)
def test_claims_compare_one_ordered_expert_with_several_shuffles(claim, verdict, frame):
    of_run = Measurements(read_scores(frame))
    claims = read_claims(ROOT / "paper_tables" / "claims.yaml")
    assert by_run(claims[claim], ledger.read_all(ROOT / "paper_tables"), of_run)[0] == f"on stand-ins: {verdict}"
