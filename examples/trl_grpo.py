"""Trains an SVF expert by reinforcement learning with TRL's GRPO trainer (`pip install trl`; tried with trl 1.16).

    python -m transformer2 model --source pocket:llama --out results/models/pocket-llama/base   # a stand-in
    python examples/trl_grpo.py --model results/models/pocket-llama/base --out my-expert

A real model: `--model HuggingFaceTB/SmolLM2-135M-Instruct --data gsm8k.jsonl --learning-rate 2e-3`, with GSM8K's own
rows. GRPO is not the paper's REINFORCE: rewards are compared within the answers to one prompt (`transformer2` itself
has the paper's). The policy, its reference and its optimiser are TRL's; SVF is a PEFT configuration like any other.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from transformer2.svf import SVFConfig  # this import makes PEFT know SVF
from transformer2.tasks.gsm8k import TASK

HELD_OUT = 64


def word_problems(path: Path | None, limit: int) -> list[dict[str, Any]]:
    """Rows in GSM8K's columns, of a file or made up for the stand-ins."""
    if path is not None:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][:limit]
    from transformer2.pocket.corpus import rows

    return rows("gsm8k", "train", limit)


def reward(completions: list[Any], question: list[str], answer: list[str], **_: Any) -> list[float]:
    """+1 for a right answer and -1 for a wrong one, as in the paper, by the task's strict scorer."""
    texts = [completion[0]["content"] for completion in completions]
    rows = [{"question": q, "answer": a} for q, a in zip(question, answer, strict=True)]
    return [1.0 if score.strict else -1.0 for score in TASK.score(rows, texts)]


@torch.no_grad()
def accuracy(model: Any, tokenizer: Any, rows: list[dict[str, Any]], max_new_tokens: int) -> float:
    """Strict accuracy of greedy answers."""
    chats = [list(TASK.prompt(row).messages) for row in rows]
    batch = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True, padding_side="left"
    ).to(model.device)
    answers = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
    texts = tokenizer.batch_decode(answers[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return sum(bool(score.strict) for score in TASK.score(rows, texts)) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of the base model")
    parser.add_argument("--data", type=Path, help="JSON lines in GSM8K's columns, question and answer")
    parser.add_argument("--out", type=Path, required=True, help="folder for the expert")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=0.02, help="2e-3 is the paper's, for large models")
    parser.add_argument("--kl", type=float, default=0.0, help="beta of GRPO; its reference is the adapter switched off")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = word_problems(args.data, 512 + HELD_OUT)
    train = Dataset.from_list(
        [{"prompt": list(TASK.prompt(row).messages), "question": row["question"], "answer": row["answer"]}
         for row in rows[HELD_OUT:]]
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(args.model),
        reward_funcs=reward,
        args=GRPOConfig(
            str(args.out / "trainer"), max_steps=args.steps, learning_rate=args.learning_rate, beta=args.kl,
            per_device_train_batch_size=64, num_generations=8, max_completion_length=args.max_new_tokens,
            lr_scheduler_type="cosine", weight_decay=0.0,  # decay pulls to 0, and z = 0 deletes a matrix
            logging_steps=1, save_strategy="no", report_to=[], bf16=torch.cuda.is_available(),
        ),
        train_dataset=train,
        processing_class=tokenizer,
        peft_config=SVFConfig(task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.model.print_trainable_parameters()
    before = accuracy(trainer.model.eval(), tokenizer, rows[:HELD_OUT], args.max_new_tokens)
    trainer.train()
    after = accuracy(trainer.model.eval(), tokenizer, rows[:HELD_OUT], args.max_new_tokens)
    trainer.model.save_pretrained(args.out)
    print(f"right of {HELD_OUT} held-out questions: {before:.1%} before, {after:.1%} after; saved to {args.out}")


if __name__ == "__main__":
    main()
