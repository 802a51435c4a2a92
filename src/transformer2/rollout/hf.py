"""The engine on transformers' own `generate`: any machine, any model; the reference for the others."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from transformer2.svf.layer import BASE_ROW

from .batching import by_length, pad
from .engine import Completion, Sampling, text_of
from .likelihood import completion_states, token_logprobs
from .pictures import picture_inputs


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
        self.model.eval()
        self._check_lengths(prompts)
        torch.manual_seed(sampling.seed)
        answers: dict[int, Completion] = {}
        batches = list(by_length([len(prompt) for prompt in prompts], self.batch_rows))
        with self._weights(experts):
            for batch in tqdm(batches, desc="generating", unit="batch", leave=False, disable=len(batches) < 2):
                options = _of_rows(experts, batch) | ({"streamer": streamer} if streamer else {})
                completions = self._generate_batch([prompts[i] for i in batch], sampling, options)
                answers |= dict(zip(batch, completions, strict=True))
        return [answers[i] for i in range(len(prompts))]

    @torch.no_grad()
    def logprobs(
        self,
        prompts: Sequence[list[int]],
        completions: Sequence[list[int]],
        experts: Sequence[str | None] | None = None,
    ) -> list[Tensor]:
        self.model.eval()
        model = self._causal_model()
        answers: dict[int, Tensor] = {}
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        with self._weights(experts):
            for batch in by_length(lengths, self.batch_rows):
                chosen = [completions[i] for i in batch]
                with self._rows(_of_rows(experts, batch)):
                    states, targets = completion_states(model, [prompts[i] for i in batch], chosen)
                flat = token_logprobs(model.get_output_embeddings(), states, targets)
                answers |= dict(zip(batch, flat.split([len(c) for c in chosen]), strict=True))
        return [answers[i] for i in range(len(prompts))]

    @torch.no_grad()
    def next_logprobs(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> Tensor:
        self.model.eval()
        self._check_lengths(prompts)
        model = self._causal_model()
        answers = torch.empty(len(prompts), len(tokens))
        with self._weights(None):
            for batch in by_length([len(prompt) for prompt in prompts], self.batch_rows):
                # Any token can stand for the next one: the state that predicts it does not see it.
                states, _ = completion_states(model, [prompts[i] for i in batch], [[tokens[0]]] * len(batch))
                logprobs = model.get_output_embeddings()(states).float().log_softmax(-1)
                answers[batch] = logprobs[:, list(tokens)].cpu()
        return answers

    def refresh(self) -> None:
        """Nothing to do: engine and training share the model."""

    def close(self) -> None:
        del self.model

    def _causal_model(self) -> Any:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def _placeholders(self) -> list[int] | None:
        """Tokens that stand for pieces of a picture: answers have none, as no piece would belong to them."""
        image = getattr(self.model.config, "image_token_id", None)
        return None if image is None else [image]

    def _weights(self, experts: Sequence[str | None] | None) -> Any:
        """The weights of the chosen expert while inside; rows with experts of their own bring them along."""
        off = isinstance(self.model, PeftModel) and self._expert is None and experts is None
        return self.model.disable_adapter() if off else nullcontext()

    def _rows(self, rows: dict[str, Any]) -> Any:
        """Rows of a forward pass of the base model with experts of their own; `generate` takes them by itself."""
        return self.model.base_model.adapters_of_rows(rows["adapter_names"]) if rows else nullcontext()

    def _check_lengths(self, prompts: Sequence[list[int]]) -> None:
        context = self.model.config.get_text_config().max_position_embeddings
        for number, prompt in enumerate(prompts, 1):
            if len(prompt) >= context:
                of = f"prompt {number} of {len(prompts)}"
                raise ValueError(f"{of} has {len(prompt)} tokens; the context of the model holds {context}")

    def _generate_batch(
        self, prompts: list[list[int]], sampling: Sampling, options: dict[str, Any]
    ) -> list[Completion]:
        eos = self._causal_model().generation_config.eos_token_id
        eos_ids: set[int] = {eos} if isinstance(eos, int) else set(eos or ())
        # The model's own generation config may set top-k, top-p and penalties: here they are off.
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
        config = GenerationConfig(
            **(drawn if sampling.temperature > 0 else {"do_sample": False}),
            max_new_tokens=sampling.max_new_tokens,
            repetition_penalty=1.0,
            use_cache=True,
            eos_token_id=sorted(eos_ids) or None,
            pad_token_id=self.tokenizer.pad_token_id,
            suppress_tokens=self._placeholders(),
        )
        ids, mask = (t.to(self.model.device) for t in pad(prompts, self.tokenizer.pad_token_id, "left"))
        stops = _StopStrings(self.tokenizer, sampling.stop, len(prompts), ids.shape[1])
        with self._causal_model().get_output_embeddings().register_forward_pre_hook(_contiguous):
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                **picture_inputs(prompts, self.model.device),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([stops]),
                **options,
            )
        answers = output[:, ids.shape[1] :].tolist()
        return [
            self._completion(row, length, eos_ids, sampling) for row, length in zip(answers, stops.lengths, strict=True)
        ]

    def _completion(self, row: list[int], stopped: int | None, eos_ids: set[int], sampling: Sampling) -> Completion:
        ended = next((i + 1 for i, token in enumerate(row) if token in eos_ids), None)
        length = min((n for n in (ended, stopped) if n is not None), default=None)
        tokens = row[:length]
        return Completion(tokens, text_of(self.tokenizer, tokens, sampling), "length" if length is None else "stop")


def _contiguous(_head: Any, states: tuple[Tensor]) -> tuple[Tensor]:
    """The states that the output head takes, in one piece of memory.

    On a CPU, torch copies a frozen weight for every row of a batch whose rows lie apart, as the last positions of
    prompts do.
    """
    return (states[0].contiguous(),)


def _of_rows(experts: Sequence[str | None] | None, batch: list[int]) -> dict[str, Any]:
    """PEFT's argument for a batch whose rows have experts of their own; empty if they have none."""
    return {} if experts is None else {"adapter_names": [experts[i] or BASE_ROW for i in batch]}


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
