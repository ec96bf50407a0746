"""Replicas as processes of this machine: the `Runtime` behind `octavo up`.

Each replica is an `octavo serve` on two free ports of the loopback address; the gateway reads which ones there are from
a catalogue file. A process that ends is not restarted here: the plan replaces it.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from octavo_api.catalogue import Catalogue, Endpoint, EndpointState, Model
from octavo_api.resource import HoldSpec, LLMDeployment, LLMDeploymentStatus, quantity, seconds
from octavo_api.settings import EngineSettings
from octavo_operator.child import Child, free_ports
from octavo_operator.manifests import Manifest
from octavo_operator.plan import LAST_GRACE
from octavo_operator.pod_state import crash
from octavo_operator.replica_client import ReplicaClient, telling
from octavo_operator.runtime import Conflict
from octavo_operator.serve import serve_arguments, source_of
from octavo_operator.types import Action, Create, Delete, Drain, Key, Observed, ObservedReplica, Undrain

KV_SHARE = 0.5
"""Share of `resources.memory` that the KV cache of a local replica may take; no cgroup says the rest."""
KV_LIMIT = 4 << 30

Listener = Callable[[Key, LLMDeploymentStatus, Observed], None]


class _Replica(msgspec.Struct, kw_only=True):
    key: Key
    child: Child
    api: str
    internal: str
    seen: ObservedReplica


class LocalRuntime:
    """Implements `Runtime`. `folder` holds logs and the catalogue; `wake` is called when a replica ended."""

    image = ""

    def __init__(self, folder: Path, url: str, wake: Callable[[Key], None], listener: Listener) -> None:
        self.url = url
        self.catalogue = folder / "catalogue.json"
        self._folder = folder
        self._wake = wake
        self._listener = listener
        self._client = ReplicaClient()
        self._manifests: dict[Key, Manifest] = {}
        self._replicas: dict[str, _Replica] = {}
        self._observed: dict[Key, Observed] = {}
        self._retired: set[Key] = set()
        self._started = time.time()
        self._write_catalogue()

    def put(self, manifest: Manifest) -> None:
        """A new resource, or a new spec of a known one."""
        before = self._manifests.get(manifest.key)
        generation = 1
        if before:
            generation = before.content["metadata"]["generation"] + (before.content["spec"] != manifest.content["spec"])
        metadata = {**manifest.content["metadata"], "generation": generation}
        status = before.content["status"] if before else {}
        self._manifests[manifest.key] = manifest._replace(content={**manifest.content, "metadata": metadata, "status": status})
        self._retired.discard(manifest.key)
        self._write_catalogue()
        self._wake(manifest.key)

    def retire(self, key: Key) -> None:
        """Drain the resource's replicas, then forget it."""
        self._retired.add(key)
        manifest = self._manifests[key]
        spec = {**manifest.content["spec"], "replicas": 0, "scaling": None}
        self._manifests[key] = manifest._replace(content={**manifest.content, "spec": spec})
        self._wake(key)

    @property
    def keys(self) -> list[Key]:
        """Resources that are wanted."""
        return [key for key in self._manifests if key not in self._retired]

    def served_name(self, key: Key) -> str:
        return self._manifests[key].resource.served_name

    def log_of(self, replica: str) -> Path:
        return self._folder / f"{replica}.log"

    async def close(self, hurry: asyncio.Event) -> None:
        """End every replica: SIGTERM, and SIGKILL for those that take long or when `hurry` is set."""
        children = [replica.child for replica in self._replicas.values()]
        for child in children:
            child.stop(LAST_GRACE)
        hurried = asyncio.create_task(hurry.wait())
        ended = asyncio.gather(*(child.wait() for child in children))
        await asyncio.wait((hurried, ended), return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        for child in children:
            child.kill()
        await ended
        await self._client.close()

    async def read(self, key: Key) -> dict[str, Any] | None:
        if key in self._retired and not any(replica.key == key for replica in self._replicas.values()):
            self._retired.discard(key)
            del self._manifests[key]
            self._write_catalogue()
        manifest = self._manifests.get(key)
        return manifest.content if manifest else None

    async def observe(self, resource: LLMDeployment) -> Observed:
        key = Key(resource.namespace, resource.name)
        mine = [replica for replica in self._replicas.values() if replica.key == key]
        seen = await asyncio.gather(*(self._look(replica) for replica in mine))
        for replica, found in zip(mine, seen, strict=True):
            replica.seen = found
        answers = any(replica.ready for replica in seen)
        self._write_catalogue()
        self._observed[key] = Observed(
            replicas=tuple(seen), route=await self._client.route(self.url, resource.served_name) if answers else None, route_known=answers
        )
        return self._observed[key]

    async def apply(self, resource: LLMDeployment, action: Action) -> None:
        if isinstance(action, Create):
            await self._create(resource, action)
        else:
            replica = self._replicas.get(action.replica)
            if replica is None:
                raise Conflict(f"{action.replica} is gone")
            self._change(replica, action)
        self._write_catalogue()

    async def publish(self, key: Key, manifest: dict[str, Any], status: LLMDeploymentStatus) -> None:
        manifest["status"] = msgspec.to_builtins(status)
        self._listener(key, status, self._observed.get(key, Observed()))

    async def _create(self, resource: LLMDeployment, action: Create) -> None:
        key = Key(resource.namespace, resource.name)
        if action.replica in self._replicas:
            raise Conflict(f"{action.replica} exists")
        api, internal = free_ports(2)
        listeners = {"host": "127.0.0.1", "port": api, "internal_host": "127.0.0.1", "internal_port": internal}
        source = source_of(resource)
        words = serve_arguments(resource, source.location if source.scheme == "file" else str(source), listeners, local_engine(resource))
        child = await Child.start(words, self.log_of(action.replica), lambda: self._wake(key), self._manifests[key].folder)
        self._replicas[action.replica] = _Replica(
            key=key,
            child=child,
            api=f"127.0.0.1:{api}",
            internal=f"127.0.0.1:{internal}",
            seen=ObservedReplica(
                name=action.replica, revision=action.revision, ordinal=action.ordinal, phase="starting", created=time.time(), attempt=action.attempt
            ),
        )

    def _change(self, replica: _Replica, action: Drain | Undrain | Delete) -> None:
        match action:
            case Drain():
                replica.seen = msgspec.structs.replace(replica.seen, draining_since=time.time())
            case Undrain():
                replica.seen = msgspec.structs.replace(replica.seen, draining_since=None)
            case Delete() if replica.child.exit_code is not None:
                del self._replicas[action.replica]
            case Delete():
                replica.child.stop(action.grace)
                replica.seen = msgspec.structs.replace(replica.seen, terminating=True)

    async def _look(self, replica: _Replica) -> ObservedReplica:
        """The replica as it is now; one that ended after it was told to go is no more."""
        seen, code = replica.seen, replica.child.exit_code
        if code is not None:
            if seen.terminating:
                self._replicas.pop(seen.name, None)
            stopped_at = seen.stopped_at or time.time()
            return msgspec.structs.replace(seen, phase="stopped", stopped_at=stopped_at, failure=crash(code, replica.child.tail()), progress=None)
        if seen.draining:
            return msgspec.structs.replace(seen, load=await self._client.load(replica.internal))
        if await self._client.healthy(replica.internal):
            return msgspec.structs.replace(seen, phase="ready", progress=None)
        progress = await self._client.progress(replica.internal)
        return telling(msgspec.structs.replace(seen, phase="loading" if progress else "starting"), progress)

    def _write_catalogue(self) -> None:
        content = msgspec.json.encode(Catalogue(models=tuple(self._model(manifest) for manifest in self._manifests.values())))
        if self.catalogue.exists() and self.catalogue.read_bytes() == content:
            return
        fresh = self.catalogue.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(self.catalogue)

    def _model(self, manifest: Manifest) -> Model:
        resource = manifest.resource
        hold = resource.spec.scaling.hold if resource.spec.scaling else HoldSpec()
        served, *aliases = resource.names
        return Model(
            name=served,
            aliases=tuple(aliases),
            namespace=resource.namespace,
            deployment=resource.name,
            created=int(self._started),
            hold_max_requests=hold.max_requests,
            hold_max_wait=seconds(hold.max_wait),
            endpoints=tuple(_endpoint(r) for r in self._replicas.values() if r.key == manifest.key and r.child.exit_code is None),
        )


def local_engine(resource: LLMDeployment) -> EngineSettings:
    """The engine's settings with `resources` as bounds, since no cgroup sets any here; a GPU's memory is its own bound."""
    spec = resource.spec
    if spec.resources.gpu:
        return spec.engine
    threads = spec.engine.cpu_threads or min(max(1, math.ceil(quantity(spec.resources.cpu))), os.cpu_count() or 1)
    cache = spec.engine.kv_cache_memory_bytes or max(65_536, min(KV_LIMIT, int(quantity(spec.resources.memory) * KV_SHARE)))
    return msgspec.structs.replace(spec.engine, cpu_threads=threads, kv_cache_memory_bytes=cache)


def _endpoint(replica: _Replica) -> Endpoint:
    seen = replica.seen
    state: EndpointState = "draining" if seen.draining or seen.terminating else "ready" if seen.phase == "ready" else "loading"
    return Endpoint(replica=seen.name, api=replica.api, internal=replica.internal, state=state)
