"""The training loop of every expert: REINFORCE or next-token, SVF or LoRA.

Each step takes a batch, turns it into samples (the policy's scored answers, or the reference answers), follows the
gradient of Eq. (1), and from time to time answers the validation half greedily. Two states are kept: the best of those
that were validated, which is the paper's expert (Appendix A.1), and the last one, which shows what the training led to.
All randomness is a function of (seed, step), and the checkpoint holds everything else, so a training that was stopped
is resumed bit for bit. Where a GPU has too little memory for a pass, the step is done again in smaller ones.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from transformer2.checksums import record_checksum, remove
from transformer2.config import TaskTraining, Training
from transformer2.evaluation import accuracy
from transformer2.models import save_expert
from transformer2.provenance import read_complete_lines, write_json
from transformer2.rollout.engine import Engine
from transformer2.tasks import Row, Task
from transformer2.trackers import Report, silent

from . import checkpoint
from .baseline import leave_one_out
from .objective import Sample, accumulate_gradients
from .recompute import set_training_mode
from .samples import Rollout, derive_seed, references, rollout, step_rows
from .selection import LAST
from .team import ALONE, Team

COLLAPSE_STEPS = 10
"""Steps in a row without a right answer after which a policy has collapsed; and without a gradient, after which the
training ends."""
BETAS = (0.9, 0.999)
LOGS = {"metrics.jsonl": 0, "rollouts.jsonl": 0, "validation.jsonl": 1}
"""What grows while a training runs -> whether a checkpoint comes after the line of the step that it stands at."""


def base_values(name: str, start: Tensor, settings: Training) -> Tensor:
    """Values of a trained parameter at which its adapter is the base model, in the shape of its values at the start.

    They are 1 for what multiplies (z of SVF, the vectors of IA3) and the norms of W at the start for DoRA's magnitude.
    They are 0 for the factors of LoRA and similar adapters, and for a vector before a sigmoid (any constant is z = 1).
    """
    if settings.adapter == "ia3" or (settings.adapter == "svf" and settings.parametrisation == "linear"):
        return torch.ones_like(start)
    return start.detach().clone() if "lora_magnitude_vector" in name else torch.zeros_like(start)


@dataclass
class Progress:
    """The state of a training. `best_*` are of the best validation so far; `stopped` says why it ended early."""

    step: int = 0
    best_step: int = 0
    """0 is the state before the first update."""
    best_validation: float = -1.0
    last_validation: float = -1.0
    """Of the newest evaluation: at the end, of the state after `step` updates."""
    evaluations_since_best: int = 0
    steps_without_right_answer: int = 0
    steps_without_gradient: int = 0
    collapsed_at: int | None = None
    """The step at which, for the first time, no answer had been right for `COLLAPSE_STEPS` steps."""
    pass_tokens: int | None = None
    """Tokens of a pass since a GPU had too little memory for `micro_batch_tokens`; None as long as it has enough."""
    stopped: str | None = None


class Trainer:
    """One expert in training.

    `inputs` identifies base model and data (any JSON value, such as checksums). Checkpoints and logs of other settings
    or inputs are discarded. In a `team`, only the first process answers (it alone needs an engine) and writes. `report`
    gets what the logs get.
    """

    def __init__(
        self, model: PeftModel, engine: Engine, tokenizer: PreTrainedTokenizerBase, task: Task,
        train: Sequence[Row], validation: Sequence[Row], settings: TaskTraining, seed: int, out: Path,
        inputs: Any = None, team: Team = ALONE, report: Report = silent,
    ):  # fmt: skip
        self.model, self.engine, self.tokenizer, self.task = model, engine, tokenizer, task
        self.train, self.validation, self.settings, self.seed = train, validation, settings, seed
        self.out, self.inputs, self.team, self.report = Path(out), inputs, team, report
        self.parameters: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.best = self.last = self._copy()
        self.base_state = {name: base_values(name, p, settings) for name, p in self.parameters.items()}
        # AdamW is Adam plus the decay of `_decay`, which pulls towards the base model: PyTorch's own pulls to zero.
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=settings.learning_rate, betas=BETAS)
        self.progress = Progress()
        self._references = references(tokenizer, task)

    def run(self, last_step: int | None = None) -> Progress:
        """Trains to the end, then leaves the selected state in the model. After `last_step` steps it stops as a kill
        would stop it: the checkpoint is that of the last evaluation."""
        self._resume()
        steps = self.settings.steps
        if self.progress.best_validation < 0:
            self._evaluate()
        with tqdm(total=steps, initial=self.progress.step, desc=f"training on {self.task.name}", unit="step") as bar:
            while self.progress.step < min(steps, last_step or steps) and not self.progress.stopped:
                line = self._step()
                bar.set_postfix({"validation": f"{self.progress.best_validation:.3f}"} | _short(line))
                bar.update()
        if self.progress.step >= steps or self.progress.stopped:
            self.last = self._copy()
            self._restore(self._selected())
        return self.progress

    def _step(self) -> dict[str, Any]:
        step, started = self.progress.step, time.perf_counter()
        samples, seen = self._samples(self._rows(step))
        generated = time.perf_counter()
        line = {"step": step, "learning_rate": self.learning_rate(step)} | _describe(samples, seen)
        line |= self._update(samples, line["learning_rate"])
        seconds = time.perf_counter() - started
        line |= {
            "seconds": round(seconds, 3),
            "generation_seconds": round(generated - started, 3),
            "tokens_per_second": round(sum(len(s.prompt_ids) + len(s.completion_ids) for s in samples) / seconds, 1),
        }
        self._log("metrics.jsonl", [line])
        if seen is not None:
            self._log("rollouts.jsonl", _rollout_lines(step, seen))
        self._watch(line)
        self.progress.step = step + 1
        ends = self.progress.step == self.settings.steps or self.progress.stopped
        if ends or self.progress.step % self.settings.eval_every == 0:
            self._evaluate()
        if self.progress.stopped:
            tqdm.write(self.progress.stopped)
        return line

    def _rows(self, step: int) -> list[Row]:
        """The rows of a step; where each is answered several times, as often."""
        answers = self.settings.answers
        rows = step_rows(self.train, max(self.settings.batch_size // answers, 1), step, self.seed)
        return [row for row in rows for _ in range(answers)]

    def _watch(self, line: dict[str, Any]) -> None:
        """Ends a training that diverged or has no gradient left, and says when its answers have collapsed.

        A policy without right answers is trained as long as it has a gradient, which wrong answers with r = -1 give.
        """
        p = self.progress
        p.steps_without_gradient = p.steps_without_gradient + 1 if line["gradient_norm"] == 0 else 0
        p.steps_without_right_answer = p.steps_without_right_answer + 1 if line.get("accuracy") == 0 else 0
        if p.steps_without_right_answer == COLLAPSE_STEPS:
            tqdm.write(f"collapsed: no right answer in the {COLLAPSE_STEPS} steps up to {p.step}")
            p.collapsed_at = p.step if p.collapsed_at is None else p.collapsed_at
        if not math.isfinite(line["gradient_norm"]):
            p.stopped = f"diverged: loss or gradient of step {p.step} is not finite; the last state is that before it"
        elif p.steps_without_gradient >= COLLAPSE_STEPS:
            p.stopped = f"no gradient in the {COLLAPSE_STEPS} steps up to {p.step}: nothing is left to follow"

    def _samples(self, rows: list[Row]) -> tuple[list[Sample], Rollout | None]:
        if self.settings.objective == "next_token":
            return self._references(rows), None
        seed = derive_seed(self.seed, self.progress.step, 1)

        def answered() -> tuple[list[Sample], Rollout]:
            self.engine.refresh()
            samples, seen = rollout(self.engine, self.tokenizer, self.task, rows, self.settings, seed)
            answers = self.settings.answers
            return (leave_one_out(samples, answers) if answers > 1 else samples), seen

        return self.team.broadcast_from_main(answered)

    def _update(self, samples: list[Sample], learning_rate: float) -> dict[str, float]:
        """One optimiser step; none if the gradient is not finite."""
        # REINFORCE needs the gradient of the policy that answered, so no dropout there.
        set_training_mode(self.model, dropout=self.settings.objective == "next_token")
        facts = self._gradients(samples)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip_norm).item()
        if math.isfinite(norm) and math.isfinite(facts["loss"]):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self._decay(learning_rate)
            self.optimizer.step()
        else:
            norm = math.nan
        self.model.eval()
        return facts | {"gradient_norm": norm}

    def _gradients(self, samples: list[Sample]) -> dict[str, float]:
        """Leaves the gradients of a step in `.grad`, from zero. Passes that a GPU has no memory for are halved, for the
        rest of the training.

        Raises:
            ValueError: a pass of one answer is too large, or a pass of one process of a team.
        """
        longest = max(len(s.prompt_ids) + len(s.completion_ids) for s in samples)
        while True:
            tokens = self.progress.pass_tokens or self.settings.micro_batch_tokens
            torch.manual_seed(derive_seed(self.seed, self.progress.step, 2))  # dropout
            self.optimizer.zero_grad()
            try:
                passes = self.settings.model_copy(update={"micro_batch_tokens": tokens})
                return accumulate_gradients(self.model, samples, passes, self.team)
            except torch.OutOfMemoryError as error:
                too_large = f"step {self.progress.step}: too little GPU memory for passes of {tokens} tokens"
                if self.team.size > 1:  # the others wait for this process in the middle of a layer
                    raise ValueError(
                        f"{too_large} in a process of {self.team.size}; lower micro_batch_tokens"
                    ) from error
                if tokens <= longest:
                    raise ValueError(
                        f"{too_large}, and its longest answer has {longest} with the prompt: turn "
                        "gradient_checkpointing on, or lower max_new_tokens"
                    ) from error
            torch.cuda.empty_cache()  # nothing refers to the tensors of the step any more
            self.progress.pass_tokens = max(tokens // 2, longest)
            tqdm.write(f"{too_large}: from here on they have {self.progress.pass_tokens}")

    @torch.no_grad()
    def _decay(self, learning_rate: float) -> None:
        """The decoupled decay of AdamW (Loshchilov and Hutter 2019), towards the base model."""
        if self.settings.optimizer == "adamw_cosine":
            share = learning_rate * self.settings.weight_decay
            for name, parameter in self.parameters.items():
                parameter.lerp_(self.base_state[name], share)

    def learning_rate(self, step: int) -> float:
        """Cosine decay to zero over all steps, or constant."""
        peak = self.settings.learning_rate
        if self.settings.optimizer == "adam_constant":
            return peak
        return peak * 0.5 * (1 + math.cos(math.pi * step / self.settings.steps))

    def _evaluate(self) -> None:
        """Measures the greedy accuracy on the validation half, keeps the best state, writes a checkpoint."""
        p, tokens, which = self.progress, self.settings.max_new_tokens, self.settings.reward

        def measured() -> float:
            self.engine.refresh()
            return accuracy(self.engine, self.tokenizer, self.task, self.validation, tokens, which)

        value = self.team.broadcast_from_main(measured)
        p.last_validation = value
        if value > p.best_validation:
            p.best_step, p.best_validation, p.evaluations_since_best = p.step, value, 0
            self.best = self._copy()
        else:
            p.evaluations_since_best += 1
        if not p.stopped and p.evaluations_since_best >= self.settings.patience:
            p.stopped = f"early: no better validation in {p.evaluations_since_best} evaluations"
        self._log("validation.jsonl", [{"step": p.step, "accuracy": value, "n": len(self.validation)}])
        self._save_checkpoint()

    def _job(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be resumed."""
        task = {"task": self.task.name, "version": self.task.version}
        return {"settings": self.settings.model_dump(), "seed": self.seed, "inputs": self.inputs} | task

    def _save_checkpoint(self) -> None:
        if not self.team.is_main:
            return
        tensors = {f"current.{name}": p for name, p in self.parameters.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= checkpoint.optimizer_tensors(self.optimizer, self.parameters)
        checkpoint.save(
            self.out / "checkpoint.safetensors", tensors, {"job": self._job(), "progress": asdict(self.progress)}
        )

    def _resume(self) -> None:
        """Resumes from the checkpoint of this very job, or starts afresh where there is none or it is not whole."""
        path = self.out / "checkpoint.safetensors"
        logs = {name: read_complete_lines(self.out / name) for name in LOGS}
        facts: dict[str, Any] = {}
        if path.exists():
            try:
                tensors, facts = checkpoint.load(path)
                step = facts["progress"]["step"]
                if [line["step"] for line in logs["metrics.jsonl"][:step]] != [*range(step)]:
                    raise ValueError(f"{self.out}/metrics.jsonl lacks steps that {path.name} has seen")
            except ValueError as error:
                tqdm.write(f"{error}: starting afresh")
                facts = {}
        if facts and (facts["job"], facts["progress"].keys()) != (self._job(), asdict(Progress()).keys()):
            tqdm.write(f"{path} is of another job (settings, model, data or code differ): starting afresh")
            facts = {}
        if facts:
            self.progress = Progress(**facts["progress"])
            self._restore({name: tensors[f"current.{name}"] for name in self.parameters})
            self.best = {name: tensors[f"best.{name}"] for name in self.parameters}
            checkpoint.restore_optimizer(self.optimizer, self.parameters, tensors)
            tqdm.write(f"resuming from step {self.progress.step}")
        self.team.broadcast_from_main(lambda: None)  # all have read
        if self.team.is_main:
            self._rewrite({
                name: [line for line in logs[name] if facts and line["step"] < self.progress.step + key]
                for name, key in LOGS.items()
            })  # fmt: skip

    def _copy(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def _selected(self) -> dict[str, Tensor]:
        return self.last if self.settings.select == "last" else self.best

    @torch.no_grad()
    def _restore(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])

    def _log(self, name: str, lines: list[dict[str, Any]]) -> None:
        if self.team.is_main:
            self._write(name, lines)
            self.report(name, lines)

    def _write(self, name: str, lines: list[dict[str, Any]]) -> None:
        with open(self.out / name, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    def _rewrite(self, logs: dict[str, list[dict[str, Any]]]) -> None:
        """Leaves these lines in the logs, and reports them in the order in which they came: of a step, its evaluation
        first, which is of the state before it."""
        for name, lines in logs.items():
            remove(self.out / name)
            self._write(name, lines)
        lines = [(line["step"], LOGS[name] == 0, name, line) for name in logs for line in logs[name]]
        for _, _, name, line in sorted(lines, key=lambda one: one[:2]):
            self.report(name, [line])

    def save(self) -> None:
        """Writes the adapters of the selected state and of the last one (in `last/`), and `training.json`, the summary
        that the choice among sweep points reads; then the checkpoint is not needed any more, and is removed."""
        if not self.team.is_main:
            return
        for state, folder in ((self.last, self.out / LAST), (self._selected(), self.out)):
            self._restore(state)
            save_expert(self.model, folder)
        for name in LOGS:
            record_checksum(self.out / name)
        trained = sum(p.numel() for p in self.parameters.values())
        write_json(self.out / "training.json", asdict(self.progress) | {"trained_parameters": trained} | self._job())
        remove(self.out / "checkpoint.safetensors")


def _describe(samples: Sequence[Sample], seen: Rollout | None) -> dict[str, Any]:
    tokens = [len(s.completion_ids) for s in samples]
    facts: dict[str, Any] = {"samples": len(samples), "answer_tokens": sum(tokens) / len(tokens)}
    if seen is not None:
        facts["reward"] = sum(seen.rewards) / len(seen.rewards)
        facts["accuracy"] = sum(reward == 1.0 for reward in seen.rewards) / len(seen.rewards)
        facts["cut_off"] = sum(c.finish_reason == "length" for c in seen.completions) / len(seen.completions)
    return facts


def _rollout_lines(step: int, seen: Rollout) -> list[dict[str, Any]]:
    return [
        {
            "step": step, "item": row["item"], "completion": c.text, "token_ids": c.token_ids,
            "finish_reason": c.finish_reason, "strict": s.strict, "lenient": s.lenient, "reward": r,
        }
        for row, c, s, r in zip(seen.rows, seen.completions, seen.scores, seen.rewards, strict=True)
    ]  # fmt: skip


def _short(line: dict[str, Any]) -> dict[str, str]:
    return {key: f"{line[key]:.3f}" for key in ("loss", "accuracy", "kl") if key in line}
