"""Training curves in TensorBoard, Trackio or Weights & Biases while a training runs, through accelerate's trackers.

Where they are sent decides nothing of a result: a training reads none of it back.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Report = Callable[[str, Iterable[Mapping[str, Any]]], None]
"""Takes lines of a log of a training: the name of its file, and the lines in the order of their steps."""
PARTS = {"metrics.jsonl": "training", "validation.jsonl": "validation"}
"""Log of a training -> the part of the curves that its numbers are in."""


class MissingLibrary(ValueError):
    """A library that curves are to be sent to is not installed."""


def check(libraries: Iterable[str]) -> None:
    """Looks whether libraries are installed. Raises MissingLibrary, in one line."""
    for library in libraries:
        if find_spec(library) is None:
            raise MissingLibrary(f"report_to: {library} is not installed: pip install {library}, or leave it out")


def silent(log: str, lines: Iterable[Mapping[str, Any]]) -> None:
    """A `Report` to nobody."""


@contextmanager
def curves(libraries: Iterable[str], out: Path, settings: Mapping[str, Any]) -> Iterator[Report]:
    """What sends the numbers of a training in the folder `out` to each library, under the name of the folder.

    A training that is resumed sends everything again, so its curves are whole: TensorBoard's files, in
    `out/tensorboard`, replace those of before, and for the others it is a new run.
    """
    started = [_start(library, out, dict(settings)) for library in libraries]

    def report(log: str, lines: Iterable[Mapping[str, Any]]) -> None:
        for line in lines if started and log in PARTS else ():
            numbers = {
                f"{PARTS[log]}/{name}": value
                for name, value in line.items()
                if name != "step" and isinstance(value, int | float)
            }
            for tracker in started:
                tracker.log(numbers, step=line["step"])

    try:
        yield report
    finally:
        for tracker in started:
            tracker.finish()


def _start(library: str, out: Path, settings: dict[str, Any]) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    options: dict[str, Any] = {"name": out.as_posix(), "config": settings}
    match library:
        case "tensorboard":
            shutil.rmtree(out / library, ignore_errors=True)
            tracker = LOGGER_TYPE_TO_CLASS[library](library, out)
        case "wandb":
            tracker = LOGGER_TYPE_TO_CLASS[library]("transformer2", dir=str(out), **options)
        case _:
            tracker = LOGGER_TYPE_TO_CLASS[library]("transformer2", **options)
    tracker.start()
    return tracker
