"""The answers of one generation of the search for a mix: all candidates in one batch, against one after another."""

from typing import Any

import torch

from transformer2.rollout.engine import Sampling
from transformer2.rollout.hf import HFEngine

from ..measuring import Side, Work, compare, ratios
from ..models import NoTokenizer, load, token_ids, with_svf
from ..options import AnswerTokens, Candidates, Device, Dtype, Experts, Model, Prompts, PromptTokens, Repeats


def measure(
    device: Device = "cpu", model: Model = "smollm2", dtype: Dtype = "float32", repeats: Repeats = 1,
    candidates: Candidates = 16, prompts: Prompts = 10, prompt_tokens: PromptTokens = 40,
    answer_tokens: AnswerTokens = 8, experts: Experts = 3,
) -> dict[str, Any]:  # fmt: skip
    """One generation of candidates of the cross-entropy method, against one candidate after another."""
    names = [f"expert{i}" for i in range(experts)]
    adapted = with_svf(load(model, device, dtype), names, init_std=0.05).eval()
    rows = token_ids(adapted, [prompt_tokens] * prompts)
    alphas = list(torch.rand(candidates, experts, generator=torch.Generator().manual_seed(3)))
    sampling = Sampling(answer_tokens)
    engine = HFEngine(adapted, NoTokenizer(), batch_rows=candidates * prompts)

    def together() -> list[list[int]]:
        of_row = []
        for number, alpha in enumerate(alphas):
            engine.mix(f"candidate{number}", names, alpha)
            of_row += [f"candidate{number}"] * prompts
        return [answer.token_ids for answer in engine.generate(rows * candidates, sampling, of_row)]

    def one_by_one() -> list[list[int]]:
        answers = []
        for alpha in alphas:
            engine.mix("default", names, alpha)
            engine.set_expert("default")
            answers += [answer.token_ids for answer in engine.generate(rows, sampling)]
        return answers

    def side(work: Work) -> Work:
        work()  # adapters are added once in a search, and then overwritten
        return work

    measured = compare(
        [Side("together", lambda: side(together)), Side("one_by_one", lambda: side(one_by_one))], repeats, device
    )
    pairs = list(zip(measured["together"].result, measured["one_by_one"].result, strict=True))
    return {
        "sides": {name: one.facts() for name, one in measured.items()},
        "ratios": {"one_by_one/together": ratios(measured, "together", "one_by_one", device)},
        "same": {"answers": sum(a == b for a, b in pairs), "of": len(pairs)},
    }
