"""The endpoint through the `openai` client: the answers of the model itself, streamed or not, alone or in a crowd."""

import asyncio
import threading
import time
from types import SimpleNamespace

import openai
import pytest
from small_server import EXPERTS, QUESTIONS, running, save_models

from transformer2.adaptation.model import SelfAdaptiveModel
from transformer2.rollout.engine import Sampling, encode_prompt
from transformer2.tasks import Prompt

TOKENS, LONG = 24, 400
MODELS = ("self-adaptive", "base", *EXPERTS)
WEIGHTS = {"math": 0.75, "code": 0.5}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base, experts = save_models(tmp_path_factory.mktemp("models"))
    return base, {name: experts[name] for name in EXPERTS}


@pytest.fixture(scope="module")
def alone(folders):
    """The model that the server has, by itself; by its labels it gives prompts several classes."""
    return SelfAdaptiveModel.from_pretrained(*folders, first_pass="labels")


@pytest.fixture(scope="module")
def server(folders):
    with running(SelfAdaptiveModel.from_pretrained(*folders, first_pass="labels")) as one:
        yield one


@pytest.fixture(scope="module")
def client(server):
    with new_client(server) as one:
        yield one


def new_client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=60)


def user(text: str) -> list:
    return [{"role": "user", "content": text}]


def expected(adaptive: SelfAdaptiveModel, expert: str | None, text: str, sampling: Sampling):
    """The answer of one expert by the engine's own way, to one prompt."""
    prompt = encode_prompt(adaptive.tokenizer, Prompt(tuple(user(text))))
    (completion,) = adaptive.engine.generate([prompt], sampling, [expert])
    return completion


def streamed(chunks) -> tuple[list[str], list]:
    """The pieces of text of a stream, and its chunks."""
    all_chunks = list(chunks)
    return [chunk.choices[0].delta.content or "" for chunk in all_chunks if chunk.choices], all_chunks


@pytest.mark.parametrize("name", MODELS[1:])
def test_the_model_that_a_request_names_answers_and_is_named(client, alone, name):
    with client.chat.completions.with_streaming_response.create(
        model=name, messages=user("say yes"), max_tokens=TOKENS
    ) as raw:
        answer, header = raw.parse(), raw.headers["x-transformer2-expert"]
    completion = expected(alone, None if name == "base" else name, "say yes", Sampling(TOKENS))
    assert answer.choices[0].message.content == completion.text
    assert answer.choices[0].finish_reason == completion.finish_reason
    assert answer.usage.completion_tokens == len(completion.token_ids)
    assert answer.usage.prompt_tokens == len(encode_prompt(alone.tokenizer, Prompt(tuple(user("say yes")))))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.object == "chat.completion" and answer.model == name and answer.id.startswith("chatcmpl-")
    weights = {} if name == "base" else {name: 1.0}
    assert answer.transformer2 == {"expert": name, "weights": weights, "class": None} and header == name


def test_each_prompt_gets_the_expert_of_its_class(client, alone):
    questions = QUESTIONS[:12]
    model = alone.generate(questions, TOKENS)
    assert len(set(model.classes)) > 1, "the prompts of this test should be of several classes"
    for question, text, chosen in zip(questions, model.texts, model.classes, strict=True):
        answer = client.chat.completions.create(
            model="self-adaptive", messages=user(question), max_completion_tokens=TOKENS
        )
        assert answer.choices[0].message.content == text
        assert answer.transformer2["class"] == chosen
        assert answer.transformer2["expert"] == (chosen if chosen in EXPERTS else "base")


@pytest.mark.parametrize(
    "options",
    [{}, {"stop": ["a", " w"]}, {"stop": "o"}, {"temperature": 1.0, "seed": 3}, {"temperature": 2, "seed": -1}],
    ids=str,
)
def test_a_stream_is_the_whole_answer_in_pieces(client, options):
    for question in QUESTIONS[:2]:
        asked = {"model": "math", "messages": user(question), "max_tokens": 60} | options
        whole = client.chat.completions.create(**asked)
        pieces, chunks = streamed(
            client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        )
        first, *_, last, usage = chunks
        assert "".join(pieces) == whole.choices[0].message.content
        assert len({chunk.id for chunk in chunks}) == 1 and first.choices[0].delta.role == "assistant"
        assert last.choices[0].finish_reason == whole.choices[0].finish_reason
        assert usage.usage == whole.usage
        assert first.transformer2 == last.transformer2 == whole.transformer2


def test_a_stream_comes_while_the_answer_is_written(server, client, monkeypatch):
    read, tokens, stream = threading.Event(), [], server.worker.engine.stream

    def halfway(row, token, reason, receive):
        tokens.append(token)
        assert len(tokens) < TOKENS // 2 or read.wait(20)
        return receive(row, token, reason)

    monkeypatch.setattr(
        server.worker.engine, "stream", lambda p, s, e, receive: stream(p, s, e, lambda *one: halfway(*one, receive))
    )
    chunks = client.chat.completions.create(model="base", messages=user("say yes"), max_tokens=TOKENS, stream=True)
    pieces = (chunk.choices[0].delta.content for chunk in chunks)
    assert next(filter(None, pieces))
    read.set()
    assert "".join(piece or "" for piece in pieces) and len(tokens) == TOKENS


@pytest.mark.parametrize("expert", [None, "math"])
def test_stop_strings_and_draws_are_those_of_the_engine(client, alone, expert):
    for options in ({"stop": ["a", " w"]}, {"temperature": 1.5, "seed": 7}):
        sampling = Sampling(40, options.get("temperature", 0), tuple(options.get("stop", ())), options.get("seed", 0))
        answer = client.chat.completions.create(
            model=expert or "base", messages=user("please"), max_tokens=40, **options
        )
        completion = expected(alone, expert, "please", sampling)
        assert answer.choices[0].message.content == completion.text
        assert answer.choices[0].finish_reason == completion.finish_reason


def test_without_a_seed_draws_differ(client):
    asked = {"model": "math", "messages": user("please"), "max_tokens": 30, "temperature": 1.5}
    assert len({client.chat.completions.create(**asked).choices[0].message.content for _ in range(3)}) == 3


def test_a_conversation_is_one_prompt(client, alone):
    messages = [
        {"role": "developer", "content": "be brief"}, {"role": "user", "content": "say yes"},
        {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None},
        {"role": "user", "content": [{"type": "text", "text": "say "}, {"type": "text", "text": "no"}]},
    ]  # fmt: skip
    said = [("system", "be brief"), ("user", "say yes"), ("assistant", "yes"), ("user", "say no")]
    prompt = encode_prompt(alone.tokenizer, Prompt(tuple({"role": r, "content": c} for r, c in said)))
    (completion,) = alone.engine.generate([prompt], Sampling(TOKENS), ["code"])
    answer = client.chat.completions.create(model="code", messages=messages, max_tokens=TOKENS)
    assert (answer.choices[0].message.content, answer.usage.prompt_tokens) == (completion.text, len(prompt))


@pytest.mark.parametrize(("weights", "named"), [(WEIGHTS, "mix"), ({"math": 1.0}, "math")])
def test_a_fixed_mix_or_expert_answers_every_prompt(folders, alone, weights, named):
    with running(SelfAdaptiveModel.from_pretrained(*folders, "few-shot"), weights) as one, new_client(one) as client:
        model = SelfAdaptiveModel.from_pretrained(*folders, "few-shot")
        model.engine.model.add_weighted_adapter(list(weights), list(weights.values()), "by_hand")
        for asked in ("self-adaptive", "code", "base", "self-adaptive"):  # one after another leaves nothing behind
            answer = client.chat.completions.create(model=asked, messages=user("say no"), max_tokens=TOKENS)
            expert = {"self-adaptive": "by_hand", "base": None}.get(asked, asked)
            assert answer.choices[0].message.content == expected(model, expert, "say no", Sampling(TOKENS)).text
            if asked == "self-adaptive":
                assert answer.transformer2 == {"expert": named, "weights": weights, "class": None}


def test_models_and_health_are_listed(server, client):
    assert [one.id for one in client.models.list()] == list(MODELS)
    assert client.models.retrieve("math").id == "math"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("physics")
    assert client.get("/../health", cast_to=object) == {"status": "ok", "waiting": 0}


# A crowd -------------------------------------------------------------------------------------------------------------


def requests() -> list[dict]:
    """Of 64 clients: all models, lengths, stop strings, temperatures; every other one streams."""
    return [
        {"model": MODELS[i % len(MODELS)], "messages": user(QUESTIONS[i]), "max_tokens": 8 + i % 17,
         "stop": ["a"] if i % 3 == 0 else None, "temperature": 1.2 if i % 7 == 0 else 0, "seed": i,
         "stream": i % 2 == 0}
        for i in range(64)
    ]  # fmt: skip


async def ask(client: openai.AsyncOpenAI, request: dict) -> tuple:
    """Text, reason to end, and who answered."""
    answer = await client.chat.completions.create(**request)
    if not request["stream"]:
        return answer.choices[0].message.content, answer.choices[0].finish_reason, answer.transformer2
    chunks = [chunk async for chunk in answer]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return text, chunks[-1].choices[0].finish_reason, chunks[-1].transformer2


@pytest.mark.slow
def test_64_parallel_clients_lose_nothing_and_get_what_they_get_one_after_another(server, monkeypatch):
    stream, sizes = server.worker.engine.stream, []

    def counting(prompts, *rest):
        sizes.append(len(prompts))
        stream(prompts, *rest)

    monkeypatch.setattr(server.worker.engine, "stream", counting)

    async def crowd() -> tuple[list, list]:
        clients = [
            openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) for _ in range(64)
        ]
        together = await asyncio.gather(*(ask(*both) for both in zip(clients, requests(), strict=True)))
        sizes.append(0)
        in_turn = [await ask(clients[0], request) for request in requests()]
        for client in clients:
            await client.close()
        return together, in_turn

    together, in_turn = asyncio.run(crowd())
    assert together == in_turn
    assert sum(sizes[: sizes.index(0)]) == 64 and sizes.index(0) < 32, "they are answered in batches"
    assert len({str(who) for _, _, who in in_turn}) > 4


@pytest.fixture
def held(server, monkeypatch):
    """Holds the engine before its next batch until `go` is set; `reached` says that it has this batch."""
    reached, go, stream = threading.Event(), threading.Event(), server.worker.engine.stream

    def holding(*arguments):
        reached.set()
        assert go.wait(20)
        stream(*arguments)

    monkeypatch.setattr(server.worker.engine, "stream", holding)
    yield SimpleNamespace(reached=reached, go=go)
    go.set()


def until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def in_thread(work) -> tuple[threading.Thread, list]:
    """A thread at work, and what it returned or raised once it has ended."""
    came: list = []

    def run() -> None:
        try:
            came.append(work())
        except openai.OpenAIError as error:
            came.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, came


def test_a_full_queue_refuses_in_one_error_and_takes_what_comes_later(server, client, held, monkeypatch):
    monkeypatch.setattr(server.worker, "places", 1)

    def one() -> str:
        return client.chat.completions.create(model="base", messages=user("say"), max_tokens=2).choices[0].message

    first, got = in_thread(one)
    assert held.reached.wait(20) and server.worker.waiting == 0
    second, got_too = in_thread(one)
    until(lambda: server.worker.waiting == 1)
    with pytest.raises(openai.RateLimitError, match="1 requests wait already") as refused:
        one()
    assert refused.value.code == "queue_full" and refused.value.response.headers["retry-after"]
    held.go.set()
    first.join(20), second.join(20)
    assert got == got_too == [one()]


def test_a_client_that_goes_away_leaves_its_place_in_the_queue(server, client, held):
    first, _ = in_thread(lambda: client.chat.completions.create(model="base", messages=user("say"), max_tokens=2))
    assert held.reached.wait(20)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).chat.completions.create(model="base", messages=user("say"), max_tokens=2)
    until(lambda: server.worker.waiting == 0)
    held.go.set()
    first.join(20)


@pytest.fixture(scope="module")
def endless(alone) -> dict:
    """A request whose answer takes seconds."""
    prompts = [encode_prompt(alone.tokenizer, Prompt(tuple(user(text)))) for text in QUESTIONS[:16]]
    answers = alone.engine.generate(prompts, Sampling(LONG), ["math"] * 16)
    text = next(text for text, answer in zip(QUESTIONS, answers, strict=False) if answer.finish_reason == "length")
    return {"model": "math", "messages": user(text), "max_tokens": LONG}


def slowly(engine, tokens: list, ended: threading.Event):
    """`engine.stream`, which waits at every token, keeps it in `tokens`, and sets `ended` after its batch."""
    stream = engine.stream

    def wait(receive):
        return lambda *token: (tokens.append(token), time.sleep(0.01), receive(*token))[-1]

    def slow(prompts, samplings, experts, receive):
        stream(prompts, samplings, experts, wait(receive))
        ended.set()

    return slow


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_answer(server, client, endless, monkeypatch, stream):
    tokens, ended = [], threading.Event()
    monkeypatch.setattr(server.worker.engine, "stream", slowly(server.worker.engine, tokens, ended))
    if stream:
        with client.chat.completions.create(**endless, stream=True) as chunks:
            next(iter(chunks))
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.3).chat.completions.create(**endless)
    assert ended.wait(20)
    assert 0 < len(tokens) < LONG // 2


def test_a_failure_of_the_model_is_one_error_and_the_next_request_is_answered(server, client, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(server.worker.engine, "stream", lambda *_: 1 / 0)
        with pytest.raises(openai.InternalServerError, match="the log of the server says how"):
            client.chat.completions.create(model="base", messages=user("say"), max_tokens=2)
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert client.chat.completions.create(model="base", messages=user("say"), max_tokens=2).choices


def test_shutdown_refuses_what_waits_and_ends_what_is_answered(folders, endless, monkeypatch):
    with running(SelfAdaptiveModel.from_pretrained(*folders)) as one, new_client(one) as client:
        tokens: list = []
        monkeypatch.setattr(one.worker.engine, "stream", slowly(one.worker.engine, tokens, threading.Event()))
        chunks = iter(client.chat.completions.create(**endless, stream=True))
        next(chunks)
        waits, got = in_thread(lambda: client.chat.completions.create(**endless))
        until(lambda: one.worker.waiting == 1)
        one.should_exit = True
        with pytest.raises(openai.APIError, match="the server shuts down"):
            list(chunks)
        waits.join(20)
        assert isinstance(got[0], openai.InternalServerError) and got[0].code == "shutting_down"
        assert len(tokens) < LONG // 2
