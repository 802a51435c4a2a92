"""Responses in the shape of OpenAI's, with who answered beside it."""

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from .worker import Chosen, End

HEADER = "X-Transformer2-Expert"
DONE = "data: [DONE]\n\n"


def sse(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data)}\n\n"


@dataclass(frozen=True)
class Response:
    """One response, whole or in chunks."""

    model: str
    prompt_tokens: int
    chosen: Chosen
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def headers(self) -> dict[str, str]:
        return {HEADER: quote(self.chosen.expert)}

    def whole(self, text: str, end: End) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end.reason}
        return self._frame("chat.completion", [choice]) | {"usage": self._usage(end)} | self._who()

    def first(self) -> dict[str, Any]:
        return self._chunk({"role": "assistant", "content": ""}, None) | self._who()

    def piece(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text}, None)

    def last(self, end: End) -> dict[str, Any]:
        return self._chunk({}, end.reason) | self._who()

    def usage(self, end: End) -> dict[str, Any]:
        """The chunk after the last one, for those who ask for it."""
        return self._frame("chat.completion.chunk", []) | {"usage": self._usage(end)}

    def _chunk(self, delta: dict[str, str], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._frame("chat.completion.chunk", [choice])

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}

    def _usage(self, end: End) -> dict[str, int]:
        total = self.prompt_tokens + end.tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": end.tokens, "total_tokens": total}

    def _who(self) -> dict[str, Any]:
        chosen = self.chosen
        return {
            "transformer2": {"expert": chosen.expert, "weights": chosen.weights, "class": chosen.prompt_class},
        }
