"""A step of policy gradient with the answers it learns from: SVF here against LoRA in TRL's RLOO trainer."""

import itertools
from tempfile import TemporaryDirectory
from typing import Any

import typer
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, TrainerCallback

from transformer2.config import Training
from transformer2.provenance import forget_peak_memory
from transformer2.rollout.engine import Sampling
from transformer2.rollout.hf import HFEngine
from transformer2.training.objective import Sample

from .. import training
from ..measuring import Measured, Side, Work, clocks, first, held_bytes, peak_bytes, ratios, since, timed
from ..models import NoTokenizer, load, lora_config, token_ids, with_svf
from ..options import AnswerTokens, Completions, Device, Dtype, Folder, MicroBatch, Prompts, PromptTokens, Rank, Repeats


def measure(
    model: Folder, device: Device = "cpu", dtype: Dtype = "float32", repeats: Repeats = 2, prompts: Prompts = 4,
    completions: Completions = 2, prompt_tokens: PromptTokens = 64, answer_tokens: AnswerTokens = 32,
    micro_batch_tokens: MicroBatch = 512, rank: Rank = 16,
) -> dict[str, Any]:  # fmt: skip
    """A step of policy gradient with its answers, against LoRA in TRL.

    Both answer the same prompts equally often, with answers of the same length, at temperature 1 and without a
    divergence from the base model, and take one step of Adam in passes of about as many tokens.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    bases = [load(str(model), device, dtype) for _ in range(2)]
    texts = [tokenizer.decode(row) for row in token_ids(bases[0], [prompt_tokens] * prompts)]
    rows = [tokenizer(text).input_ids for text in texts for _ in range(completions)]
    settings = training.settings("paper", micro_batch_tokens=micro_batch_tokens)
    clock = Turns(Side("svf", lambda: svf_step(bases[0], rows, answer_tokens, settings)), device)
    rows_a_pass = max(1, micro_batch_tokens // (prompt_tokens + answer_tokens))
    with TemporaryDirectory() as folder:
        before = held_bytes(device)
        trainer = rloo_trainer(
            bases[1], tokenizer, texts, clock, per_device_train_batch_size=divisor(len(rows), rows_a_pass),
            num_generations=completions, max_completion_length=answer_tokens, output_dir=folder,
            use_cpu=device == "cpu", rank=rank, answers=len(rows), max_steps=repeats + 1,
        )  # fmt: skip
        clock.watch(before)
        trainer.train()
    return {
        "sides": {name: one.facts() for name, one in clock.measured.items()},
        "ratios": {"trl/svf": ratios(clock.measured, "svf", "trl", device)},
        "answers": len(rows),
        "tokens": sum(map(len, rows)) + len(rows) * answer_tokens,
    }


def svf_step(base: Any, rows: list[list[int]], answer_tokens: int, settings: Training) -> Work:
    """A step of ours: answers at temperature 1, rewards, gradients, Adam."""
    adapted = with_svf(base)
    step = training.optimizer_step(adapted, settings)
    engine = HFEngine(adapted, NoTokenizer(), batch_rows=len(rows))
    seeds = itertools.count()

    def work() -> None:
        answers = engine.generate(rows, Sampling(answer_tokens, temperature=1.0, seed=next(seeds)))
        step([
            Sample(row, answer.token_ids, reward)
            for row, answer, reward in zip(rows, answers, rewards([a.token_ids for a in answers]), strict=True)
        ])  # fmt: skip

    return work


def rewards(answers: list[list[int]], **_: Any) -> list[float]:
    """1 or -1, by whether the first token of an answer is even: about half of the answers are right."""
    return [1.0 if answer[0] % 2 == 0 else -1.0 for answer in answers]


def divisor(n: int, most: int) -> int:
    """The largest divisor of n that is at most `most`."""
    return max(size for size in range(1, min(n, most) + 1) if n % size == 0)


def rloo_trainer(
    base: Any, tokenizer: Any, texts: list[str], clock: "Turns", rank: int, answers: int, **settings: Any
) -> Any:
    """TRL's RLOO trainer with LoRA.

    Raises:
        BadParameter: TRL is not installed.
    """
    try:
        from datasets import Dataset  # type: ignore[import-not-found]
        from trl import RLOOConfig, RLOOTrainer  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise typer.BadParameter(
            f"policy-gradient compares with TRL, but {error.name} is not installed: pip install 'transformer2[bench]'"
        ) from None
    arguments = RLOOConfig(
        gradient_accumulation_steps=answers // settings["per_device_train_batch_size"], beta=0.0, temperature=1.0,
        gradient_checkpointing=False, bf16=False, report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True, generation_kwargs={"suppress_tokens": [tokenizer.eos_token_id]}, **settings,
    )  # fmt: skip

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return rewards(completion_ids)

    return RLOOTrainer(
        model=base, reward_funcs=reward, args=arguments, train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer, peft_config=lora_config(rank), callbacks=[clock],
    )  # fmt: skip


class Turns(TrainerCallback):
    """Times the steps of a trainer in turns with the work of another side; the first of each gives memory and
    operations."""

    def __init__(self, other: Side, device: str):
        self.other, self.device = other, device
        self.work, measured = first(other, device)
        self.measured = {other.name: measured}

    def watch(self, before: int) -> None:
        """From now on the trainer is measured; `before` is the memory that was held without it."""
        self.before = before
        forget_peak_memory()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.counter = FlopCounterMode(display=False)
        if "trl" in self.measured:
            self.started = clocks(self.device)
        else:
            self.counter.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if "trl" not in self.measured:
            peak = peak_bytes(self.device) - self.before
            self.counter.__exit__(None, None, None)
            self.measured["trl"] = Measured(None, self.counter.get_total_flops(), peak, [], [])
            return
        for side, (wall, processor) in (
            ("trl", since(self.started, self.device)),
            (self.other.name, timed(self.work, self.device)),
        ):
            self.measured[side].seconds.append(wall)
            self.measured[side].processor_seconds.append(processor)
