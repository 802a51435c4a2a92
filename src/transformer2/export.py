"""A trained expert for people who do not have this workflow: as a PEFT adapter, as merged weights, or as a LoRA.

Every form is written from the expert as it runs on its base model, so whatever is written can be loaded.
"""

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer

from transformer2 import model_card
from transformer2.checksums import verified
from transformer2.experts import CONFIG, WEIGHTS, check_base, kind_of, read_expert
from transformer2.models import check_model, is_vision_model, load_expert, load_model
from transformer2.provenance import atomic_folder, read_json, write_json
from transformer2.svf import SVFConfig
from transformer2.svf.basis import Basis, close_bases, is_tall

Form = Literal["adapter", "merged", "lora"]
FORMS: tuple[Form, ...] = ("adapter", "merged", "lora")


@dataclass(frozen=True)
class LowRank:
    """B A, the best approximation of rank k of the change dW (m, n) of a weight.

    b: (m, k), a: (k, n), float32; `lost` and `total` are the squared Frobenius norms of dW - B A and of dW.
    """

    b: Tensor
    a: Tensor
    lost: float
    total: float


def low_rank(weight: Tensor, basis: Basis, d: Tensor, k: int) -> LowRank:
    """The best approximation of dW = U diag(s d) V^T, d = z - 1 (r,), of rank min(k, r), in the Frobenius norm.

    U and V are orthogonal, so |s d| are the singular values of dW, and what to keep is the k largest (Eckart and Young
    1936). With one factor Q (see `svf.basis`) the kept terms are, without a division by s:

        tall: s_i d_i u_i v_i^T = (d_i W q_i) q_i^T      wide: s_i d_i u_i v_i^T = (d_i q_i) (q_i^T W)

    Naive equivalent: the k first terms of `torch.linalg.svd(dW)`.
    """
    d, s, w = d.float(), basis.s.double(), weight.float()
    squares = (s * d) ** 2
    order = squares.argsort(descending=True, stable=True)
    kept, dropped = order[:k], order[k:]
    q = basis.q[:, kept].float()
    b, a = (w @ q * d[kept], q.T) if is_tall(weight) else (q * d[kept], q.T @ w)
    return LowRank(b.contiguous(), a.contiguous(), squares[dropped].sum().item(), squares.sum().item())


def relative_error(parts: Iterable[LowRank]) -> float:
    """||dW - B A|| / ||dW|| in the Frobenius norm, over all of the matrices together; 0 where nothing changes."""
    parts = list(parts)
    total = math.fsum(part.total for part in parts)
    return math.sqrt(math.fsum(part.lost for part in parts) / total) if total else 0.0


def write_adapter(expert: Path, name: str | None, revision: str | None, out: Path) -> None:
    """Writes the expert as it is, with the hub's name of its base model in place of a path on this disk."""
    shutil.copyfile(verified(expert / WEIGHTS), out / WEIGHTS)
    base = {"base_model_name_or_path": name, "revision": revision}
    write_json(out / CONFIG, read_json(expert / CONFIG) | base | {"inference_mode": True})


def write_merged(adapted: PeftModel, model: Path, out: Path) -> None:
    """Writes base and expert as one model without an adapter; merges in place."""
    close_bases()  # a matrix that is merged needs its basis no longer
    merged: Any = adapted.merge_and_unload(safe_merge=True)  # type: ignore[operator]
    merged.save_pretrained(out)
    kind: Any = AutoProcessor if is_vision_model(model) else AutoTokenizer
    kind.from_pretrained(model, local_files_only=True).save_pretrained(out)


@torch.no_grad()
def write_lora(adapted: PeftModel, k: int, name: str | None, revision: str | None, out: Path) -> dict[str, LowRank]:
    """Writes an SVF expert as a LoRA that PEFT loads without this package; returns its matrices by name.

    A matrix with r < k gets its full rank r. Alpha is the rank everywhere, so every scaling is 1, also for servers that
    read the LoRA's `r` and `lora_alpha` only.
    """
    parts: dict[str, LowRank] = {}
    for module, layer in adapted.base_model.svf_layers():  # type: ignore[operator]
        d, basis = layer.d(["default"]), Basis(layer.svf_q, layer.svf_s)
        parts[module.removeprefix("model.")] = low_rank(layer.base_weight(), basis, d, k)
    ranks = {module: len(part.a) for module, part in parts.items()}
    r = max(ranks.values())
    smaller = {module: rank for module, rank in ranks.items() if rank < r}
    svf: Any = adapted.peft_config["default"]
    config = LoraConfig(
        r=r, lora_alpha=r, rank_pattern=smaller, alpha_pattern=dict(smaller), inference_mode=True,
        target_modules=svf.target_modules, exclude_modules=svf.exclude_modules, task_type=svf.task_type,
        layers_to_transform=svf.layers_to_transform, layers_pattern=svf.layers_pattern,
        base_model_name_or_path=name, revision=revision,
    )  # fmt: skip
    config.save_pretrained(str(out))
    if not isinstance(svf.target_modules, str):  # PEFT writes a set, in another order each time
        write_json(out / CONFIG, read_json(out / CONFIG) | {"target_modules": sorted(svf.target_modules)})
    tensors = {f"base_model.model.{module}.lora_A.weight": part.a.cpu() for module, part in parts.items()}
    tensors |= {f"base_model.model.{module}.lora_B.weight": part.b.cpu() for module, part in parts.items()}
    save_file(tensors, out / WEIGHTS, {"format": "pt"})
    return parts


def export(
    expert: Path, model: Path, out: Path, form: Form, rank: int | None, basis: Path | None, hub_id: str | None,
    dtype: str, templates: Path,
) -> dict[str, Any]:  # fmt: skip
    """Writes the expert in one of the `FORMS` as the folder `out`, with its card; all of it or nothing.

    Args:
        expert: folder of the expert; the model card is made from the files of its run.
        model: folder of its base model.
        rank: of the LoRA.
        basis: of an SVF expert's base model; None: decompose on the spot.
        hub_id: of the base model, where its source is not the hub.
        dtype: that the expert was trained in; merged weights are written in it.
        templates: folder with model_card.md.j2.

    Returns: for a LoRA its rank and its errors; else nothing.

    Raises:
        ValueError: as `read_expert`, `check_base` and `load_expert`; there is no model or no template; `out` is there;
            a rank that is missing or has no meaning; a LoRA of another kind of adapter than SVF.
    """
    if (form == "lora") != (rank is not None):
        raise ValueError("--rank belongs to --as lora, which needs it" + ("" if form == "lora" else f"; not to {form}"))
    if rank is not None and rank < 1:
        raise ValueError(f"a LoRA of rank {rank} holds nothing: --rank must be at least 1")
    config, _ = read_expert(expert)
    check_model(model)
    check_base(expert, model)
    if form == "lora" and not isinstance(config, SVFConfig):
        kind = kind_of(expert)
        raise ValueError(f"{expert} holds a {kind} adapter; only SVF experts are made a LoRA: use --as adapter")
    card = model_card.template(templates)
    with atomic_folder(out) as folder:
        adapted = load_expert(load_model(model, dtype), expert, basis)
        name, revision = model_card.hub_name(model, hub_id)
        facts: dict[str, Any] = {}
        match form:
            case "adapter":
                write_adapter(expert, name, revision, folder)
            case "merged":
                write_merged(adapted, model, folder)
            case "lora":
                facts = lora_facts(write_lora(adapted, rank, name, revision, folder))  # type: ignore[arg-type]
                write_json(folder / "errors.json", facts)
        base = model_card.Base.read(model, hub_id, dtype)
        model_card.write(expert, base, form, facts, card, folder / "README.md")
    return facts


def lora_facts(parts: dict[str, LowRank]) -> dict[str, Any]:
    """The rank and the relative error of every matrix, of each kind of matrix, and of all together."""
    kinds: dict[str, list[LowRank]] = {}
    for module, part in parts.items():
        kinds.setdefault(module.rpartition(".")[2], []).append(part)
    return {
        "rank": max(len(part.a) for part in parts.values()),
        "error": relative_error(parts.values()),
        "kinds": {kind: relative_error(of_kind) for kind, of_kind in kinds.items()},
        "matrices": {module: {"rank": len(part.a), "error": relative_error([part])} for module, part in parts.items()},
    }
