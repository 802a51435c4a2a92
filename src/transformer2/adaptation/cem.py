"""The cross-entropy method over mixing weights alpha (Section 3.2 C, Appendix A.4).

Each iteration draws a population around a mean, ranks it, and moves mean and deviation to those of the elite.
Candidates, and so the elite, are ranked by (share of shots answered right, mean log-likelihood of the right answers):
with ten shots most candidates tie on the first, and the released code's elite is arbitrary among them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from transformer2.config import CEM

Score = tuple[float, float]
"""Mean score of the answers, and the mean log-likelihood of the tokens of the right ones (-inf if there are none)."""
NO_SIGNAL = "no signal: no candidate answered any shot right, so the uniform mix is kept"
CONVERGED = "converged: no better candidate in {} iterations"


@dataclass
class Result:
    """The result of a search: `alpha` (K, L) is the best candidate ever scored; `history` has an entry an iteration."""

    alpha: Tensor
    score: Score
    stopped: str
    history: list[dict[str, Any]] = field(default_factory=list)


def search(
    evaluate: Callable[[list[Tensor]], Sequence[Score]],
    shape: tuple[int, int],
    settings: CEM,
    normalised: bool,
    seed: int,
) -> Result:
    """Maximises the score of alpha (K, L): K experts, one column for all layers together (L = 1) or for each layer.

    The uniform mix is the first candidate of all, and the best candidate so far goes into every later population, so
    the result is never worse than the uniform mix on the shots.

    Args:
        evaluate: scores of candidates (K, L) each; asked once for each distinct candidate.
        shape: (K, L).
        settings: population, elites, deviations and the end of the search.
        normalised: candidates are divided by their sum over the experts.
        seed: of the draws.
    """
    experts, _ = shape
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.full(shape, 1 / experts)
    mean = uniform if settings.initial_mean is None else torch.full(shape, float(settings.initial_mean))
    std = torch.full(shape, float(settings.initial_std))
    known: dict[bytes, Score] = {}
    result = Result(uniform, (0.0, -torch.inf), "all iterations")
    since_best = 0
    for iteration in range(settings.iterations):
        drawn = draw(mean, std, settings.population - 1, normalised, generator)
        population = [result.alpha, *drawn]
        new = {key(alpha): alpha for alpha in population if key(alpha) not in known}
        known |= dict(zip(new, evaluate(list(new.values())), strict=True))
        population.sort(key=lambda alpha: known[key(alpha)], reverse=True)  # stable: the best so far stays first
        leader = known[key(population[0])]
        since_best = since_best + 1 if iteration and leader <= result.score else 0
        result.alpha, result.score = population[0], leader
        if leader[0] > 0:  # without any right answer the ranks mean nothing: draw around the same mean again
            elite = torch.stack(population[: settings.elites])
            mean, std = elite.mean(0), elite.std(0, correction=0).clamp(min=settings.smallest_std)
        result.history.append(
            {
                "iteration": iteration, "mean": mean.tolist(), "std": std.tolist(), "best": result.alpha.tolist(),
                "best_accuracy": leader[0], "best_loglik": leader[1] if leader[1] > -torch.inf else None,
                "evaluated": len(known),
            }
        )  # fmt: skip
        if since_best >= settings.patience:
            result.stopped = CONVERGED.format(since_best)
            break
    if result.score[0] == 0:
        result.alpha, result.stopped = uniform, NO_SIGNAL
    return result


def draw(mean: Tensor, std: Tensor, n: int, normalised: bool, generator: torch.Generator) -> list[Tensor]:
    """n candidates (K, L) from a normal distribution, kept within 0..1 as in the released code.

    A column of zeros would delete its matrices (z' = 0), so it is drawn again.
    """
    candidates = []
    for _ in range(n):
        alpha = torch.zeros_like(mean)
        while (empty := (alpha == 0).all(0)).any():
            again = (mean + std * torch.randn(mean.shape, generator=generator)).clamp(0, 1)
            alpha = torch.where(empty, again, alpha)
        candidates.append(alpha / alpha.sum(0) if normalised else alpha)
    return candidates


def key(alpha: Tensor) -> bytes:
    """Identity of a candidate."""
    return alpha.numpy().tobytes()
