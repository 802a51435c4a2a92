"""Two-pass inference: the first pass classifies each prompt, the second answers it with the expert of its class.

The first pass always runs on the base weights (strategy `prompt`) or on the classification expert (`cls`), whatever ran
before, and leaves the engine on the base weights, also when it fails. The second names the expert of each row. The base
weights answer the class "others" and classes without an expert. No weight of the base is ever written to. (The
released code answers "others" with the expert that was loaded last, and classifies with it, too.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from transformer2.rollout.engine import Engine, Sampling, encode_prompt
from transformer2.tasks.classify import CLASSES, adaptation_prompt, label_tokens, read_class

FirstPass = Literal["generation", "labels"]


@dataclass(frozen=True)
class Decision:
    """The class that the first pass gives to one prompt. `evidence` is the reply, or the labels' log-probabilities."""

    chosen: str
    evidence: str | dict[str, float]


def classify(
    engine: Engine, tokenizer: Any, questions: Sequence[str], first_pass: FirstPass, classifier: str | None,
    max_new_tokens: int,
) -> list[Decision]:  # fmt: skip
    """The class of each question.

    Args:
        engine: with the expert `classifier`, if one is named.
        tokenizer: of its model.
        questions: what users ask, without a template.
        first_pass: `generation` lets the model write its reply (the papers); `labels` compares how likely each class
            would come next after "Classification: \\boxed{" in one forward pass (ours).
        classifier: the expert that classifies; None is the base model.
        max_new_tokens: of a reply.
    """
    prompts = [encode_prompt(tokenizer, adaptation_prompt(question)) for question in questions]
    engine.set_expert(classifier)
    try:
        if first_pass == "generation":
            replies = engine.generate(prompts, Sampling(max_new_tokens))
            return [Decision(read_class(reply.text), reply.text) for reply in replies]
        opening, firsts = label_tokens(tokenizer)
        logprobs = engine.next_logprobs([[*prompt, *opening] for prompt in prompts], firsts)
    finally:
        engine.set_expert(None)
    return [
        Decision(CLASSES[int(row.argmax())], dict(zip(CLASSES, row.double().tolist(), strict=True))) for row in logprobs
    ]


def synchronise() -> None:
    """Waits for the GPU, where there is one, so that a clock read next is right."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
