"""The catalogue from a file and from Kubernetes objects, whole and broken, and from an API server that comes and goes."""

import asyncio
import json

import msgspec
import pytest
from kubernetes.aio import client

from octavo_api.catalogue import Catalogue, Endpoint, Model
from octavo_gateway.catalogue.kube import Api, KubernetesCatalogue
from octavo_gateway.catalogue.local import FileCatalogue
from octavo_gateway.catalogue.mirror import Expired, Mirror, WatchFailed
from octavo_gateway.catalogue.objects import Deployment, Pod, catalogue

EXAMPLE = Catalogue(models=(Model(name="m", endpoints=(Endpoint(replica="m-0", api="h:1", internal="h:2", state="ready"),)),))


def deployment(name="m", namespace="ns", created="2026-01-01T00:00:00Z", spec=None, version="1", **metadata):
    made = {"name": name, "namespace": namespace, "creationTimestamp": created, "resourceVersion": version} | metadata
    return {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "metadata": made, "spec": spec or {"model": {"source": "/m"}}, "status": {"url": "x"}}


def pod(name="m-0", owner="m", namespace="ns", ip="10.0.0.1", ready=True, phase="Running", **metadata):
    conditions = [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True" if ready else "False", "lastProbeTime": None}]
    status = {"phase": phase, "conditions": conditions} | ({"podIP": ip} if ip else {})
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"octavo.dev/deployment": owner}} | metadata,
        "spec": {"containers": []},
        "status": status,
    }


def build(deployments, pods=()):
    return catalogue((msgspec.convert(d, Deployment) for d in deployments), (msgspec.convert(p, Pod) for p in pods)).models


def test_a_deployment_and_its_pods():
    spec = {
        "model": {"source": "hf://a/b", "servedName": "org/m", "aliases": ["x"]},
        "scaling": {"min": 0, "hold": {"maxRequests": 3, "maxWait": "1m30s"}},
        "newField": {"a": 1},
    }
    pods = [pod("b"), pod("a", ip="10.0.0.2", ready=False), pod("other", owner="n"), pod("elsewhere", namespace="other")]
    (model,) = build([deployment(spec=spec)], pods)
    assert model == Model(
        name="org/m",
        aliases=("x",),
        namespace="ns",
        deployment="m",
        created=1767225600,
        hold_max_requests=3,
        hold_max_wait=90.0,
        endpoints=(
            Endpoint(replica="a", api="10.0.0.2:8000", internal="10.0.0.2:8001", state="loading"),
            Endpoint(replica="b", api="10.0.0.1:8000", internal="10.0.0.1:8001", state="ready"),
        ),
    )


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "ready"),
        ({"ready": False}, "loading"),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, "draining"),
        ({"annotations": {"octavo.dev/draining": "2026-01-01T00:00:00Z"}}, "draining"),
        ({"annotations": {"other": "x"}}, "ready"),
        ({"ip": ""}, None),
        ({"phase": "Failed"}, None),
        ({"phase": "Succeeded"}, None),
    ],
)
def test_states_of_pods(changes, state):
    (model,) = build([deployment()], [pod(**changes)])
    assert [endpoint.state for endpoint in model.endpoints] == ([state] if state else [])


def test_ipv6_addresses():
    (model,) = build([deployment()], [pod(ip="fd00::1")])
    assert model.endpoints[0].api == "[fd00::1]:8000"


def test_a_sleeping_model_is_a_model_and_a_deleted_one_is_not():
    models = build([deployment("a"), deployment("b", deletionTimestamp="2026-01-01T00:00:00Z")])
    assert [(model.name, model.endpoints) for model in models] == [("a", ())]


def test_the_older_of_two_comes_first():
    young, old = deployment("a", created="2026-02-01T00:00:00Z"), deployment("b", created="2026-01-01T00:00:00Z")
    twin = deployment("b", namespace="a", created="2026-01-01T00:00:00Z")
    for order in ([young, old, twin], [twin, old, young]):
        assert [(model.namespace, model.deployment) for model in build(order)] == [("a", "b"), ("ns", "b"), ("ns", "a")]


def encoded(kind, *items, version="5"):
    return json.dumps({"kind": kind, "metadata": {"resourceVersion": version}, "items": items}).encode()


def event(kind, thing):
    return json.dumps({"type": kind, "object": thing}).encode()


def test_a_mirror_follows_a_watch():
    mirror = Mirror(Deployment)
    assert not mirror.listed
    mirror.replace(encoded("LLMDeploymentList", deployment("a"), deployment("b")))
    assert (mirror.listed, mirror.version, sorted(mirror.objects)) == (True, "5", [("ns", "a"), ("ns", "b")])
    assert mirror.event(event("ADDED", deployment("c", version="6")))
    assert mirror.event(event("MODIFIED", deployment("c", version="7", spec={"model": {"servedName": "x"}})))
    assert mirror.event(event("DELETED", deployment("a", version="8")))
    assert not mirror.event(event("DELETED", deployment("a", version="9")))
    assert not mirror.event(event("BOOKMARK", {"metadata": {"resourceVersion": "20"}}))
    assert (mirror.version, sorted(mirror.objects)) == ("20", [("ns", "b"), ("ns", "c")])


def test_an_object_that_cannot_be_read_takes_no_other_down():
    mirror = Mirror(Deployment)
    bad = deployment("bad", spec={"model": {"servedName": 5}})
    mirror.replace(encoded("LLMDeploymentList", bad, deployment("good"), {"kind": "?"}))
    assert list(mirror.objects) == [("ns", "good")]
    assert "servedName" in mirror.broken["ns", "bad"]
    assert mirror.event(event("MODIFIED", deployment("bad")))
    assert sorted(mirror.objects) == [("ns", "bad"), ("ns", "good")]
    assert mirror.event(event("MODIFIED", bad))
    assert list(mirror.objects) == [("ns", "good")]


def test_errors_of_a_watch():
    mirror = Mirror(Pod)
    with pytest.raises(Expired, match="too old"):
        mirror.event(event("ERROR", {"kind": "Status", "code": 410, "message": "too old"}))
    with pytest.raises(WatchFailed, match="oops"):
        mirror.event(event("ERROR", {"kind": "Status", "code": 500, "message": "oops"}))
    with pytest.raises(msgspec.DecodeError):
        mirror.event(b'{"type": "ADDED", "obj')


def test_a_file_is_followed(tmp_path, caplog):
    applied = []
    file = tmp_path / "catalogue.json"
    follower = FileCatalogue(file, applied.append)
    follower.look()
    follower.look()
    assert (applied, caplog.text.count("No such file")) == ([], 1)
    whole = msgspec.json.encode(EXAMPLE)
    file.write_bytes(whole[: len(whole) // 2])
    follower.look()
    follower.look()
    assert applied == []
    file.write_bytes(whole)
    follower.look()
    follower.look()
    assert applied == [EXAMPLE]
    file.write_bytes(whole[:-9])
    follower.look()
    file.unlink()
    follower.look()
    assert applied == [EXAMPLE]
    replacement = tmp_path / "new"
    replacement.write_bytes(msgspec.json.encode(Catalogue()))
    replacement.replace(file)
    follower.look()
    assert applied == [EXAMPLE, Catalogue()]


def test_a_file_with_an_address_that_is_none(tmp_path, caplog):
    applied = []
    file = tmp_path / "catalogue.json"
    file.write_bytes(msgspec.json.encode(EXAMPLE).replace(b"h:1", b"h"))
    FileCatalogue(file, applied.append).look()
    assert applied == []
    assert "is not host:port" in caplog.text


class ApiServer:
    """Answers lists and watches of an API server from what a test puts here; `out` makes it refuse."""

    def __init__(self):
        self.deployments = [deployment()]
        self.pods = [pod()]
        self.out = False
        self.lists = 0
        self.queries = []
        self.watches = []

    async def handle(self, request, reader, writer):
        path, _, query = request.target.partition("?")
        self.queries.append((path, query))
        if self.out:
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nout!")
            return True
        if "watch=true" not in query:
            self.lists += 1
            body = encoded("List", *(self.pods if path.endswith("/pods") else self.deployments))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            return True
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        self.watches.append((path, writer))
        await reader.read(1)
        return False

    def say(self, kind, thing):
        for path, writer in self.watches:
            if path.endswith("/pods") == ("containers" in thing.get("spec", {})):
                line = event(kind, thing) + b"\n"
                writer.write(b"%x\r\n%b\r\n" % (len(line), line))

    def end_watches(self, final=b"0\r\n\r\n"):
        for _, writer in self.watches:
            writer.write(final)
            writer.close()
        self.watches.clear()


async def test_the_cluster_is_followed_through_an_outage(stub, eventually):
    server = ApiServer()
    peer = await stub(server.handle)
    configuration = client.Configuration(host=f"http://{peer.address}")
    api = Api(client.ApiClient(configuration))
    applied = []
    following = asyncio.create_task(KubernetesCatalogue(api, ["ns"], applied.append).run())
    try:
        await eventually(lambda: len(applied) == 1 and len(server.watches) == 2)
        assert [endpoint.state for endpoint in applied[-1].models[0].endpoints] == ["ready"]
        assert {path for path, _ in server.queries} == {"/apis/octavo.dev/v1alpha1/namespaces/ns/llmdeployments", "/api/v1/namespaces/ns/pods"}
        assert all("resourceVersion=5" in query for _, query in server.queries if "watch=true" in query)

        server.say("MODIFIED", pod(deletionTimestamp="2026-01-01T00:00:00Z"))
        await eventually(lambda: applied[-1].models[0].endpoints[0].state == "draining")
        server.say("ADDED", deployment("n", version="6"))
        await eventually(lambda: len(applied[-1].models) == 2)

        server.end_watches()
        await eventually(lambda: len(server.watches) == 2)
        assert server.lists == 2, "a watch that ends goes on from where it was"
        assert any("resourceVersion=6" in query for _, query in server.queries)

        count = len(applied)
        server.out = True
        server.end_watches(b"")
        await asyncio.sleep(0.3)
        assert len(applied) == count, "what was known stays"
        server.out = False
        server.deployments = [deployment("n")]
        await eventually(lambda: [model.name for model in applied[-1].models] == ["n"])

        await eventually(lambda: len(server.watches) == 2)
        server.deployments = []
        server.say("ERROR", {"kind": "Status", "code": 410, "message": "too old", "spec": {}})
        await eventually(lambda: applied[-1].models == ())
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await api.close()
