"""JSON calls to the API server, over the connection pool and credentials of the official client.

Objects stay the dictionaries that the API server speaks; the typed models of the client would be made and unmade for nothing.
"""

import json
import os
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from octavo_api.errors import InvalidSetting
from octavo_operator.runtime import Unavailable

Json = dict[str, Any]

TIMEOUT = 30.0
"""Seconds for one call, whatever becomes of the connection."""
FIELD_MANAGER = "octavo-operator"
_CONTENT = {"apply": "application/apply-patch+yaml", "merge": "application/merge-patch+json"}


class KubeError(Unavailable):
    """The API server refused, or did not answer. `code` is the HTTP status, 0 where there was none."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"API server answered {code}: {message}" if code else f"API server: {message}")
        self.code = code
        self.message = message


class KubeApi:
    """Reads, creates, patches and deletes by path. Raises KubeError."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls) -> "KubeApi":
        """By the pod's service account, else by the kubeconfig file.

        Raises:
            InvalidSetting: there is neither.
        """
        settings = Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]  # the client has no annotations here
        except config.ConfigException:
            try:
                await config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)  # type: ignore[no-untyped-call]  # the client has no annotations here
            except (config.ConfigException, OSError) as error:
                raise InvalidSetting(f"no cluster is known here ({error}); run it in a pod, or set KUBECONFIG") from error
        return cls(ApiClient(settings))

    async def close(self) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]  # the client has no annotations here

    async def get(self, path: str, **query: str) -> Json:
        return await self._call("GET", path, query)

    async def create(self, path: str, body: Json) -> Json:
        return await self._call("POST", path, {"fieldManager": FIELD_MANAGER}, body)

    async def apply(self, path: str, body: Json) -> Json:
        """Server-side apply: `body` is all that this operator says of the object."""
        return await self._call("PATCH", path, {"fieldManager": FIELD_MANAGER, "force": "true"}, body, _CONTENT["apply"])

    async def merge(self, path: str, body: Json) -> Json:
        return await self._call("PATCH", path, {"fieldManager": FIELD_MANAGER}, body, _CONTENT["merge"])

    async def delete(self, path: str, body: Json) -> Json:
        return await self._call("DELETE", path, {}, body)

    async def _call(self, method: str, path: str, query: dict[str, str], body: Json | None = None, content: str = "application/json") -> Json:
        _, url, headers, content_out, _ = await self._client.param_serialize(
            method,
            path,
            header_params={"Accept": "application/json", "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
        )
        if query:
            url = f"{url}?{urlencode(query)}"
        try:
            response = await self._client.call_api(method, url, header_params=headers, body=content_out, _request_timeout=TIMEOUT)
            text: bytes = await response.read()  # type: ignore[no-untyped-call]  # the client has no annotations here
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeError(0, f"{method} {path}: {str(error) or type(error).__name__}") from error
        if not 200 <= response.status < 300:
            raise KubeError(response.status, _message(text))
        return dict(json.loads(text))


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.decode(errors="replace")[:512]
