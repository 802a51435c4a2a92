"""What the endpoint refuses, each in one JSON error of OpenAI's form."""

import json

import pytest
from fastapi.testclient import TestClient
from peft import PeftModel
from small_server import save_models

from transformer2.adaptation.model import SelfAdaptiveModel
from transformer2.serving.app import new_app
from transformer2.serving.requests import NEUTRAL
from transformer2.serving.worker import Worker

HELLO = [{"role": "user", "content": "say yes"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory):
    base, experts = save_models(tmp_path_factory.mktemp("models"))
    return SelfAdaptiveModel.from_pretrained(base, {"math": experts["math"]})


@pytest.fixture(scope="module")
def client(adaptive):
    worker = Worker(adaptive, None, 8)
    worker.start()
    yield TestClient(new_app(worker))
    worker.close()


def error(response) -> dict:
    """The error of a response, of OpenAI's form and one line."""
    body = response.json()
    assert body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}
    assert "\n" not in body["error"]["message"]
    return body["error"]


REFUSED = [
    ({"model": "gpt-5"}, 404, "model", "no model 'gpt-5' here; there are self-adaptive, base, math"),
    ({"model": None}, 400, "model", "valid string"),
    ({"messages": []}, 400, "messages", "at least 1"),
    ({"messages": "hello"}, 400, "messages", "valid list"),
    ({"messages": ["hello"]}, 400, "messages[0]", "valid dictionary"),
    ({"messages": [{"content": "hello"}]}, 400, "messages[0].role", "it has none"),
    ({"messages": [*HELLO, {"role": "tool", "content": "4"}]}, 400, "messages[1].role", "not 'tool'"),
    ({"messages": [{"role": ["user"], "content": "4"}]}, 400, "messages[0].role", "not ['user']"),
    ({"messages": [{"role": "user", "content": None}]}, 400, "messages[0].content", "list of parts"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, 400, "messages[0].content[0].type", "text alone"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "messages[0].content[0].text", "'text'"),
    ({"messages": [{"role": "user", "content": " \n"}]}, 400, "messages[0].content", "nothing to answer"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages[0].content", "surrogate"),
    ({"messages": [*HELLO, {"role": "assistant", "content": "yes"}]}, 400, "messages[1].role", "the user's"),
    ({"messages": [{**HELLO[0], "name": "mia"}]}, 400, "messages[0].name", "not supported"),
    ({"messages": [{"role": "user", "content": "word " * 3000}]}, 400, "messages", "context of the model holds 2048"),
    ({"max_tokens": 2045}, 400, "messages", "2045 are to follow; the context of the model holds 2048"),
    ({"model": "self-adaptive", "messages": [{"role": "user", "content": "x " * 700}]}, 400, "messages", "to classify"),
    ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": True}, 400, "max_tokens", "valid integer"),
    ({"max_tokens": "8"}, 400, "max_tokens", "valid integer"),
    ({"max_tokens": 8, "max_completion_tokens": 9}, 400, "max_tokens", "one limit"),
    ({"temperature": -0.5}, 400, "temperature", "greater than or equal to 0"),
    ({"temperature": 2.5}, 400, "temperature", "less than or equal to 2"),
    ({"temperature": "hot"}, 400, "temperature", "valid number"),
    ({"seed": 1.5}, 400, "seed", "valid integer"),
    ({"seed": 2**63}, 400, "seed", "less than"),
    ({"stop": ""}, 400, "stop[0]", "at least 1 character"),
    ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop", "at most 4"),
    ({"stop": 3}, 400, "stop", "valid list"),
    ({"stream": "yes"}, 400, "stream", "valid boolean"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", "stream: true"),
    ({"stream": True, "stream_options": {"x": 1}}, 400, "stream_options.x", "not permitted"),
    ({"n": 2}, 400, "n", "leave it out, or give 1"),
    ({"n": True}, 400, "n", "leave it out, or give 1"),
    ({"top_p": 0.9}, 400, "top_p", "give 1"),
    ({"tools": [{"type": "function"}]}, 400, "tools", "not supported here"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format", "{'type': 'text'}"),
    ({"logprobs": True}, 400, "logprobs", "give False"),
    ({"reasoning_effort": "high"}, 400, "reasoning_effort", "no parameter that is supported here"),
    ({"temprature": 1}, 400, "temprature", "no parameter that is supported here"),
]


@pytest.mark.parametrize(("changes", "status", "param", "message"), REFUSED, ids=[str(one[0])[:60] for one in REFUSED])
def test_what_does_not_fit_is_refused_in_one_error(client, changes, status, param, message):
    body = json.dumps({"model": "math", "messages": HELLO} | changes)
    response = client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    refusal = error(response)
    assert (response.status_code, refusal["param"], refusal["type"]) == (status, param, "invalid_request_error")
    assert message in refusal["message"]


def test_a_body_that_is_no_request_is_refused(client):
    json_type = {"Content-Type": "application/json"}
    for content, headers, message in (
        ("{", json_type, "the body is not JSON"),
        ("[]", json_type, "valid dictionary"),
        ("", json_type, "the body is missing"),
        ("{}", json_type, "model is missing"),
        ('{"model": "math"}', json_type, "messages is missing"),
        (json.dumps({"model": "math", "messages": HELLO}), {}, "Content-Type: application/json"),
    ):
        response = client.post("/v1/chat/completions", content=content, headers=headers)
        assert response.status_code == 400 and message in error(response)["message"]


def test_places_that_are_not_there_are_refused_in_the_same_form(client):
    assert "Not Found" in error(client.get("/v1/embeddings"))["message"]
    assert "Method Not Allowed" in error(client.get("/v1/chat/completions"))["message"]


def test_a_template_that_refuses_the_messages_is_told_with_its_own_words(client, adaptive, monkeypatch):
    with_rule = (
        "{% if messages|length > 1 %}{{ raise_exception('one message alone') }}{% endif %}{{ messages[0].content }}"
    )
    worker = Worker(adaptive, None, 8)
    monkeypatch.setattr(adaptive.tokenizer, "chat_template", with_rule)
    strict = TestClient(new_app(worker))
    response = strict.post("/v1/chat/completions", json={"model": "base", "messages": [HELLO[0], *HELLO]})
    assert response.status_code == 400 and "one message alone" in error(response)["message"]


def test_parameters_that_change_nothing_are_taken(client):
    plain = {"model": "math", "messages": HELLO, "max_completion_tokens": 5}
    neutral = {name: values[0] for name, values in NEUTRAL.items()}
    ignored = {"user": "mia", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "logit_bias": None}
    more = {"temperature": 0, "stop": None, "seed": None, "stream": False, "stream_options": None, "max_tokens": 5}
    texts = {
        client.post("/v1/chat/completions", json=plain | extra).json()["choices"][0]["message"]["content"]
        for extra in ({}, neutral, ignored, more, {"temperature": 0.001}, {"temperature": None})
    }
    assert len(texts) == 1


def test_the_longest_answer_is_what_the_context_has_room_for(client, adaptive, monkeypatch):
    assert isinstance(adaptive.engine.model, PeftModel)
    monkeypatch.setattr(adaptive.engine.model.config, "max_position_embeddings", 12)
    worker = Worker(adaptive, None, 8)
    worker.start()
    try:
        small = TestClient(new_app(worker))
        body = small.post("/v1/chat/completions", json={"model": "base", "messages": HELLO}).json()
    finally:
        worker.close()
    assert body["usage"]["total_tokens"] == 12 and body["choices"][0]["finish_reason"] == "length"
