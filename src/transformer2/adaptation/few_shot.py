"""Few-shot adaptation: scores mixes of experts on a few held-out prompts, all candidates in one batch."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from transformer2.config import Search
from transformer2.provenance import read_complete_lines
from transformer2.rollout.engine import Engine, Sampling, encode_prompt
from transformer2.tasks import RIGHT, Row, Task

from .cem import Result, Score, key, search


def score_mixes(
    engine: Engine, tokenizer: Any, task: Task, rows: Sequence[Row], experts: Sequence[str], alphas: Sequence[Tensor],
    which: str, max_new_tokens: int,
) -> list[Score]:  # fmt: skip
    """Score of each mix on `rows`: mean score of its greedy answers, and the mean log-likelihood over the tokens of its
    own right answers (Appendix A.4).

    Naive equivalent: for each alpha, mix, answer the rows, score. Here all mixes are experts of one mixed batch.
    """
    names = [f"candidate{i}" for i in range(len(alphas))]
    for name, alpha in zip(names, alphas, strict=True):
        engine.mix(name, experts, alpha[:, 0] if alpha.shape[1] == 1 else alpha)
    prompts = [encode_prompt(tokenizer, task.prompt(row)) for row in rows]
    of_row = [name for name in names for _ in rows]
    completions = engine.generate(prompts * len(names), Sampling(max_new_tokens, stop=task.stop), of_row)
    verdicts = task.score([*rows] * len(names), [completion.text for completion in completions])
    credits = [getattr(verdict, which) for verdict in verdicts]
    right = [i for i, credit in enumerate(credits) if credit >= RIGHT and completions[i].token_ids]
    logprobs = engine.logprobs(
        [prompts[i % len(rows)] for i in right],
        [completions[i].token_ids for i in right],
        [of_row[i] for i in right],
    )
    scores = []
    for first in range(0, len(completions), len(rows)):
        of_mix = [j for j, i in enumerate(right) if first <= i < first + len(rows)]
        tokens = sum(len(logprobs[j]) for j in of_mix)
        loglik = sum(float(logprobs[j].sum()) for j in of_mix) / tokens if tokens else -float("inf")
        scores.append((sum(credits[first : first + len(rows)]) / len(rows), loglik))
    return scores


class ScoreCache:
    """Scores of candidates in a file, so that a search that was stopped is resumed without scoring them again.

    The first line is the job (any JSON value). A file of another job is replaced; an unfinished last line is dropped.
    Generations are kept whole, so a resumed search equals one that never stopped. The caller deletes the file after
    success; code changes do not invalidate it.
    """

    def __init__(self, path: Path, job: Any):
        self.path = path
        lines, begin = read_complete_lines(path), json.dumps([job])
        mine = bool(lines) and json.dumps(lines[0]) == begin
        self.scores: dict[str, Score] = {}
        for generation in lines[1:] if mine else ():
            self.scores |= {key: (accuracy, loglik) for key, accuracy, loglik in generation}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) if mine else f"{begin}\n")

    def __call__(self, alphas: list[Tensor], evaluate: Callable[[list[Tensor]], Sequence[Score]]) -> list[Score]:
        """Scores of candidates, from the file where all of them are in it."""
        keys = [key(alpha).hex() for alpha in alphas]
        if not all(name in self.scores for name in keys):
            self.scores |= dict(zip(keys, evaluate(alphas), strict=True))
            with open(self.path, "a") as file:
                file.write(json.dumps([(name, *self.scores[name]) for name in keys]) + "\n")
        return [self.scores[name] for name in keys]


def adapt(
    engine: Engine, tokenizer: Any, task: Task, rows: Sequence[Row], experts: Sequence[str], layers: int,
    settings: Search, seed: int, cache: ScoreCache | None = None,
) -> Result:  # fmt: skip
    """Searches the mix of `experts` that answers `rows` best; the engine then holds it under the name "default".

    Args:
        engine: with the experts.
        tokenizer: of its model.
        task: how the rows are asked and scored.
        rows: the few shots.
        experts: names of the experts to mix.
        layers: decoder layers of the model.
        settings: what is searched, how, and how a candidate is scored.
        seed: of the draws.
        cache: scores of an earlier, stopped run of the same search.

    Raises:
        ValueError: no shot, or no expert.
    """
    if not rows:
        raise ValueError("few-shot adaptation needs at least one shot; there is none")
    if not experts:
        raise ValueError("few-shot adaptation needs at least one expert; there is none")
    width = layers if settings.granularity == "layer" else 1
    with tqdm(total=settings.iterations, desc=f"adapting to {task.name}", unit="iteration") as bar:

        def score(alphas: list[Tensor]) -> list[Score]:
            return score_mixes(engine, tokenizer, task, rows, experts, alphas, settings.score, settings.max_new_tokens)

        def evaluate(alphas: list[Tensor]) -> list[Score]:
            scores = cache(alphas, score) if cache else score(alphas)
            bar.set_postfix(accuracy=f"{max(scores)[0]:.2f}" if scores else "as before")
            bar.update()
            return scores

        result = search(evaluate, (len(experts), width), settings, settings.normalised, seed)
    engine.mix("default", experts, result.alpha[:, 0] if width == 1 else result.alpha)
    return result
