"""Trains an SVF expert by next token with transformers' own Trainer. Nothing of this project but the tuner is needed.

    python -m transformer2 model --source pocket:llama --out results/models/pocket-llama/base   # a stand-in
    python examples/train_expert.py --model results/models/pocket-llama/base --out my-expert

A real model and real data: `--model HuggingFaceTB/SmolLM2-135M-Instruct --data rows.jsonl --learning-rate 2e-3`, with
one `{"prompt": ..., "answer": ...}` a line.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from transformer2.svf import SVFConfig  # this import makes PEFT know SVF

HELD_OUT = 32


def examples(path: Path | None) -> list[dict[str, str]]:
    """Prompts and answers of a file; without one, made-up word problems that the stand-ins were pretrained for."""
    if path is not None:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    from transformer2.pocket.corpus import rows

    return [{"prompt": row["question"], "answer": row["answer"]} for row in rows("gsm8k", "train", 256)]


def encode(tokenizer: Any, example: dict[str, str]) -> dict[str, list[int]]:
    """One training sequence: the prompt in the model's chat template, then the answer, which alone is learnt."""
    messages = [{"role": "user", "content": example["prompt"]}]
    # As token ids at once: a template that is rendered as text and tokenised after has two BOS tokens.
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    answer = [*tokenizer(example["answer"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of the base model")
    parser.add_argument("--data", type=Path, help="JSON lines of {prompt, answer}")
    parser.add_argument("--out", type=Path, required=True, help="folder for the expert")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--learning-rate", type=float, default=0.02, help="2e-3 is the paper's, for large models")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    base = AutoModelForCausalLM.from_pretrained(args.model)
    model = get_peft_model(base, SVFConfig(task_type="CAUSAL_LM"))  # z = 1: the base model, bit for bit
    model.print_trainable_parameters()

    rows = [encode(tokenizer, example) for example in examples(args.data)]
    trainer = Trainer(
        model,
        TrainingArguments(
            str(args.out / "trainer"), max_steps=args.steps, learning_rate=args.learning_rate,
            lr_scheduler_type="cosine", per_device_train_batch_size=16, per_device_eval_batch_size=16,
            weight_decay=0.0,  # decay pulls to 0, and z = 0 deletes a matrix: z = 1 is the base model
            logging_steps=5, save_strategy="no", report_to=[],
        ),
        train_dataset=rows[HELD_OUT:], eval_dataset=rows[:HELD_OUT],
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )  # fmt: skip
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    model.save_pretrained(args.out)  # z alone: one number a singular value
    print(f"loss of {HELD_OUT} held-out answers: {before:.3f} before, {after:.3f} after; saved to {args.out}")

    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(args.model), args.out)
    prompt = {"role": "user", "content": examples(args.data)[0]["prompt"]}
    ids = tokenizer.apply_chat_template([prompt], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = again.generate(**ids, max_new_tokens=32, do_sample=False)
    print(f"{prompt['content']}\n{tokenizer.decode(answer[0, ids['input_ids'].shape[1] :], skip_special_tokens=True)}")


if __name__ == "__main__":
    main()
