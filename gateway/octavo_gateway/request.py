"""The few fields of a request's JSON body that the gateway needs; the replica checks the rest.

The body is scanned once and forwarded as it came. Values of the wrong type are left for the replica to refuse,
except `model`, without which there is no replica to ask.
"""

from typing import Any

import msgspec
from msgspec import Struct

from octavo_gateway.answers import Refusal
from octavo_gateway.heads import RequestHead


class Request(Struct):
    """A whole request: the body's bytes are the client's own."""

    head: RequestHead
    body: bytes


class Fields(Struct):
    """`model` as asked for; the answer's bound in tokens, None where the request has none; choices wanted."""

    model: str
    answer_tokens: int | None
    choices: int


class _Body(Struct):
    model: str
    max_tokens: Any = None
    max_completion_tokens: Any = None
    n: Any = None


_decoder = msgspec.json.Decoder(_Body)


def read_fields(body: bytes) -> Fields:
    """
    Raises:
        Refusal: 400, when the body is not a JSON object with a string `model`.
    """
    try:
        found = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Refusal(400, f"the request's body must be a JSON object with a string `model`: {error}", param="model") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, f"the request's body is not JSON: {error}") from error
    bound = found.max_completion_tokens if found.max_completion_tokens is not None else found.max_tokens
    return Fields(found.model, _count(bound), _count(found.n) or 1)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 32 else None
