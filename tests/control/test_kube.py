"""What the operator says to an API server and hears from it, over real HTTP."""

import asyncio
import random
from typing import Any

import pytest
from aiohttp import web

from octavo_api.replica import INTERNAL_PORT
from octavo_api.resource import ANNOTATION_DRAINING, LABEL_DEPLOYMENT, LABEL_ORDINAL, LABEL_REVISION, Condition, LLMDeploymentStatus, parse
from octavo_operator.kube import KubeRuntime
from octavo_operator.kube_api import KubeApi, KubeError
from octavo_operator.pods import PodOptions
from octavo_operator.replica_client import ReplicaClient
from octavo_operator.runtime import Conflict, Refused, Unavailable
from octavo_operator.types import Create, Delete, Drain, Key, Undrain

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z
KEY = Key("default", "m")
CREATE = Create("m-r-0", 0, "r", 0, "is wanted")
RUNNING = {"state": {"running": {}}, "name": "engine"}


@pytest.fixture
async def runtime(api, kubeconfig, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    kube, replicas = await KubeApi.connect(), ReplicaClient()
    yield KubeRuntime(kube, replicas, PodOptions(image="engine:1"), f"{api.url}/v1", lambda: NOW)
    await kube.close()
    await replicas.close()


@pytest.fixture
def resource(api):
    api.put("llmdeployments", {"metadata": {"name": "m"}, "spec": {"model": {"source": "pvc://models/m"}}})
    return parse(api.get("llmdeployments", "m"))


@pytest.fixture
def add_pod(api, resource):
    def add(name: str, *conditions: str, uid: str | None = None, annotations: Any = None, ip: str = "", containers: Any = ()) -> None:
        labels = {LABEL_DEPLOYMENT: "m", LABEL_REVISION: "r", LABEL_ORDINAL: "0"}
        owner = {"uid": uid or resource.uid, "kind": "LLMDeployment"}
        status = {"conditions": [{"type": kind, "status": "True"} for kind in conditions], "podIP": ip, "containerStatuses": list(containers)}
        metadata = {"name": name, "labels": labels, "annotations": annotations, "ownerReferences": [owner]}
        api.put("pods", {"metadata": metadata, "spec": {}, "status": status})

    return add


@pytest.fixture
async def replica_at():
    """A replica's internal listener at a loopback address of its own, where its pod's IP would be."""
    runners = []

    async def start(answers: dict[str, Any]) -> str:
        async def handle(request: web.Request) -> web.Response:
            return web.json_response(answers[request.path]) if request.path in answers else web.Response(status=404)

        app = web.Application()
        app.router.add_route("GET", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        address = ".".join(["127", *(str(random.randrange(1, 255)) for _ in range(3))])
        await web.TCPSite(runner, address, INTERNAL_PORT).start()
        return address

    yield start
    for runner in runners:
        await runner.cleanup()


class TestReading:
    async def test_a_resource(self, runtime, resource) -> None:
        assert (await runtime.read(KEY))["metadata"]["name"] == "m"

    async def test_a_resource_that_is_gone(self, runtime) -> None:
        assert await runtime.read(KEY) is None

    @pytest.mark.parametrize("code", [401, 429, 500, 503])
    async def test_an_api_server_in_trouble(self, runtime, api, code) -> None:
        api.fail("GET", "llmdeployments", code)
        with pytest.raises(KubeError, match=f"answered {code}: on purpose"):
            await runtime.read(KEY)

    async def test_an_api_server_that_is_not_there(self, kubeconfig, monkeypatch) -> None:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        kubeconfig.write_text(kubeconfig.read_text().replace("127.0.0.1:", "127.255.255.1:"))
        kube = await KubeApi.connect()
        with pytest.raises(Unavailable, match="GET /api/v1/namespaces/default/pods"):
            await kube.get("/api/v1/namespaces/default/pods")
        await kube.close()

    async def test_it_shows_its_credentials(self, runtime, resource, api) -> None:
        seen = []

        async def look(request: web.Request) -> web.Response:
            seen.append(request.headers.get("authorization"))
            return web.json_response({})

        app = web.Application()
        app.router.add_route("GET", "/{path:.*}", look)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runtime._api._client.configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runtime.read(KEY)
        await runner.cleanup()
        assert seen == ["Bearer secret"]


class TestObserving:
    async def test_only_the_resources_own_pods(self, runtime, resource, add_pod) -> None:
        add_pod("mine")
        add_pod("of-an-earlier-one-of-that-name", uid="another")
        observed = await runtime.observe(resource)
        assert [replica.name for replica in observed.replicas] == ["mine"]
        assert observed.taken == {"of-an-earlier-one-of-that-name"}

    async def test_one_that_loads_is_asked_how_far_it_is(self, runtime, resource, add_pod, replica_at) -> None:
        ip = await replica_at({"/progress": {"stage": "loading", "done": 3, "total": 10}})
        add_pod("loads", "PodScheduled", ip=ip, containers=[RUNNING])
        (replica,) = (await runtime.observe(resource)).replicas
        assert (replica.phase, replica.progress.done) == ("loading", 3)

    async def test_one_that_says_it_failed(self, runtime, resource, add_pod, replica_at) -> None:
        ip = await replica_at({"/progress": {"stage": "failed", "reason": "WeightsNotFound", "message": "/models/m is empty"}})
        add_pod("fails", "PodScheduled", ip=ip, containers=[RUNNING])
        (replica,) = (await runtime.observe(resource)).replicas
        assert (replica.failure.reason, replica.failure.message) == ("WeightsNotFound", "/models/m is empty")

    async def test_one_that_drains_is_asked_what_is_open(self, runtime, resource, add_pod, replica_at) -> None:
        ip = await replica_at({"/load": {"running": 2, "waiting": 1, "draining": False}})
        add_pod("drains", "PodScheduled", "Ready", ip=ip, containers=[RUNNING], annotations={ANNOTATION_DRAINING: "2025-12-31T23:59:30Z"})
        (replica,) = (await runtime.observe(resource)).replicas
        assert (replica.load.running, replica.draining_since) == (2, NOW - 30)

    async def test_a_drain_mark_without_a_time_gets_one(self, runtime, resource, add_pod, api) -> None:
        add_pod("drains", "PodScheduled", "Ready", containers=[RUNNING], ip="127.255.255.1", annotations={ANNOTATION_DRAINING: "please"})
        (replica,) = (await runtime.observe(resource)).replicas
        assert replica.draining_since == NOW
        assert api.get("pods", "drains")["metadata"]["annotations"] == {ANNOTATION_DRAINING: "2026-01-01T00:00:00Z"}

    async def test_one_that_does_not_answer_is_still_seen(self, runtime, resource, add_pod) -> None:
        add_pod("silent", "PodScheduled", ip="127.255.255.1", containers=[RUNNING])
        (replica,) = (await runtime.observe(resource)).replicas
        assert (replica.phase, replica.progress) == ("loading", None)

    async def test_the_gateway_is_asked_once_a_replica_is_ready(self, runtime, resource, add_pod, api) -> None:
        assert not (await runtime.observe(resource)).route_known
        add_pod("ready", "PodScheduled", "Ready", containers=[RUNNING])
        assert (await runtime.observe(resource)).route.reason == "NotRouted"
        api.served = {"m"}
        observed = await runtime.observe(resource)
        assert (observed.route_known, observed.route) == (True, None)
        api.fail("GET", "/v1/models", 401)
        assert (await runtime.observe(resource)).route is None
        api.fail("GET", "/v1/models", 502)
        assert (await runtime.observe(resource)).route.reason == "GatewayUnreachable"

    async def test_when_a_replica_vanished(self, runtime, resource, add_pod, api) -> None:
        add_pod("one")
        await runtime.observe(resource)
        runtime._clock = lambda: NOW + 60
        api.remove("pods", "one")
        assert (await runtime.observe(resource)).last_gone == NOW + 60


class TestActing:
    async def test_a_replica_is_made_once(self, runtime, resource, api) -> None:
        await runtime.apply(resource, CREATE)
        with pytest.raises(Conflict, match="already exists"):
            await runtime.apply(resource, CREATE)
        (pod,) = api.all("pods")
        assert pod["metadata"]["name"] == "m-r-0"
        assert pod["metadata"]["ownerReferences"][0]["uid"] == resource.uid
        assert api.made("POST", "/pods")[0].query == {"fieldManager": "octavo-operator"}

    @pytest.mark.parametrize(
        ("code", "message", "reason"),
        [
            (403, 'pods "m-r-0" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2', "QuotaExceeded"),
            (403, 'pods "m-r-0" is forbidden: violates PodSecurity "restricted:latest"', "PodRefused"),
            (422, "Pod is invalid: spec.containers[0].resources.limits: Invalid value", "PodRefused"),
        ],
    )
    async def test_a_refusal_is_told_until_one_is_made(self, runtime, resource, api, code, message, reason) -> None:
        api.fail("POST", "/pods", code, message)
        with pytest.raises(Refused):
            await runtime.apply(resource, CREATE)
        refused = (await runtime.observe(resource)).refused
        assert (refused.reason, refused.message) == (reason, message)
        await runtime.apply(resource, CREATE)
        assert (await runtime.observe(resource)).refused is None

    async def test_trouble_of_the_server_is_no_refusal(self, runtime, resource, api) -> None:
        api.fail("POST", "/pods", 500)
        with pytest.raises(Unavailable):
            await runtime.apply(resource, CREATE)
        assert (await runtime.observe(resource)).refused is None

    async def test_drain_marks_and_undrain_takes_the_mark_away(self, runtime, resource, api, add_pod) -> None:
        add_pod("m-r-0", annotations={"others": "stay"})
        await runtime.apply(resource, Drain("m-r-0", ""))
        assert api.get("pods", "m-r-0")["metadata"]["annotations"] == {"others": "stay", ANNOTATION_DRAINING: "2026-01-01T00:00:00Z"}
        await runtime.apply(resource, Undrain("m-r-0", ""))
        assert api.get("pods", "m-r-0")["metadata"]["annotations"] == {"others": "stay"}

    async def test_delete_gives_grace(self, runtime, resource, api, add_pod) -> None:
        add_pod("m-r-0")
        await runtime.apply(resource, Delete("m-r-0", 42.4, ""))
        assert api.made("DELETE", "/pods/m-r-0")[0].body == {"gracePeriodSeconds": 42}

    @pytest.mark.parametrize("action", [Drain("none", ""), Undrain("none", ""), Delete("none", 5, "")], ids=lambda action: type(action).__name__)
    async def test_a_replica_that_is_gone_is_a_conflict(self, runtime, resource, action) -> None:
        with pytest.raises(Conflict, match="not found"):
            await runtime.apply(resource, action)


class TestPublishing:
    STATUS = LLMDeploymentStatus(observed_generation=1, conditions=(Condition(type="Ready", status="True", reason="Ready", message="1 of 1"),))

    async def test_the_status_is_applied_to_its_subresource(self, runtime, resource, api) -> None:
        await runtime.publish(KEY, api.get("llmdeployments", "m"), self.STATUS)
        (call,) = api.made("PATCH", "/llmdeployments/m/status")
        assert call.content == "application/apply-patch+yaml"
        assert call.query == {"fieldManager": "octavo-operator", "force": "true"}
        assert set(call.body) == {"apiVersion", "kind", "metadata", "status"}
        status = api.get("llmdeployments", "m")["status"]
        assert status["observedGeneration"] == 1
        assert status["replicas"] == {"current": 0, "desired": 0, "ready": 0, "loading": 0, "draining": 0, "updated": 0}

    async def test_an_unchanged_status_is_not_written_again(self, runtime, resource, api) -> None:
        for _ in range(2):
            await runtime.publish(KEY, api.get("llmdeployments", "m"), self.STATUS)
        assert len(api.made("PATCH", "/status")) == 1

    async def test_an_event_tells_of_a_transition(self, runtime, resource, api) -> None:
        await runtime.publish(KEY, api.get("llmdeployments", "m"), self.STATUS)
        (event,) = api.all("events")
        assert (event["type"], event["reason"], event["message"]) == ("Normal", "Ready", "Ready is True: 1 of 1")
        assert event["involvedObject"]["uid"] == resource.uid

    async def test_an_event_that_cannot_be_written_stops_nothing(self, runtime, resource, api, caplog) -> None:
        api.fail("POST", "/events", 403)
        await runtime.publish(KEY, api.get("llmdeployments", "m"), self.STATUS)
        assert "event Ready could not be written" in caplog.text
        assert api.get("llmdeployments", "m")["status"]

    async def test_a_resource_that_is_gone_is_a_conflict(self, runtime, resource, api) -> None:
        manifest = api.get("llmdeployments", "m")
        api.remove("llmdeployments", "m")
        with pytest.raises(Conflict, match="default/m is gone"):
            await runtime.publish(KEY, manifest, self.STATUS)


async def test_names_are_known_before_the_first_look(runtime, api) -> None:
    for name, created in (("young", "2026-01-02T00:00:00Z"), ("old", "2026-01-01T00:00:00Z")):
        metadata = {"name": name, "creationTimestamp": created}
        api.put("llmdeployments", {"metadata": metadata, "spec": {"model": {"source": "/m", "servedName": "same"}}})
    await runtime.learn_names(())
    young = parse(api.get("llmdeployments", "young"))
    assert (await runtime.observe(young)).name_holder == "default/old"
    assert (await runtime.observe(parse(api.get("llmdeployments", "old")))).name_holder == ""


async def test_many_looks_at_once(runtime, resource, add_pod) -> None:
    add_pod("one")
    seen = await asyncio.gather(*(runtime.observe(resource) for _ in range(50)))
    assert all(len(observed.replicas) == 1 for observed in seen)
