"""The API listener's application: OpenAI's endpoints and health. Every error has OpenAI's shape, 404 and 405 included."""

import time
from urllib.parse import unquote

import msgspec
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from octavo.server import prepare
from octavo.server.errors import INTERNAL_ERROR, Refusal, refusal_of
from octavo.server.frame import Frame
from octavo.server.keys import Keys
from octavo.server.record import Record, header
from octavo.server.request_types import ChatRequest, CompletionRequest, decode
from octavo.server.service import Service
from octavo_api import __version__
from octavo_api.errors import OctavoError
from octavo_api.replica import API_PATHS, HEALTH

MODELS = "/v1/models"
VERSION = "/version"
PING = "/ping"
OPEN_PATHS = (HEALTH, VERSION, PING)
"""Need no API key."""
TOKEN_IDS_HEADER = b"x-octavo-token-ids"
"""A gateway that may have to resume a stream elsewhere sends it with `1`, and gets each chunk's token ids in a comment."""


def bare_app() -> FastAPI:
    """An application without documentation pages and redirects, whose errors have OpenAI's shape."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(OctavoError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _refused)
    return app


def json_response(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status_code=status, media_type="application/json")


def get(app: FastAPI, path: str, endpoint: object) -> None:
    """A GET that answers HEAD too."""
    app.add_api_route(path, endpoint, methods=["GET", "HEAD"], response_model=None)  # type: ignore[arg-type]


def api_app(service: Service, keys: Keys) -> ASGIApp:
    endpoints = _Endpoints(service)
    app = bare_app()
    app.add_api_route("/v1/completions", endpoints.completions, methods=["POST"], response_model=None)
    app.add_api_route("/v1/chat/completions", endpoints.chat_completions, methods=["POST"], response_model=None)
    get(app, MODELS, endpoints.models)
    get(app, MODELS + "/{name:path}", endpoints.model)
    get(app, HEALTH, endpoints.health)
    get(app, PING, endpoints.health)
    get(app, VERSION, endpoints.version)
    return Frame(app, service, keys, OPEN_PATHS)


class _Endpoints:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._created = int(time.time())

    async def completions(self, request: Request) -> Response:
        service, record = self._service, Record.of(request.scope)
        service.check_ready()
        asked = decode(CompletionRequest, await self._body(request))
        service.check_model(asked.model)
        service.admit(record, prepare.count_choices(asked, prepare.list_prompts(asked.prompt)))
        work = await prepare.completion(asked, service.engine)
        return prepare.begin(service, record, asked, work, token_ids=_wants_token_ids(request))

    async def chat_completions(self, request: Request) -> Response:
        service, record = self._service, Record.of(request.scope)
        service.check_ready()
        asked = decode(ChatRequest, await self._body(request))
        service.check_model(asked.model)
        service.admit(record, asked.choices)
        work = await prepare.chat(asked, service.engine)
        return prepare.begin(service, record, asked, work, token_ids=_wants_token_ids(request))

    async def models(self) -> Response:
        self._service.check_ready()
        return json_response({"object": "list", "data": [self._card(name) for name in self._service.names]})

    async def model(self, request: Request) -> Response:
        self._service.check_ready()
        name = unquote(request.path_params["name"])
        self._service.check_model(name)
        return json_response(self._card(name))

    async def health(self) -> Response:
        found = self._service.health
        return json_response(found, 200 if found.status == "ok" else 503)

    async def version(self) -> Response:
        return json_response({"version": __version__})

    def _card(self, name: str) -> dict[str, object]:
        """A model in OpenAI's shape; an alias names the model it stands for as `root`."""
        service = self._service
        owner = {"created": self._created, "owned_by": "octavo", "root": service.names[0]}
        return {"id": name, "object": "model", **owner, "max_model_len": service.engine.max_model_len}

    async def _body(self, request: Request) -> bytes:
        """
        Raises:
            Refusal: 413 when it is larger than the settings allow.
        """
        limit = self._service.settings.max_body_bytes
        length = header(request.scope, b"content-length")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit, f"has {int(length)} bytes")
        pieces, size = [], 0
        try:
            async for piece in request.stream():
                size += len(piece)
                if size > limit:
                    raise _too_large(limit, "is larger")
                pieces.append(piece)
        except ClientDisconnect as error:
            raise Refusal(400, "the request's body did not come to its end", code="bad_request") from error
        return b"".join(pieces)


def _too_large(limit: int, what: str) -> Refusal:
    return Refusal(413, f"the request's body {what}, the most is {limit} bytes; shorten the prompt or raise --max-body-bytes", code="body_too_large")


def _wants_token_ids(request: Request) -> bool:
    return header(request.scope, TOKEN_IDS_HEADER) == b"1"


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        found = _http_refusal(request, error)
    else:
        found = error if isinstance(error, Refusal) else refusal_of(error) if isinstance(error, OctavoError) else INTERNAL_ERROR
    response = Response(found.body(Record.of(request.scope).request_id), status_code=found.status, media_type="application/json")
    response.raw_headers += found.headers
    return response


def _http_refusal(request: Request, error: HTTPException) -> Refusal:
    """The router's own refusals: no such path, or not with this method."""
    path = request.url.path[:200]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        found = Refusal(405, f"{path} takes {allowed}, not {request.method}", code="method_not_allowed")
        found.headers.append((b"allow", allowed.encode()))
        return found
    if error.status_code == 404:
        return Refusal(404, f"there is no {path} here; the API is at {', '.join(API_PATHS)}", code="not_found")
    return Refusal(error.status_code, str(error.detail))
