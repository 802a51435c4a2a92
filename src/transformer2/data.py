"""Rows of a task's split: from the Hugging Face hub, from a folder, or generated (pocket)."""

import base64
import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

from transformer2.tasks import Row, Task


def read_split(task: Task, source: str, split: str, limit: int | None = None, seed: int = 0) -> list[Row]:
    """The rows of one split, each with its `item`; at most `limit` of them, chosen at random by `seed`, in order.

    Args:
        task: whose rows.
        source: `hub`, `dir:<folder>` with files `<task>/<source split>.jsonl[.gz]` (the column `image` has paths in
            `<folder>/<task>`), or `pocket`.
        split: train, validation or test.
        limit: how many rows; None is all. Pocket data has no end, so there it must be given.
        seed: of the choice.

    Raises:
        ValueError: unknown source or split, a file that is not JSON lines, a column that is missing.
        OSError: a folder or file that is missing, a hub that cannot be reached.
    """
    if split not in task.splits:
        raise ValueError(f"{task.name} has no split {split!r}; it has {', '.join(task.splits)}")
    if source == "pocket":
        from transformer2.pocket.corpus import rows as pocket_rows  # runs on real data do without

        if limit is None:
            raise ValueError(f"pocket data has no end: set how many rows of {task.name}/{split} to use")
        return pocket_rows(task.name, split, limit)
    part = task.splits[split]
    rows = _source_rows(task, source, part.source)[part.rows]
    chosen = subset([row | {"item": f"{task.name}/{split}/{i}"} for i, row in enumerate(rows)], limit, seed)
    if "image" not in task.columns:
        return chosen
    folder = Path(source.removeprefix("dir:")) / task.name
    return [row | {"image": _picture(row, folder)} for row in chosen]


def _picture(row: Row, folder: Path) -> str:
    """The picture file of a row in base64, so that rows need no other file.

    The row has it as the hub gives it, {"bytes": ...}, or as a path in `folder`.
    """
    image = row["image"]
    if isinstance(image, dict) and image.get("bytes"):
        return base64.b64encode(image["bytes"]).decode()
    if not isinstance(image, str):
        raise ValueError(f"{row['item']}: no picture; the column image is {image!r}")
    if not (folder / image).is_file():
        raise FileNotFoundError(f"{row['item']}: no picture {folder / image}")
    return base64.b64encode((folder / image).read_bytes()).decode()


def subset(rows: Sequence[Row], limit: int | None, seed: int) -> list[Row]:
    """At most `limit` rows, chosen at random, in their order."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), limit))]


def _source_rows(task: Task, source: str, source_split: str) -> list[Row]:
    if source == "hub":
        rows = _download(task, source_split)
    elif source.startswith("dir:"):
        rows = _read(_file(Path(source.removeprefix("dir:")), task.name, source_split))
    else:
        raise ValueError(f"unknown data source {source!r}: use hub, dir:<folder> or pocket")
    for number, row in enumerate(rows, 1):
        if missing := [column for column in task.columns if column not in row]:
            where = f"{task.name}/{source_split} of {source}, row {number}"
            raise ValueError(f"{where}: no column {', '.join(missing)}; it has {', '.join(row)}")
    return rows


def _download(task: Task, source_split: str) -> list[Row]:
    try:
        return task.hub(source_split)
    except OSError as error:
        raise ConnectionError(
            f"cannot download {task.name}/{source_split} ({error}); without the hub use data: dir:<folder>"
        ) from error


def _file(folder: Path, task: str, source_split: str) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"no data folder {folder} (setting data: dir:<folder>)")
    plain = folder / task / f"{source_split}.jsonl"
    zipped = plain.with_name(f"{plain.name}.gz")
    for path in (plain, zipped):
        if path.is_file():
            return path
    raise FileNotFoundError(f"neither {plain} nor {zipped.name} beside it exists")


def _read(path: Path) -> list[Row]:
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number} is not JSON ({error.msg})") from None
    return rows
