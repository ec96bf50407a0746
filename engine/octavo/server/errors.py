"""Errors as OpenAI's clients know them: a status, and `{"error": {message, type, param, code}}`."""

import re

import msgspec

from octavo_api.errors import InvalidSetting, OctavoError

RETRY_AFTER = 5
"""Seconds that a 429 or 503 asks the client to wait."""

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_FIELD = re.compile(r"([a-z][a-z0-9_]*(?:[.\[][\w.\]\[]*)?): ")


class Refusal(Exception):
    """Why a request is not answered. The text is for the client: what is wrong, with which value, what to do.

    `param` is the field that is to blame; `headers` are sent as they are.
    """

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers: list[tuple[bytes, bytes]] = [(b"retry-after", b"%d" % RETRY_AFTER)] if status in (429, 503) else []

    @classmethod
    def no_room(cls, message: str, param: str) -> "Refusal":
        """The prompt, or the prompt and the answer that is asked for, exceed the context; the text has the numbers."""
        return cls(400, message, code="context_length_exceeded", param=param)

    def body(self, request_id: str) -> bytes:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code, "request_id": request_id}
        return msgspec.json.encode({"error": error})


INTERNAL_ERROR = Refusal(500, "internal error; the server's log says more under this request_id", code="internal_error")


def refusal_of(error: OctavoError) -> Refusal:
    """What a client is told of an error that Octavo raised on purpose: texts of settings begin with the field's name."""
    message = str(error)
    if not isinstance(error, InvalidSetting):
        return Refusal(500, message)
    field = _FIELD.match(message)
    return Refusal(400, message, code="invalid_value", param=field[1] if field else None)
