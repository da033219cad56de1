"""What a client is told instead of an answer, as OpenAI tells it.

{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}
"""

from http import HTTPStatus
from typing import Any

TYPES = {
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.INTERNAL_SERVER_ERROR: "server_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "server_error",
}


class Refused(Exception):
    """A request that gets no answer.

    Attributes:
      message: one line: what is required, what was got.
      status: of HTTP.
      param: field of the body that is wrong, if it is one.
      code: a name of OpenAI's for what is wrong, if it has one.
      headers: of the response.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = HTTPStatus.BAD_REQUEST,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = int(status)
        self.param, self.code = param, code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON of the response.

        Example:
          >>> Refused("n must be >= 1, got 0", param="n").body()["error"]["param"]
          'n'
        """
        told = {
            "message": self.message,
            "type": TYPES.get(HTTPStatus(self.status), "invalid_request_error"),
            "param": self.param,
            "code": self.code,
        }
        return {"error": told}


def refuse(name: str, required: str, got: object) -> Refused:
    """`NAME must be REQUIRED, got VALUE`, the value cut where it is long."""
    shown = ascii(got)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return Refused(f"{name} must be {required}, got {shown}", param=name)
