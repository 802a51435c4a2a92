"""What an answer's reward is compared with before it weighs the gradient: the other answers to the same prompt."""

from collections.abc import Sequence
from dataclasses import replace

from .objective import Sample


def leave_one_out(samples: Sequence[Sample], answers: int) -> list[Sample]:
    """Samples whose weight is the advantage of each answer: its reward minus the mean of the others to its prompt.

    The gradient keeps its mean, and no longer varies with what all rewards have in common (RLOO: Kool et al. 2019,
    Ahmadian et al. 2024). Where all answers to a prompt are right, or all wrong, nothing is learnt from it.

    Args:
        samples: the answers to one prompt follow each other.
        answers: to each prompt, at least 2.
    """
    learnt = []
    for start in range(0, len(samples), answers):
        group = samples[start : start + answers]
        total = sum(sample.reward for sample in group)
        learnt += [replace(one, reward=one.reward - (total - one.reward) / (len(group) - 1)) for one in group]
    return learnt
