"""The protocol of engines that run a language model, and how a prompt becomes token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from transformer2.tasks.base import Prompt

from .pictures import PicturePrompt, picture_prompt_ids


@dataclass(frozen=True)
class Sampling:
    """How to decode. Temperature 0 is greedy. Generation ends at EOS, at a stop string or at `max_new_tokens`."""

    max_new_tokens: int
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One answer. `token_ids` are the tokens that the model chose, EOS or the stop string's included; `text` is cut
    before them."""

    token_ids: list[int]
    text: str
    finish_reason: Literal["stop", "length"]


class Engine(Protocol):
    """A model that answers, with experts that can be switched.

    `experts` names one expert for each prompt (None is the base model) and takes precedence over `set_expert`.
    """

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, experts: Sequence[str | None] | None = None
    ) -> list[Completion]:
        """One completion for each prompt, in order; the same seed gives the same answers."""
        ...

    def set_expert(self, name: str | None) -> None:
        """Uses the expert of that name from now on; None is the base model, bit for bit."""
        ...

    def mix(self, name: str, experts: Sequence[str], alpha: Tensor) -> None:
        """Adds (or overwrites) the expert `name` as the mix of others with weights alpha, (K,) or (K, layers)."""
        ...

    def logprobs(
        self,
        prompts: Sequence[list[int]],
        completions: Sequence[list[int]],
        experts: Sequence[str | None] | None = None,
    ) -> list[Tensor]:
        """Log-probability of every token of each completion, (tokens,) each, at temperature 1."""
        ...

    def next_logprobs(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> Tensor:
        """Log-probability of each of `tokens` as the next one after each prompt, (prompts, tokens)."""
        ...

    def refresh(self) -> None:
        """Takes over the expert from training, as it is now."""
        ...


def text_of(tokenizer: PreTrainedTokenizerBase, tokens: list[int], sampling: Sampling) -> str:
    """The text of an answer, cut before the first stop string."""
    text = str(tokenizer.decode(tokens, skip_special_tokens=True))
    return text[: min((text.find(stop) for stop in sampling.stop if stop in text), default=len(text))]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Token ids of a prompt with exactly one BOS where the model has one in front of its texts; with its picture, if it
    is about one.

    Chat templates often write the BOS themselves and tokenizers add another: the released code runs with two.
    """
    bos = tokenizer("").input_ids[:1]
    if prompt.picture is not None:
        processor = getattr(tokenizer, "processor", None)
        if processor is None:
            raise ValueError("the prompt is about a picture, and the model takes none: use a vision-language model")
        ids = picture_prompt_ids(processor, prompt.messages, prompt.picture)
        return PicturePrompt(ids if ids[:1] == bos else [*bos, *ids], prompt.picture, processor.image_processor)
    text = prompt.text
    if prompt.messages:
        chat = tokenizer.apply_chat_template(list(prompt.messages), tokenize=False, add_generation_prompt=True)
        text = f"{chat}{prompt.text}"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return ids if ids[:1] == bos else [*bos, *ids]
