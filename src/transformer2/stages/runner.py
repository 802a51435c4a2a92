"""Works through the steps of a stage in one process, and skips those whose results are there already.

A step is done if its manifest holds the key of what it would be made of now (code, settings, the checksums of its
inputs) and every file that it wrote is as it was written.
"""

import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from transformer2.checksums import checksum, checksum_file
from transformer2.mistakes import StepsFailed, mistake
from transformer2.provenance import exclusive_lock, manifest, write_json
from transformer2.stages import work
from transformer2.stages.keys import broken, contents, key_in_manifest, key_of
from transformer2.stages.step import Step


def run_stage(steps: Sequence[Step], record: Path) -> None:
    """Does the steps that are not done, in their order, and writes the record of all of them.

    A step that fails keeps no other from being tried: the next run has less to do.

    Raises:
        StepsFailed: at the end, with each step that failed and why.
    """
    failed: dict[str, Exception] = {}
    with (
        exclusive_lock(record.with_suffix(".lock")),
        tqdm(steps, desc=record.parent.parent.name, unit="step", mininterval=1) as bar,
    ):
        for step in bar:
            try:
                read = contents(step)
                key = key_of(step, read)
                if key == key_in_manifest(step):
                    continue
                print(f"\n{step.name}", file=sys.stderr)
                if step.manifest.is_file() and (what := broken(step)):
                    print(f"{what}; it is made again", file=sys.stderr)
                do(step, key, read)
            except Exception as error:  # of one step, whatever it is: the others are still of use
                if not mistake(error):
                    traceback.print_exc()
                failed[step.name] = error
    if failed:
        said = "".join(f"\n  {name}: {mistake(error) or _line(error)}" for name, error in failed.items())
        raise StepsFailed(f"{len(failed)} of {len(steps)} steps failed:{said}") from next(iter(failed.values()))
    write_json(record, {step.name: {str(path): checksum(path) for path in step.outputs} for step in steps})


def do(step: Step, key: str, read: Mapping[str, Any]) -> None:
    """Does one step with the inputs `read`, see `keys.contents`; its manifest is written last, so that a step that was
    killed is done again."""
    remove_manifest(step)
    with manifest(step.manifest, step=step.name, key=key) as facts:
        facts["arguments"] = json.loads(json.dumps(step.arguments, default=str))  # paths as text
        facts["read"] = read
        facts |= getattr(work, step.work)(**step.arguments, **step.besides)


def remove_manifest(step: Step) -> None:
    """From now on the step counts as not done."""
    step.manifest.unlink(missing_ok=True)
    checksum_file(step.manifest).unlink(missing_ok=True)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
