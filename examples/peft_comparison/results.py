"""Writes an expert of a run in the layout of PEFT's method comparison, so that its app shows it beside other methods.

    python examples/peft_comparison/results.py results/pocket --model pocket-llama --method svf --out peft-results

Their table trains on MetaMathQA and tests on GSM8K; a run of ours trains and tests on GSM8K. What a run does not
measure is left out (`forgetting`), or stands as its upper bound: the three memory columns hold the peak of the process.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from safetensors import safe_open

from transformer2 import config
from transformer2.paths import BASE, EXPERT, SWEEP
from transformer2.provenance import read_json, read_jsonl
from transformer2.reproduce.frames import Frames

PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch")
"""Whose versions their table names."""


def peft_result(folder: Path, model: str, method: str, task: str = "gsm8k", seed: int = 0) -> dict[str, Any]:
    """One entry of PEFT's table: the last state of an expert (theirs has no choice among states), strictly scored.

    Args:
        folder: of a finished run, `results/<run>`.

    Raises:
        ValueError: the run has no such expert, or did not score its last state.
    """
    run, root = config.load(folder / "run.json"), folder.absolute().parents[1]
    names = {"run": run.run, "model": model, "task": task, "method": method, "seed": seed}
    choice = root / EXPERT.of(**names) / "last" / "selection.json"
    if not choice.is_file():
        raise ValueError(f"{folder} has no last state of an expert ({model}, {method}, {task}, seed {seed})")
    chosen = read_json(choice)
    point = root / SWEEP.of(**names, point=chosen["chosen"])
    manifest, metrics = read_json(point / "manifest.json"), read_jsonl(point / "metrics.jsonl")
    settings, expert = chosen["training"]["settings"], choice.parent
    trained, base = chosen["training"]["trained_parameters"], root / BASE.of(model=model)
    return {
        "run_info": {
            "created_at": manifest["started"].replace("Z", "+00:00"),
            "total_time": manifest["seconds"],
            "experiment_name": f"{method}/{run.run}-{model}-{task}-seed{seed}",
            "peft_branch": "transformer2",
            "train_config": train_config(settings, run.models[model].source, manifest["arguments"]["dtype"], seed),
            "peft_config": read_json(expert / "adapter_config.json"),
            "error_msg": "",
        },
        "train_info": memory(manifest) | {
            "train_time": sum(line["seconds"] for line in metrics),
            "file_size": (expert / "adapter_model.safetensors").stat().st_size,
            "num_trainable_params": trained,
            "num_total_params": parameters(base) + trained,
            "status": "success",
            "metrics": [
                *validations(read_jsonl(point / "validation.jsonl"), metrics, settings["eval_every"]),
                last_window(metrics, settings["eval_every"]) | {
                    "test accuracy": test_accuracy(folder, names), "train total tokens": tokens(metrics),
                },
            ],
        },
        "meta_info": {
            "model_info": {"sha": run.models[model].revision, "created_at": None},
            "dataset_info": {task: {"sha": chosen["training"]["inputs"]["train"], "created_at": None}},
            "package_info": {f"{name}-version": manifest["packages"].get(name) for name in PACKAGES},
            "system_info": {
                "system": manifest["platform"].partition("-")[0], "release": manifest["platform"],
                "accelerator": manifest.get("gpu", f"{manifest['cpus']} CPU cores"),
            },
            "pytorch_info": manifest["packages"]["torch"],
        },
    }  # fmt: skip


def train_config(settings: dict[str, Any], source: str, dtype: str, seed: int) -> dict[str, Any]:
    """The settings of a training by their names, and ours whole under `transformer2`."""
    cosine = settings["optimizer"] == "adamw_cosine"
    return {
        "model_id": source,
        "dtype": dtype,
        "batch_size": settings["batch_size"],
        "max_steps": settings["steps"],
        "eval_steps": settings["eval_every"],
        "seed": seed,
        "grad_norm_clip": settings["clip_norm"],
        "optimizer_type": "AdamW" if cosine else "Adam",
        "optimizer_kwargs": {"lr": settings["learning_rate"], "weight_decay": settings["weight_decay"]},
        "lr_scheduler": "cosine" if cosine else None,
        "generation_kwargs": {"max_new_tokens": settings["max_new_tokens"]},
        "transformer2": settings,
    }


def memory(manifest: dict[str, Any]) -> dict[str, int]:
    """Their three memory columns in bytes; a run knows the peak alone, which bounds the other two."""
    peak = manifest.get("peak_gpu_memory_mb", manifest["peak_memory_mb"]) * 2**20
    return dict.fromkeys(
        ("accelerator_memory_reserved_avg", "accelerator_memory_max", "accelerator_memory_reserved_99th"), peak
    )


def parameters(model: Path) -> int:
    """Numbers in the weights of a model's folder, read from the heads of its files."""
    total = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def validations(evaluations: list[dict], metrics: list[dict], every: int) -> list[dict[str, Any]]:
    """Their line of each evaluation after the start."""
    return [
        last_window(metrics[: line["step"]], every) | {"valid accuracy": line["accuracy"]}
        for line in evaluations
        if line["step"] > 0
    ]


def last_window(metrics: list[dict], every: int) -> dict[str, Any]:
    """Where a training stands: mean loss of its last `every` steps, and samples so far."""
    window = metrics[-every:]
    return {
        "step": metrics[-1]["step"] + 1,
        "train loss": sum(line["loss"] for line in window) / len(window),
        "train samples": sum(line["samples"] for line in metrics),
    }


def tokens(metrics: list[dict]) -> int:
    """Tokens that a training saw, prompts included (from the rates in its log, so to about 0.1 %)."""
    return round(sum(line["tokens_per_second"] * line["seconds"] for line in metrics))


def test_accuracy(folder: Path, names: dict[str, Any]) -> float:
    """Strict accuracy of the last state on the test split of the task that it was trained on."""
    scores = Frames(folder).scores
    wanted = {"model": names["model"], "method": names["method"], "trained_on": names["task"], "task": names["task"]}
    for column, value in (wanted | {"state": "last", "seed": names["seed"]}).items():
        scores = scores.loc[scores[column] == value]
    if scores.empty:
        raise ValueError(f"{folder} has no scores of the last state of {names['method']} on {names['task']}")
    return float(scores["strict"].astype(float).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run, results/<run>")
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--task", default="gsm8k")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for the file")
    args = parser.parse_args()
    try:
        result = peft_result(args.run, args.model, args.method, args.task, args.seed)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{result['run_info']['experiment_name'].replace('/', '--')}.json"
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(file)


if __name__ == "__main__":
    main()
