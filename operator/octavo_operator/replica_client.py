"""Asking replicas and the gateway over HTTP, with short timeouts: an answer that does not come is no answer, never a wait."""

from typing import TypeVar

import httpx
import msgspec

from octavo_api.replica import HEALTH, LOAD, PROGRESS, Load, Progress
from octavo_operator.types import Failure, ObservedReplica

TIMEOUT = 2.0
T = TypeVar("T")


class ReplicaClient:
    """One pool of connections for all replicas of a runtime. Addresses are `host:port` of internal listeners."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(timeout=TIMEOUT, trust_env=False)

    async def healthy(self, address: str) -> bool:
        """Whether it answers requests, as its readiness probe says."""
        try:
            return (await self._http.get(f"http://{address}{HEALTH}")).is_success
        except httpx.HTTPError:
            return False

    async def progress(self, address: str) -> Progress | None:
        return await self._get(f"http://{address}{PROGRESS}", Progress)

    async def load(self, address: str) -> Load | None:
        return await self._get(f"http://{address}{LOAD}", Load)

    async def route(self, gateway: str, name: str) -> Failure | None:
        """Why the gateway at `gateway` does not serve `name`, None when it does; one that wants a key is believed."""
        url = f"{gateway.rstrip('/').removesuffix('/v1')}/v1/models"
        try:
            answer = await self._twice(url)
        except httpx.HTTPError as error:
            return Failure("GatewayUnreachable", f"{url}: {str(error) or type(error).__name__}")
        if answer.status_code in (401, 403):
            return None
        try:
            served = {model.id for model in msgspec.json.decode(answer.content, type=_Models).data}
        except msgspec.DecodeError as error:
            return Failure("GatewayUnreachable", f"{url}: status {answer.status_code}, {error}")
        return None if name in served else Failure("NotRouted", f"the gateway does not list {name!r} yet")

    async def _twice(self, url: str) -> httpx.Response:
        """One answer that is late says little; two say that something is wrong."""
        try:
            return await self._http.get(url)
        except httpx.HTTPError:
            return await self._http.get(url)

    async def close(self) -> None:
        await self._http.aclose()

    async def _get(self, url: str, kind: type[T]) -> T | None:
        try:
            answer = await self._http.get(url)
            return msgspec.json.decode(answer.content, type=kind) if answer.is_success else None
        except (httpx.HTTPError, msgspec.DecodeError):
            return None


def telling(replica: ObservedReplica, progress: Progress | None) -> ObservedReplica:
    """A replica with what it said of its progress; one that says it failed has that as its failure."""
    failure = replica.failure
    if progress and progress.stage == "failed":
        failure = Failure(progress.reason or "EngineCrashed", progress.message or "the engine failed")
    return msgspec.structs.replace(replica, progress=progress, failure=failure)


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]
