"""One optimizer step as the released code takes it, written from its description: the rival of `step`.

Each adapted W is U diag(s mask) V^T times a number that keeps the nuclear norm, with mask = sigmoid(p). A step

1. puts the base weights in place and keeps the base model's log-probabilities of every answer over the vocabulary,
2. composes every W' with dense diagonal matrices and puts it in place,
3. runs one answer at a time forward and backward, with gradients on all weights, as none is frozen,
4. composes every W' again under autograd, to carry dL/dW' on to p, and lets Adam take its step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from transformer2.config import Training
from transformer2.training.objective import Sample

from .models import MLP, norms, orthogonal


class ReleasedStep:
    """The algorithm's state on a model, which it changes."""

    def __init__(self, model: Any, settings: Training):
        self.model, self.settings = model, settings
        self.modules = [m for name, m in model.named_modules() if name.endswith(tuple(MLP))]
        self.base = [m.weight.detach().clone() for m in self.modules]
        self.factors = [factors(weight) for weight in self.base]
        starts = enumerate(s for _, s, _ in self.factors)
        self.p = [start(i, len(s), settings).to(s.device).requires_grad_() for i, s in starts]
        self.optimizer = torch.optim.Adam(self.p, lr=settings.learning_rate)
        model.requires_grad_(True)

    def __call__(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Takes one step; returns the gradients of all vectors one after another, and z after the step."""
        with torch.no_grad():
            self._put(self.base)
            reference = [self._logprobs(sample) for sample in samples]
            self._put([compose(f, p) for f, p in zip(self.factors, self.p, strict=True)])
        for sample, of_base in zip(samples, reference, strict=True):
            logprobs = self._logprobs(sample)
            answer = torch.tensor(sample.completion_ids, device=logprobs.device)
            chosen = logprobs.gather(-1, answer[:, None]).sum()
            kl = kl_div(logprobs, of_base, log_target=True, reduction="sum")
            loss = -(chosen * sample.reward - self.settings.kl_coefficient * kl) / len(samples)
            loss.backward()
        for f, p, module in zip(self.factors, self.p, self.modules, strict=True):
            compose(f, p).backward(module.weight.grad)
        self.model.zero_grad()
        gradients = torch.cat([p.grad for p in self.p])  # type: ignore[misc]
        torch.nn.utils.clip_grad_norm_(self.p, self.settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return gradients, torch.cat([mask(s, p.detach()) for (_, s, _), p in zip(self.factors, self.p, strict=True)])

    def _put(self, weights: Sequence[Tensor]) -> None:
        for module, weight in zip(self.modules, weights, strict=True):
            module.weight.data.copy_(weight)

    def _logprobs(self, sample: Sample) -> Tensor:
        """Log-probabilities over the vocabulary at every token of an answer, (tokens, vocabulary)."""
        ids = torch.tensor([[*sample.prompt_ids, *sample.completion_ids]], device=self.model.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, len(sample.prompt_ids) - 1 : -1]
        return logits.float().log_softmax(-1)


def start(number: int, r: int, settings: Training) -> Tensor:
    """Values (r,) at which the vector of the matrix of this number starts, the same for both sides."""
    draws = torch.randn(r, generator=torch.Generator().manual_seed(number))
    return (settings.init_mean or 0.0) + settings.init_std * draws


def factors(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, r), s (r,) and V^T (r, n) that multiply to the weight, one of them the basis of `orthogonal`."""
    q, s = orthogonal(weight), norms(weight)
    if weight.shape[0] >= weight.shape[1]:
        return (weight @ q) / s.to(weight), s.to(weight), q.T.contiguous()
    return q, s.to(weight), (q.T @ weight) / s.to(weight)[:, None]


def mask(s: Tensor, p: Tensor) -> Tensor:
    """z (r,) of a trained vector: a sigmoid, scaled so that the nuclear norm stays."""
    return torch.sigmoid(p) * (s.sum() / (s * torch.sigmoid(p)).sum())


def compose(parts: tuple[Tensor, Tensor, Tensor], p: Tensor) -> Tensor:
    """W' (m, n), with a dense diagonal matrix as in the released code."""
    u, s, vt = parts
    scaled = s * torch.sigmoid(p)
    return (u @ torch.diag_embed(scaled) @ vt) * (s.sum() / scaled.sum())
