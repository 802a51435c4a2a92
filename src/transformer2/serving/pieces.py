"""The text of an answer, piece by piece as its tokens come."""

from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"
"""What a piece of a character decodes to."""


class Pieces:
    """Turns tokens into pieces of text that together are the answer, cut before the first stop string.

    A piece is held back while it may be the beginning of a stop string, or ends within a character. Naive equivalent:
    the text of all tokens, cut before the first stop string.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()):
        self.tokenizer, self.stop = tokenizer, stop
        self.before: list[int] = []
        """Tokens of the last piece: some tokenizers drop a blank in front of the first token."""
        self.pending: list[int] = []  # tokens whose text is not told yet
        self.held = ""  # text that may begin a stop string
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is certain with this token; nothing of a stop string or after it."""
        self.pending.append(token)
        text = self._text()
        if not text or text.endswith(BROKEN):
            return ""
        self.before, self.pending = self.pending, []
        return self._cut(text)

    def end(self) -> str:
        """What was held back, as the answer ends here."""
        text = self._cut(self._text())
        return text + ("" if self.stopped else self.held)

    def _text(self) -> str:
        """Of the pending tokens."""
        return self._decode([*self.before, *self.pending])[len(self._decode(self.before)) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _cut(self, new: str) -> str:
        """What can be told of the text held back and this one."""
        if self.stopped:
            return ""
        text = self.held + new
        places = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        self.stopped = bool(places)
        begun = max((n for stop in self.stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        told = min(places) if places else len(text) - begun
        self.held = text[told:]
        return text[:told]
