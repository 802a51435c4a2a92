"""Peak memory of what a run does with a model, measured on a random Llama on the CPU, beside the formulas of
`transformer2.planning.costs`.

    python tests/memory.py --hidden 1024 --intermediate 3584 --layers 4 --vocabulary 8000

Each path runs in a process of its own, first on a tiny twin of the model, so that libraries are loaded and have what
they hold once; what counts is by how much the process's peak of resident memory (Linux' VmHWM, set back before) then
exceeds what it held. Memory that is freed goes back to the system at once: glibc's allocator is told to map every
larger block by itself, and to have one arena. Without that it keeps freed blocks up to 32 MB, and peaks say nothing.
"""

import ctypes
import gc
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import helpers
from transformer2.cli.options import start_torch
from transformer2.config import RECIPES, Training
from transformer2.export import write_merged
from transformer2.models import load_expert, load_experts, load_model, load_tokenizer, new_expert
from transformer2.planning import costs
from transformer2.planning.costs import Adapted, Size
from transformer2.rollout.engine import Sampling
from transformer2.rollout.hf import HFEngine
from transformer2.svf.basis import SOLVER, decoder_matrices, fingerprint, write_basis
from transformer2.training.objective import Sample, accumulate_gradients
from transformer2.training.recompute import recompute_layers, set_training_mode

MALLOPT = {-3: 2**16, -1: 2**16, -8: 1}
"""M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_ARENA_MAX of glibc's malloc.h."""
EXPERTS = 3


@dataclass(frozen=True)
class Work:
    """A model in a folder, with its basis and experts, and the batch that it answers or learns from."""

    folder: str
    size: Size
    dtype: str
    rows: int
    prompt: int
    answer: int
    threads: int
    steps: int
    """Of gradients; the second composes new W' while the first ones are still held."""

    @property
    def tokens(self) -> int:
        return self.rows * (self.prompt + self.answer)

    @property
    def bytes(self) -> int:
        return getattr(torch, self.dtype).itemsize

    @property
    def basis(self) -> Path:
        return Path(self.folder) / "basis.safetensors"

    @property
    def experts(self) -> dict[str, Path]:
        return {f"expert{i}": Path(self.folder) / f"expert{i}" for i in range(EXPERTS)}

    def prompts(self) -> list[list[int]]:
        return [[3 + (row + i) % 200 for i in range(self.prompt)] for row in range(self.rows)]


def settings(recipe: str, **changes: Any) -> Training:
    return Training(**RECIPES[recipe] | changes)


def prepare(work: Work) -> None:
    """Writes a random model, a random Q in place of every basis (memory is that of any numbers), and experts."""
    size, folder = work.size, Path(work.folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=size.hidden, intermediate_size=size.intermediate, num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // costs.HEAD, num_key_value_heads=size.key_value // costs.HEAD,
        vocab_size=size.vocabulary, tie_word_embeddings=size.tied, max_position_embeddings=8192,
        bos_token_id=0, eos_token_id=None, dtype=getattr(torch, work.dtype),
    )  # fmt: skip
    model = LlamaForCausalLM._from_config(config, dtype=getattr(torch, work.dtype))
    model.save_pretrained(folder, max_shard_size="1GB")
    del model
    helpers.tokenizer().save_pretrained(folder)
    tensors, fingerprints = {}, {}
    for name, weight in decoder_matrices(folder, getattr(torch, work.dtype)):
        r = min(weight.shape)
        tensors[f"{name}.q"] = (torch.randn(r, r) / r**0.5).to(weight.dtype)
        tensors[f"{name}.s"] = torch.ones(r)
        fingerprints[name] = fingerprint(weight)
    save_file(tensors, work.basis, {"solver": SOLVER, "fingerprints": json.dumps(fingerprints)})
    del tensors
    for seed, out in enumerate(work.experts.values()):
        new_expert(load_model(folder, work.dtype), settings("paper"), work.basis, seed).save_pretrained(str(out))


def touch(model: torch.nn.Module) -> None:
    """Reads every weight once: until then, those of a model on the CPU are but a place in a file."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.sum()


def load(work: Work) -> None:
    touch(load_model(Path(work.folder), work.dtype))


def basis(work: Work, blocks: int = 1) -> None:
    out = Path(work.folder) / f"basis-of-{blocks}.safetensors"
    write_basis(decoder_matrices(Path(work.folder), getattr(torch, work.dtype), 0, blocks), out)
    out.unlink()


def basis_block(work: Work) -> None:
    basis(work, blocks=work.size.layers)


def answer(work: Work, expert: bool = False) -> None:
    model = load_model(Path(work.folder), work.dtype)
    touch(model)
    model = load_expert(model, work.experts["expert0"], work.basis) if expert else model
    HFEngine(model, load_tokenizer(Path(work.folder)), work.rows).generate(work.prompts(), Sampling(work.answer))


def answer_svf(work: Work) -> None:
    answer(work, expert=True)


def answer_mixes(work: Work) -> None:
    """One generation of a few-shot search: every row of the batch has a mix of its own."""
    model = load_experts(load_model(Path(work.folder), work.dtype), work.experts, work.basis)
    engine = HFEngine(model, load_tokenizer(Path(work.folder)), work.rows)
    names = [f"candidate{i}" for i in range(work.rows)]
    for name in names:
        engine.mix(name, list(work.experts), torch.rand(EXPERTS))
    answers = engine.generate(work.prompts(), Sampling(work.answer), names)
    engine.logprobs(work.prompts(), [answer.token_ids for answer in answers], names)


def mix(work: Work) -> None:
    model = load_experts(load_model(Path(work.folder), work.dtype), work.experts, work.basis)
    engine = HFEngine(model, None)
    engine.mix("default", list(work.experts), torch.full((EXPERTS,), 1 / EXPERTS))
    touch(model)


def merge(work: Work) -> None:
    model = load_experts(load_model(Path(work.folder), work.dtype), {"default": work.experts["expert0"]}, work.basis)
    with tempfile.TemporaryDirectory(dir=work.folder) as out:
        write_merged(model, Path(work.folder), Path(out))


def train(work: Work, chosen: Training, recomputes: bool) -> None:
    """Steps of gradients on one micro-batch."""
    model = load_model(Path(work.folder), work.dtype)
    touch(model)
    expert = new_expert(model, chosen, work.basis, seed=0)
    if recomputes:
        recompute_layers(expert)
    trained = [p for p in expert.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    samples = [Sample(prompt, [5] * work.answer, 1.0) for prompt in work.prompts()]
    for _ in range(work.steps):
        set_training_mode(expert, dropout=chosen.objective == "next_token")
        optimizer.zero_grad()
        accumulate_gradients(expert, samples, chosen)
        optimizer.step()


SVF = settings("paper", kl_coefficient=0.1)
LORA = settings("paper-lora")


def training(chosen: Training, recomputes: bool) -> tuple[Callable[[Work], None], Callable[[Work], float]]:
    def run(work: Work) -> None:
        train(work, chosen.model_copy(update={"micro_batch_tokens": work.tokens}), recomputes)

    def formula(work: Work) -> float:
        adapted = Adapted(chosen.adapter, chosen.modules, work.size.layers)
        trained = costs.trained_numbers(work.size, chosen.model_dump(), work.size.layers)
        answered, kl = work.rows * work.answer, chosen.kl_coefficient > 0
        of_card = costs.training_gb(work.size, adapted, work.tokens, answered, trained, work.bytes, kl, recomputes)
        return of_card - costs.CONTEXT_GB

    return run, formula


def answering(adapted_layers: bool, experts: int, scored: bool = False) -> Callable[[Work], float]:
    def formula(work: Work) -> float:
        adapted = Adapted("svf", "all", work.size.layers if adapted_layers else 0)
        of_card = costs.answering_gb(
            work.size, adapted, work.rows, work.prompt, work.answer, work.bytes, experts, scored
        )
        return of_card - costs.CONTEXT_GB

    return formula


def basis_gb(size: Size, b: int, blocks: int = 1) -> float:
    """Peak memory of decomposing all decoder matrices, or those of one of several blocks of layers, in GB.

    The bases, which are written once all are there; the largest weight; and in float64 either the weight, its Gram
    matrix (r x r) and a quarter of that again, or the Gram matrix, the eigenvectors and LAPACK's workspace, twice as
    large.
    """
    bases = costs.basis_bytes(size, Adapted("svf", "all", ceil(size.layers / blocks)), b)
    m, n = costs.largest(size, "all")
    square = 8 * min(m, n) ** 2
    return (bases + b * m * n + max(8 * m * n + 1.25 * square, 4 * square)) / costs.GB


def merged_gb(size: Size, b: int) -> float:
    """Peak memory of writing a model with an expert merged into all its decoder matrices, in GB: W and W'.

    Weights are mapped from their file, and the file stays until the last of them is replaced.
    """
    return (costs.weight_bytes(size, b) + costs.scaled_bytes(size, Adapted("svf", "all", size.layers), b)) / costs.GB


def mixing(work: Work) -> float:
    adapted = Adapted("svf", "all", work.size.layers)
    return costs.answering_gb(work.size, adapted, 1, 1, 1, work.bytes, EXPERTS) - costs.CONTEXT_GB


PATHS: dict[str, tuple[Callable[[Work], None], Callable[[Work], float]]] = {
    "load": (load, lambda work: costs.weight_bytes(work.size, work.bytes) / costs.GB),
    "basis": (basis, lambda work: basis_gb(work.size, work.bytes)),
    "basis, one layer": (basis_block, lambda work: basis_gb(work.size, work.bytes, work.size.layers)),
    "answer, base": (answer, answering(False, 1)),
    "answer, SVF": (answer_svf, answering(True, 1)),
    "few-shot search": (answer_mixes, answering(True, EXPERTS, scored=True)),
    "mix": (mix, mixing),
    "export merged": (merge, lambda work: merged_gb(work.size, work.bytes)),
    "SVF": training(SVF, False),
    "SVF, checkpointing": training(SVF, True),
    "LoRA": training(LORA, False),
    "LoRA, checkpointing": training(LORA, True),
}


def status(key: str) -> int:
    """A line of /proc/self/status that has kB, in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024


def peak(path: str, work: Work, twin: Work) -> tuple[int, float]:
    """Bytes of the highest resident memory of a path above what its process held before, and its CPU seconds."""

    libc = ctypes.CDLL(None)
    for name, value in MALLOPT.items():
        libc.mallopt(name, value)
    start_torch(work.threads)
    run, _ = PATHS[path]
    run(twin)
    gc.collect()
    held = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.process_time()
    run(work)
    return status("VmHWM") - held, time.process_time() - started


def measure(work: Work, twin: Work, paths: list[str]) -> pd.DataFrame:
    """Path, measured GB and those of the formula, their ratio, CPU seconds."""
    context = get_context("forkserver")
    context.set_forkserver_preload([Path(__file__).stem])  # its libraries are loaded once
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for one in (work, twin):
            if not one.basis.exists():
                pool.submit(prepare, one).result()
        rows = []
        for path in paths:
            measured, seconds = pool.submit(peak, path, work, twin).result()
            formula = PATHS[path][1](work)
            row = {"path": path, "measured": measured / costs.GB, "formula": formula}
            rows.append(row | {"measured / formula": measured / costs.GB / formula, "CPU seconds": seconds})
    return pd.DataFrame(rows)


def main(
    hidden: int = 1024, intermediate: int = 3584, layers: int = 4, key_value: int = 256, vocabulary: int = 8000,
    tied: bool = False, dtype: str = "float32", rows: int = 8, prompt: int = 128, answer: int = 64, threads: int = 1,
    steps: int = 2,
    path: Annotated[list[str] | None, typer.Option(help="one of them, repeated; all without it")] = None,
    folder: Annotated[Path | None, typer.Option(help="where the model is made, and found again")] = None,
) -> None:  # fmt: skip
    """Print peak memory of each path beside its formula."""
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        for name in ("model", "twin"):
            (place / name).mkdir(parents=True, exist_ok=True)
        size = Size(layers, hidden, key_value, intermediate, vocabulary, tied)
        small = Size(2, 256, 128, 512, 400, tied)
        work = Work(str(place / "model"), size, dtype, rows, prompt, answer, threads, steps)
        twin = replace(work, folder=str(place / "twin"), size=small, rows=2, prompt=8, answer=8)
        table = measure(work, twin, path or list(PATHS))
    print(f"N = {size.parameters / 1e9:.2f} G, {asdict(work)}")
    print(table.round(3).to_markdown(index=False))


if __name__ == "__main__":
    typer.run(main)
