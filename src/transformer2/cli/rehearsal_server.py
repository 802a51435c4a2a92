"""A process that has everything imported and forks a child for each command of a job.

Every job of the workflow is a `python -m transformer2 ...` of its own, and the imports of torch, transformers and PEFT
take it several seconds, many times what it computes in a rehearsal. The jobs of a rehearsal get another `python` first
in their PATH (`rehearsal.client`): it hands its arguments, folder, environment and open files to this process, and ends
with the status of the child that it forks.
"""

import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path
from threading import RLock
from typing import Any

from tqdm import tqdm

from transformer2.rehearsal.client import ENVIRONMENT

NOT_HERE = ("transformer2.rollout.vllm", "transformer2.serving", "transformer2.__main__", "transformer2.cli.")
"""Beginnings of the names of modules that are not imported ahead: they need vLLM or FastAPI, or run something."""


def serve(address: Path) -> None:
    """Answers calls at the socket `address` until the process is ended; says "ready" on stdout once it does."""
    tqdm.monitor_interval = 0  # the monitor is a thread
    tqdm.set_lock(RLock())  # all children share tqdm's own: one that is killed while it draws would stop the others
    import_everything()
    use_everything()
    gc.collect()
    gc.freeze()  # children do not copy these pages to count references in them
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(address.parent, os.O_PATH)  # by its number: the address of a socket has 108 bytes at most
        listener.bind(f"/proc/self/fd/{folder}/{address.name}")
        os.close(folder)
        listener.listen(128)
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                _reap()
                if os.fork() == 0:
                    listener.close()
                    _answer(connection)


def import_everything() -> None:
    """Imports what commands import."""
    from peft import IA3Config, LoraConfig, TinyLoraConfig, VeraConfig  # noqa: F401
    from transformers import LlamaForCausalLM, LlavaNextForConditionalGeneration, MistralForCausalLM  # noqa: F401

    import transformer2

    for module in pkgutil.walk_packages(transformer2.__path__, "transformer2."):
        if not module.name.startswith(NOT_HERE):
            importlib.import_module(module.name)
    importlib.import_module("transformer2.cli")


def use_everything() -> None:
    """Uses models and figures once: what the libraries make ready at first use is then ready in all children.

    No backward pass: its threads would not live on in children.
    """
    import matplotlib.pyplot as plt
    from typer.testing import CliRunner

    from transformer2.cli import app

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for family, task in (("llama-3", "gsm8k"), ("llava-next", "textvqa")):
            model, rows, answers = (str(folder / f"{family}{end}") for end in ("", ".jsonl", ".answers.jsonl"))
            for command in (
                ("model", "--source", f"rehearsal:{family}:warm-up", "--out", model),
                ("data", "--task", task, "--split", "test", "--source", "rehearsal:hub", "--limit", "2", "--out", rows),
                ("generate", "--model", model, "--task", task, "--data", rows, "--out", answers,
                 "--max-new-tokens", "2"),
            ):  # fmt: skip
                CliRunner().invoke(app, command, catch_exceptions=False)
    figure = plt.figure()
    figure.text(0, 0, "$x$")
    for form in ("svg", "pdf", "png"):
        with open(os.devnull, "wb") as nowhere:
            figure.savefig(nowhere, format=form)
    plt.close(figure)


def _reap() -> None:
    """Takes note of the children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _answer(connection: socket.socket) -> None:
    """The child: runs the command and ends with its status."""
    status = 1
    try:
        arguments, folder, environment = _receive(connection)
        status = _run(arguments, folder, environment)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(bytes([status & 255]))
        os._exit(0)


def _receive(connection: socket.socket) -> Any:
    """A call; its stdin, stdout and stderr become those of this process."""
    head, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    (length,) = struct.unpack("!I", head)
    with connection.makefile("rb") as file:
        return json.loads(file.read(length))


def _run(arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    from transformer2.cli import main

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment | ENVIRONMENT)
    time.tzset()
    sys.argv = ["transformer2", *arguments]
    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
