"""The internal listener's application: probes, progress, load, metrics and drain. Nothing of it is on the API listener."""

from starlette.responses import Response
from starlette.types import ASGIApp

from octavo.server.api import bare_app, get, json_response
from octavo.server.frame import Frame
from octavo.server.keys import Keys
from octavo.server.metrics import CONTENT_TYPE
from octavo.server.service import Service
from octavo_api.replica import DRAIN, HEALTH, LIVE, LOAD, METRICS, PROGRESS


def internal_app(service: Service) -> ASGIApp:
    endpoints = _Endpoints(service)
    app = bare_app()
    for path, endpoint in (
        (HEALTH, endpoints.health),
        (LIVE, endpoints.live),
        (PROGRESS, endpoints.progress),
        (LOAD, endpoints.load),
        (METRICS, endpoints.metrics),
    ):
        get(app, path, endpoint)
    app.add_api_route(DRAIN, endpoints.drain, methods=["POST"], response_model=None)
    return Frame(app, service, Keys(()))


class _Endpoints:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self) -> Response:
        found = self._service.health
        return json_response(found, 200 if found.status == "ok" else 503)

    async def live(self) -> Response:
        found = self._service.liveness
        return json_response(found, 503 if found.status in ("stalled", "dead") else 200)

    async def progress(self) -> Response:
        return json_response(self._service.progress)

    async def load(self) -> Response:
        return json_response(self._service.load)

    async def metrics(self) -> Response:
        return Response(self._service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def drain(self) -> Response:
        self._service.draining = True
        return json_response(self._service.load)
