"""The self-adaptive model: a language model that adapts to its prompts."""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from transformer2.config import CLASSIFIER, Search, parse_search
from transformer2.config.names import CLASS_TOKENS
from transformer2.experts import check_base
from transformer2.models import load_experts, load_model, load_tokenizer
from transformer2.rollout.engine import Completion, Sampling, encode_prompt
from transformer2.rollout.hf import HFEngine
from transformer2.rollout.pictures import picture_bytes
from transformer2.svf.basis import fingerprint
from transformer2.tasks import Prompt, Row, Task
from transformer2.tasks.classify import CLASSES, OTHERS
from transformer2.tasks.own import TASK as OWN_PROMPTS

from . import few_shot
from .cem import Result
from .dispatch import Decision, FirstPass, classify, synchronise

Strategy = Literal["prompt", "cls", "few-shot"]


def described(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as JSON can hold them: a picture by the checksum of its file."""
    return [
        row | {"image": hashlib.sha256(picture_bytes(row["image"])).hexdigest()} if "image" in row else row
        for row in rows
    ]


@dataclass(frozen=True)
class Answers:
    """Replies to prompts, in order. `decisions` are None with few-shot adaptation, `alpha` with dispatch."""

    completions: list[Completion]
    decisions: list[Decision] | None
    alpha: Tensor | None
    first_seconds: float
    second_seconds: float

    @property
    def texts(self) -> list[str]:
        return [completion.text for completion in self.completions]

    @property
    def classes(self) -> list[str] | None:
        """The class that each prompt was given; "others" was answered by the base weights."""
        return None if self.decisions is None else [decision.chosen for decision in self.decisions]


def check_names(experts: Iterable[str], strategy: Strategy) -> None:
    """Raises ValueError where an expert has a name that it cannot have with a strategy."""
    if strategy != "few-shot" and (strange := [name for name in experts if name not in CLASSES]):
        raise ValueError(f"dispatch knows the classes {', '.join(CLASSES)}; no expert can be for {strange[0]!r}")
    if OTHERS in experts:
        raise ValueError("the class 'others' is answered by the base weights; it can have no expert")
    if taken := [name for name in experts if name == "default" or name.startswith("candidate")]:
        raise ValueError(f"{taken[0]!r} is a name that the search for a mix uses itself: give the expert another one")
    if dotted := [name for name in experts if "." in name]:
        raise ValueError(f"{dotted[0]!r} has a full stop, which names of PEFT's adapters cannot have")


def check_experts(
    base: str | Path, experts: Mapping[str, str | Path], strategy: Strategy, classifier: str | Path | None
) -> None:
    """Raises ValueError where there is no expert, where one has a name that it cannot have or belongs to another base
    model, and where the classifier does not go with the strategy."""
    if not experts:
        raise ValueError("a self-adaptive model needs at least one expert")
    if (strategy == "cls") != (classifier is not None):
        raise ValueError("strategy 'cls', and no other, needs a classifier: the folder of a classification expert")
    check_names(experts, strategy)
    for folder in experts.values():
        check_base(Path(folder), Path(base))


class SelfAdaptiveModel:
    """A base model with SVF experts, one of which (or a mix of which) answers each prompt (Section 3.2).

    >>> model = SelfAdaptiveModel.from_pretrained(base, experts={"math": folder}, strategy="prompt")
    >>> answers = model.generate(["What is 3 + 4?"])
    >>> answers.texts, answers.classes, answers.first_seconds, answers.second_seconds
    """

    def __init__(
        self, engine: HFEngine, tokenizer: Any, experts: Sequence[str], strategy: Strategy, first_pass: FirstPass
    ):
        check_names(experts, strategy)
        self.engine, self.tokenizer, self.experts = engine, tokenizer, list(experts)
        self.strategy: Strategy = strategy
        self.first_pass: FirstPass = first_pass
        self.alpha: Tensor | None = None

    @classmethod
    def from_pretrained(
        cls, base: str | Path, experts: Mapping[str, str | Path], strategy: Strategy = "prompt", *,
        classifier: str | Path | None = None, basis: str | Path | None = None, first_pass: FirstPass = "generation",
        dtype: str = "float32", batch_rows: int = 64,
    ) -> "SelfAdaptiveModel":  # fmt: skip
        """Loads base model and experts.

        Args:
            base: folder (or, if it is in the local cache, hub id) of the base model.
            experts: folder of each SVF expert; for dispatch by its class (code, math, reasoning).
            strategy: `prompt` asks the base model for the class of each prompt, `cls` the classification expert;
                `few-shot` mixes the experts once, by `adapt`.
            classifier: folder of the classification expert, which `cls` needs.
            basis: file with the decomposition of the base model (`transformer2 basis`); without it matrices are
                decomposed now.
            first_pass: `generation` or `labels`, see `dispatch.classify`.
            dtype: that the model runs in.
            batch_rows: prompts that are answered side by side.

        Raises:
            ValueError: an expert does not fit the model, a class is unknown, no expert or no classifier is given.
        """
        check_experts(base, experts, strategy, classifier)
        return cls.on_base(
            load_model(Path(base), dtype), load_tokenizer(Path(base)), base, experts, strategy, classifier=classifier,
            basis=basis, first_pass=first_pass, batch_rows=batch_rows,
        )  # fmt: skip

    @classmethod
    def on_base(
        cls, model: Any, tokenizer: Any, base: str | Path, experts: Mapping[str, str | Path],
        strategy: Strategy = "prompt", *, classifier: str | Path | None = None, basis: str | Path | None = None,
        first_pass: FirstPass = "generation", batch_rows: int = 64,
    ) -> "SelfAdaptiveModel":  # fmt: skip
        """As `from_pretrained`, on a base model that is loaded already; `base` is its folder."""
        check_experts(base, experts, strategy, classifier)
        folders = {name: Path(folder) for name, folder in experts.items()}
        folders |= {CLASSIFIER: Path(classifier)} if classifier else {}
        adapted = load_experts(model, folders, Path(basis) if basis else None)
        return cls(HFEngine(adapted, tokenizer, batch_rows), tokenizer, list(experts), strategy, first_pass)

    @property
    def family(self) -> str:
        """What transformers calls the architecture of the language model."""
        return self.engine.model.config.get_text_config().model_type

    def adapt(
        self, shots: Sequence[Row], task: Task = OWN_PROMPTS, seed: int = 0, scores: Path | None = None, **settings: Any
    ) -> Result:
        """Few-shot adaptation: finds the mix of the experts that answers `shots` best and uses it from now on.

        Args:
            shots: rows of `task`; of a user's own {"prompt": ..., "answer": ...}.
            task: how they are asked and scored.
            seed: of the search.
            scores: file that keeps the scores of candidates: a search that was stopped is resumed from it.
            **settings: of `config.Search`.

        Raises:
            ValueError: an unknown setting, a row that lacks a column of the task, no row.
        """
        if self.strategy != "few-shot":
            raise ValueError(f"strategy {self.strategy!r} does not search a mix; load the model with 'few-shot'")
        task = task.for_family(self.family)
        chosen = parse_search({"max_new_tokens": task.max_new_tokens} | settings)
        layers = len(self.engine.model.base_model.scaled_layers(self.experts[0]))
        cache = few_shot.ScoreCache(scores, self._search(shots, task, seed, chosen)) if scores else None
        result = few_shot.adapt(self.engine, self.tokenizer, task, shots, self.experts, layers, chosen, seed, cache)
        self.engine.set_expert("default")
        self.alpha = result.alpha
        return result

    def _search(self, shots: Sequence[Row], task: Task, seed: int, settings: Search) -> dict[str, Any]:
        """What the scores of a search depend on."""
        model = self.engine.model
        weights = {name: fingerprint(weight) for name, weight in model.named_parameters() if "candidate" not in name}
        whole = hashlib.sha256(json.dumps(weights).encode()).hexdigest()
        task_version = {"task": task.name, "version": task.version}
        job = {"weights": whole, "shots": described(shots), "settings": settings.model_dump(), "seed": seed}
        return task_version | job

    def generate(self, prompts: Sequence[str], max_new_tokens: int = 512, streamer: Any = None) -> Answers:
        """Answers to users' prompts, greedily; a streamer of transformers shows the answer to a single one."""
        of_task = [OWN_PROMPTS.prompt({"prompt": text}) for text in prompts]
        return self.generate_for(prompts, of_task, Sampling(max_new_tokens), streamer=streamer)

    def generate_for(
        self, questions: Sequence[str], prompts: Sequence[Prompt], sampling: Sampling, class_tokens: int = CLASS_TOKENS,
        streamer: Any = None,
    ) -> Answers:  # fmt: skip
        """Answers to prompts in a task's own form; the first pass classifies `questions`."""
        if self.strategy == "few-shot":
            if self.alpha is None:
                raise ValueError("few-shot adaptation comes first: call adapt(shots)")
            started = time.perf_counter()
            completions = self.engine.generate(self._encode(prompts), sampling, streamer=streamer)
            return Answers(completions, None, self.alpha, 0.0, time.perf_counter() - started)
        started = time.perf_counter()
        decisions = self.classify(questions, class_tokens)
        synchronise()
        classified = time.perf_counter()
        chosen = [name if name in self.experts else None for name in (decision.chosen for decision in decisions)]
        completions = self.engine.generate(self._encode(prompts), sampling, chosen, streamer)
        synchronise()
        return Answers(completions, decisions, None, classified - started, time.perf_counter() - classified)

    def _encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return [encode_prompt(self.tokenizer, prompt) for prompt in prompts]

    def classify(self, questions: Sequence[str], max_new_tokens: int = CLASS_TOKENS) -> list[Decision]:
        """Only the first pass."""
        classifier = CLASSIFIER if self.strategy == "cls" else None
        return classify(self.engine, self.tokenizer, questions, self.first_pass, classifier, max_new_tokens)
