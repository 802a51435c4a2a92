"""Seconds and memory of answers by vLLM, and of training in a team of processes: formulas, as in `costs`.

Constants are of the order of magnitude, as makers state them or as vLLM's documentation gives its defaults.
"""

from math import ceil

from .costs import CONTEXT_GB, GB, Adapted, Size, basis_bytes, cache_bytes, factored, scaled_bytes, weight_bytes
from .machines import Machine

ROWS = 256
"""Answers that vLLM works on side by side at most (`max_num_seqs`)."""
LEAST_ROWS = 32
"""Whole answers whose keys and values must fit for a run to be called possible."""
SHARE_OF_LONGEST = 0.5
"""Mean length of an answer, as a share of the longest allowed one. A row that ends makes room for the next."""
STEP_OF_LAYER = 0.1e-3
"""Seconds that one decoder layer takes at least for a token where a CUDA graph starts its kernels."""
LINK = 300e9
"""Bytes a second between GPUs (NVLink)."""
MEETING = 20e-6
"""Seconds that GPUs take at least to add up what each has; twice a layer in tensor parallelism."""
HOST = 25e9
"""Bytes a second between a GPU and the memory of its CPU (PCIe 4, 16 lanes): what falling asleep and waking take."""


def held_gb(size: Size, adapted: Adapted, b: int, gpus: int, training: bool) -> float:
    """What lies on a GPU while vLLM answers, without keys and values, in GB: the weights that vLLM runs.

    Beside them one GPU has the base model of the process with Q, in training also W'. The workers of several GPUs have
    their share of W and Q; in training these are in the memory of the CPU, and each process has its shard of the layers
    with whole embeddings, head and Q.
    """
    weights, q = weight_bytes(size, b), basis_bytes(size, adapted, b)
    if gpus == 1:
        held = 2 * weights + q + (scaled_bytes(size, adapted, b) if training else 0)
    elif training:
        ends = b * size.vocabulary * size.hidden * (1 if size.tied else 2)
        held = weights / gpus + (weights - ends) / gpus + ends + q
    else:
        held = (2 * weights + q) / gpus
    return held / GB + CONTEXT_GB


def answering_gb(
    size: Size, adapted: Adapted, prompt: int, longest: int, b: int, gpus: int, training: bool = False
) -> float:
    """The least memory of a GPU that vLLM can answer in, in GB; it takes all that it is given."""
    cache = cache_bytes(size, LEAST_ROWS * (prompt + longest), b) / gpus
    return held_gb(size, adapted, b, gpus, training) + cache / GB + CONTEXT_GB


def answering_seconds(
    size: Size, adapted: Adapted, prompts: int, prompt: float, longest: float, b: int, machine: Machine, gpus: int,
    training: bool = False,
) -> float:  # fmt: skip
    """Answering `prompts` prompts by vLLM on so many GPUs, which share each matrix; waking and sleeping included."""
    answer = SHARE_OF_LONGEST * longest
    room = max(machine.memory - held_gb(size, adapted, b, gpus, training) - CONTEXT_GB, 0.0) * GB * gpus
    fitting = int(room / cache_bytes(size, 1, b) / (prompt + answer))
    rows = max(min(prompts, ROWS, fitting), 1)
    operations = 2 * size.parameters
    reads = (weight_bytes(size, b) + cache_bytes(size, int(rows * (prompt + answer / 2)), b)) / machine.reads
    step = max(reads / gpus, operations * rows / machine.compute / gpus, size.layers * STEP_OF_LAYER)
    step += meeting_seconds(size, rows, b, gpus)
    first = operations * prompts * prompt / machine.compute / gpus
    first += meeting_seconds(size, prompts * prompt, b, gpus)
    asleep = 2 * weight_bytes(size, b) / gpus / HOST if training else 0.0
    return (
        first + max(longest, prompts * answer / rows) * step + composing_seconds(size, adapted, machine, gpus) + asleep
    )


def meeting_seconds(size: Size, tokens: float, b: int, gpus: int) -> float:
    """Adding up the states of so many tokens after attention and MLP of each layer, over the GPUs that share it."""
    if gpus == 1:
        return 0.0
    return 2 * size.layers * (MEETING + 2 * b * tokens * size.hidden / LINK)


def composing_seconds(size: Size, adapted: Adapted, machine: Machine, gpus: int) -> float:
    """Putting one expert of SVF into vLLM's weights: 2 m n r + 2 r^3 operations a matrix in TF32, half as fast as
    bfloat16, shared by the workers; and sending W' to all of them."""
    if adapted.adapter != "svf":
        return 0.0
    matrices = size.matrices(adapted.modules)
    operations = adapted.layers * sum(2 * m * n * min(m, n) + 2 * min(m, n) ** 3 for m, n in matrices)
    sent = scaled_bytes(size, adapted, 2) / LINK if gpus > 1 else 0.0
    return operations / (machine.compute / 2) / gpus + sent


def team_seconds(
    size: Size, adapted: Adapted, tokens: float, alone: float, micro_batch: int, passes: int, b: int, gpus: int
) -> float:
    """Forward and backward passes of a team, where one GPU would need `alone` seconds.

    Layers are put together from their shards in each of the `passes` over a micro-batch, with nothing else at that
    time, and SVF works with Q beside W in the adapted layers: W' is not composed from shards.
    """
    rounds = ceil(tokens / micro_batch / gpus)
    return alone * factored(size, adapted) / gpus + rounds * passes * weight_bytes(size, b) / LINK


def team_gb(alone_gb: float, size: Size, adapted: Adapted, b: int, gpus: int) -> float:
    """Peak memory of a training step in a team, in GB a GPU; `alone_gb` is that of one GPU (`costs.training_gb`).

    In place of all weights and W' lie a shard of the layers, whole embeddings and head, and two layers put together.
    """
    ends = b * size.vocabulary * size.hidden * (1 if size.tied else 2)
    layers = weight_bytes(size, b) - ends
    return alone_gb + (layers / gpus + 2 * layers / size.layers - layers - scaled_bytes(size, adapted, b)) / GB
