"""The server: takes its address, loads the model, answers until it is told to end."""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import uvicorn

from transformer2.adaptation.dispatch import FirstPass
from transformer2.adaptation.model import SelfAdaptiveModel, Strategy

from .app import SELF_ADAPTIVE, new_app
from .worker import BASE, MIX, Worker


class Server(uvicorn.Server):
    """Says where it is once it answers, and ends what is being answered before it ends."""

    def __init__(self, worker: Worker, address: str):
        super().__init__(uvicorn.Config(new_app(worker), log_level="warning"))
        self.worker, self.address = worker, address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.worker.start()
        await super().startup(sockets)
        models = ", ".join([SELF_ADAPTIVE, BASE, *self.worker.model.experts])
        print(f"ready at {self.address}/v1 with the models {models}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self.worker.close)
        await super().shutdown(sockets)


def serve(
    base: Path, experts: dict[str, Path], *, strategy: Strategy, weights: dict[str, float] | None,
    classifier: Path | None, basis: Path | None, first_pass: FirstPass, dtype: str, batch_rows: int, queue: int,
    host: str, port: int,
) -> None:  # fmt: skip
    """Answers at an address until the process is told to end.

    Args:
        base: folder of the base model.
        experts: folder of each SVF expert, by name.
        strategy: how the self-adaptive model chooses: `prompt` and `cls` classify each prompt; with `few-shot` it is
            the mix of `weights`.
        weights: of the mix, by expert.
        classifier, basis, first_pass, dtype, batch_rows: see `SelfAdaptiveModel.from_pretrained`.
        queue: requests that may wait.
        host, port: the address; port 0 is any free one.

    Raises:
        ValueError: the address is taken, a name is, an expert does not fit the model, the model has no chat template.
    """
    if taken := [name for name in experts if name in (SELF_ADAPTIVE, BASE, MIX)]:
        raise ValueError(f"{taken[0]!r} is a name that the server uses itself: give the expert another one")
    with listener(host, port) as place:
        model = SelfAdaptiveModel.from_pretrained(
            base, experts, strategy, classifier=classifier, basis=basis, first_pass=first_pass, dtype=dtype,
            batch_rows=batch_rows,
        )  # fmt: skip
        if not model.tokenizer.chat_template:
            raise ValueError(f"the tokenizer in {base} has no chat template, which a chat endpoint needs")
        host = f"[{host}]" if ":" in host else host
        server = Server(Worker(model, weights, queue), f"http://{host}:{place.getsockname()[1]}")
        with suppress(KeyboardInterrupt):  # it has ended already: uvicorn raises the signal again
            server.run([place])


def listener(host: str, port: int) -> socket.socket:
    """A socket with an address that is free.

    Raises:
        ValueError: the address is taken, or is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        place = socket.socket(family, kind, protocol)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
    except OSError as error:
        raise ValueError(f"{host}, port {port}: {error.strerror}; choose others with --host and --port") from error
    return place
