"""The engine on vLLM: continuous batching and paged attention, for SVF experts of language models.

One expert is in the weights at a time (`vllm_worker`); rows with other experts wait for theirs. The prefix cache is
emptied after every change of the weights, which vLLM does not do by itself.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformer2.seals import intact
from transformer2.svf.model import mixed_vectors

from .engine import Completion, Sampling, text_of
from .vllm_worker import as_bytes

BESIDE_TRAINING = 0.45
"""Share of each GPU's memory that vLLM may use where a model is trained on the same GPUs."""
LONGEST = 8192
"""Tokens of a prompt and its answer together, unless the model's context is shorter."""


class VLLMEngine:
    """Generates with vLLM. `experts` are z by module name, by the expert's name; see `transfer.read_z`."""

    def __init__(
        self, model: Path, tokenizer: Any, basis: Path | None = None,
        experts: Mapping[str, Mapping[str, Tensor]] | None = None, dtype: str = "float32", gpus: int = 1,
        memory: float = 0.9, policy: Any = None,
    ):  # fmt: skip
        """`policy` is a PEFT model in training, whose "default" expert `refresh` takes over; `memory` is the share of
        each GPU's memory that vLLM may use.

        Raises:
            ImportError: vLLM is not installed.
            ValueError: experts or a policy without a basis.
        """
        self.model, self.tokenizer, self.policy = Path(model), tokenizer, policy
        self.basis = intact(basis) if basis else None
        self._vectors: dict[str, Mapping[str, Tensor]] = dict(experts or {})
        if (self._vectors or policy is not None) and basis is None:
            raise ValueError("experts on vLLM need the bases of their model (transformer2 basis)")
        self._expert: str | None = None
        self._running: str | None = None  # the expert in the workers' weights
        self._stale = False  # whether its vectors have changed since
        self._llm: Any = _start(self.model, dtype, gpus, memory)
        if policy is not None:
            self.follow(policy)

    def set_expert(self, name: str | None) -> None:
        if name is not None and name not in self._vectors:
            raise ValueError(f"no expert named {name}; there are {', '.join(self._vectors)}")
        self._expert = name

    def mix(self, name: str, experts: Sequence[str], alpha: Tensor) -> None:
        self.put(name, mixed_vectors({expert: self._vectors[expert] for expert in experts}, alpha))

    def follow(self, policy: Any) -> None:
        """Answers with the "default" expert of a PEFT model in training from now on."""
        self.policy, self._expert = policy, "default"
        self.refresh()

    def refresh(self) -> None:
        """Takes over the vectors that training has changed."""
        if self.policy is not None:
            z = self.policy.base_model.vectors("default")
            self.put("default", {name.removeprefix("model."): vector.detach() for name, vector in z.items()})

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, experts: Sequence[str | None] | None = None
    ) -> list[Completion]:
        def answer(rows: list[int]) -> list[Completion]:
            params = [self._params(sampling, i) for i in rows]
            return [self._completion(output, sampling) for output in self._run([prompts[i] for i in rows], params)]

        return self._by_expert(len(prompts), experts, answer)

    def logprobs(
        self,
        prompts: Sequence[list[int]],
        completions: Sequence[list[int]],
        experts: Sequence[str | None] | None = None,
    ) -> list[Tensor]:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        def score(rows: list[int]) -> list[Tensor]:
            whole = [[*prompts[i], *completions[i]] for i in rows]
            # Set here, this also makes vLLM skip the prefix cache, which has no log-probabilities.
            params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
            logprobs = []
            for i, output in zip(rows, self._run(whole, [params] * len(rows)), strict=True):
                positions = output.prompt_logprobs[len(prompts[i]) :]
                of_tokens = [at[token].logprob for at, token in zip(positions, completions[i], strict=True)]
                logprobs.append(torch.tensor(of_tokens))
            return logprobs

        return self._by_expert(len(prompts), experts, score)

    def next_logprobs(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> Tensor:
        pairs = [(prompt, [token]) for prompt in prompts for token in tokens]
        logprobs = self.logprobs([prompt for prompt, _ in pairs], [token for _, token in pairs])
        return torch.cat(logprobs).reshape(len(prompts), len(tokens))

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm

    def put(self, name: str, vectors: Mapping[str, Tensor]) -> None:
        """Adds (or overwrites) the expert `name`: z by module name."""
        self._vectors[name] = vectors
        self._stale |= name == self._running

    def _by_expert(self, n: int, experts: Sequence[str | None] | None, work: Any) -> list[Any]:
        """Results of `work(rows)` in the order of the rows, those of each expert together."""
        of_row = [self._expert] * n if experts is None else list(experts)
        results: dict[int, Any] = {}
        for name in dict.fromkeys(of_row):
            rows = [i for i, expert in enumerate(of_row) if expert == name]
            self._use(name)
            results |= dict(zip(rows, work(rows), strict=True))
        return [results[i] for i in range(n)]

    def _use(self, name: str | None) -> None:
        """Puts an expert (None: the base model) into the workers' weights, unless it is there."""
        if name == self._running and not self._stale:
            return
        vectors = {} if name is None else self._vectors[name]
        self._llm.collective_rpc("svf_scale", args=(str(self.model), str(self.basis), as_bytes(vectors)))
        self._llm.reset_prefix_cache()
        self._running, self._stale = name, False

    def _params(self, sampling: Sampling, row: int) -> Any:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        return SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            stop=list(sampling.stop),
            seed=sampling.seed + row if sampling.temperature > 0 else None,
        )

    def _completion(self, output: Any, sampling: Sampling) -> Completion:
        (answer,) = output.outputs
        tokens = list(answer.token_ids)
        finish = "length" if answer.finish_reason == "length" else "stop"
        return Completion(tokens, text_of(self.tokenizer, tokens, sampling), finish)

    def _run(self, prompts: Sequence[list[int]], params: Sequence[Any]) -> list[Any]:
        return self._llm.generate([{"prompt_token_ids": list(ids)} for ids in prompts], list(params), use_tqdm=False)


def _start(model: Path, dtype: str, gpus: int, memory: float) -> Any:
    """vLLM with the model and our worker extension."""
    options: dict[str, Any] = {"gpu_memory_utilization": memory}
    if not torch.cuda.is_available():
        # In this process and eagerly. oneDNN would keep packed copies of the weights that no loader reaches, and has no
        # public switch: a test looks whether the private one is still there.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        import vllm._custom_ops as operations  # pyright: ignore[reportMissingImports]

        operations._supports_onednn = False
        options = {"enforce_eager": True, "kv_cache_memory_bytes": 2**30}
    from transformers import AutoConfig
    from vllm import LLM  # pyright: ignore[reportMissingImports]

    config = AutoConfig.from_pretrained(model)
    if hasattr(config, "vision_config"):
        raise ValueError(f"{model}: the vLLM engine runs language models; use engine hf for those that take pictures")
    return LLM(
        model=str(intact(Path(model))), dtype=dtype, tensor_parallel_size=gpus, seed=0, enable_prefix_caching=True,
        max_model_len=min(LONGEST, config.max_position_embeddings), generation_config="vllm",
        worker_extension_cls="transformer2.rollout.vllm_worker.SVFWorker", disable_log_stats=True, **options,
    )  # fmt: skip
