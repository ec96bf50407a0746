"""The gateway's Prometheus metrics, in a registry of their own. Names and what they mean are octavo_api's.

`code` is the status the client got; 499 when it left first, 502 also when a response was cut short. Requests
that name no known model have an empty `model`, so that clients cannot make up label values.
"""

from collections.abc import Iterable, Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from octavo_api import metrics as names
from octavo_api.catalogue import EndpointState
from octavo_gateway.fleet import Fleet

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_STATES = get_args(EndpointState)
_INFO = {info.name: info for info in names.GATEWAY}


class ModelMetrics:
    """The series of one model, looked up once."""

    def __init__(self, model: str, requests: Counter, retries: Counter, first_byte: Histogram) -> None:
        self._model = model
        self._requests = requests
        self._by_code: dict[int, Counter] = {}
        self.retries = retries.labels(model=model)
        self.first_byte = first_byte.labels(model=model)

    def finished(self, code: int) -> None:
        counter = self._by_code.get(code)
        if counter is None:
            counter = self._by_code[code] = self._requests.labels(model=self._model, code=str(code))
        counter.inc()


class Metrics:
    def __init__(self, fleet: Fleet) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(fleet))
        self._requests = Counter(*_described(names.GATEWAY_REQUESTS), registry=self._registry)
        self._retries = Counter(*_described(names.GATEWAY_RETRIES), registry=self._registry)
        self._first_byte = Histogram(*_described(names.GATEWAY_FIRST_BYTE), buckets=_BUCKETS, registry=self._registry)
        self._models: dict[str, ModelMetrics] = {}

    def of(self, model: str) -> ModelMetrics:
        """The series of a known model, or of "" for requests that never got as far."""
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = ModelMetrics(model, self._requests, self._retries, self._first_byte)
        return found

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Gauges(Collector):
    """What is true now, read from the fleet when asked."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        models = self._fleet.models.items()
        yield _gauge(names.GATEWAY_IN_FLIGHT, (((name,), served.open_requests - len(served.hold)) for name, served in models))
        yield _gauge(names.GATEWAY_HELD, (((name,), len(served.hold)) for name, served in models))
        endpoints = (((name, state), served.count(state)) for name, served in models for state in _STATES)
        yield _gauge(names.GATEWAY_ENDPOINTS, endpoints)


def _described(name: str) -> tuple[str, str, tuple[str, ...]]:
    """A metric's name, help and labels."""
    info = _INFO[name]
    return name, info.help, ("model", *info.labels)


def _gauge(name: str, values: Iterable[tuple[tuple[str, ...], int]]) -> Metric:
    _, text, labels = _described(name)
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric(list(key), value)
    return family
