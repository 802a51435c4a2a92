"""Requests for chat completions: what they may hold, and what is refused or knowingly ignored."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from .errors import Refusal

DEFAULT_TOKENS = 512
"""Of an answer, where the request does not limit it and the context has room."""
GREEDY = 0.01
"""Temperatures below this one are 0: the logits divided by them would overflow."""
IGNORED = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls",
)  # fmt: skip
"""Parameters that are ignored, because they change no answer here."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Parameters that are taken with these values alone, with which they change nothing; and everywhere with null."""
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Roles of messages, and what chat templates call them."""


def texts(stop: Any) -> Any:
    """One stop string, or several."""
    return [] if stop is None else [stop] if isinstance(stop, str) else stop


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Request(BaseModel):
    """The body of POST /v1/chat/completions. Other parameters are refused, see `NEUTRAL` and `IGNORED`."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    model: str = Field(description="self-adaptive, base, or an expert by its name")
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, description=f"{DEFAULT_TOKENS} without it, or what fits")
    max_tokens: int | None = Field(None, ge=1, description="the older name of max_completion_tokens")
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False, description="0, greedy, without it")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(texts), Field(max_length=4)] = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _fit(self) -> "Request":
        """Raises `Refusal` for parameters that are not known, or not supported with their values."""
        for name, value in (self.model_extra or {}).items():
            if value is None or name in IGNORED or any(_same(value, one) for one in NEUTRAL.get(name, ())):
                continue
            if name in NEUTRAL:
                only = " or ".join(map(repr, NEUTRAL[name]))
                raise Refusal(f"{name} is not supported here: leave it out, or give {only}", name, "unsupported_value")
            raise Refusal(f"{name} is no parameter that is supported here: leave it out", name, "unknown_parameter")
        if self.stream_options is not None and not self.stream:
            raise Refusal("stream_options go with stream: true alone", "stream_options")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise Refusal("max_tokens and max_completion_tokens are one limit: give one of them", "max_tokens")
        return self

    @property
    def limit(self) -> int | None:
        """Tokens of the answer at most; None where the request does not say."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def sampling_temperature(self) -> float:
        """The temperature."""
        return self.temperature if self.temperature is not None and self.temperature >= GREEDY else 0.0


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and not `true` in place of 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def chat(messages: list[dict[str, Any]]) -> tuple[dict[str, str], ...]:
    """The messages as chat templates take them.

    Raises:
        Refusal: a role or a content that is not supported, or the last message is not the user's or is empty.
    """
    taken = tuple(_message(f"messages[{i}]", message) for i, message in enumerate(messages))
    last = f"messages[{len(messages) - 1}]"
    if taken[-1]["role"] != "user":
        raise Refusal(f"the last message must be the user's, not the {taken[-1]['role']}'s", f"{last}.role")
    if not taken[-1]["content"].strip():
        raise Refusal("the last message is empty: there is nothing to answer", f"{last}.content")
    return taken


def _message(where: str, message: Mapping[str, Any]) -> dict[str, str]:
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        given = f"not {role!r}" if "role" in message else "and it has none"
        raise Refusal(f"a message has one of the roles {', '.join(ROLES)}, {given}", f"{where}.role")
    if strange := [key for key in message if key not in ("role", "content") and message[key] not in (None, [])]:
        raise Refusal(
            f"{strange[0]} of a message is not supported here: leave it out", f"{where}.{strange[0]}",
            "unsupported_value",
        )  # fmt: skip
    return {"role": ROLES[role], "content": _content(f"{where}.content", message.get("content"))}


def _content(where: str, content: Any) -> str:
    """The text of a message; a half of a surrogate pair, which JSON can hold, is none."""
    if isinstance(content, str):
        if any("\ud800" <= letter <= "\udfff" for letter in content):
            raise Refusal("the text holds half of a surrogate pair, which is no character", where)
        return content
    if not isinstance(content, list) or not content:
        raise Refusal("the content of a message is a text, or a list of parts of type text", where)
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            message = f"this server takes text alone: a part of type {kind!r} is not supported"
            raise Refusal(message, f"{where}[{i}].type", "unsupported_value")
        if not isinstance(part.get("text"), str):
            raise Refusal("a part of type text has its text in 'text'", f"{where}[{i}].text")
    return _content(where, "".join(part["text"] for part in content))


def as_refusal(error: Mapping[str, Any], content_type: str | None) -> Refusal:
    """The refusal of a body that pydantic found wrong; `error` is the first of its errors."""
    if content_type is None or "json" not in content_type:
        return Refusal(f"the body must be JSON, with the header Content-Type: application/json, not {content_type}")
    kind, places = error["type"], [part for part in error["loc"] if part != "body"]
    if kind == "json_invalid":
        return Refusal(f"the body is not JSON: {error['ctx']['error']}")
    param = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in places).lstrip(".") or None
    if kind == "missing":
        return Refusal(f"{param or 'the body'} is missing", param, "missing_required_parameter")
    return Refusal(f"{param or 'the body'}: {error['msg']}", param, "invalid_value")
