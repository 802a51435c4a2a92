"""The engine on transformers' own `generate`: any machine, any model; the reference for the others."""

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from .batching import by_length, pad
from .engine import Completion, Sampling
from .likelihood import completion_states, token_logprobs


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

    @torch.no_grad()
    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        self.model.eval()
        torch.manual_seed(sampling.seed)
        answers: dict[int, Completion] = {}
        with self._weights():
            for batch in by_length([len(prompt) for prompt in prompts], self.batch_rows):
                completions = self._generate_batch([prompts[i] for i in batch], sampling)
                answers |= dict(zip(batch, completions, strict=True))
        return [answers[i] for i in range(len(prompts))]

    @torch.no_grad()
    def logprobs(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[Tensor]:
        self.model.eval()
        model = self._causal_model()
        answers: dict[int, Tensor] = {}
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        with self._weights():
            for batch in by_length(lengths, self.batch_rows):
                chosen = [completions[i] for i in batch]
                states, targets = completion_states(model, [prompts[i] for i in batch], chosen)
                flat = token_logprobs(model.get_output_embeddings(), states, targets)
                answers |= dict(zip(batch, flat.split([len(c) for c in chosen]), strict=True))
        return [answers[i] for i in range(len(prompts))]

    def close(self) -> None:
        del self.model

    def _causal_model(self) -> Any:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def _weights(self) -> Any:
        """The weights of the chosen expert while inside."""
        off = isinstance(self.model, PeftModel) and self._expert is None
        return self.model.disable_adapter() if off else torch.no_grad()

    def _generate_batch(self, prompts: list[list[int]], sampling: Sampling) -> list[Completion]:
        eos = self._causal_model().generation_config.eos_token_id
        eos_ids: set[int] = {eos} if isinstance(eos, int) else set(eos or ())
        # What the model's own generation config may set otherwise (top-k, top-p, penalties) is set here.
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
        config = GenerationConfig(
            **(drawn if sampling.temperature > 0 else {"do_sample": False}),
            max_new_tokens=sampling.max_new_tokens,
            repetition_penalty=1.0,
            use_cache=True,
            eos_token_id=sorted(eos_ids) or None,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        ids, mask = (t.to(self.model.device) for t in pad(prompts, self.tokenizer.pad_token_id, "left"))
        stops = _StopStrings(self.tokenizer, sampling.stop, len(prompts), ids.shape[1])
        output = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([stops]),
        )
        rows = output[:, ids.shape[1] :].tolist()
        return [
            self._completion(row, length, eos_ids, sampling) for row, length in zip(rows, stops.lengths, strict=True)
        ]

    def _completion(self, row: list[int], stopped: int | None, eos_ids: set[int], sampling: Sampling) -> Completion:
        ended = next((i + 1 for i, token in enumerate(row) if token in eos_ids), None)
        length = min((n for n in (ended, stopped) if n is not None), default=None)
        tokens = row[:length]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        cut = min((text.find(stop) for stop in sampling.stop if stop in text), default=len(text))
        return Completion(tokens, text[:cut], "length" if length is None else "stop")


class _StopStrings(StoppingCriteria):
    """Ends a row as soon as its text holds a stop string, and remembers after how many tokens."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...], rows: int, prompt_length: int):
        self.tokenizer, self.stop, self.prompt_length = tokenizer, stop, prompt_length
        self.window = max((len(string) for string in stop), default=0) + 1  # a token adds at least one byte
        self.lengths: list[int | None] = [None] * rows

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self.stop:
            start = max(self.prompt_length, input_ids.shape[1] - self.window)
            texts = self.tokenizer.batch_decode(input_ids[:, start:])
            for row, text in enumerate(texts):
                if self.lengths[row] is None and any(string in text for string in self.stop):
                    self.lengths[row] = input_ids.shape[1] - self.prompt_length
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)
