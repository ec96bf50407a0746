"""What wakes the operator on a cluster: kopf watches resources and pods and puts keys into the reconciler's queue, no more.

No finalizers, daemons, timers, peering, or log lines posted as events: kopf keeps nothing on the objects.
"""

import logging
import time
from collections.abc import Collection
from typing import Any

import kopf
from msgspec import Struct

from octavo_api.errors import InvalidResource
from octavo_api.resource import GROUP, LABEL_DEPLOYMENT, PLURAL, VERSION, parse
from octavo_operator.kube import KubeRuntime
from octavo_operator.kube_api import KubeApi
from octavo_operator.pods import PodOptions
from octavo_operator.reconciler import Reconciler
from octavo_operator.replica_client import ReplicaClient
from octavo_operator.types import Key


class OperatorOptions(Struct, frozen=True, kw_only=True):
    """What `octavo operator` was told. No namespaces means all of them."""

    pods: PodOptions
    gateway_url: str
    namespaces: tuple[str, ...] = ()
    liveness: str = ""


async def operate(options: OperatorOptions) -> None:
    """Run until SIGTERM or SIGINT; replicas stay as they are."""
    api, replicas = await KubeApi.connect(), ReplicaClient()
    runtime = KubeRuntime(api, replicas, options.pods, options.gateway_url, time.time)
    reconciler = Reconciler(runtime, time.time)
    registry = handlers(runtime, reconciler)
    try:
        await kopf.operator(
            registry=registry,
            settings=_settings(),
            standalone=True,
            clusterwide=not options.namespaces,
            namespaces=options.namespaces,
            liveness_endpoint=options.liveness or None,
        )
    finally:
        await reconciler.close()
        await replicas.close()
        await api.close()


def handlers(runtime: KubeRuntime, reconciler: Reconciler) -> kopf.OperatorRegistry:
    """What kopf calls: each event of a resource or of one of its pods wakes that resource's task."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**context: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**context) or kopf.login_with_kubeconfig(**context)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def resource_changed(event: kopf.RawEvent, body: kopf.Body, **_: Any) -> None:
        manifest = dict(body)
        key = Key(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        if event["type"] == "DELETED":
            runtime.names.remove(key)
        else:
            try:
                resource = parse(manifest)
                runtime.names.update(key, resource.created, resource.names)
            except InvalidResource:
                runtime.names.remove(key)
        reconciler.wake(key)

    @kopf.on.event("pods", labels={LABEL_DEPLOYMENT: kopf.PRESENT}, registry=registry)
    async def pod_changed(body: kopf.Body, **_: Any) -> None:
        metadata = body["metadata"]
        reconciler.wake(Key(metadata["namespace"], metadata["labels"][LABEL_DEPLOYMENT]))

    return registry


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.posting.level = logging.CRITICAL
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 10
    return settings


def namespaces_of(names: Collection[str], everywhere: bool) -> tuple[str, ...]:
    """Namespaces to watch: the named ones, none (which means all) with `--all-namespaces`, else the default one."""
    return () if everywhere else tuple(names) or ("default",)
