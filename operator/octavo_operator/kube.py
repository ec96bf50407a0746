"""Replicas as pods: the `Runtime` of a cluster, and all that the operator says to the API server.

It translates and nothing more: pods are made by `pods.py`, read by `pod_state.py`, and what to do was decided by the plan.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from octavo_api.replica import INTERNAL_PORT
from octavo_api.resource import ANNOTATION_DRAINING, GROUP, KIND, LABEL_DEPLOYMENT, PLURAL, VERSION, Condition, LLMDeployment, LLMDeploymentStatus, read_status
from octavo_operator.conditions import rfc3339
from octavo_operator.kube_api import FIELD_MANAGER, KubeApi, KubeError
from octavo_operator.names import NameClaims
from octavo_operator.pod_state import replica_of, short
from octavo_operator.pods import PodOptions, pod
from octavo_operator.replica_client import ReplicaClient, telling
from octavo_operator.runtime import Conflict, Refused
from octavo_operator.types import Action, Create, Delete, Drain, Failure, Key, Observed, ObservedReplica, Undrain

logger = logging.getLogger(__name__)

Json = dict[str, Any]


_EVENT_MESSAGE = 1024
"""Characters that the API server takes."""
_TOLD = ("Accepted", "Ready", "Progressing", "Degraded")
_REFUSALS = (400, 403, 422)
"""Codes with which the API server says that this pod may not be: quota, admission, security, validation."""


class KubeRuntime:
    """Implements `Runtime`. `names` is kept by whoever watches the resources."""

    def __init__(self, api: KubeApi, replicas: ReplicaClient, options: PodOptions, url: str, clock: Callable[[], float]) -> None:
        self.image = options.image
        self.url = url
        self.names = NameClaims()
        self._api = api
        self._replicas = replicas
        self._options = options
        self._clock = clock
        self._seen: dict[Key, set[str]] = {}
        self._last_gone: dict[Key, float] = {}
        self._refused: dict[Key, Failure] = {}
        self._started = clock()

    async def read(self, key: Key) -> Json | None:
        try:
            return await self._api.get(_resource_path(key))
        except KubeError as error:
            if error.code != 404:
                raise
            for memory in (self._seen, self._last_gone, self._refused):
                memory.pop(key, None)
            return None

    async def learn_names(self, namespaces: Collection[str]) -> None:
        """Reads every resource's names, so that the first look at a young one knows the older ones."""
        for place in [f"/namespaces/{namespace}" for namespace in namespaces] or [""]:
            listed = await self._api.get(f"/apis/{GROUP}/{VERSION}{place}/{PLURAL}")
            for manifest in listed["items"]:
                self.names.learn({"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, **manifest})

    async def observe(self, resource: LLMDeployment) -> Observed:
        key = Key(resource.namespace, resource.name)
        listed = await self._api.get(_pods_path(key.namespace), labelSelector=f"{LABEL_DEPLOYMENT}={key.name}")
        pods = [item for item in listed["items"] if _owned(item, resource)]
        replicas = tuple(await asyncio.gather(*(self._asked(item) for item in pods)))
        self._note_gone(key, {replica.name for replica in replicas})
        holder = self.names.holder(key)
        route_known = bool(self.url) and any(replica.ready for replica in replicas)
        return Observed(
            replicas=replicas,
            taken=frozenset(item["metadata"]["name"] for item in listed["items"] if item not in pods),
            last_gone=self._last_gone.get(key, self._started),
            name_holder=str(holder or ""),
            refused=self._refused.get(key),
            route=await self._replicas.route(self.url, resource.served_name) if route_known else None,
            route_known=route_known,
        )

    async def apply(self, resource: LLMDeployment, action: Action) -> None:
        path = f"{_pods_path(resource.namespace)}/{action.replica}"
        try:
            match action:
                case Create():
                    await self._create(resource, action)
                case Drain():
                    await self._annotate(path, rfc3339(self._clock()))
                case Undrain():
                    await self._annotate(path, None)
                case Delete():
                    await self._api.delete(path, {"gracePeriodSeconds": round(action.grace)})
        except KubeError as error:
            if error.code in (404, 409):
                raise Conflict(str(error)) from error
            raise

    async def _create(self, resource: LLMDeployment, action: Create) -> None:
        key = Key(resource.namespace, resource.name)
        try:
            await self._api.create(_pods_path(resource.namespace), pod(resource, action, self._options))
        except KubeError as error:
            if error.code not in _REFUSALS:
                raise
            self._refused[key] = Failure("QuotaExceeded" if "exceeded quota" in error.message else "PodRefused", short(error.message))
            raise Refused(str(error)) from error
        self._refused.pop(key, None)

    async def publish(self, key: Key, manifest: Json, status: LLMDeploymentStatus) -> None:
        before = read_status(manifest)
        if status == before:
            return
        body = {**_identity(key), "status": msgspec.to_builtins(status)}
        try:
            await self._api.apply(f"{_resource_path(key)}/status", body)
        except KubeError as error:
            if error.code == 404:
                raise Conflict(f"{key} is gone") from error
            raise
        for condition in transitions(before, status):
            await self._announce(key, manifest, condition)

    async def _asked(self, item: Json) -> ObservedReplica:
        """The replica that a pod is, with what it says itself where that matters."""
        now = self._clock()
        replica = replica_of(item, now)
        if replica.draining_since == now:
            await self._annotate(f"{_pods_path(item['metadata']['namespace'])}/{replica.name}", rfc3339(now))
        ip = item.get("status", {}).get("podIP")
        if not ip or replica.phase not in ("loading", "ready"):
            return replica
        address = f"[{ip}]:{INTERNAL_PORT}" if ":" in ip else f"{ip}:{INTERNAL_PORT}"
        if replica.draining and not replica.terminating:
            return msgspec.structs.replace(replica, load=await self._replicas.load(address))
        if replica.phase == "loading":
            return telling(replica, await self._replicas.progress(address))
        return replica

    async def _annotate(self, path: str, value: str | None) -> None:
        await self._api.merge(path, {"metadata": {"annotations": {ANNOTATION_DRAINING: value}}})

    async def _announce(self, key: Key, manifest: Json, condition: Condition) -> None:
        """An Event of one transition; one that cannot be written is logged, because status has said it already."""
        now = self._clock()
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{key.name}.{int(now * 1e6):x}.{condition.type.lower()}", "namespace": key.namespace},
            "involvedObject": {**_identity(key)["metadata"], "apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "uid": manifest["metadata"].get("uid")},
            "type": "Warning" if _is_bad(condition) else "Normal",
            "reason": condition.reason,
            "message": f"{condition.type} is {condition.status}: {condition.message}"[:_EVENT_MESSAGE],
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": FIELD_MANAGER,
            "firstTimestamp": rfc3339(now),
            "lastTimestamp": rfc3339(now),
            "count": 1,
        }
        try:
            await self._api.create(f"/api/v1/namespaces/{key.namespace}/events", event)
        except KubeError as error:
            logger.warning("%s: event %s could not be written: %s", key, condition.reason, error)

    def _note_gone(self, key: Key, names: set[str]) -> None:
        if self._seen.get(key, set()) - names:
            self._last_gone[key] = self._clock()
        self._seen[key] = names


def transitions(before: LLMDeploymentStatus, after: LLMDeploymentStatus) -> list[Condition]:
    """Conditions worth an event: those whose status changed, and trouble or progress that has another reason now."""
    known = {condition.type: condition for condition in before.conditions}
    return [condition for condition in after.conditions if condition.type in _TOLD and _is_news(known.get(condition.type), condition)]


def _is_news(old: Condition | None, new: Condition) -> bool:
    if old is None:
        return new.status != "False" or new.type == "Accepted"
    return old.status != new.status or (new.status == "True" and old.reason != new.reason and new.type in ("Degraded", "Progressing"))


def _is_bad(condition: Condition) -> bool:
    return condition.status == ("True" if condition.type == "Degraded" else "False") and condition.type in ("Accepted", "Degraded")


def _owned(item: Json, resource: LLMDeployment) -> bool:
    """A pod of an earlier resource of the same name is another's, whatever its labels say."""
    return any(owner.get("uid") == resource.uid for owner in item["metadata"].get("ownerReferences") or [])


def _identity(key: Key) -> Json:
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "metadata": {"name": key.name, "namespace": key.namespace}}


def _resource_path(key: Key) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{key.namespace}/{PLURAL}/{key.name}"


def _pods_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"
