"""The endpoint: requests in, questions to the worker, answers out."""

import asyncio
import copy
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi import Request as HTTPRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from jinja2 import TemplateError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from transformer2.config.names import CLASS_TOKENS
from transformer2.rollout.engine import Sampling, encode_prompt
from transformer2.tasks import Prompt
from transformer2.tasks.classify import adaptation_prompt

from .errors import Refusal
from .requests import DEFAULT_TOKENS, Request, as_refusal, chat
from .responses import DONE, Response, sse
from .worker import BASE, Chosen, End, Event, Question, Worker

SELF_ADAPTIVE = "self-adaptive"
T = TypeVar("T")
GONE = 499
"""The status that nobody reads: the client has closed the connection."""


class Entrance:
    """Makes a question of a request, or refuses it."""

    def __init__(self, worker: Worker):
        model = worker.model
        self.models = [SELF_ADAPTIVE, BASE, *model.experts]
        self.classifies = worker.fixed is None
        self.tokenizer: Any = copy.deepcopy(model.tokenizer)  # the worker uses the other one, in its own thread
        self.context: int = model.engine.model.config.get_text_config().max_position_embeddings
        self._tokenizer_lock = threading.Lock()

    def question(self, request: Request, tell: Any) -> Question:
        """The question of a request, of which `tell` hears.

        Raises:
            Refusal: it cannot be answered.
        """
        adaptive = self.known(request.model) == SELF_ADAPTIVE
        messages = chat(request.messages)
        text, prompt = messages[-1]["content"], self._encode(Prompt(messages))
        room = self.context - len(prompt)
        if room < 1 or room < (request.limit or 1):
            wanted = f" and {request.limit} are to follow" if request.limit else ""
            raise self._too_long(f"the messages have {len(prompt)} tokens{wanted}")
        if adaptive and self.classifies:
            tokens = len(self._encode(adaptation_prompt(text))) + CLASS_TOKENS
            if tokens > self.context:
                raise self._too_long(f"to classify the last message takes {tokens} tokens")
        seed = secrets.randbits(63) if request.seed is None else request.seed
        limit = request.limit or min(DEFAULT_TOKENS, room)
        sampling = Sampling(limit, request.sampling_temperature, tuple(request.stop), seed)
        return Question(prompt, None if adaptive else request.model, text, sampling, tell)

    def known(self, name: str) -> str:
        """The name of a model that is here; raises Refusal for any other."""
        if name not in self.models:
            message = f"there is no model {name!r} here; there are {', '.join(self.models)}"
            raise Refusal(message, "model", "model_not_found", status=404)
        return name

    def _encode(self, prompt: Prompt) -> list[int]:
        try:
            with self._tokenizer_lock:
                return encode_prompt(self.tokenizer, prompt)
        except TemplateError as error:
            message = f"the chat template of the model refuses these messages: {' '.join(str(error).split())}"
            raise Refusal(message, "messages") from error

    def _too_long(self, what: str) -> Refusal:
        message = f"{what}; the context of the model holds {self.context}"
        return Refusal(message, "messages", "context_length_exceeded")


class JSON(JSONResponse):
    """JSON in ASCII, which any text that a request holds can be told in."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


class Stream(StreamingResponse):
    """Server-sent events; `leave` is called when the last is sent, or the client has gone."""

    def __init__(self, events: AsyncIterator[str], headers: dict[str, str], leave: Callable[[], None]):
        super().__init__(events, media_type="text/event-stream", headers=headers | {"Cache-Control": "no-cache"})
        self.leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.leave()


def new_app(worker: Worker) -> FastAPI:
    """The application over a worker."""
    app, entrance, started = FastAPI(title="Transformer²"), Entrance(worker), int(time.time())
    listed = {
        name: {"id": name, "object": "model", "created": started, "owned_by": "transformer2"}
        for name in entrance.models
    }
    _refuse_in_one_form(app)

    @app.get("/health")
    async def health() -> JSON:
        status = "ok" if worker.works else "the model does not answer"
        return JSON({"status": status, "waiting": worker.waiting}, 200 if worker.works else 503)

    @app.get("/v1/models")
    async def models() -> JSON:
        return JSON({"object": "list", "data": list(listed.values())})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> JSON:
        return JSON(listed[entrance.known(name)])

    @app.post("/v1/chat/completions", response_model=None)
    async def completions(request: Request, http: HTTPRequest) -> JSON | Stream:
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        question = await asyncio.to_thread(
            entrance.question, request, lambda one: loop.call_soon_threadsafe(events.put_nowait, one)
        )
        worker.ask(question)
        try:
            chosen = await _while_connected(http, _next(events))
            assert isinstance(chosen, Chosen)
            response = Response(request.model, len(question.prompt), chosen)
            if request.stream:
                usage = request.stream_options is not None and request.stream_options.include_usage
                return Stream(_chunks(response, events, usage), response.headers, lambda: worker.leave(question))
            text, end = await _while_connected(http, _whole(events))
        except BaseException:
            worker.leave(question)
            raise
        return JSON(response.whole(text, end), headers=response.headers)

    return app


async def _next(events: asyncio.Queue[Event]) -> Chosen | str | End:
    """The next event of an answer; a refusal is raised."""
    event = await events.get()
    if isinstance(event, Refusal):
        raise event
    return event


async def _whole(events: asyncio.Queue[Event]) -> tuple[str, End]:
    """The text of an answer, and its end."""
    pieces: list[str] = []
    while not isinstance(event := await _next(events), End):
        pieces.append(str(event))
    return "".join(pieces), event


async def _chunks(response: Response, events: asyncio.Queue[Event], usage: bool) -> AsyncIterator[str]:
    """The answer as server-sent events; a refusal half-way is the last of them."""
    yield sse(response.first())
    try:
        while not isinstance(event := await _next(events), End):
            yield sse(response.piece(str(event)))
    except Refusal as refusal:
        yield sse(refusal.body())
        return
    yield sse(response.last(event))
    if usage:
        yield sse(response.usage(event))
    yield DONE


async def _while_connected(http: HTTPRequest, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is ended, and a refusal raised, if the client goes away before."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    tasks = working, leaving = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refusal("the client has gone", status=GONE)
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


def _refuse_in_one_form(app: FastAPI) -> None:
    """Gives every refusal OpenAI's form, also those of the framework."""

    @app.exception_handler(Refusal)
    async def refused(_: HTTPRequest, refusal: Refusal) -> JSON:
        return JSON(refusal.body(), refusal.status, {"Retry-After": "1"} if refusal.status == 429 else None)

    @app.exception_handler(RequestValidationError)
    async def wrong(http: HTTPRequest, error: RequestValidationError) -> JSON:
        return await refused(http, as_refusal(error.errors()[0], http.headers.get("content-type")))

    @app.exception_handler(HTTPException)
    async def no_such_place(http: HTTPRequest, error: HTTPException) -> JSON:
        return await refused(http, Refusal(f"{http.method} {http.url.path}: {error.detail}", status=error.status_code))

    @app.exception_handler(Exception)
    async def broken(http: HTTPRequest, _: Exception) -> JSON:
        return await refused(http, Refusal("the server failed; its log says how", status=500))
