"""The replica's Prometheus metrics, in a registry of their own. Names are octavo_api's; what a step counts is read from
the engine when asked, what a request takes is observed when it ends."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from octavo.async_llm import AsyncLLMEngine
from octavo.server.record import Record
from octavo_api import metrics as names
from octavo_api.replica import Load

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_TOKEN_SECONDS = (0.0025, 0.005, 0.01, 0.015, 0.025, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.4, 0.75, 1.0, 2.5)
_LABEL = "model_name"
_HELP = {info.name: info for info in names.ENGINE}


class Metrics:
    def __init__(self, model: str, engine: AsyncLLMEngine, load: Callable[[], Load]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Engine(model, engine, load))
        finished = _HELP[names.REQUESTS_FINISHED]
        self._finished = Counter(finished.name, finished.help, (_LABEL, *finished.labels), registry=self._registry)
        self._model = model
        self._by_reason: dict[str, Counter] = {}
        self._first_token = self._histogram(names.TIME_TO_FIRST_TOKEN, _SECONDS)
        self._per_token = self._histogram(names.TIME_PER_OUTPUT_TOKEN, _TOKEN_SECONDS)
        self._latency = self._histogram(names.REQUEST_LATENCY, _SECONDS)

    def finished(self, record: Record) -> None:
        """Counts a request whose answer has begun, and that ended, by whatever cause."""
        reason = record.finish_reason or "abort"
        if reason not in self._by_reason:
            self._by_reason[reason] = self._finished.labels(self._model, reason)
        self._by_reason[reason].inc()
        if record.first_token is None:
            return
        duration, first = record.duration, record.first_token - record.begun
        self._first_token.observe(first)
        self._latency.observe(duration)
        if record.output_tokens > record.choices:
            self._per_token.observe((duration - first) / (record.output_tokens / record.choices - 1))

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, _HELP[name].help, (_LABEL,), buckets=buckets, registry=self._registry).labels(self._model)


class _Engine(Collector):
    """The engine after its latest step, and what is open now."""

    def __init__(self, model: str, engine: AsyncLLMEngine, load: Callable[[], Load]) -> None:
        self._model = model
        self._engine = engine
        self._load = load

    def collect(self) -> Iterator[Metric]:
        stats, load = self._engine.stats, self._load()
        values = {
            names.REQUESTS_RUNNING: load.running,
            names.REQUESTS_WAITING: load.waiting,
            names.KV_BLOCKS: stats.kv_blocks,
            names.KV_BLOCKS_USED: stats.kv_blocks_used,
            names.KV_SLOTS_WASTED: stats.kv_slots_wasted,
            names.PREEMPTIONS: stats.preemptions,
            names.PROMPT_TOKENS: stats.prompt_tokens,
            names.CACHED_PROMPT_TOKENS: stats.cached_prompt_tokens,
            names.GENERATION_TOKENS: stats.generation_tokens,
            names.ENGINE_STEPS: stats.steps,
        }
        for name, value in values.items():
            kind = CounterMetricFamily if _HELP[name].kind == "counter" else GaugeMetricFamily
            family = kind(name, _HELP[name].help, labels=(_LABEL,))
            family.add_metric([self._model], value)
            yield family
