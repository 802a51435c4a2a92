"""The training of one expert from files, in this process or in one process a GPU."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from transformer2.adaptation.choice import shots as shots_of
from transformer2.config import TaskTraining
from transformer2.models import family, load_model, load_tokenizer, new_expert
from transformer2.provenance import read_json
from transformer2.rows import read_rows
from transformer2.scoring import scored_task
from transformer2.stages.loaded import lend_base, release, training_engine
from transformer2.trackers import curves
from transformer2.training.loop import Progress, Trainer
from transformer2.training.recompute import recompute_layers
from transformer2.training.team import ALONE, Team, join, shard_layers


def train_expert(
    team: Team = ALONE, *, model: Path, task: str, train: Path, validation: Path, settings: TaskTraining, out: Path,
    inputs: Any, basis: Path | None, dtype: str, seed: int, batch_rows: int, shots: int | None, engine: str, gpus: int,
    gradient_checkpointing: bool, allow_unsandboxed_code: bool, report_to: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """Trains one expert, alone or as one process of a team; returns how it went (`training.loop.Progress`).

    Arguments are those of `work.train`, with whole settings; `inputs` as `Trainer` has them.
    """
    the_task = scored_task(task, allow_unsandboxed_code).for_family(family(model))
    train_rows, validation_rows = (
        rows if shots is None else shots_of(the_task, rows, shots)
        for rows in (read_rows(the_task, file) for file in (train, validation))
    )
    with _base(model, dtype, team) as (base, tokenizer):
        expert = new_expert(base, settings, basis if settings.adapter == "svf" else None, seed)
        if gradient_checkpointing:
            recompute_layers(expert)
        if team.size > 1:
            shard_layers(expert, team)
            team.broadcast_from_main(lambda: None)  # all have given back what is not their share
        answering: Any = None
        if team.is_main:
            answering = training_engine(engine, expert, model, tokenizer, basis, dtype, gpus, batch_rows)
        facts = settings.model_dump() | {"model": str(model), "task": task, "seed": seed}
        with curves(report_to if team.is_main else (), out, facts) as report:
            trainer = Trainer(
                expert, answering, tokenizer, the_task, train_rows, validation_rows, settings, seed, out, inputs, team,
                report,
            )  # fmt: skip
            progress = asdict(trainer.run())
        trainer.save()
    return progress


@contextmanager
def _base(model: Path, dtype: str, team: Team) -> Iterator[tuple[Any, Any]]:
    """The base model and its tokenizer: that of this process, or for a team a mapped one that becomes its shard."""
    if team.size == 1:
        with lend_base(model, dtype) as lent:
            yield lent
    else:
        yield load_model(model, dtype, on_cpu=True), load_tokenizer(model)


def train_in_team(gpus: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Trains one expert in one process a GPU; `arguments` are those of `train_expert`, and it returns the same."""
    release()
    with tempfile.TemporaryDirectory(prefix="transformer2-team-") as folder:
        place = Path(folder) / "rendezvous"
        start_processes(_member, (gpus, place, dict(arguments)), gpus, start_method="spawn")
    training = read_json(arguments["out"] / "training.json")
    return {field.name: training[field.name] for field in fields(Progress)}


def _member(rank: int, size: int, place: Path, arguments: dict[str, Any]) -> None:
    team = join(rank, size, place)
    try:
        train_expert(team, **arguments)
    finally:
        release()
        dist.destroy_process_group()
