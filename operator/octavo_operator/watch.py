"""What wakes the operator on a cluster: kopf watches resources and pods and puts keys into the reconciler's queue, no more.

No finalizers, daemons, timers, peering, or log lines posted as events: kopf keeps nothing on the objects.
"""

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Any

import kopf
from msgspec import Struct

from octavo_api.resource import GROUP, LABEL_DEPLOYMENT, PLURAL, VERSION
from octavo_operator.kube import KubeRuntime
from octavo_operator.kube_api import KubeApi, KubeError
from octavo_operator.pods import PodOptions
from octavo_operator.reconciler import Reconciler
from octavo_operator.replica_client import ReplicaClient
from octavo_operator.types import Key

logger = logging.getLogger(__name__)

RETRY = 2.0
"""Seconds between tries to list the resources at the start."""


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
        await _learn_names(runtime, options.namespaces)
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


async def _learn_names(runtime: KubeRuntime, namespaces: Collection[str]) -> None:
    """An API server that does not answer is waited for, as it is later on."""
    while True:
        try:
            return await runtime.learn_names(namespaces)
        except KubeError as error:
            logger.warning("resources cannot be listed, next try in %g s: %s", RETRY, error)
            await asyncio.sleep(RETRY)


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
        rivals = runtime.names.remove(key) if event["type"] == "DELETED" else runtime.names.learn(manifest)
        for woken in (key, *rivals):
            reconciler.wake(woken)

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
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    return settings


def namespaces_of(names: Collection[str], everywhere: bool) -> tuple[str, ...]:
    """Namespaces to watch: the named ones, none (which means all) with `--all-namespaces`, else the default one."""
    return () if everywhere else tuple(names) or ("default",)
