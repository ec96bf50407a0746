"""The table of metrics is what the gateway and the replicas export: names, kinds, labels."""

import re
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from octavo.core.messages import EngineStats
from octavo.server.metrics import Metrics as ReplicaMetrics
from octavo.server.record import Record
from octavo_api import metrics as names
from octavo_api.catalogue import Catalogue, Endpoint, Model
from octavo_api.replica import Load
from octavo_gateway.deadlines import Deadlines
from octavo_gateway.fleet import Fleet
from octavo_gateway.metrics import Metrics
from octavo_gateway.settings import GatewaySettings


@pytest.fixture
async def exported() -> str:
    """A gateway's text after something happened to a model."""
    fleet = Fleet(GatewaySettings(), Deadlines())
    fleet.apply(Catalogue(models=(Model(name="one", endpoints=(Endpoint(replica="r", api="127.0.0.1:1", internal="127.0.0.1:2", state="loading"),)),)))
    metrics = Metrics(fleet)
    model = metrics.of("one")
    model.finished(200)
    model.retries.inc()
    model.first_byte.observe(0.1)
    return metrics.text().decode()


def series(text: str) -> Iterator[tuple[str, str, frozenset[str]]]:
    for family in text_string_to_metric_families(text):
        labels = frozenset().union(*(sample.labels for sample in family.samples)) - {"le"}
        yield family.name + ("_total" if family.type == "counter" else ""), family.type, labels


async def test_the_gateways_metrics_are_the_table(exported: str) -> None:
    told = {(info.name, info.kind, frozenset({"model", *info.labels})) for info in names.GATEWAY}
    assert {one for one in series(exported) if not one[0].endswith("_created")} == told


def test_a_replicas_metrics_are_the_table() -> None:
    engine = SimpleNamespace(stats=EngineStats(steps=3))
    metrics = ReplicaMetrics("one", engine, lambda: Load(running=1, waiting=0, draining=False))
    record = Record("id")
    record.finish_reason, record.first_token, record.output_tokens = "stop", record.begun + 0.1, 2
    metrics.finished(record)
    told = {(info.name, info.kind, frozenset({"model_name", *info.labels})) for info in names.ENGINE}
    assert {one for one in series(metrics.text().decode()) if not one[0].endswith("_created")} == told


def test_every_name_is_in_the_table_once() -> None:
    constants = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    listed = [info.name for info in (*names.ENGINE, *names.GATEWAY)]
    assert sorted(listed) == sorted(constants)


def test_names_follow_prometheus() -> None:
    for info in (*names.ENGINE, *names.GATEWAY):
        assert re.fullmatch(r"octavo_[a-z_]+", info.name)
        assert info.name.endswith("_total") == (info.kind == "counter")
        assert info.name.endswith("_seconds") == (info.kind == "histogram")
