"""`octavo operator` as a process against an API server: it lists, watches and reconciles from YAML to pod and status back.

A little kubelet in the test schedules, starts and ends pods; each pod's internal listener is at a loopback address of its own.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from octavo_api.replica import INTERNAL_PORT

SPEC = {"model": {"source": "pvc://models/m"}, "rollout": {"drainTimeout": "20s"}}
SCHEDULED = {"type": "PodScheduled", "status": "True"}


class Kubelet:
    """Runs every pod that appears; `open` are the requests that all of them report; `broken` pods crash instead."""

    def __init__(self, api: Any) -> None:
        self.api = api
        self.open = 0
        self.broken = False
        self.site: dict[str, web.AppRunner] = {}

    async def run(self) -> None:
        while True:
            for pod in self.api.all("pods"):
                name, status = pod["metadata"]["name"], pod.get("status") or {}
                if "deletionTimestamp" in pod["metadata"]:
                    self.api.remove("pods", name)
                elif not status:
                    self.api.change("pods", name, status=await self._started(name))
            await asyncio.sleep(0.05)

    async def _started(self, name: str) -> dict[str, Any]:
        if self.broken:
            died = {"exitCode": 1, "message": "octavo serve: WeightsNotFound: /models/m has no weights\n", "finishedAt": "2026-01-01T00:00:00Z"}
            waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
            return {"conditions": [SCHEDULED], "containerStatuses": [{"state": waiting, "lastState": {"terminated": died}, "restartCount": 1}]}
        address = ".".join(["127", *(str(random.randrange(1, 255)) for _ in range(3))])
        app = web.Application()
        app.router.add_get("/load", self._load)
        runner = self.site[name] = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, address, INTERNAL_PORT).start()
        running = [{"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "restartCount": 0}]
        return {"conditions": [SCHEDULED, {"type": "Ready", "status": "True"}], "podIP": address, "containerStatuses": running}

    async def _load(self, _: web.Request) -> web.Response:
        return web.json_response({"running": self.open, "waiting": 0, "draining": False})


@pytest.fixture
async def kubelet(api) -> AsyncIterator[Kubelet]:
    kubelet = Kubelet(api)
    task = asyncio.create_task(kubelet.run())
    yield kubelet
    task.cancel()
    await asyncio.gather(task, *(runner.cleanup() for runner in kubelet.site.values()), return_exceptions=True)


@pytest.fixture
def operator(api, kubeconfig, tmp_path) -> Callable[..., Any]:
    """`async with operator() as process`: afterwards it has ended by SIGTERM with status 0, unless it was killed."""
    log = tmp_path / "operator.log"

    @asynccontextmanager
    async def start(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        command = [str(Path(sys.executable).with_name("octavo")), "operator", "--engine-image=engine:1", f"--gateway-url={api.url}/v1", *arguments]
        if not any("--liveness" in argument for argument in arguments):
            command.append("--liveness=")
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "KUBECONFIG": str(kubeconfig)}, stdout=output, stderr=output)
        try:
            yield process
        finally:
            killed = process.returncode is not None
            if not killed:
                process.send_signal(signal.SIGTERM)
            status = await asyncio.wait_for(process.wait(), 20)
        assert killed or status == 0, log.read_text()

    return start


async def until(true: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 what is waited for is in another process
            await asyncio.sleep(0.02)


def condition(api: Any, kind: str = "Ready", name: str = "m") -> Any:
    status = api.get("llmdeployments", name).get("status") or {}
    return next((c for c in status.get("conditions", []) if c["type"] == kind), {"status": "", "reason": "", "message": ""})


def settled(api: Any, replicas: int) -> bool:
    counts = (api.get("llmdeployments", "m").get("status") or {}).get("replicas", {})
    pods = len(api.all("pods"))
    return counts.get("ready") == counts.get("current") == counts.get("updated") == pods == replicas and condition(api)["status"] == "True"


def put(api: Any, **spec: Any) -> None:
    status = api.objects.get(("llmdeployments", "default", "m"), {}).get("status")
    api.put("llmdeployments", {"metadata": {"name": "m"}, "spec": SPEC | spec, "status": status})


async def test_from_a_resource_to_pods_and_back(api, kubelet, operator) -> None:
    """Made, scaled up and down with a drain, changed, and gone; then nothing is on the objects that should not be."""
    api.served = {"m"}
    health = f"http://127.0.0.1:{random.randrange(20_000, 30_000)}/healthz"
    async with operator(f"--liveness={health}"), ClientSession() as http:
        put(api, replicas=1)
        await until(lambda: settled(api, 1))
        status = api.get("llmdeployments", "m")["status"]
        async with http.get(health) as answer:
            assert answer.status == 200
        assert status["observedGeneration"] == 1
        assert status["url"] == f"{api.url}/v1"
        assert status["selector"] == "octavo.dev/deployment=m"
        assert status["revision"] in api.all("pods")[0]["metadata"]["name"]

        put(api, replicas=2)
        await until(lambda: settled(api, 2))
        kubelet.open = 1
        put(api, replicas=1)
        await until(lambda: any("octavo.dev/draining" in (pod["metadata"].get("annotations") or {}) for pod in api.all("pods")))
        await asyncio.sleep(2.5)
        assert len(api.all("pods")) == 2, "it waits for the open request"
        kubelet.open = 0
        await until(lambda: settled(api, 1))
        assert 5 <= api.made("DELETE", "/pods/")[0].body["gracePeriodSeconds"] <= 20

        put(api, replicas=1, engine={"maxNumSeqs": 4})
        await until(lambda: api.get("llmdeployments", "m")["status"]["revision"] != status["revision"] and settled(api, 1))
        assert not api.get("llmdeployments", "m")["metadata"].get("finalizers")
        assert not api.get("llmdeployments", "m")["metadata"].get("annotations")
        assert {event["reason"] for event in api.all("events")} >= {"Ready", "RollingOut", "Complete"}
        api.remove("llmdeployments", "m")


async def test_a_failure_has_its_reason(api, kubelet, operator) -> None:
    """Weights that are not there, then an invalid spec, then a name that another has."""
    kubelet.broken = True
    async with operator("--namespace=default"):
        put(api)
        await until(lambda: condition(api)["reason"] == "WeightsNotFound")
        assert condition(api)["message"].endswith("/models/m has no weights")
        assert condition(api, "Degraded")["status"] == "True"
        put(api, replicas=-1)
        await until(lambda: condition(api)["reason"] == "InvalidSpec")
        assert "spec.replicas" in condition(api)["message"]
        younger = {"name": "younger", "creationTimestamp": "2099-01-01T00:00:00Z"}
        put(api)
        api.put("llmdeployments", {"metadata": younger, "spec": {"model": {"source": "/x", "servedName": "m"}}})
        await until(lambda: condition(api, name="younger")["reason"] == "NameConflict")
        api.remove("llmdeployments", "m")
        await until(lambda: condition(api, "Accepted", name="younger")["status"] == "True", 5)


async def test_an_api_server_that_fails_now_and_then(api, kubelet, operator) -> None:
    api.served = {"m"}
    for method, path in (("GET", "/llmdeployments/m"), ("GET", "/pods"), ("POST", "/pods"), ("PATCH", "/status"), ("POST", "/events")):
        api.fail(method, path, random.choice([429, 500, 503]))
    async with operator("--all-namespaces"):
        put(api, replicas=2)
        await until(lambda: settled(api, 2), 60)


async def test_killed_in_mid_change(api, kubelet, operator) -> None:
    """The next operator makes nothing twice and carries the change to its end."""
    api.served = {"m"}
    put(api, replicas=3)
    async with operator() as process:
        await until(lambda: bool(api.all("pods")))
        process.kill()
        await process.wait()
    async with operator():
        await until(lambda: settled(api, 3))
    names = [call.body["metadata"]["name"] for call in api.made("POST", "/pods")]
    assert len(api.all("pods")) == 3
    assert {name.rpartition("-")[2] for name in names} == {"0", "1", "2"}
