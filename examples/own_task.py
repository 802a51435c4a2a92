"""A task of your own, from rows to a trained expert: what to write, and what of this project uses it.

    python -m transformer2 model --source pocket:llama --out results/models/pocket-llama/base   # a stand-in
    python examples/own_task.py --model results/models/pocket-llama/base --out my-expert

A task says how a row is asked and how an answer is scored. Here: a shop's stock, whose rows are made up below; yours
would be read from a file. In a run of the workflow the same `Task` stands in a file of its own (docs/extending.md).
"""

import argparse
import random
import re
from collections.abc import Sequence
from pathlib import Path

from transformer2.config import TaskTraining
from transformer2.evaluation import accuracy
from transformer2.models import load_model, load_tokenizer, new_expert
from transformer2.rollout.hf import HFEngine
from transformer2.tasks.base import Prompt, Row, Score, Split, Task, Text
from transformer2.training.loop import Trainer

GOODS = ("keys", "cakes", "stamps", "coins", "books", "cups")


def made_up_rows(split: str, n: int) -> list[Row]:
    """Rows with a question and a whole number as answer; each split has its own."""
    draw = random.Random(split)
    rows = []
    for i in range(n):
        stock, delivered, goods = draw.randint(2, 9), draw.randint(2, 9), draw.choice(GOODS)
        sold = draw.randint(1, min(stock + delivered, 9))
        question = f"The shop has {stock} {goods}. The shop gets {delivered} more. Then the shop sells {sold}. "
        question += f"How many {goods} are left?"
        rows.append({"item": f"shop/{split}/{i}", "question": question, "answer": stock + delivered - sold})
    return rows


def prompt(row: Row) -> Prompt:
    """How a row is asked; the model's own chat template is put around it."""
    system = "Solve the problem step by step and end with the number."
    return Prompt(({"role": "system", "content": system}, {"role": "user", "content": row["question"]}))


def score(rows: Sequence[Row], completions: Sequence[str]) -> list[Score]:
    """Strict: the answer ends with "#### " and the number. Lenient: its last number is right."""
    scores = []
    for row, completion in zip(rows, completions, strict=True):
        numbers = re.findall(r"-?\d+", completion)
        last = numbers[-1] if numbers else None
        strict = completion.strip().endswith(f"#### {row['answer']}")
        scores.append(Score(strict=strict, lenient=strict or last == str(row["answer"]), answer=last))
    return scores


SHOP = Task(
    name="shop",
    version=1,
    domain="math",  # the class that dispatch gives to its prompts
    columns={"question": Text, "answer": int},
    source=None,  # not downloaded
    splits={"train": Split("train"), "validation": Split("validation"), "test": Split("test")},
    prompt=prompt,
    question=lambda row: row["question"],
    solution=lambda row: f"#### {row['answer']}",  # what next-token training would learn
    score=score,
    stop=(),
    max_new_tokens=32,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the expert")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=0.02, help="2e-3 is the paper's, for large models")
    args = parser.parse_args()

    tokenizer, task = load_tokenizer(args.model), SHOP
    settings = TaskTraining(
        steps=args.steps, learning_rate=args.learning_rate, batch_size=64, eval_every=4, init_std=0.0,
        max_new_tokens=task.max_new_tokens,
    )  # fmt: skip
    model = new_expert(load_model(args.model), settings, basis=None, seed=0)
    engine, test = HFEngine(model, tokenizer), made_up_rows("test", 100)

    before = accuracy(engine, tokenizer, task, test, task.max_new_tokens, "strict")
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        model,
        engine,
        tokenizer,
        task,
        made_up_rows("train", 256),
        made_up_rows("validation", 50),
        settings,
        0,
        args.out,
    )
    trainer.run()  # REINFORCE, Eq. (1); stopped and started again, it goes on from its checkpoint
    trainer.save()
    engine.refresh()
    after = accuracy(engine, tokenizer, task, test, task.max_new_tokens, "strict")
    print(f"right of {len(test)} test questions: {before:.0%} before, {after:.0%} after; saved to {args.out}")


if __name__ == "__main__":
    main()
