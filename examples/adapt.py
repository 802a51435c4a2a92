"""A model that adapts to its prompts: by dispatch to one expert, and by a mix of experts found on a few shots.

    snakemake --cores all                                             # makes the experts (or train your own)
    python examples/adapt.py --experts results/pocket/kits/pocket-llama/seed0

`--experts` has one folder for each expert, named after its class: code, math, reasoning. A folder `cls` in it, if
there is one, is the classification expert.
"""

import argparse
from pathlib import Path

from transformer2.adaptation.model import SelfAdaptiveModel
from transformer2.experts import read_expert
from transformer2.pocket.corpus import rows
from transformer2.tasks import TASKS

CLASSIFIER = "cls"


def experts_in(folder: Path) -> dict[str, Path]:
    """The folder of each expert by its name."""
    return {config.parent.name: config.parent for config in sorted(folder.glob("*/adapter_config.json"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=Path, required=True)
    parser.add_argument("--model", help="the base model; without it, the one that the experts name")
    parser.add_argument("--task", default="math", choices=["math", "humaneval", "arc_challenge"], help="unseen task")
    parser.add_argument("--shots", type=int, default=10)
    args = parser.parse_args()

    experts = experts_in(args.experts)
    classifier = experts.pop(CLASSIFIER, None)
    if not experts:
        raise SystemExit(f"error: {args.experts} holds no experts (folders with an adapter_config.json)")
    base: str = args.model or str(read_expert(next(iter(experts.values())))[0].base_model_name_or_path)

    # Two passes: the class of each prompt, then the answer of the expert of that class.
    strategy = "prompt" if classifier is None else "cls"
    model = SelfAdaptiveModel.from_pretrained(base, experts, strategy, classifier=classifier)
    questions = [row["question"] for row in rows("gsm8k", "test", 2)]
    for question, answer in zip(questions, (answers := model.generate(questions, 32)).texts, strict=True):
        print(f"> {question}\n{answer}\n")
    print(
        f"classes: {answers.classes}; {answers.first_seconds:.2f} s to decide, {answers.second_seconds:.2f} s to answer"
    )

    # A few shots of an unseen task: one mix of all experts, then used for every prompt.
    task = TASKS[args.task]
    mixed = SelfAdaptiveModel.from_pretrained(base, experts, "few-shot")
    search = {"population": 16, "elites": 4, "iterations": 10, "max_new_tokens": 40}
    found = mixed.adapt(rows(args.task, "test", args.shots), task, **search)
    alpha = {name: [round(value, 2) for value in row] for name, row in zip(experts, found.alpha.tolist(), strict=True)}
    print(f"mix for {args.task}: {alpha}, {found.score[0]:.0%} of {args.shots} shots right; {found.stopped}")


if __name__ == "__main__":
    main()
