"""An API server over HTTP on the loopback address that knows as much as the operator uses: discovery, lists by label,
watches, creates that collide, merge and apply patches, the status subresource, graceful deletion. Faults are put in by tests.

It checks nothing of what it is sent: that is left to the tests on a real cluster.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

Object = dict[str, Any]
Key = tuple[str, str, str]


def _kinds(namespaced: bool, **kinds: str) -> Object:
    verbs = ["list", "watch", "patch"]
    named = {"namespaced": namespaced, "verbs": verbs}
    return {"resources": [{"name": plural, "singularName": kind.lower(), "kind": kind, **named} for plural, kind in kinds.items()]}


def _group(name: str, version: str) -> Object:
    return {"name": name, "versions": [{"version": version}], "preferredVersion": {"version": version}}


DISCOVERY: dict[str, Object] = {
    "/version": {"major": "1", "minor": "34"},
    "/api": {"versions": ["v1"]},
    "/api/v1": {"resources": _kinds(True, pods="Pod", events="Event")["resources"] + _kinds(False, namespaces="Namespace")["resources"]},
    "/apis": {"groups": [_group("octavo.dev", "v1alpha1"), _group("apiextensions.k8s.io", "v1")]},
    "/apis/octavo.dev/v1alpha1": _kinds(True, llmdeployments="LLMDeployment"),
    "/apis/apiextensions.k8s.io/v1": _kinds(False, customresourcedefinitions="CustomResourceDefinition"),
}
KINDS = {"pods": ("v1", "Pod"), "events": ("v1", "Event"), "llmdeployments": ("octavo.dev/v1alpha1", "LLMDeployment")}


@dataclass
class Call:
    method: str
    path: str
    query: dict[str, str]
    content: str
    body: Any


@dataclass
class FakeApi:
    """`faults` are (method, part of the path, status, message, how often); `served` is what its gateway lists."""

    objects: dict[Key, Object] = field(default_factory=dict)
    history: list[tuple[int, str, str, Object]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    faults: list[list[Any]] = field(default_factory=list)
    served: set[str] = field(default_factory=set)
    version: int = 100
    url: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False

    def fail(self, method: str, path: str, status: int, message: str = "on purpose", times: int = 1) -> None:
        self.faults.append([method, path, status, message, times])

    def put(self, plural: str, content: Object) -> Object:
        """Makes or replaces an object as some other client would."""
        metadata = content["metadata"]
        key = (plural, metadata.setdefault("namespace", "default"), metadata["name"])
        old = self.objects.get(key)
        api_version, kind = KINDS[plural]
        content = {"apiVersion": api_version, "kind": kind, **deepcopy(content)}
        metadata = content["metadata"]
        metadata.setdefault("uid", old["metadata"]["uid"] if old else f"uid-{self.version}")
        metadata.setdefault("creationTimestamp", old["metadata"]["creationTimestamp"] if old else _now())
        same = old is not None and old.get("spec") == content.get("spec")
        metadata["generation"] = old["metadata"]["generation"] + (not same) if old else 1
        self._record("MODIFIED" if old else "ADDED", key, content)
        return content

    def change(self, plural: str, name: str, namespace: str = "default", **parts: Any) -> Object:
        """Replaces whole parts of an object, such as `status`."""
        return self.put(plural, self.objects[plural, namespace, name] | parts)

    def remove(self, plural: str, name: str, namespace: str = "default") -> None:
        self._record("DELETED", (plural, namespace, name), self.objects.pop((plural, namespace, name)))

    def all(self, plural: str) -> list[Object]:
        return [content for (kind, _, _), content in self.objects.items() if kind == plural]

    def get(self, plural: str, name: str, namespace: str = "default") -> Object:
        return self.objects[plural, namespace, name]

    def made(self, method: str, part: str) -> list[Call]:
        return [call for call in self.calls if call.method == method and part in call.path]

    def _record(self, event: str, key: Key, content: Object) -> None:
        self.version += 1
        content["metadata"]["resourceVersion"] = str(self.version)
        if event != "DELETED":
            self.objects[key] = content
        self.history.append((self.version, event, key[0], deepcopy(content)))
        self.changed.set()
        self.changed = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        call = Call(request.method, request.path, dict(request.query), request.content_type, body)
        self.calls.append(call)
        for fault in self.faults:
            if fault[0] == call.method and fault[1] in call.path and fault[4] > 0:
                fault[4] -= 1
                return _status(fault[2], fault[3])
        if call.path in DISCOVERY:
            return web.json_response(DISCOVERY[call.path])
        if call.path == "/v1/models":
            return web.json_response({"object": "list", "data": [{"id": name} for name in sorted(self.served)]})
        return await self._object(request, call)

    async def _object(self, request: web.Request, call: Call) -> web.StreamResponse:
        parts = call.path.split("/")[3:] if call.path.startswith("/api/") else call.path.split("/")[4:]
        namespace = parts[1] if parts[0] == "namespaces" else ""
        plural, name, subresource = [*(parts[2:] if namespace else parts), "", ""][:3]
        if not name and call.method == "GET":
            return await (self._watch if "watch" in call.query else self._list)(request, plural, namespace)
        if call.method == "POST":
            return self._create(plural, namespace, call.body)
        key = (plural, namespace, name)
        if key not in self.objects:
            return _status(404, f'{plural} "{name}" not found')
        match call.method:
            case "GET":
                return web.json_response(self.objects[key])
            case "PATCH":
                return self._patch(key, subresource, call)
            case "DELETE":
                return self._delete(key, call.body or {})
        return _status(405, call.method)

    async def _list(self, request: web.Request, plural: str, namespace: str) -> web.StreamResponse:
        items = [content for (kind, where, _), content in self.objects.items() if kind == plural and namespace in ("", where) and _selected(content, request)]
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def _watch(self, request: web.Request, plural: str, namespace: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        seen = int(request.query.get("resourceVersion") or self.version)
        while not self.stopping and request.transport is not None and not request.transport.is_closing():
            changed = self.changed
            for version, event, kind, content in self.history:
                if version > seen and kind == plural and namespace in ("", content["metadata"]["namespace"]) and _selected(content, request):
                    await response.write(json.dumps({"type": event, "object": content}).encode() + b"\n")
            seen = self.version
            await changed.wait()
        return response

    def _create(self, plural: str, namespace: str, content: Object) -> web.Response:
        if (plural, namespace, content["metadata"]["name"]) in self.objects:
            return _status(409, f'{plural} "{content["metadata"]["name"]}" already exists')
        return web.json_response(self.put(plural, content | {"metadata": content["metadata"] | {"namespace": namespace}}), status=201)

    def _patch(self, key: Key, subresource: str, call: Call) -> web.Response:
        content = deepcopy(self.objects[key])
        if subresource == "status":
            content["status"] = call.body["status"]
        else:
            _merge(content, call.body)
        return web.json_response(self.put(key[0], content))

    def _delete(self, key: Key, options: Object) -> web.Response:
        content = deepcopy(self.objects[key])
        if options.get("gracePeriodSeconds") == 0 or key[0] != "pods":
            self.remove(key[0], key[2], key[1])
        elif "deletionTimestamp" not in content["metadata"]:
            content["metadata"] |= {"deletionTimestamp": _now(), "deletionGracePeriodSeconds": options.get("gracePeriodSeconds")}
            self.put(key[0], content)
        return web.json_response(content)


@asynccontextmanager
async def serving(api: FakeApi) -> AsyncIterator[FakeApi]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        api.stopping = True
        api.changed.set()
        await runner.cleanup()


def write_kubeconfig(path: Path, url: str) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me"}}],
        "clusters": [{"name": "fake", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {"token": "secret"}}],
    }
    path.write_text(json.dumps(content))
    return path


def _selected(content: Object, request: web.Request) -> bool:
    labels = content["metadata"].get("labels") or {}
    name, equals, value = request.query.get("labelSelector", "").partition("=")
    return not name or (labels.get(name) == value if equals else name in labels)


def _merge(into: Object, patch: Object) -> None:
    """RFC 7386."""
    for name, value in patch.items():
        if value is None:
            into.pop(name, None)
        elif isinstance(value, dict):
            _merge(into.setdefault(name, {}), value)
        else:
            into[name] = value


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "message": message, "code": code}, status=code)
