"""Rows of a task's split: from the Hugging Face hub, from a folder, or generated (pocket).

Rows are chosen by number before they are read, and read a few at a time: a data set may be larger than the memory.
"""

import random
import urllib.request
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from transformer2 import hub
from transformer2.config.names import REHEARSAL
from transformer2.config.sizes import available
from transformer2.rows import Check, checker, json_lines, picture_file, picture_format
from transformer2.tasks import Row, Task
from transformer2.tasks.base import Hub, Release

BATCH = 16
"""Rows of a parquet file that are decoded together."""
BUFFER = 2**20
"""Bytes that are read from a parquet file at once."""

WITHOUT = "without it, put the splits into a folder (data: dir:<folder>)"

Pick = Callable[[Sequence[int], Check], Iterator[tuple[str, Row]]]


@dataclass(frozen=True)
class Source:
    """The rows of a source split."""

    name: str
    length: int
    pick: Pick
    """Place and content of the rows of these numbers (in rising order), checked, one by one."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What a manifest says of the source."""
    pictures: Path = Path()
    """Folder that the column `image` has paths in, where it has no bytes."""


@dataclass(frozen=True)
class Chosen:
    """Rows of a split that are used: an iterator, for one pass, and the facts about them for a manifest."""

    rows: Iterator[Row]
    facts: dict[str, Any]


def choose_rows(
    task: Task, source: str, split: str, limit: int | None = None, seed: int = 0, revision: str | None = None
) -> Chosen:
    """The rows of one split, each with its `item`; at most `limit` of them, chosen at random by `seed`, in order.

    The column `image` holds the bytes of picture files. Rows are read and checked when the iterator comes to them:
    all rows of JSON lines, and only those that are used of parquet files.

    Args:
        task: the data set.
        source: `hub`, `dir:<folder>` with files `<task>/<source split>.jsonl[.gz]` (the column `image` has paths in
            `<folder>/<task>`), or `pocket`.
        split: train, validation or test.
        limit: how many rows; None is all. Pocket data has no end, so there it must be given.
        seed: of the choice.
        revision: commit of the hub repository; None is the task's own.

    Raises:
        ValueError: unknown source, split or revision, a file or row that does not fit the task.
        OSError: a folder or file that is missing, a hub that cannot be reached.
    """
    if split not in task.splits:
        raise ValueError(f"{task.name} has no split {split!r}; it has {', '.join(task.splits)}")
    if revision and (source != "hub" or not isinstance(task.source, Hub)):
        raise ValueError(f"revision {revision}: {task.name} from {source} is not read from a repository of the hub")
    part = task.splits[split]
    if source == "pocket":
        opened, places = _pocket(task, split, limit), range(limit or 0)
    elif source.startswith(REHEARSAL):
        opened = _rehearsal(task, split, limit)
        places = range(opened.length)
    else:
        opened = _source(task, source, part.source, revision)
        places = range(opened.length)[part.rows]
    if not places:
        raise ValueError(f"{opened.name} has {opened.length} rows, none of them for {task.name}/{split}")
    chosen = subset(range(len(places)), limit, seed)

    def rows() -> Iterator[Row]:
        picked = opened.pick([places[i] for i in chosen], checker(task))
        for i, (where, row) in zip(chosen, picked, strict=True):
            row = row | {"item": f"{task.name}/{split}/{i}"}
            yield row | {"image": _picture(row["image"], opened.pictures, where)} if "image" in task.columns else row

    return Chosen(rows(), opened.facts)


def read_split(task: Task, source: str, split: str) -> list[Row]:
    """All rows of a split, in memory; ValueError and OSError as `choose_rows`."""
    return list(choose_rows(task, source, split).rows)


def subset(rows: Sequence[Any], limit: int | None, seed: int) -> list[Any]:
    """At most `limit` rows, chosen at random, in their order."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), limit))]


def _picture(image: Any, folder: Path, where: str) -> bytes:
    """The picture file of a row: as it is, as the hub gives it ({"bytes": ...}), or by its path in `folder`."""
    if isinstance(image, dict):
        image = image.get("bytes")
    if isinstance(image, str):
        image = picture_file(folder, image, where).read_bytes()
    if not isinstance(image, bytes):
        raise ValueError(f"{where}: no picture; the column image has no bytes")
    try:
        picture_format(image)
    except ValueError as error:
        raise ValueError(f"{where}: column image: {error}") from None
    return image


def _source(task: Task, source: str, source_split: str, revision: str | None) -> Source:
    if source.startswith("dir:"):
        folder = Path(source.removeprefix("dir:"))
        file = _file(folder, task.name, source_split)
        return _files([file], task, str(file), {}, folder / task.name)
    if source != "hub":
        raise ValueError(f"unknown data source {source!r}: use hub, dir:<folder> or pocket")
    if isinstance(task.source, Release):
        return _release(task.source, source_split)
    if isinstance(task.source, Hub):
        return _repository(task, task.source, source_split, revision or task.source.revision)
    raise ValueError(f"{task.name} is no data set that can be downloaded: its rows come from other tasks or a file")


def _repository(task: Task, source: Hub, source_split: str, revision: str | None) -> Source:
    patterns = [pattern.format(split=source_split) for pattern in source.files]
    try:
        folder = hub.snapshot(source.repository, revision, patterns, kind="dataset")
    except ConnectionError as error:
        raise ConnectionError(f"{error}; {WITHOUT}") from error
    files: list[Path] = []
    for pattern in patterns:
        if not (matching := sorted(folder.glob(pattern))):
            raise ValueError(f"{source.repository} has no file {pattern} at revision {folder.name}")
        files += matching
    if revision is None:
        print(f"{task.name}: no revision is set, so the newest one was taken: {folder.name}")
    name = f"{source.repository} at {folder.name}"
    return _files(files, task, name, {"repository": source.repository, "revision": folder.name})


def _release(source: Release, source_split: str) -> Source:
    try:
        with urllib.request.urlopen(source.address, timeout=60) as response:
            content = response.read()
    except OSError as error:
        raise ConnectionError(f"cannot download {source.address} ({error}); {WITHOUT}") from error
    if sha256(content).hexdigest() != source.sha256:
        raise ValueError(f"{source.address} is not {source.title} (its sha256 is another one); {WITHOUT}")
    rows = source.splits(content)[source_split]
    return _memory(rows, source.address, {"address": source.address, "address_sha256": source.sha256})


def _pocket(task: Task, split: str, limit: int | None) -> Source:
    from transformer2.pocket.corpus import rows as pocket_rows  # only runs on pocket data need it

    if limit is None:
        raise ValueError(f"pocket data has no end: set how many rows of {task.name}/{split} to use")
    return _memory(pocket_rows(task.name, split, limit), f"pocket {task.name}/{split}", {})


def _rehearsal(task: Task, split: str, limit: int | None) -> Source:
    from transformer2.rehearsal.rows import rows as made_up_rows

    length = available(task.name, split) if limit is None else limit
    return _memory(made_up_rows(task.name, split, length), f"made-up {task.name}/{split}", {})


def _memory(rows: Sequence[Row], name: str, facts: dict[str, Any]) -> Source:
    def pick(numbers: Sequence[int], check: Check) -> Iterator[tuple[str, Row]]:
        for number in numbers:
            where = f"{name}, row {number + 1}"
            check(rows[number], where)
            yield where, rows[number]

    return Source(name, len(rows), pick, facts)


def _file(folder: Path, task: str, source_split: str) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"no data folder {folder} (setting data: dir:<folder>)")
    plain = folder / task / f"{source_split}.jsonl"
    zipped = plain.with_name(f"{plain.name}.gz")
    for path in (plain, zipped):
        if path.is_file():
            return path
    raise FileNotFoundError(f"neither {plain} nor {zipped.name} beside it exists")


def _files(
    files: Sequence[Path], task: Task, name: str, facts: dict[str, Any], pictures: Path = Path()
) -> Source:  # fmt: skip
    """Rows of several files, in their order."""
    lengths = [_parquet_length(path) if path.suffix == ".parquet" else _line_count(path) for path in files]

    def pick(numbers: Sequence[int], check: Check) -> Iterator[tuple[str, Row]]:
        first = 0
        for path, length in zip(files, lengths, strict=True):
            own = _within(numbers, first, length)
            if path.suffix == ".parquet":
                yield from _pick_parquet(path, own, check, list(task.columns))
            else:
                yield from _pick_lines(path, own, check)
            first += length

    return Source(name, sum(lengths), pick, facts, pictures)


def _within(numbers: Sequence[int], first: int, length: int) -> list[int]:
    """The numbers (ascending) that lie in a part of that length, counted from its first row."""
    return [i - first for i in numbers[bisect_left(numbers, first) : bisect_left(numbers, first + length)]]


def _line_count(path: Path) -> int:
    return sum(1 for _ in json_lines(path))


def _pick_lines(path: Path, numbers: Sequence[int], check: Check) -> Iterator[tuple[str, Row]]:
    wanted = set(numbers)
    for number, (where, row) in enumerate(json_lines(path)):
        check(row, where)
        if number in wanted:
            yield where, row


def _open_parquet(path: Path) -> Any:
    """The parquet file; its columns are read as they are asked for, and not fetched in advance."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no whole parquet file ({error}): delete it, and it is fetched again") from None


def _parquet_length(path: Path) -> int:
    with _open_parquet(path) as file:
        return file.metadata.num_rows


def _pick_parquet(path: Path, numbers: Sequence[int], check: Check, columns: list[str]) -> Iterator[tuple[str, Row]]:
    """Rows of a parquet file, without other columns. A row group without rows that are asked for is not read."""
    with _open_parquet(path) as file:
        if missing := set(columns) - {*file.schema_arrow.names}:
            have = ", ".join(file.schema_arrow.names)
            raise ValueError(f"{path} has no column {', '.join(sorted(missing))}; it has {have}")
        first = 0
        for group in range(file.num_row_groups):
            length = file.metadata.row_group(group).num_rows
            if _within(numbers, first, length):
                at = first
                for batch in file.iter_batches(BATCH, row_groups=[group], columns=columns):
                    own = _within(numbers, at, len(batch))
                    for i, row in zip(own, batch.take(own).to_pylist() if own else (), strict=True):
                        where = f"{path}, row {at + i + 1}"
                        check(row, where)
                        yield where, row
                    at += len(batch)
            first += length
