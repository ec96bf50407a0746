"""The roles allow what the operator and the gateway call, and nothing that they do not.

Both run as processes against a small API server that knows our two kinds and events, refuses with 403 what the
rendered roles do not allow, and notes what was used. A deployment lives a whole life there: made, scheduled, scaled to
zero, deleted.
"""

import asyncio
import copy
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from aiohttp import web

OCTAVO = Path(sys.executable).parent / "octavo"
KINDS = {"llmdeployments": "LLMDeployment", "pods": "Pod", "events": "Event"}
Json = dict[str, Any]


class Call(NamedTuple):
    """Namespace is "" for a call that covers all of them."""

    namespace: str
    group: str
    resource: str
    verb: str


class Cluster:
    """Objects in memory, watches, and an authorizer. Pods get a node at once and an address where nobody listens."""

    def __init__(self, allowed: Callable[[Call], bool]) -> None:
        self.objects: dict[tuple[str, str, str], Json] = {}
        self.used: set[Call] = set()
        self.refused: set[Call] = set()
        self.url = ""
        self._allowed = allowed
        self._watchers: list[tuple[str, str, asyncio.Queue[Json]]] = []
        self._version = 1

    async def handle(self, request: web.Request) -> web.StreamResponse:
        parts = [part for part in request.path.split("/") if part]
        prefix, rest = (parts[:2], parts[2:]) if parts[0] == "api" else (parts[:3], parts[3:])
        namespace = rest[1] if rest[:1] == ["namespaces"] else ""
        kind, name, sub = (*(rest[2:] if namespace else rest), "", "", "")[:3]
        if not kind:
            return web.json_response(discovery(prefix))
        watch = request.query.get("watch") == "true"
        verb = {"GET": "watch" if watch else "get" if name else "list", "POST": "create"}.get(request.method, request.method.lower())
        call = Call(namespace, prefix[1] if prefix[0] == "apis" else "", "/".join(filter(None, (kind, sub))), verb)
        if not self._allowed(call):
            self.refused.add(call)
            return status(403, f"{call} is forbidden")
        self.used.add(call)
        if watch:
            return await self._watch(request, kind, namespace)
        return self._answer(verb, (kind, namespace, name), await request.json() if request.can_read_body else {})

    def _answer(self, verb: str, key: tuple[str, str, str], body: Json) -> web.Response:
        kind, namespace, name = key
        if verb == "list":
            found = [one for (of, where, _), one in self.objects.items() if of == kind and namespace in ("", where)]
            return web.json_response({"kind": f"{KINDS[kind]}List", "metadata": {"resourceVersion": str(self._version)}, "items": found})
        if verb == "create":
            return web.json_response(self.put(kind, namespace, body), status=201)
        if key not in self.objects:
            return status(404, f"there is no {kind} {name}")
        if verb == "patch":
            changed = merged(self.objects[key], {part: value for part, value in body.items() if part in ("status", "metadata")})
            return web.json_response(self.put(kind, namespace, changed))
        if verb == "delete":
            self.remove(key)
        return web.json_response(self.objects.get(key, {}))

    def put(self, kind: str, namespace: str, one: Json) -> Json:
        one = copy.deepcopy(one)
        self._version += 1
        metadata = one["metadata"]
        fresh = "uid" not in metadata
        stamp = {"namespace": namespace, "uid": metadata.get("uid", f"uid-{self._version}"), "creationTimestamp": "2026-01-01T00:00:00Z"}
        metadata |= stamp | {"resourceVersion": str(self._version), "generation": self._version}
        if kind == "pods" and fresh:
            conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]
            running = {"name": "engine", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "ready": True, "restartCount": 0}
            one["status"] = {"phase": "Running", "podIP": "127.0.0.1", "conditions": conditions, "containerStatuses": [running]}
        self.objects[kind, namespace, metadata["name"]] = one
        self._tell(kind, "ADDED" if fresh else "MODIFIED", one)
        return one

    def remove(self, key: tuple[str, str, str]) -> None:
        self._tell(key[0], "DELETED", self.objects.pop(key))

    def _tell(self, kind: str, event: str, one: Json) -> None:
        for of, namespace, queue in self._watchers:
            if of == kind and namespace in ("", one["metadata"]["namespace"]):
                queue.put_nowait({"type": event, "object": {"apiVersion": api_version(kind), "kind": KINDS[kind]} | one})

    async def _watch(self, request: web.Request, kind: str, namespace: str) -> web.StreamResponse:
        queue: asyncio.Queue[Json] = asyncio.Queue()
        self._watchers.append((kind, namespace, queue))
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(json.dumps(await queue.get()).encode() + b"\n")


def api_version(kind: str) -> str:
    return "octavo.dev/v1alpha1" if kind == "llmdeployments" else "v1"


def discovery(prefix: list[str]) -> Json:
    """What a client asks first; every authenticated one may. kopf wants to find namespaces and CRDs there, too."""
    if prefix == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"]}
    groups = {"v1": ["pods", "events", "namespaces"], "octavo.dev/v1alpha1": ["llmdeployments"], "apiextensions.k8s.io/v1": ["customresourcedefinitions"]}
    if prefix == ["apis"]:
        versions = [{"groupVersion": group, "version": group.partition("/")[2]} for group in groups if "/" in group]
        named = [{"name": one["groupVersion"].partition("/")[0], "versions": [one], "preferredVersion": one} for one in versions]
        return {"kind": "APIGroupList", "groups": named}
    group = "/".join(prefix[1:])
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    found = [{"name": kind, "singularName": kind[:-1], "kind": KINDS.get(kind, kind), "namespaced": kind in KINDS, "verbs": verbs} for kind in groups[group]]
    return {"kind": "APIResourceList", "groupVersion": group, "resources": found}


def merged(old: Json, new: Json) -> Json:
    found = dict(old)
    for name, value in new.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name) or {}, value) if isinstance(value, dict) else value
    return found


def status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "code": code, "message": message}, status=code)


@asynccontextmanager
async def cluster_with(rules: set[Call]) -> AsyncIterator[Cluster]:
    def allowed(call: Call) -> bool:
        return call in rules or call._replace(namespace="") in rules

    cluster = Cluster(allowed)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", cluster.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    cluster.url = site._server.sockets[0].getsockname()[1]
    yield cluster
    await runner.cleanup()


def rules_of(manifests: list[Json], part: str) -> set[Call]:
    """What the ServiceAccount of `part` may do, through its bindings."""
    roles = {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one["rules"] for one in manifests if "rules" in one}
    found = set()
    for binding in manifests:
        if binding["kind"].endswith("RoleBinding") and binding["subjects"][0]["name"] == f"octavo-{part}":
            namespace = binding["metadata"].get("namespace", "")
            for rule in roles[binding["roleRef"]["kind"], namespace, binding["roleRef"]["name"]]:
                found |= {Call(namespace, group, kind, verb) for group in rule["apiGroups"] for kind in rule["resources"] for verb in rule["verbs"]}
    return found


@asynccontextmanager
async def running(cluster: Cluster, folder: Path, arguments: list[str]) -> AsyncIterator[None]:
    """An `octavo` that finds the cluster by its kubeconfig; ended by SIGTERM."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{cluster.url}"}}],
        "users": [{"name": "me", "user": {"token": "secret"}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    environment = {**os.environ, "KUBECONFIG": str(folder / "kubeconfig")}
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(OCTAVO, *arguments, env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                raise


async def until(true: Callable[[], bool], folder: Path, cluster: Cluster) -> None:
    try:
        async with asyncio.timeout(30):
            while not true():
                assert not cluster.refused, f"not allowed: {cluster.refused}"
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"it did not come to that; used: {sorted(cluster.used)}; log:\n{(folder / 'log').read_text()}")


def arguments_of(manifests: list[Json], part: str) -> list[str]:
    """The command line of the rendered Deployment, with ports that are free here."""
    (deployment,) = [one for one in manifests if one["kind"] == "Deployment" and one["metadata"]["name"] == f"octavo-{part}"]
    given = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    replaced = {"--port": "0", "--internal-port": "0", "--liveness": "", "--gateway-url": "http://127.0.0.1:9"}
    kept = [argument for argument in given if argument.partition("=")[0] not in {*replaced, "--api-key-file"}]
    return kept + [f"{flag}={value}" for flag, value in replaced.items() if any(argument.startswith(f"{flag}=") for argument in given)]


def deployment(replicas: int) -> Json:
    spec = {"model": {"source": "/m"}, "replicas": replicas, "rollout": {"drainTimeout": "1s"}}
    return {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "metadata": {"name": "one"}, "spec": spec}


@pytest.mark.parametrize(("values", "namespace"), [("default", "anywhere"), ("namespaced", "team-b")])
async def test_the_operator(helm, tmp_path: Path, values: str, namespace: str) -> None:
    manifests = helm.render(values)
    rules = rules_of(manifests, "operator")
    async with cluster_with(rules) as cluster, running(cluster, tmp_path, arguments_of(manifests, "operator")):
        cluster.put("llmdeployments", namespace, deployment(1))
        await until(lambda: any(kind == "pods" for kind, _, _ in cluster.objects), tmp_path, cluster)
        stored = cluster.objects["llmdeployments", namespace, "one"]
        cluster.put("llmdeployments", namespace, merged(stored, {"spec": {"replicas": 0}}))
        await until(lambda: not any(kind == "pods" for kind, _, _ in cluster.objects), tmp_path, cluster)
        await until(lambda: without_namespace(rules) <= without_namespace(cluster.used), tmp_path, cluster)
        cluster.remove(("llmdeployments", namespace, "one"))
    assert not cluster.refused


@pytest.mark.parametrize("values", ["default", "namespaced"])
async def test_the_gateway(helm, tmp_path: Path, values: str) -> None:
    manifests = helm.render(values)
    rules = rules_of(manifests, "gateway")
    async with cluster_with(rules) as cluster, running(cluster, tmp_path, arguments_of(manifests, "gateway")):
        await until(lambda: rules <= cluster.used, tmp_path, cluster)
    assert not cluster.refused


def without_namespace(calls: set[Call]) -> set[Call]:
    return {call._replace(namespace="") for call in calls}


async def test_a_right_that_is_missing_is_found(helm, tmp_path: Path) -> None:
    """So that the tests above can fail."""
    rules = {call for call in rules_of(helm.render(), "gateway") if call.resource != "pods"}
    async with cluster_with(rules) as cluster, running(cluster, tmp_path, arguments_of(helm.render(), "gateway")):
        with pytest.raises(AssertionError, match=r"not allowed.*pods"):
            await until(lambda: False, tmp_path, cluster)


def test_nobody_may_do_everything(helm) -> None:
    for values in ("default", "namespaced"):
        for part in ("operator", "gateway"):
            for call in rules_of(helm.render(values), part):
                assert "*" not in call
                assert call.resource not in ("secrets", "nodes", "namespaces")


def test_people_get_rights_through_the_built_in_roles(helm, one) -> None:
    manifests = helm.render()
    view, edit = (one(manifests, "ClusterRole", f"octavo-{role}") for role in ("view", "edit"))
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert {"rbac.authorization.k8s.io/aggregate-to-edit", "rbac.authorization.k8s.io/aggregate-to-admin"} <= set(edit["metadata"]["labels"])
    assert "ClusterRole" not in {manifest["kind"] for manifest in helm.render("namespaced")}
    assert "octavo-edit" not in {manifest["metadata"]["name"] for manifest in helm.render("rbac.aggregate=false")}
