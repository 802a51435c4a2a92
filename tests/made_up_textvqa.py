"""Writes a data set of the size and layout of TextVQA on the hub: parquet files whose rows have pictures.

    python tests/made_up_textvqa.py hub                          34,602 rows, 6 GB, as the training split
    python tests/made_up_textvqa.py hub --measured measured      and what `transformer2 data` needs for it

Neighbouring rows share a picture, as there. A picture is a real JPEG file with random bytes behind its end, so that no
file is like another one and none can be compressed.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import typer
from PIL import Image
from pyarrow.parquet import ParquetWriter

from local_hub import COMMIT, environment, serve

ROWS = 34602
"""Questions of the training split."""
PICTURES = 21953
"""Pictures that they are about."""
REPOSITORY = "lmms-lab/textvqa"
SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "question_id": pa.int32(),
        "question": pa.string(),
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "image_width": pa.int32(),
        "flickr_original_url": pa.string(),
        "answers": pa.list_(pa.string()),
        "ocr_tokens": pa.list_(pa.string()),
    }
)


def picture(rng: random.Random, kilobytes: int) -> bytes:
    """A JPEG file of half to one and a half times that size."""
    file = BytesIO()
    Image.new("RGB", (640, 480), tuple(rng.randbytes(3))).save(file, "JPEG")
    return file.getvalue() + rng.randbytes(rng.randint(512 * kilobytes, 1536 * kilobytes))


def questions(rows: int, kilobytes: int, seed: int = 0) -> Iterator[dict]:
    """The rows, one by one."""
    rng, shown, last = random.Random(seed), b"", -1
    for i in range(rows):
        if (of := i * PICTURES // ROWS) != last:
            shown, last = picture(rng, kilobytes), of
        yield {
            "image_id": f"{of:016x}", "question_id": i, "question": f"what is written on sign {i}?",
            "image": {"bytes": shown, "path": None}, "image_width": 640, "flickr_original_url": "none",
            "answers": [f"word {rng.randrange(9)}"] * 7 + ["stop", "", "exit"], "ocr_tokens": ["a", "b"],
        }  # fmt: skip


def write(out: Path, rows: int, kilobytes: int, shards: int, group: int, dictionary: bool = False) -> int:
    """Writes the training split below `out`, as the local hub serves it; returns its bytes."""
    folder = out / "datasets" / REPOSITORY / "data"
    folder.mkdir(parents=True, exist_ok=True)
    made, size = questions(rows, kilobytes), 0
    for shard in range(shards):
        length = rows * (shard + 1) // shards - rows * shard // shards
        file = folder / f"train-{shard:05}-of-{shards:05}.parquet"
        with ParquetWriter(file, SCHEMA, compression="snappy", use_dictionary=dictionary) as writer:
            for start in range(0, length, group):
                part = [next(made) for _ in range(min(group, length - start))]
                writer.write_table(pa.Table.from_pylist(part, SCHEMA), row_group_size=group)
        size += file.stat().st_size
    return size


def measure(hub: Path, out: Path, split: str = "train", *options: str) -> dict:
    """Runs `transformer2 data` with a hub that serves a folder; its manifest, and seconds of the whole process."""
    file = out / "data" / f"{split}.jsonl"
    # A process counts the peak of what it was forked from as its own: the shell between is small.
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    command = [sys.executable, "-m", "transformer2", "data", "--task", "textvqa", "--split", split, "--source", "hub"]
    with serve(hub) as (address, _):
        started = time.perf_counter()
        done = subprocess.run(
            [*shell, *command, "--out", str(file), *options],
            env=environment(address, out / "cache"), capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(file.with_suffix(".manifest.json").read_text()) | {"wall_seconds": round(seconds, 1)}


def main(
    out: Path,
    rows: int = ROWS,
    kilobytes: int = 175,
    shards: int = 20,
    group: int = 100,
    measured: Path | None = None,
    dictionary: bool = False,
) -> None:
    started = time.perf_counter()
    size = write(out, rows, kilobytes, shards, group, dictionary)
    print(f"{size / 1e9:.2f} GB of parquet in {time.perf_counter() - started:.0f} s")
    if measured is None:
        return
    for split, options in (("train", ()), ("validation", ("--limit", "500"))):
        found = measure(out, measured, split, "--revision", COMMIT, *options)
        sizes = {file.name: file.stat().st_size for file in (measured / "data").iterdir() if split in file.name}
        print(split, {k: found[k] for k in ("rows", "peak_memory_mb", "seconds", "wall_seconds")}, sizes)


if __name__ == "__main__":
    typer.run(main)
