"""The one thread that owns the model: a bounded queue of questions, answered in batches."""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from transformer2.adaptation.model import SelfAdaptiveModel
from transformer2.rollout.engine import Sampling

from .errors import Refusal
from .pieces import Pieces

GATHER_SECONDS = 0.01
"""How long a batch waits for those who ask at the same moment."""
BASE, MIX = "base", "mix"
Reason = Literal["stop", "length"]


@dataclass(frozen=True)
class Chosen:
    """Who answers: an expert by name, `base` or `mix`, its weights by expert, and the class of the prompt, if the first
    pass gave it one."""

    expert: str
    weights: dict[str, float]
    prompt_class: str | None = None


@dataclass(frozen=True)
class End:
    """The answer is whole."""

    reason: Reason
    tokens: int


Event = Chosen | str | End | Refusal
"""Of one answer, in this order: who answers, pieces of text, the end; or a refusal at any place."""


@dataclass(eq=False)
class Question:
    """A prompt in tokens, and who hears of its answer. `expert` answers it; None is the self-adaptive model, for which
    `text` is classified."""

    prompt: list[int]
    expert: str | None
    text: str
    sampling: Sampling
    tell: Callable[[Event], None]
    left: bool = False
    """Nobody waits for the answer any more."""


@dataclass
class Answer:
    """An answer in the making."""

    question: Question
    pieces: Pieces
    tokens: int = 0

    def add(self, token: int, reason: Reason | None) -> bool:
        """Tells what is certain with this token; whether the answer continues. `reason` ends it, if there is one."""
        if self.question.left:
            return False
        self.tokens += 1
        text = self.pieces.add(token) if reason != "stop" else ""  # the token that ends an answer is no text
        text += self.pieces.end() if reason else ""
        if text:
            self.question.tell(text)
        if self.pieces.stopped or reason:
            self.question.tell(End("stop" if self.pieces.stopped else reason or "stop", self.tokens))
        return not (self.pieces.stopped or reason)


def by(expert: str, prompt_class: str | None = None) -> Chosen:
    """The choice of one expert, or of the base model."""
    return Chosen(expert, {} if expert == BASE else {expert: 1.0}, prompt_class)


def closing() -> Refusal:
    return Refusal("the server shuts down", code="shutting_down", status=503)


class Worker:
    """Answers questions in a thread of its own, those that wait together in one batch.

    Args:
        model: the self-adaptive model, used by this thread alone.
        weights: of the fixed mix that answers; None classifies each prompt.
        places: questions that may wait; more of them are refused.
    """

    def __init__(self, model: SelfAdaptiveModel, weights: dict[str, float] | None, places: int):
        self.model, self.engine, self.places = model, model.engine, places
        self.fixed, self.active = self._mix(weights)
        self._waiting: deque[Question] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def _mix(self, weights: dict[str, float] | None) -> tuple[Chosen | None, str | None]:
        """The fixed mix, and the name under which the engine has it."""
        if weights is None:
            return None, None
        if len(weights) == 1 and set(weights.values()) == {1.0}:
            (name,) = weights
            return by(name), name
        self.engine.mix("default", list(weights), torch.tensor(list(weights.values())))
        return Chosen(MIX, weights), "default"

    def start(self) -> None:
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def works(self) -> bool:
        return self._thread.is_alive() and not self._closed

    def ask(self, question: Question) -> None:
        """Puts a question into the queue.

        Raises:
            Refusal: the queue is full, or the server shuts down.
        """
        with self._changed:
            if self._closed:
                raise closing()
            if len(self._waiting) >= self.places:
                message = f"{self.places} requests wait already, and no more are taken: try again later"
                raise Refusal(message, code="queue_full", status=429, kind="rate_limit_error")
            self._waiting.append(question)
            self._changed.notify()

    def leave(self, question: Question) -> None:
        """Takes a question back: it leaves the queue at once, or its batch with the next token."""
        with self._changed:
            question.left = True
            if question in self._waiting:
                self._waiting.remove(question)

    def close(self) -> None:
        """Refuses what waits, ends what is being answered, and returns when the thread has ended."""
        with self._changed:
            self._closed = True
            for question in self._waiting:
                question.tell(closing())
            self._waiting.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._gather():
            try:
                self._answer(batch)
            except Exception:
                traceback.print_exc(file=sys.stderr)
                failed = Refusal("the model failed on this batch; the log of the server says how", status=500)
                for question in batch:
                    question.tell(failed)

    def _gather(self) -> list[Question]:
        """The questions of the next batch; none if the worker is closed."""
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
            time.sleep(GATHER_SECONDS)
            with self._changed:
                if self._waiting:
                    return [self._waiting.popleft() for _ in range(min(len(self._waiting), self.engine.batch_rows))]
        return []

    def _answer(self, batch: Sequence[Question]) -> None:
        """The fixed mix answers by its own weights; all others are rows with experts of their own, or of the base."""
        adaptive = [question for question in batch if question.expert is None]
        others = [(question, by(question.expert)) for question in batch if question.expert is not None]
        if self.fixed is None:
            others += zip(adaptive, self._classify(adaptive), strict=True)
        elif adaptive:
            self._stream([(question, self.fixed) for question in adaptive], self.active, None)
        if others:
            experts = [None if chosen.expert == BASE else chosen.expert for _, chosen in others]
            self._stream(others, None, experts if any(experts) else None)

    def _classify(self, questions: Sequence[Question]) -> list[Chosen]:
        decisions = self.model.classify([question.text for question in questions]) if questions else []
        known = self.model.experts
        return [by(one.chosen if one.chosen in known else BASE, one.chosen) for one in decisions]

    def _stream(
        self, batch: Sequence[tuple[Question, Chosen]], active: str | None, experts: Sequence[str | None] | None
    ) -> None:
        """Answers a batch with the weights of the expert `active`, or with those of each row."""
        questions = [question for question, _ in batch]
        answers = [Answer(question, Pieces(self.model.tokenizer, question.sampling.stop)) for question in questions]
        for question, chosen in batch:
            question.tell(chosen)

        def receive(row: int, token: int, reason: Reason | None) -> bool:
            if self._closed:
                questions[row].tell(closing())
            return not self._closed and answers[row].add(token, reason)

        self.engine.set_expert(active)
        self.engine.stream([one.prompt for one in questions], [one.sampling for one in questions], experts, receive)
