"""What the endpoint says where it does not answer, in OpenAI's form."""

from typing import Any


class Refusal(Exception):
    """A request that is not answered: one line for its sender, the parameter that it is about, a code, and the status
    of HTTP."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        kind: str | None = None,
    ):
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """The body of the response."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}
