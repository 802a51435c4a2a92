"""The engine on vLLM: continuous batching and paged attention, for language models with experts of every kind.

How an expert gets there depends on its kind:

- SVF: its z goes to the workers, which have W and Q (`vllm_worker`). One expert is in the weights at a time.
- LoRA: vLLM's own adapters, read from a folder, in an engine that was started for them.
- all others (DoRA, IA3, VeRA, TinyLoRA): the weights that they are merged into, from a model in this process.

The prefix cache is emptied after every change of the weights, which vLLM does not do by itself. An engine that answers
in training sleeps while the training needs the GPU.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from transformer2.checksums import verified
from transformer2.svf.model import SVFModel, mixed_vectors

from .engine import Completion, Sampling, text_of
from .merged import merged_parameters
from .vllm_worker import as_bytes, parameter_files

LONGEST = 8192
"""Tokens of a prompt and its answer together, unless the model's context is shorter."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM can be started for; LoRA of another rank takes the place of the next one."""

Vectors = Mapping[str, Tensor]
"""z by module name, see `transfer.read_z`."""
Expert = Vectors | Path | PeftModel
"""SVF by its vectors, LoRA by its folder, any other adapter as the active one of a model."""


class VLLMEngine:
    """Generates with vLLM."""

    def __init__(
        self, model: Path, tokenizer: Any, basis: Path | None = None, experts: Mapping[str, Expert] | None = None,
        dtype: str = "float32", gpus: int = 1, memory: float = 0.9, lora_rank: int = 0, base: Any = None,
        on_host: bool = False,
    ):  # fmt: skip
        """Starts vLLM.

        Args:
            model: folder of the base model.
            tokenizer: of the model.
            basis: its bases, for SVF.
            experts: by name.
            dtype: that the model runs in.
            gpus: that share the model, each with a worker. The worker of a single one runs in this process.
            memory: share of each GPU's memory that vLLM may use.
            lora_rank: start it for LoRA of up to this rank, and no other experts; 0: for all others.
            base: the same model of transformers in this process, whose weights the worker then need not have a copy of.
            on_host: see `SVFWorker.svf_open`.

        Raises:
            ImportError: vLLM is not installed.
            ValueError: experts of SVF without a basis, a model that takes pictures.
        """
        self.model, self.tokenizer, self.lora_rank = Path(model), tokenizer, lora_rank
        self.policy: Any = None
        self._has_basis, self._in_process = basis is not None, gpus == 1
        self._experts: dict[str, Expert] = {}
        self._expert: str | None = None
        self._running: str | None = None  # the expert in the workers' weights
        self._stale = False  # whether it has changed since
        self._asleep = False
        self._loras: dict[str, Any] = {}  # vLLM's request of each LoRA
        self._lora_ids = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None  # of the LoRA in training
        for name, expert in (experts or {}).items():
            self.put(name, expert)
        self._llm: Any = _start(self.model, dtype, gpus, memory, lora_rank)
        if not lora_rank:
            basis_file = str(verified(basis)) if basis else None
            shared = _weights(base, self.model) if base is not None and gpus == 1 else None
            self._llm.collective_rpc("svf_open", args=(str(self.model), basis_file, on_host, shared))

    def put(self, name: str, expert: Expert) -> None:
        """Adds (or overwrites) an expert.

        Raises:
            ValueError: it is of another kind than the engine was started for, or SVF without a basis.
        """
        if isinstance(expert, Path) != bool(self.lora_rank):
            raise ValueError("vLLM answers with LoRA, or with experts of other kinds: start it for those of one kind")
        if isinstance(expert, Mapping) and not self._has_basis:
            raise ValueError("experts of SVF on vLLM need the bases of their model (transformer2 basis)")
        self._experts[name] = expert
        self._loras.pop(name, None)
        self._stale |= name == self._running

    def set_expert(self, name: str | None) -> None:
        if name is not None and name not in self._experts:
            raise ValueError(f"no expert named {name}; there are {', '.join(self._experts)}")
        self._expert = name

    def mix(self, name: str, experts: Sequence[str], alpha: Tensor) -> None:
        vectors = {expert: self._experts[expert] for expert in experts}
        if other := [expert for expert, of in vectors.items() if not isinstance(of, Mapping)]:
            raise ValueError(f"{other[0]} is no expert of SVF: it cannot be mixed")
        self.put(name, mixed_vectors(vectors, alpha))  # type: ignore[arg-type]

    def follow(self, policy: PeftModel) -> None:
        """Answers with the active adapter of a model in training from now on; sleeps whenever it does not answer."""
        self.policy = policy
        self.refresh()
        self._expert = "default"

    def refresh(self) -> None:
        """Takes over what training has changed."""
        if self.policy is None:
            return
        if self.lora_rank:
            if self._folder:
                self._folder.cleanup()
            self._folder = tempfile.TemporaryDirectory(prefix="transformer2-lora-")
            self.policy.save_pretrained(self._folder.name)
            self.put("default", Path(self._folder.name))
        elif isinstance(self.policy.base_model, SVFModel):
            z = self.policy.base_model.vectors("default")
            self.put("default", {name.removeprefix("model."): vector.detach() for name, vector in z.items()})
        else:
            self.put("default", self.policy)

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
        if self._folder:
            self._folder.cleanup()
        if self._in_process:
            from vllm.distributed import cleanup_dist_env_and_memory  # pyright: ignore[reportMissingImports]

            cleanup_dist_env_and_memory()

    def _by_expert(self, n: int, experts: Sequence[str | None] | None, work: Any) -> list[Any]:
        """Results of `work(rows)` in the order of the rows, those of each expert together."""
        of_row = [self._expert] * n if experts is None else list(experts)
        results: dict[int, Any] = {}
        self._wake()
        for name in dict.fromkeys(of_row):
            rows = [i for i, expert in enumerate(of_row) if expert == name]
            self._use(name)
            results |= dict(zip(rows, work(rows), strict=True))
        self._sleep()
        return [results[i] for i in range(n)]

    def _wake(self) -> None:
        if self._asleep:
            torch.cuda.empty_cache()  # torch would keep what training has freed
            self._llm.wake_up()
            self._asleep = False

    def _sleep(self) -> None:
        """Beside a training: weights go to the memory of the CPU, the cache is dropped, and the GPU is free."""
        if self.policy is not None and torch.cuda.is_available():
            self._llm.sleep(level=1)
            self._asleep = True

    def _use(self, name: str | None) -> None:
        """Puts an expert (None: the base model) into the workers' weights, unless it is there."""
        if (name == self._running and not self._stale) or self.lora_rank:
            self._running = name
            return
        expert: Any = {} if name is None else self._experts[name]
        if isinstance(expert, Mapping):
            self._llm.collective_rpc("svf_scale", args=(as_bytes(expert),))
        else:
            self._llm.collective_rpc("svf_put", args=(merged_parameters(expert),))
        self._llm.reset_prefix_cache()
        self._running, self._stale = name, False

    def _lora(self) -> Any:
        """vLLM's request of the LoRA that answers; None for the base model.

        Every state of it has an id of its own, by which vLLM keeps prefixes apart. What it read before is dropped.
        """
        name = self._running
        if not self.lora_rank or name is None:
            return None
        if name not in self._loras:
            from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

            if self._lora_ids:
                self._llm.llm_engine.remove_lora(self._lora_ids)
            self._loras.clear()
            self._lora_ids += 1
            self._loras[name] = LoRARequest(f"{name}-{self._lora_ids}", self._lora_ids, str(self._experts[name]))
        return self._loras[name]

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
        tokens = [{"prompt_token_ids": list(ids)} for ids in prompts]
        return self._llm.generate(tokens, list(params), use_tqdm=False, lora_request=self._lora())


def _weights(base: Any, folder: Path) -> dict[str, Tensor]:
    """Parameters of a model in this process by their names in the files of a folder, without those of adapters."""
    parameters = {name.replace(".base_layer.", "."): parameter for name, parameter in base.named_parameters()}
    return {name: parameters[name] for name in parameter_files(folder) if name in parameters}


def memory_share(reserved: float) -> float:
    """Share of a GPU's memory that vLLM may take where `reserved` bytes of what is free now are needed for else."""
    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (1.0, 1.0)
    share = (free - reserved) / total if torch.cuda.is_available() else 0.9
    if share <= 0:
        raise ValueError(
            f"{free / 1e9:.1f} GB of the GPU are free, "
            f"and {reserved / 1e9:.1f} GB are needed beside vLLM: set engine hf"
        )
    return round(share, 3)


def start_rank(rank: int) -> int:
    """The rank to start vLLM for, so that LoRA of rank `rank` fits.

    Raises:
        ValueError: there is none.
    """
    fitting = [of_vllm for of_vllm in LORA_RANKS if of_vllm >= rank]
    if not fitting:
        raise ValueError(f"LoRA of rank {rank}: vLLM takes ranks up to {LORA_RANKS[-1]}; set engine hf")
    return fitting[0]


def _start(model: Path, dtype: str, gpus: int, memory: float, lora_rank: int) -> Any:
    """vLLM with the model and our worker extension."""
    options: dict[str, Any] = {"gpu_memory_utilization": memory, "enable_sleep_mode": True}
    if gpus == 1:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the worker shares weights with this process
    if not torch.cuda.is_available():
        # Eagerly. oneDNN would keep packed copies of the weights that no loader reaches, and has no public switch: a
        # test looks whether the private one is still there.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        import vllm._custom_ops as operations  # pyright: ignore[reportMissingImports]

        operations._supports_onednn = False
        options = {"enforce_eager": True, "kv_cache_memory_bytes": 2**30}
    if lora_rank:
        options |= {"enable_lora": True, "max_lora_rank": start_rank(lora_rank), "max_loras": 1}
    from transformers import AutoConfig
    from vllm import LLM  # pyright: ignore[reportMissingImports]

    config = AutoConfig.from_pretrained(model)
    if hasattr(config, "vision_config"):
        raise ValueError(f"{model}: the vLLM engine runs language models; use engine hf for those that take pictures")
    return LLM(
        model=str(verified(Path(model))), dtype=dtype, tensor_parallel_size=gpus, seed=0, enable_prefix_caching=True,
        max_model_len=min(LONGEST, config.max_position_embeddings), generation_config="vllm",
        worker_extension_cls="transformer2.rollout.vllm_worker.SVFWorker", disable_log_stats=True, **options,
    )  # fmt: skip
