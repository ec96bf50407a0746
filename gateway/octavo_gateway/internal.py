"""The internal listener: metrics for Prometheus, probes for the kubelet. Nothing of it is on the public one."""

from octavo_api.replica import HEALTH, LIVE, METRICS
from octavo_gateway.answers import Answer, Refusal
from octavo_gateway.deadlines import Deadlines
from octavo_gateway.exchange import Client
from octavo_gateway.fleet import Fleet
from octavo_gateway.heads import RequestHead
from octavo_gateway.metrics import Metrics
from octavo_gateway.public import health
from octavo_gateway.request import Request
from octavo_gateway.service import Service, allow, check_method
from octavo_gateway.settings import GatewaySettings

_PATHS = (HEALTH, LIVE, METRICS)


class InternalService(Service):
    """`public` is the listener whose health is told."""

    def __init__(self, settings: GatewaySettings, deadlines: Deadlines, fleet: Fleet, metrics: Metrics, public: Service) -> None:
        super().__init__(settings, deadlines)
        self._fleet = fleet
        self._metrics = metrics
        self._public = public

    def admit(self, head: RequestHead) -> None:
        if head.path not in _PATHS:
            raise Refusal(404, f"there is no {head.path[:200]} here; there is {', '.join(_PATHS)}", code="not_found")
        check_method(head, "GET")

    def serve(self, client: Client, request: Request) -> Answer:  # noqa: ARG002  the interface has it; nothing here outlives the call
        if request.head.method == "OPTIONS":
            return Answer(204, headers=(allow("GET"),))
        if request.head.path == HEALTH:
            return health(self._fleet, self._public.draining)
        if request.head.path == LIVE:
            return Answer(200, b'{"status":"ok"}')
        return Answer(200, self._metrics.text(), content_type=b"text/plain; version=0.0.4; charset=utf-8")
