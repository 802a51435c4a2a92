"""What the paper's schematic figures show, taken from a run's own objects: the model and its experts, the prompt
that asks for a class, and a sample of next-token training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from transformer2.checksums import verified
from transformer2.config import Run
from transformer2.config.names import MAIN_BUDGET
from transformer2.grid import Grid
from transformer2.models import family, load_tokenizer
from transformer2.provenance import read_json
from transformer2.reproduce.inventory import ILLUSTRATED_TASK as TASK
from transformer2.reproduce.inventory import illustrated_model, illustration_files
from transformer2.reproduce.spectrum import decoder_layer
from transformer2.rollout.engine import encode_prompt
from transformer2.rows import read_rows
from transformer2.tasks import TASKS, Row
from transformer2.tasks.classify import CLASSES, adaptation_prompt
from transformer2.training.samples import references


def of_run(run: Run, folder: Path) -> Any:
    """The illustration of a run in its folder: of its model, the first seed's experts and a sample of GSM8K."""
    assert run.adaptation is not None
    grid, root, name, seed = Grid(run), folder.parents[1], illustrated_model(run), run.adaptation_seeds[0]
    files = illustration_files(run)
    experts = {task: (root / file).parent for task, file in files.experts.items()}
    row = read_rows(TASKS[TASK], root / files.data)[0]
    identity = grid.result_identity(name, TASK, seed)
    search = run.search(MAIN_BUDGET, run.adaptation.configurations[0], next(iter(run.unseen)))
    facts = {key: identity[key] for key in ("run", "stands_in_for", "standin", "model", "seed")} | {
        "search": {"shots": run.budgets[MAIN_BUDGET].shots}
        | {key: search[key] for key in ("population", "elites", "iterations")}
    }
    return illustration(root / files.model, experts, TASK, row, facts)


def illustration(model: Path, experts: Mapping[str, Path], task: str, row: Row, facts: Mapping[str, Any]) -> Any:
    """All that the figures show, as plain data.

    Args:
        model: folder of the base model.
        experts: folder of the SVF expert of each training task, with its selection.json.
        task: of `row`, whose question is asked and whose answer is learnt.
        facts: what the figures say besides; kept as they are.
    """
    tokenizer = load_tokenizer(model)
    of_model = TASKS[task].for_family(family(model))
    question, sample = of_model.question(row).strip(), references(tokenizer, of_model)([row])[0]
    asked = encode_prompt(tokenizer, adaptation_prompt(question))

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    return dict(facts) | {
        "parameters": sum(size for file in sorted(model.glob("*.safetensors")) for size in _sizes(file).values()),
        "classes": CLASSES,
        "experts": [_expert(name, folder) for name, folder in experts.items()],
        "asked": {"text": text(asked), "question": question, "tokens": len(asked)},
        "sample": {
            "task": task,
            "item": row["item"],
            "prompt": text(sample.prompt_ids),
            "answer": text(sample.completion_ids),
            "prompt_tokens": len(sample.prompt_ids),
            "answer_tokens": len(sample.completion_ids),
        },
    }


def _expert(task: str, folder: Path) -> dict[str, Any]:
    """What one expert is: its class, its vectors by matrix, and how it was trained."""
    vectors = {key.removesuffix(".svf_z"): n for key, n in _sizes(folder / "adapter_model.safetensors").items()}
    selection = read_json(folder / "selection.json")
    trained = selection["training"]["settings"]
    return {
        "task": task,
        "class": TASKS[task].domain,
        "layers": len({decoder_layer(name) for name in vectors}),
        "matrices": len({name.rpartition(".")[2] for name in vectors}),
        "shortest": min(vectors.values()),
        "longest": max(vectors.values()),
        "parameters": sum(vectors.values()),
        "points": len(selection["validation"]),
        **{key: trained[key] for key in ("batch_size", "steps", "rollout", "reward_wrong", "kl_coefficient")},
    }


def _sizes(file: Path) -> dict[str, int]:
    """How many numbers each tensor of a file has, without reading them."""
    sizes = {}
    with safe_open(verified(file), "numpy") as tensors:
        for key in tensors.keys():  # noqa: SIM118 (not a dict)
            sizes[key] = 1
            for length in tensors.get_slice(key).get_shape():
                sizes[key] *= length
    return sizes
