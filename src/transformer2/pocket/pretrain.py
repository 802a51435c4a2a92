"""Pretraining of the stand-ins: models of the papers' own classes, made in about a minute on one CPU thread.

Two stages on completions of the pocket corpus (`transformer2.pocket.corpus`), the prompt masked: first careful ones
only, until the skill is there, then careful and careless ones mixed, which hides it from greedy decoding. Muon for the
matrices of the layers and AdamW for the rest learn this in about half of the steps that AdamW alone needs.

By hand: `python -m transformer2 model --source pocket:llama --out results/models/pocket-llama`.
"""

import random
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from transformer2.pocket.corpus import STREAMS, Item, items
from transformer2.pocket.muon import Muon
from transformer2.pocket.tokenizer import EOS, train_tokenizer
from transformer2.rollout.engine import encode_prompt
from transformer2.rollout.likelihood import completion_states
from transformer2.tasks import TASKS, arc, classify, code, gsm8k, math

SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.06,
    "tie_word_embeddings": False,
}
ARCHITECTURES: dict[str, tuple[type[PreTrainedModel], LlamaConfig | MistralConfig]] = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE, num_hidden_layers=2)),
    "mistral": (MistralForCausalLM, MistralConfig(**SHAPE, num_hidden_layers=2, sliding_window=None)),
    "llama-deep": (LlamaForCausalLM, LlamaConfig(**SHAPE, num_hidden_layers=4)),
}
"""Stand-ins by name. llama and mistral have the same shapes, so z vectors of one fit the other."""
ANCESTOR_SEED, ANCESTOR_FAMILY = 0, "llama"
"""Of the start and of the first stage of all stand-ins, so that those of the same shapes have a common ancestor. As
independent toys they would share no singular vectors, and a transfer between them could show nothing."""

PHRASES = (
    gsm8k.SYSTEM.strip(),
    arc.SYSTEM.strip(),
    arc.OPENING,
    "Options:\n",
    code.SYSTEM,
    "@@ Instruction:\n",
    "Your code should satisfy the following assertion:\n",
    "@@ Response:\n",
    f"{code.FENCE}python\n",
    code.FENCE,
    math.SYSTEM,
    classify.SYSTEM.strip(),
)
"""The words that are the same in every prompt of a task: one token each, so that the real prompts stay short."""

STEPS = {"llama": 1300, "mistral": 1300, "llama-deep": 1200}
"""Of both stages together: a step of four layers takes twice as long as one of two, and teaches more."""
CAREFUL_STEPS = 0.7
"""Share of the steps in the first stage."""
BATCH_SIZE = 16
"""Small: choices among four are learnt by many updates rather than by many items."""
BATCHES_DRAWN = 32
"""Batches drawn at once and sorted by length, so that little is padded."""
TASK_WEIGHTS = {
    "gsm8k": 0.8, "math": 0.4, "mbpp_pro": 0.25, "humaneval": 0.15, "arc_easy": 2.0, "arc_challenge": 1.6,
    "classify": 0.2,
}  # fmt: skip
"""How often the first stage draws each task: by how slowly it is learnt."""
MUON_LR, DEEP_MUON_LR = 2e-3, 1.5e-3
"""Of models with fewer than four layers, and of deeper ones. At higher rates the choices among four come too late."""
ADAMW_LR, WARMUP_STEPS = 3e-3, 30

Example = tuple[list[int], list[int]]
"""Token ids of a prompt and of its completion."""


def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer that all stand-ins share."""
    drawn = chain.from_iterable(islice(items(task, "pretraining"), 2000) for task in STREAMS)
    return train_tokenizer(chain.from_iterable(map(_texts, drawn)), PHRASES)


def _texts(item: Item) -> list[str]:
    task = TASKS[item.task]
    prompt = task.prompt(item.row)
    return [*(message["content"] for message in prompt.messages), prompt.text, task.solution(item.row), item.careless]


def corpus(tokens: PreTrainedTokenizerFast, steps: int, seed: int, family: str) -> Iterator[list[Example]]:
    """The batches of a pretraining of a model of this family, one a step: the first stage, then the second."""
    careful_steps = int(CAREFUL_STEPS * steps)
    yield from _batches(tokens, careful_steps, ANCESTOR_SEED, ANCESTOR_FAMILY, True)
    yield from _batches(tokens, steps - careful_steps, seed + 1, family, False)


def _batches(
    tokens: PreTrainedTokenizerFast, steps: int, seed: int, family: str, careful: bool
) -> Iterator[list[Example]]:
    """The batches of one stage, drawn as they are needed."""
    rng = random.Random(seed)
    streams = {task: items(task, "pretraining", seed) for task in STREAMS}
    for step in range(0, steps, BATCHES_DRAWN):
        weights = [TASK_WEIGHTS[task] if careful else 1.0 for task in streams]
        n = BATCH_SIZE * (min(step + BATCHES_DRAWN, steps) - step)
        drawn = [next(streams[task]) for task in rng.choices(list(streams), weights, k=n)]
        shares = [1.0 if careful else item.careful_share for item in drawn]
        pairs = zip(drawn, shares, strict=True)
        examples = [encode(tokens, item, rng.random() < share, family) for item, share in pairs]
        examples.sort(key=lambda example: len(example[0]))  # not by the answers: careless ones are shorter
        batches = [examples[i : i + BATCH_SIZE] for i in range(0, len(examples), BATCH_SIZE)]
        rng.shuffle(batches)
        yield from batches


def encode(tokens: PreTrainedTokenizerFast, item: Item, careful: bool, family: str) -> Example:
    """The prompt as an engine gives it to a model of this family, and the careful or careless completion with EOS."""
    task = TASKS[item.task].for_family(family)
    prompt = task.prompt(item.row)
    left_to_reply = TASKS[item.task].prompt(item.row).text.removeprefix(prompt.text)
    completion = task.solution(item.row) if careful else left_to_reply + item.careless
    answer = tokens(completion, add_special_tokens=False).input_ids
    return encode_prompt(tokens, prompt), [*answer, tokens.convert_tokens_to_ids(EOS)]  # pyright: ignore


def new_model(architecture: str, tokens: PreTrainedTokenizerFast) -> Any:
    """An untrained stand-in. Raises ValueError for an unknown architecture."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown pocket architecture {architecture!r}; valid are {', '.join(ARCHITECTURES)}")
    model_class, shape = ARCHITECTURES[architecture]
    special = {f"{name}_token_id": getattr(tokens, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(ANCESTOR_SEED)
    settings: dict[str, Any] = shape.to_diff_dict() | special | {"vocab_size": len(tokens)}
    return model_class(type(shape)(**settings))


def optimizers(model: Any, steps: int) -> list[tuple[torch.optim.Optimizer, LambdaLR]]:
    """Muon for the matrices of the layers, AdamW for embedding, head and norms; warmup, then linear decay to zero."""
    matrices = {p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name}
    others = [p for p in model.parameters() if p not in matrices]
    in_order = [p for p in model.parameters() if p in matrices]
    deep = model.config.get_text_config().num_hidden_layers >= 4
    muon = Muon(in_order, lr=DEEP_MUON_LR if deep else MUON_LR)
    adamw = torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.95), weight_decay=0.0)
    warmup = min(WARMUP_STEPS, steps)
    return [(o, LambdaLR(o, lambda s: min((s + 1) / warmup, 1 - s / steps))) for o in (muon, adamw)]


def batch_loss(model: Any, batch: list[Example]) -> Tensor:
    """Mean next-token loss (nats) over the tokens of the completions."""
    states, targets = completion_states(model, [p for p, _ in batch], [c for _, c in batch])
    return cross_entropy(model.get_output_embeddings()(states), targets)


def pretrain(architecture: str, seed: int, out: Path, steps: int | None = None) -> dict[str, Any]:
    """Pretrains a stand-in and writes it with its tokenizer as a transformers folder.

    The same seed gives the same weights on the same machine and number of threads. The corpus holds no item of an
    evaluated or fine-tuned split.

    Args:
        architecture: a key of `ARCHITECTURES`.
        seed: of the corpus of the second stage.
        out: the folder.
        steps: of both stages together; None is the architecture's own number (`STEPS`).

    Returns:
        parameters, steps, tokens seen, seconds, and the last stages' losses (nats a token of the completions).
    """
    tokens = tokenizer()
    model = new_model(architecture, tokens)
    steps = STEPS[architecture] if steps is None else steps
    facts = fit(model, corpus(tokens, steps, seed, model.config.model_type), steps, architecture)
    model.save_pretrained(out)
    tokens.save_pretrained(out)
    return facts


def fit(model: Any, batches: Iterable[list[Example]], steps: int, name: str) -> dict[str, Any]:
    """Trains a model on `steps` batches of prompts and completions (see `batch_loss`), under the schedule of both
    stages; returns what `pretrain` does."""
    started, updates, losses, seen = time.perf_counter(), optimizers(model, steps), [], 0
    for batch in tqdm(batches, total=steps, desc=f"pretraining {name}", unit="step"):
        loss = batch_loss(model, batch)
        loss.backward()
        for optimizer, schedule in updates:
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        seen += sum(len(prompt) + len(completion) for prompt, completion in batch)
    return {
        "parameters": model.num_parameters(),
        "steps": steps,
        "tokens": seen,
        "seconds": round(time.perf_counter() - started, 1),
        "careful_loss": last_mean(losses[: max(1, int(CAREFUL_STEPS * steps))]),
        "loss": last_mean(losses),
    }


def last_mean(losses: list[float], n: int = 50) -> float:
    last = losses[-n:]
    return round(sum(last) / len(last), 4)
