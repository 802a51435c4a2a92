"""An expert that does not fit is refused in one line by every command that loads one, before any work."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_adaptation import TARGETS, save_expert
from typer.testing import CliRunner

from helpers import model, tokenizer
from transformer2.adaptation.model import SelfAdaptiveModel
from transformer2.cli import app
from transformer2.experts import CONFIG, WEIGHTS, check_base, read_expert
from transformer2.models import load_expert, load_model
from transformer2.provenance import write_json, write_jsonl
from transformer2.svf.basis import singular_values
from transformer2.transfer import read_z

Z = "base_model.model.model.layers.{}.self_attn.q_proj.svf_z"


def rewrite(expert: Path, change) -> None:
    """Puts other tensors in place of an expert's."""
    tensors = load_file(expert / WEIGHTS)
    change(tensors)
    save_file(tensors, expert / WEIGHTS)


def configure(expert: Path, **changes) -> None:
    write_json(expert / CONFIG, json.loads((expert / CONFIG).read_text()) | changes)


def lora(base: Path, folder: Path) -> Path:
    config = LoraConfig(target_modules=TARGETS, r=2, init_lora_weights=False)
    get_peft_model(load_model(base), config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A tiny model of two layers with its basis, one of three layers, data, and an expert of each."""
    folder = tmp_path_factory.mktemp("work")
    words = tokenizer()
    for name, layers in (("base", 2), ("deep", 3)):
        llama = model(len(words), layers=layers)
        llama.config.max_position_embeddings = 2048
        llama.save_pretrained(folder / name)
        words.save_pretrained(folder / name)
        write_json(folder / name / "manifest.json", {"sha256": {}})
    run("basis", "--model", folder / "base", "--out", folder / "basis.safetensors")
    save_expert(folder / "base", folder / "good", 0)
    save_expert(folder / "deep", folder / "of_deep", 0)
    save_expert(folder / "deep", folder / "upper", 0, layers_to_transform=[2])
    lora(folder / "base", folder / "lora")
    lora(folder / "deep", folder / "lora_of_deep")
    write_jsonl(folder / "shots.jsonl", [{"item": "own/test/0", "prompt": "say yes", "answer": "yes"}])
    return folder


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def broken(work: Path, how: str, folder: Path) -> Path:
    """An expert with one fault."""
    made = {"deeper": "of_deep", "other layers": "upper", "LoRA": "lora", "LoRA of another": "lora_of_deep"}
    shutil.copytree(work / made.get(how, "good"), folder)
    match how:
        case "a vector missing":
            rewrite(folder, lambda tensors: tensors.pop(Z.format(1)))
        case "a vector too many":
            rewrite(folder, lambda t: t.update({Z.format(0).replace("q_proj", "k_proj"): torch.ones(16)}))
        case "another length":
            rewrite(folder, lambda tensors: tensors.update({Z.format(0): torch.ones(31)}))
        case "not a vector":
            rewrite(folder, lambda tensors: tensors.update({Z.format(0): torch.ones(32, 1)}))
        case "NaN" | "infinite":
            value = float("nan" if how == "NaN" else "-inf")
            rewrite(folder, lambda tensors: tensors[Z.format(1)].__setitem__(5, value))
        case "no weights":
            (folder / WEIGHTS).unlink()
        case "no configuration":
            (folder / CONFIG).unlink()
        case "cut off":
            (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-40])
        case "no JSON":
            (folder / CONFIG).write_text("{")
        case "of no type":
            write_json(folder / CONFIG, {"r": 8})
        case "of an unknown type":
            configure(folder, peft_type="MAGIC")
        case "an unknown setting":
            configure(folder, parametrisation="cubic")
        case "empty":
            shutil.rmtree(folder)
            folder.mkdir()
        case "nowhere":
            shutil.rmtree(folder)
    return folder


FAULTS = {
    "deeper": "vectors? do not fit|belongs to another model",
    "other layers": "belongs to another model",
    "a vector missing": r"it has no vector for 1 matrices that it is to scale .*: model\.layers\.1\.self_attn\.q_proj",
    "a vector too many": r"1 vectors are for matrices that adapter_config\.json leaves out: model\.layers\.0.*k_proj",
    "another length": r"1 vectors do not fit: model\.layers\.0\.self_attn\.q_proj \(31; the model's is \(32",
    "not a vector": r"1 vectors do not fit: .*\(32 x 1; the model's",
    "NaN": r"1 of its 4 tensors hold numbers that are not finite, such as .*layers\.1\.self_attn\.q_proj\.svf_z",
    "infinite": "not finite",
    "LoRA": "is no SVF expert: it holds a LoRA adapter",
    "no weights": r"holds no expert: there is no adapter_model\.safetensors in it",
    "no configuration": r"holds no expert: there is no adapter_config\.json in it",
    "cut off": r"adapter_model\.safetensors cannot be read",
    "no JSON": r"adapter_config\.json is not JSON",
    "of no type": "has no peft_type",
    "of an unknown type": "is no configuration that PEFT reads",
    "an unknown setting": "is no configuration that PEFT reads: parametrisation is 'cubic'",
    "empty": "holds no expert",
    "nowhere": "holds no expert",
}


def commands(work: Path, expert: Path, out: Path) -> dict[str, tuple]:
    """Every command that loads an expert, with this one."""
    base = ("--model", work / "base")
    named = ("--expert", f"math={expert}")
    of_task = ("--task", "own", "--data", work / "shots.jsonl")
    return {
        "generate": (*base, *of_task, "--expert", expert, "--out", out / "answers.jsonl"),
        "dispatch": (*base, *of_task, *named, "--out", out / "a.jsonl", "--decisions", out / "d", "--identity", "{}"),
        "adapt": (*base, *named, "--shots", work / "shots.jsonl", "--out", out / "mix"),
        "mix": (*base, *named, "--out", out / "mix"),
        "transfer": (*base, "--expert", expert, "--source-basis", work / "basis.safetensors", "--basis",
                     work / "basis.safetensors", "--out", out / "moved"),
        "export": (*base, "--expert", expert, "--as", "adapter", "--out", out / "export"),
        "kit": (*named, "--out", out / "kit"),
        "carry-over": ("--expert", expert, "--out", out / "carried"),
    }  # fmt: skip


WITHOUT_A_MODEL = ("kit", "carry-over")
FOR_ANY_KIND = ("generate", "export", *WITHOUT_A_MODEL)


@pytest.mark.parametrize("how", FAULTS)
def test_every_command_refuses_it_in_one_line_and_writes_nothing(work, tmp_path, how):
    expert, out = broken(work, how, tmp_path / "expert"), tmp_path / "out"
    fits_somewhere = how in ("deeper", "other layers", "a vector missing", "another length", "not a vector")
    fits_somewhere |= how == "a vector too many"
    for name, arguments in commands(work, expert, out).items():
        if (fits_somewhere and name in WITHOUT_A_MODEL) or (how == "LoRA" and name in FOR_ANY_KIND):
            continue
        with pytest.raises(ValueError, match=FAULTS[how]) as error:
            run(name, *arguments)
        assert "\n" not in str(error.value) and str(expert) in str(error.value), name
        assert not list(out.rglob("*.safetensors")) and not list(out.rglob("*.json*")), name
    if how != "nowhere" and how not in WITHOUT_A_MODEL:
        with pytest.raises(ValueError, match=FAULTS[how]):
            SelfAdaptiveModel.from_pretrained(work / "base", {"math": expert})
        with pytest.raises(ValueError, match=FAULTS[how]):  # what vLLM is given
            read_z(expert, singular_values(work / "basis.safetensors"))


@pytest.mark.parametrize("how", ["LoRA of another", "LoRA with a tensor missing"])
def test_an_expert_of_another_kind_must_fit_too(work, tmp_path, how):
    if how == "LoRA of another":
        expert = broken(work, how, tmp_path / "expert")
    else:
        expert = broken(work, "LoRA", tmp_path / "expert")
        rewrite(expert, lambda tensors: tensors.pop(min(tensors)))
    for name in ("generate", "export"):
        with pytest.raises(ValueError, match="belongs to another model: .* tensors are in one of them only"):
            run(name, *commands(work, expert, tmp_path / "out")[name])


def test_what_fits_is_loaded(work, tmp_path):
    for name, arguments in commands(work, work / "good", tmp_path).items():
        if name in ("generate", "mix", "transfer", "kit"):
            assert run(name, *arguments).exit_code == 0, name
    ids = torch.tensor([[0, 5, 6]])
    base = load_model(work / "base")(ids).logits
    for expert in ("good", "lora"):
        assert not torch.equal(load_expert(load_model(work / "base"), work / expert, None)(ids).logits, base)
    assert read_expert(tmp_path / "kit" / "math")[0].peft_type == "SVF"


def test_an_expert_of_other_weights_of_the_same_shapes_is_refused_where_records_say_so(work, tmp_path):
    shutil.copytree(work / "base", tmp_path / "base")
    shutil.copytree(work / "good", tmp_path / "expert")
    write_json(tmp_path / "base" / "manifest.json", {"sha256": {"model.safetensors": "a", "config.json": "b"}})
    write_json(tmp_path / "expert" / "training.json", {"inputs": {"model": {"model.safetensors": "c"}}})
    arguments = commands(tmp_path, tmp_path / "expert", tmp_path / "out")
    shutil.copy(work / "shots.jsonl", tmp_path)
    for name in ("generate", "dispatch", "adapt", "mix", "export"):
        with pytest.raises(ValueError, match="was trained on other weights than those in"):
            run(name, *arguments[name])
    write_json(tmp_path / "expert" / "training.json", {"inputs": {"model": {"model.safetensors": "a"}}})
    check_base(tmp_path / "expert", tmp_path / "base")
    (tmp_path / "base" / "manifest.json").unlink()
    write_json(tmp_path / "expert" / "training.json", {"inputs": {"model": {"model.safetensors": "c"}}})
    check_base(tmp_path / "expert", tmp_path / "base")  # nothing is on record of it


@pytest.mark.parametrize("name", ["../evil", "..", ".", "a/b", "", "a\nb"])
def test_a_bundle_of_experts_stays_in_its_folder(work, tmp_path, name):
    with pytest.raises(ValueError, match="cannot be a name|is not <name>=<path>"):
        run("kit", "--expert", f"{name}={work / 'good'}", "--out", tmp_path / "deep" / "kit")
    assert not list(tmp_path.iterdir())
