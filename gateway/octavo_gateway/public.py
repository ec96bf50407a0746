"""The public listener: which paths there are, who may ask, which model is meant.

Only octavo_api's `API_PATHS` reach a replica, so that a replica's other endpoints cannot be reached from here.
"""

from urllib.parse import unquote

import msgspec

from octavo_api import __version__
from octavo_api.replica import API_PATHS, HEALTH
from octavo_gateway.answers import Answer, Refusal
from octavo_gateway.deadlines import Deadlines
from octavo_gateway.exchange import Client, Exchange
from octavo_gateway.fleet import Fleet, ServedModel
from octavo_gateway.heads import RequestHead
from octavo_gateway.keys import Keys
from octavo_gateway.metrics import Metrics
from octavo_gateway.request import Request, read_fields
from octavo_gateway.service import Service, allow, check_method
from octavo_gateway.settings import GatewaySettings

MODELS = "/v1/models"
VERSION = "/version"
_METHODS = {**API_PATHS, HEALTH: "GET", VERSION: "GET"}
_OPEN_PATHS = (HEALTH, VERSION)
_NAMES_IN_ERROR = 50


class PublicService(Service):
    def __init__(self, settings: GatewaySettings, deadlines: Deadlines, fleet: Fleet, metrics: Metrics, keys: Keys | None) -> None:
        super().__init__(settings, deadlines)
        self._fleet = fleet
        self._metrics = metrics
        self._keys = keys

    def admit(self, head: RequestHead) -> None:
        allowed = _METHODS.get(head.path) or ("GET" if head.path.startswith(MODELS + "/") else None)
        if self._keys is not None and head.path not in _OPEN_PATHS and head.method != "OPTIONS" and not self._keys.accept(head.authorization):
            refusal = Refusal(401, "the API key is missing or wrong; send `Authorization: Bearer KEY`", code="invalid_api_key")
            refusal.headers = ((b"www-authenticate", b"Bearer"),)
            raise refusal
        if allowed is None:
            raise Refusal(404, f"there is no {head.path[:200]} here; the API is at {', '.join(API_PATHS)}", code="not_found")
        check_method(head, allowed)

    def serve(self, client: Client, request: Request) -> Answer | Exchange:
        head = request.head
        method = _METHODS.get(head.path, "GET")
        if head.method == "OPTIONS":
            return Answer(204, headers=(allow(method),))
        if method == "POST":
            fields = read_fields(request.body)
            return Exchange(self._fleet, self._metrics, client, request, self._find(fields.model), fields)
        answer = self._answer(head)
        self._metrics.of("").finished(answer.status)
        return answer

    def _answer(self, head: RequestHead) -> Answer:
        if head.path == HEALTH:
            return health(self._fleet, self.draining)
        if head.path == VERSION:
            return Answer(200, msgspec.json.encode({"version": __version__}))
        if head.path == MODELS:
            cards = [card(name, served) for name in self._fleet.names() if (served := self._fleet.find(name))]
            return Answer(200, msgspec.json.encode({"object": "list", "data": cards}))
        name = unquote(head.path.removeprefix(MODELS + "/"))
        return Answer(200, msgspec.json.encode(card(name, self._find(name))))

    def refused(self, refusal: Refusal) -> None:
        super().refused(refusal)
        self._metrics.of("").finished(refusal.status)

    def _find(self, name: str) -> ServedModel:
        served = self._fleet.find(name)
        if served is None:
            names = self._fleet.names()
            known = ", ".join(names[:_NAMES_IN_ERROR]) + (f" and {len(names) - _NAMES_IN_ERROR} more" if len(names) > _NAMES_IN_ERROR else "")
            raise Refusal(404, f"there is no model {name[:200]!r}; there is {known or 'none yet'}", code="model_not_found", param="model")
        return served


def card(name: str, served: ServedModel) -> dict[str, object]:
    """A model in OpenAI's shape; an alias names the model it stands for as `root`."""
    return {"id": name, "object": "model", "created": served.model.created, "owned_by": "octavo", "root": served.model.name}


def health(fleet: Fleet, draining: bool) -> Answer:
    """200 when requests are taken: a catalogue was read and SIGTERM has not come."""
    status = "draining" if draining else "ok" if fleet.catalogue is not None else "loading"
    return Answer(200 if status == "ok" else 503, msgspec.json.encode({"status": status}))
