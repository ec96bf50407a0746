"""What every request of a listener gets around its endpoint: an id, a look at its key, an answer whatever happens, a log line.

Plain ASGI: a chunk of a stream passes through one function call here, and no task.
"""

import logging
from collections.abc import Container, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.server.errors import INTERNAL_ERROR, Refusal
from octavo.server.keys import Keys
from octavo.server.record import HUNG_UP, Record, header
from octavo.server.service import Service
from octavo_api.replica import REQUEST_ID_HEADER

_log = logging.getLogger("octavo.server")
_REQUEST_ID = REQUEST_ID_HEADER.encode()


class Frame:
    """`open_paths` need no key."""

    def __init__(self, app: ASGIApp, service: Service, keys: Keys, open_paths: Container[str] = ()) -> None:
        self._app = app
        self._service = service
        self._keys = keys
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"nobody speaks {scope['type']} here")
        record = Record.open(scope)
        request_id = (_REQUEST_ID, record.request_id.encode())

        complete = False

        async def send_on(message: MutableMapping[str, Any]) -> None:
            nonlocal complete
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), request_id]
            else:
                complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._serve(scope, receive, send_on)
        except Exception:
            _log.exception("request %s failed", record.request_id)
            if record.status == HUNG_UP:
                await _refuse(INTERNAL_ERROR, record, send_on)
            elif not complete:
                raise
        finally:
            self._service.leave(record)
            probe = scope["method"] in ("GET", "HEAD") and (record.status < 400 or record.status == 503)
            level = logging.DEBUG if probe else logging.INFO
            if _log.isEnabledFor(level):
                _log.log(level, "%s", record.line(scope["method"], scope["path"]))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in self._open_paths or self._keys.accept(header(scope, b"authorization")):
            await self._app(scope, receive, send)
            return
        refusal = Refusal(401, "the API key is missing or wrong; send `Authorization: Bearer KEY`", code="invalid_api_key")
        refusal.headers.append((b"www-authenticate", b"Bearer"))
        await _refuse(refusal, Record.of(scope), send)


async def _refuse(refusal: Refusal, record: Record, send: Send) -> None:
    body = refusal.body(record.request_id)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
