"""The catalogue of a cluster: LLMDeployments and their pods, listed and watched. All Kubernetes I/O of the gateway is here.

When the API is out, the last known catalogue stays and the watches come back with growing pauses.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
import msgspec
from kubernetes.aio import client, config

from octavo_api.catalogue import Catalogue
from octavo_api.errors import InvalidSetting
from octavo_api.resource import GROUP, LABEL_DEPLOYMENT, PLURAL, VERSION
from octavo_gateway.catalogue.mirror import Expired, Mirror, WatchFailed
from octavo_gateway.catalogue.objects import Deployment, Pod, catalogue

logger = logging.getLogger(__name__)

WATCH_SECONDS = 240
"""After this long the API server ends a watch and it begins anew: a connection that died unnoticed is noticed."""
LIST_SECONDS = 30
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
SETTLE = 0.01
"""Seconds over which changes are collected into one new catalogue."""


class ApiError(Exception):
    """The API server answered with an error; `status` is its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Api:
    """Raw lists and watches by path, with the credentials of the pod or of the kubeconfig."""

    def __init__(self, api_client: Any) -> None:
        self._client = api_client

    @classmethod
    async def connect(cls) -> "Api":
        """
        Raises:
            InvalidSetting: there is neither a service account nor a kubeconfig.
        """
        try:
            config.load_incluster_config()  # type: ignore[no-untyped-call]  # the client has no types here
        except config.ConfigException:
            try:
                await config.load_kube_config()  # type: ignore[no-untyped-call]  # as above
            except (config.ConfigException, OSError) as error:
                raise InvalidSetting(f"--kubernetes: no cluster is known here ({error}); run it in a pod, or set KUBECONFIG") from error
        return cls(client.ApiClient())

    async def close(self) -> None:
        await self._client.close()

    async def _get(self, path: str, query: dict[str, str], patience: float) -> aiohttp.ClientResponse:
        request = await self._client.param_serialize("GET", path, query_params=list(query.items()), auth_settings=["BearerToken"])
        response: aiohttp.ClientResponse = (await self._client.call_api(*request, _request_timeout=patience)).response
        if response.status != 200:
            text = await response.text()
            response.release()
            raise ApiError(response.status, text[:500])
        return response

    async def list(self, path: str, query: dict[str, str]) -> bytes:
        async with await self._get(path, query, LIST_SECONDS) as response:
            return await response.read()

    async def watch(self, path: str, query: dict[str, str], version: str) -> AsyncIterator[bytes]:
        """Lines, each a watch event, until the API server ends the watch."""
        asked = query | {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        async with await self._get(path, asked, WATCH_SECONDS + LIST_SECONDS) as response:
            async for line in response.content:
                yield line


class KubernetesCatalogue:
    """Mirrors of both kinds, in some namespaces or, with none named, in all; applied once every list has come."""

    def __init__(self, api: Api, namespaces: Sequence[str], apply: Callable[[Catalogue], None]) -> None:
        self._api = api
        self._apply = apply
        self._changed = asyncio.Event()
        places = [f"/namespaces/{namespace}" for namespace in namespaces] or [""]
        self._deployments = {f"/apis/{GROUP}/{VERSION}{place}/{PLURAL}": Mirror(Deployment) for place in places}
        self._pods = {f"/api/v1{place}/pods": Mirror(Pod) for place in places}
        self._complaints: set[str] = set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for path, deployments in self._deployments.items():
                tasks.create_task(self._follow(path, {}, deployments))
            for path, pods in self._pods.items():
                tasks.create_task(self._follow(path, {"labelSelector": LABEL_DEPLOYMENT}, pods))
            tasks.create_task(self._publish())

    async def _publish(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(SETTLE)
            self._changed.clear()
            if all(mirror.listed for mirror in self._deployments.values()) and all(mirror.listed for mirror in self._pods.values()):
                self._complain()
                deployments = (d for mirror in self._deployments.values() for d in mirror.objects.values())
                pods = (p for mirror in self._pods.values() for p in mirror.objects.values())
                self._apply(catalogue(deployments, pods))

    def _complain(self) -> None:
        """Says once what cannot be read; the rest is served."""
        complaints = {f"{namespace}/{name}: {text}" for mirror in self._deployments.values() for (namespace, name), text in mirror.broken.items()}
        for complaint in sorted(complaints - self._complaints):
            logger.warning("LLMDeployment %s; it is not served", complaint)
        self._complaints = complaints

    async def _follow(self, path: str, query: dict[str, str], mirror: Mirror[Any]) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                mirror.replace(await self._api.list(path, query))
                self._changed.set()
                pause = FIRST_PAUSE
                while True:
                    async for line in self._api.watch(path, query, mirror.version):
                        if mirror.event(line):
                            self._changed.set()
            except Expired:
                logger.info("%s: the watch is too old; listing again", path)
            except (ApiError, WatchFailed, msgspec.DecodeError, aiohttp.ClientError, OSError, ValueError) as error:
                logger.warning("%s: %s; trying again in %.1f s, what was known before stays", path, error or type(error).__name__, pause)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, LONGEST_PAUSE)


async def follow(namespaces: Sequence[str], apply: Callable[[Catalogue], None]) -> None:
    """Applies the cluster's catalogue as it changes, until cancelled.

    Raises:
        InvalidSetting: no cluster is known here.
    """
    api = await Api.connect()
    try:
        await KubernetesCatalogue(api, namespaces, apply).run()
    finally:
        await api.close()
