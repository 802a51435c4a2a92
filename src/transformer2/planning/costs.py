"""Seconds, memory and disk of the steps of a run, from the sizes of the model and of the task.

Notation: N parameters of the model, m x n an adapted matrix, r = min(m, n), d width, f width of the MLP, k width of
keys, b bytes of a number. Estimates of seconds are of the order of magnitude: what a GPU reaches in practice
is a share of what its maker states (`machines.Machine`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from transformer2.config import MODULES
from transformer2.rollout import CHUNK_LOGITS

from .machines import Machine

GB = 1e9
CONTEXT_GB = 1.0
"""What CUDA and its libraries hold of a GPU by themselves."""
VISION_TOWER = 304_000_000
"""Parameters of CLIP ViT-L/14 at 336 pixels, the tower of LLaVA-NeXT."""
BASIS_FLOPS = 40e9
"""float64 operations a second of one CPU socket in `eigh`; a guess that a measured run replaces."""
DOWNLOAD = 100e6
"""Bytes a second from the hub; a guess likewise."""


HEAD = 128
"""Width of a head of the papers' models."""
STEP_OF_LAYER = 0.8e-3
"""Seconds that one decoder layer takes at least for a token in transformers' `generate`: starting its kernels."""


@dataclass(frozen=True)
class Size:
    """Sizes of a language model, as its config.json has them."""

    layers: int
    hidden: int
    key_value: int
    intermediate: int
    vocabulary: int
    tied: bool = False
    """Whether the output head is the embedding."""
    tower: int = 0
    """Parameters of a vision tower."""

    @property
    def parameters(self) -> int:
        """N, without norms (less than 0.01 %)."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.decoder

    @property
    def decoder(self) -> int:
        """Those that every token meets: of layers and of the vision tower, not of embeddings and head."""
        return self.layers * sum(m * n for m, n in self.matrices("all")) + self.tower

    def matrices(self, modules: str) -> list[tuple[int, int]]:
        """(m, n) = (outputs, inputs) of the adapted matrices of one layer; `modules` as in `config.MODULES`."""
        d, k, f = self.hidden, self.key_value, self.intermediate
        shapes = {
            "q_proj": (d, d), "k_proj": (k, d), "v_proj": (k, d), "o_proj": (d, d),
            "gate_proj": (f, d), "up_proj": (f, d), "down_proj": (d, f),
        }  # fmt: skip
        return [shapes[name] for name in MODULES[modules]]


@dataclass(frozen=True)
class Adapted:
    """The matrices that an expert scales: of which modules, in how many layers."""

    adapter: str
    modules: str
    layers: int


def weight_bytes(size: Size, b: int) -> int:
    """The model itself."""
    return b * size.parameters


def basis_bytes(size: Size, adapted: Adapted, b: int) -> int:
    """Q (r x r) of every adapted matrix in the model's dtype, and s in float32; nothing for what is not SVF."""
    if adapted.adapter != "svf":
        return 0
    return adapted.layers * sum(b * min(m, n) ** 2 + 4 * min(m, n) for m, n in size.matrices(adapted.modules))


def scaled_bytes(size: Size, adapted: Adapted, b: int) -> int:
    """W' of every adapted matrix, kept beside W; nothing for what is not SVF."""
    if adapted.adapter != "svf":
        return 0
    return b * adapted.layers * sum(m * n for m, n in size.matrices(adapted.modules))


def cache_bytes(size: Size, tokens: int, b: int) -> int:
    """Keys and values of so many tokens."""
    return tokens * 2 * size.layers * size.key_value * b


def activation_bytes(size: Size, adapted: Adapted, tokens: int, b: int, recomputed: bool = False) -> int:
    """What autograd keeps of `tokens` tokens in one pass through the decoder: see `layer_bytes`; where layers are
    recomputed (gradient checkpointing), their inputs alone."""
    # Below the first adapted layer nothing needs a gradient, so nothing is kept.
    return tokens * adapted.layers * (b * size.hidden if recomputed else layer_bytes(size, adapted, b))


def layer_bytes(size: Size, adapted: Adapted, b: int) -> int:
    """Bytes a token that one layer of a Llama keeps for its gradient, of batches that are padded.

    The states that enter its two norms (float32), what attention works on (q, k and v of all heads, and its result)
    with one float32 a head, the gate before and after SiLU and `up`; and what adapted matrices keep unless it is one of
    these: inputs of tall SVF matrices and outputs of wide ones, inputs of all others in float32, as PEFT casts them.
    The mask of attention, a number for each pair of tokens, is left out.
    """
    d, k, f = size.hidden, size.key_value, size.intermediate
    names = MODULES[adapted.modules]
    shared = 2 * 4 * d + b * (4 * d + 3 * f) + 4 * d // HEAD
    if adapted.adapter != "svf":
        return shared + sum(4 * n for _, n in size.matrices(adapted.modules))
    kept = d if "q_proj" in names else 0
    kept += k * len({"k_proj", "v_proj"} & {*names})
    kept += d if {"gate_proj", "up_proj"} & {*names} else 0
    kept += d if "down_proj" in names else 0
    return shared + b * kept


def largest(size: Size, modules: str) -> tuple[int, int]:
    """(m, n) of the largest adapted matrix."""
    return max(size.matrices(modules), key=lambda shape: shape[0] * shape[1])


def composing_bytes(size: Size, adapted: Adapted, b: int) -> int:
    """Composing W' of the largest matrix: W, W' - W and W' in float32, and the result beside the one before."""
    if adapted.adapter != "svf" or not adapted.layers:
        return 0
    m, n = largest(size, adapted.modules)
    return (3 * 4 + b) * m * n


def logits_bytes(size: Size, answered: int) -> int:
    """Logits of a chunk of `answered` tokens, in float32."""
    return 4 * min(CHUNK_LOGITS, answered * size.vocabulary)


def training_gb(
    size: Size, adapted: Adapted, tokens: int, answered: int, trained: int, b: int, kl: bool = False,
    recomputed: bool = False, gpus: int = 1,
) -> float:  # fmt: skip
    """Peak memory of a training step on micro-batches of `tokens` tokens (`answered` of them in answers), in GB, on the
    fullest of the gpus.

    Weights; W' and Q; activations; trained numbers with gradient and two moments (float32); and the largest of what is
    held for a while: four times a chunk of logits, six times with the divergence from the base model; W' while it is
    composed; in the backward pass through a layer the gradients of gate and `up`, with the activations of that layer
    where they are recomputed. Answering in training needs less: `answering_gb` with W' in place of activations.
    """
    in_adapted = scaled_bytes(size, adapted, b) + basis_bytes(size, adapted, b)
    in_adapted += activation_bytes(size, adapted, tokens, b, recomputed) + 16 * trained
    layer = tokens * (2 * b * size.intermediate + (layer_bytes(size, adapted, b) if recomputed else 0))
    for_a_while = max((6 if kl else 4) * logits_bytes(size, answered), composing_bytes(size, adapted, b), layer)
    held = weight_bytes(size, b) / gpus + in_adapted / _gpus_with(size, adapted, gpus)
    return (held + for_a_while) / GB + CONTEXT_GB


def answering_gb(
    size: Size, adapted: Adapted, rows: int, prompt: int, answer: int, b: int, experts: int = 1, scored: bool = False,
    gpus: int = 1,
) -> float:  # fmt: skip
    """Peak memory of answering `rows` prompts side by side in `answer` tokens, and of the likelihood of these answers
    where they are `scored`, in GB, on the fullest of the gpus.

    One expert is merged into W' (beside W); several in one batch go through Q alone. The first pass runs on whole
    prompts (that of a likelihood on the answers too) and holds, of one layer, the three tensors of its MLP and three of
    the states, twice as many where rows have experts of their own. Logits of the last position are held in the model's
    dtype and in float32; a likelihood holds three times those of a chunk, in float32.
    """
    in_adapted = basis_bytes(size, adapted, b) + (scaled_bytes(size, adapted, b) if experts == 1 else 0)
    held = weight_bytes(size, b) / gpus + in_adapted / _gpus_with(size, adapted, gpus)
    states = 3 * size.intermediate + (3 if experts == 1 else 6) * size.hidden
    at_first = rows * prompt * (b * states + cache_bytes(size, 1, b) / gpus)
    at_last = cache_bytes(size, rows * (prompt + answer), b) / gpus + rows * size.vocabulary * (b + 4)
    for_a_while = [at_first, at_last, composing_bytes(size, adapted, b) if experts == 1 else 0]
    if scored:
        for_a_while.append(rows * (prompt + answer) * b * states + 3 * logits_bytes(size, rows * answer))
    return (held + max(for_a_while)) / GB + CONTEXT_GB


def _gpus_with(size: Size, adapted: Adapted, gpus: int) -> float:
    """How many of the gpus, each of which has the same number of layers, hold the adapted ones, the upper ones."""
    return max(gpus * adapted.layers / size.layers, 1.0)


def answering_seconds(
    size: Size, prompts: int, rows: int, prompt: float, answer: float, b: int, machine: Machine, slower: float = 1.0
) -> float:
    """Answering `prompts` prompts, `rows` side by side, on one GPU; a batch lasts as long as its longest answer,
    `answer` tokens. `slower` is `factored` where rows have experts of their own."""
    batches = ceil(prompts / rows)
    together = min(rows, prompts)
    operations = 2 * size.parameters * slower
    first = operations * together * prompt / machine.compute
    reads = (weight_bytes(size, b) + cache_bytes(size, int(together * (prompt + answer / 2)), b)) / machine.reads
    step = max(reads, operations * together / machine.compute, size.layers * STEP_OF_LAYER)
    return batches * (first + answer * step)


def learning_operations(
    size: Size, adapted: Adapted, tokens: float, answered: float, micro_batch: float, kl: bool = False,
    recomputed: bool = False,
) -> float:  # fmt: skip
    """Operations of one optimizer step on `tokens` tokens, `answered` of them in answers, `micro_batch` in a pass.

    A token of the decoder: two operations a parameter forward, two back to the inputs of adapted layers, two for the
    base model with the divergence, two where layers are recomputed. The output head, on answers alone: forward and
    back, and forward for the base model. SVF: 2 r^2 (r + M) for W' once, M = max(m, n); for dz 4 r^2 a token, or
    2 r^2 a token and 2 r^3 a pass where that is less. Left out: attention's products of states with states, and the
    narrow ones of LoRA.
    """
    share = adapted.layers / size.layers
    operations = 2 * size.decoder * tokens * (1 + kl + share * (1 + recomputed))
    operations += 2 * size.vocabulary * size.hidden * answered * (2 + kl)
    if adapted.adapter == "svf":
        sides = [(min(shape), max(shape)) for shape in size.matrices(adapted.modules)]
        passes, in_pass = ceil(tokens / micro_batch), min(tokens, micro_batch)
        composed = sum(2 * r * r * (r + longer) for r, longer in sides)
        dz = passes * sum(2 * r * r * (in_pass + min(in_pass, r)) for r, _ in sides)
        operations += adapted.layers * (composed + dz)
    return operations


def factored(size: Size, adapted: Adapted) -> float:
    """Operations of a token with Q beside W, 4 r^2 more for each adapted matrix, over those of the model alone."""
    if adapted.adapter != "svf":
        return 1.0
    more = adapted.layers * sum(4 * min(m, n) ** 2 for m, n in size.matrices(adapted.modules))
    return 1 + more / (2 * size.parameters)


def basis_seconds(size: Size) -> float:
    """Decomposition of all decoder matrices on a CPU: Gram matrix 2 M r^2, its eigenvectors 9 r^3 (float64)."""
    per_layer = sum(2 * max(m, n) * min(m, n) ** 2 + 9 * min(m, n) ** 3 for m, n in size.matrices("all"))
    return size.layers * per_layer / BASIS_FLOPS


def trained_numbers(size: Size, settings: dict[str, Any], layers: int) -> int:
    """Trained numbers of an expert; for other adapters than SVF, LoRA's own r (m + n), which none of them exceeds."""
    shapes: Sequence[tuple[int, int]] = size.matrices(settings["modules"])
    if settings["adapter"] == "svf":
        return layers * sum(min(m, n) for m, n in shapes)
    return layers * sum(settings["rank"] * (m + n) for m, n in shapes)
