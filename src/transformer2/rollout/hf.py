"""The engine on models of transformers: any machine, any model; the reference for the others."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from tqdm import tqdm

from transformer2.svf.layer import BASE_ROW, hold

from .batching import by_length
from .decode import decode, prefix_of
from .engine import Completion, Sampling, text_of
from .likelihood import completion_states, token_logprobs

Receive = Callable[[int, int, Literal["stop", "length"] | None], bool]
"""Takes a row, its newest token, and why its answer ends with it (None: it does not); says whether to continue."""


class HFEngine:
    """Generates with a transformers model, or with a PEFT model whose adapters are the experts."""

    def __init__(self, model: Any, tokenizer: Any, batch_rows: int = 64):
        self.model = model
        self.tokenizer = tokenizer
        self.batch_rows = batch_rows
        self._expert: Any = model.active_adapter if isinstance(model, PeftModel) else None

    def set_expert(self, name: str | None) -> None:
        if name is not None:
            self.model.set_adapter(name)
        self._expert = name

    def mix(self, name: str, experts: Sequence[str], alpha: Tensor) -> None:
        self.model.add_weighted_adapter(list(experts), alpha, name)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, experts: Sequence[str | None] | None = None,
        streamer: Any = None,
    ) -> list[Completion]:  # fmt: skip
        """As `Engine.generate`; a streamer of transformers gets the tokens of a single prompt.

        Raises:
            ValueError: a prompt fills the context of the model.
        """
        if not prompts:
            return []
        self._check_lengths(prompts)
        answers: dict[int, Completion] = {}
        ended = StopCondition(self.tokenizer, self._eos(), sampling.stop)
        choose = TokenSampler(sampling, self._placeholders())
        batches = list(by_length([len(prompt) for prompt in prompts], self.batch_rows))
        with self._decoding(experts) as model:
            prefix = prefix_of(model, prompts, experts, self._rows)
            for batch in tqdm(batches, desc="generating", unit="batch", leave=False, disable=len(batches) < 2):
                rows, names = [prompts[i] for i in batch], None if experts is None else [experts[i] for i in batch]
                decoded = decode(
                    model, rows, names, prefix, self._rows, sampling.max_new_tokens, choose.of(len(batch)), ended,
                    self.tokenizer.pad_token_id, streamer,
                )  # fmt: skip
                for i, tokens in zip(batch, decoded, strict=True):
                    reason = "stop" if ended(tokens) else "length"
                    answers[i] = Completion(tokens, text_of(self.tokenizer, tokens, sampling), reason)
        return [answers[i] for i in range(len(prompts))]

    @torch.no_grad()
    def stream(
        self, prompts: Sequence[list[int]], samplings: Sequence[Sampling], experts: Sequence[str | None] | None,
        receive: Receive,
    ) -> None:  # fmt: skip
        """Continues the prompts of one batch, each with its own sampling, and hands over every token as it is chosen.

        An answer ends at EOS, at `max_new_tokens`, or where `receive` says so: stop strings are the receiver's matter.
        The tokens are those of `generate` for each prompt alone.
        """
        self._check_lengths(prompts)
        eos, never, counts, over = self._eos(), self._placeholders(), [0] * len(prompts), [False] * len(prompts)
        if not eos:
            raise ValueError(
                "the model names no token that ends its answers: set eos_token_id in its generation config"
            )
        end, greedy = min(eos), TokenSampler(Sampling(1), never).of(len(prompts))
        drawn = {row: TokenSampler(one, never).of(1) for row, one in enumerate(samplings) if one.temperature}

        def choose(logits: Tensor, alive: list[int]) -> Tensor:
            best = greedy(logits, alive).tolist()
            for i, row in enumerate(alive):
                if not over[row]:
                    token = int(drawn[row](logits[i : i + 1], [0])) if row in drawn else best[i]
                    counts[row] += 1
                    full = counts[row] == samplings[row].max_new_tokens
                    reason = "stop" if token in eos else "length" if full else None
                    over[row] = not receive(row, token, reason) or reason is not None
                    best[i] = token
                if over[row]:
                    best[i] = end
            return torch.tensor(best, device=logits.device)

        longest = max(one.max_new_tokens for one in samplings)
        with self._decoding(experts) as model:
            prefix = prefix_of(model, prompts, experts, self._rows)
            decode(
                model, prompts, experts, prefix, self._rows, longest, choose, lambda tokens: tokens[-1] == end,
                self.tokenizer.pad_token_id,
            )  # fmt: skip

    @torch.no_grad()
    def logprobs(
        self,
        prompts: Sequence[list[int]],
        completions: Sequence[list[int]],
        experts: Sequence[str | None] | None = None,
    ) -> list[Tensor]:
        """As `Engine.logprobs`: (tokens of the completion,) each, in float32."""
        self.model.eval()
        model = self._causal_model()
        answers: dict[int, Tensor] = {}
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        with self._weights(experts), self._held(experts):
            for batch in by_length(lengths, self.batch_rows):
                chosen = [completions[i] for i in batch]
                with self._rows(None if experts is None else [experts[i] for i in batch]):
                    states, targets = completion_states(model, [prompts[i] for i in batch], chosen)
                flat = token_logprobs(model.get_output_embeddings(), states, targets)
                answers |= dict(zip(batch, flat.split([len(c) for c in chosen]), strict=True))
        return [answers[i] for i in range(len(prompts))]

    @torch.no_grad()
    def next_logprobs(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> Tensor:
        """As `Engine.next_logprobs`: (prompts, tokens) in float32, on the CPU; ValueError as `generate`."""
        self.model.eval()
        self._check_lengths(prompts)
        model = self._causal_model()
        answers = torch.empty(len(prompts), len(tokens))
        with self._weights(None), self._held(None):
            for batch in by_length([len(prompt) for prompt in prompts], self.batch_rows):
                # Any token can stand for the next one: the state that predicts it does not see it.
                states, _ = completion_states(model, [prompts[i] for i in batch], [[tokens[0]]] * len(batch))
                logprobs = model.get_output_embeddings()(states).float().log_softmax(-1)
                answers[batch] = logprobs[:, list(tokens)].cpu()
        return answers

    def refresh(self) -> None:
        """Nothing to do: engine and training share the model."""

    def _causal_model(self) -> Any:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @contextmanager
    def _decoding(self, experts: Sequence[str | None] | None) -> Iterator[Any]:
        """The causal model, ready for many forward passes with these experts."""
        self.model.eval()
        model = self._causal_model()
        with self._weights(experts), self._held(experts), _contiguous_states(model.get_output_embeddings()):
            yield model

    def _placeholders(self) -> list[int]:
        """Tokens that stand for pieces of a picture: answers have none, as no piece would belong to them."""
        image = getattr(self.model.config, "image_token_id", None)
        return [] if image is None else [image]

    def _weights(self, experts: Sequence[str | None] | None) -> Any:
        """The weights of the chosen expert while inside; rows with experts of their own bring them along."""
        off = isinstance(self.model, PeftModel) and self._expert is None and experts is None
        return self.model.disable_adapter() if off else nullcontext()

    def _held(self, experts: Sequence[str | None] | None) -> Any:
        """Keeps W' of SVF's layers over many forward passes, in which the vectors do not change."""
        return hold(self.model) if experts is None else nullcontext()

    def _rows(self, experts: Sequence[str | None] | None) -> Any:
        """Rows of the forward passes inside with experts of their own (None: the base model); None gives all the
        active one."""
        if experts is None:
            return nullcontext()
        return self.model.base_model.adapters_of_rows([name or BASE_ROW for name in experts])

    def _eos(self) -> set[int]:
        eos = self._causal_model().generation_config.eos_token_id
        return {eos} if isinstance(eos, int) else set(eos or ())

    def _check_lengths(self, prompts: Sequence[list[int]]) -> None:
        context = self.model.config.get_text_config().max_position_embeddings
        for number, prompt in enumerate(prompts, 1):
            if len(prompt) >= context:
                of = f"prompt {number} of {len(prompts)}"
                raise ValueError(f"{of} has {len(prompt)} tokens; the context of the model holds {context}")


@contextmanager
def _contiguous_states(head: nn.Module) -> Iterator[None]:
    """Inside, the output head takes states that lie in one piece of memory.

    On a CPU, torch copies a frozen weight for every row of a batch whose rows lie apart, as the last positions of
    prompts do.
    """
    handle = head.register_forward_pre_hook(lambda _, states: (states[0].contiguous(),))
    try:
        yield
    finally:
        handle.remove()


class TokenSampler:
    """Draws tokens, so that a row's draws depend neither on what the other rows of its batch hold nor on which of them
    have left. They do depend on its place in the batch, and on the batches before: all share one stream of numbers."""

    def __init__(self, sampling: Sampling, never: Sequence[int]):
        self.temperature, self.never = sampling.temperature, list(never)
        self.generator = torch.Generator().manual_seed(sampling.seed)

    def of(self, rows: int) -> Callable[[Tensor, list[int]], Tensor]:
        """The next tokens of those rows of a batch of `rows` rows that the logits belong to."""

        def choose(logits: Tensor, alive: list[int]) -> Tensor:
            logits = logits.float()
            logits[:, self.never] = -torch.inf
            if self.temperature == 0:
                return logits.argmax(-1)
            total = (logits / self.temperature).softmax(-1).double().cumsum(-1)
            drawn = torch.rand(rows, generator=self.generator, dtype=torch.float64)[alive].to(logits.device)
            return torch.searchsorted(total, drawn[:, None] * total[:, -1:], right=True)[:, 0]

        return choose


class StopCondition:
    """Whether an answer ends with its newest token: by an end token, or as its text now holds a stop string."""

    def __init__(self, tokenizer: Any, eos: set[int], stop: tuple[str, ...]):
        self.tokenizer, self.eos, self.stop = tokenizer, eos, stop
        self.window = max(map(len, stop), default=0) + 1  # a token adds at least one byte
        self.completing: dict[int, bool] = {}

    def __call__(self, tokens: list[int]) -> bool:
        if tokens[-1] in self.eos:
            return True
        if not self.stop or not self._may_complete(tokens[-1]):
            return False
        text = self.tokenizer.decode(tokens[-self.window :])
        return any(string in text for string in self.stop)

    def _may_complete(self, token: int) -> bool:
        """Whether a stop string can end in this token, which few tokens allow: decoding takes time."""
        if token not in self.completing:
            text = self.tokenizer.decode([token])
            # A token alone may lose its first blank; a piece of a character decodes to the replacement character.
            ends = {string[i:].lstrip() for string in self.stop for i in range(len(string))}
            self.completing[token] = "\ufffd" in text or any(text.lstrip().startswith(end) for end in ends)
            self.completing[token] |= any(string in text for string in self.stop)
        return self.completing[token]
