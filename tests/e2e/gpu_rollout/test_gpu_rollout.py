"""A roll-out where every GPU is taken: the new replica finds no room, so the old one makes way, and requests wait meanwhile.

The GPU is one in the scheduler's books alone; the engine sees none and computes on the CPU.
"""

import json
from collections.abc import Iterator

import pytest


@pytest.fixture
def one_gpu(kubectl) -> Iterator[None]:
    """The node says that it has a GPU."""
    (node, *_) = kubectl.get("nodes")["items"]

    def say(count: str | None) -> None:
        told = json.dumps({"status": {"capacity": {"nvidia.com/gpu": count}, "allocatable": {"nvidia.com/gpu": count}}})
        kubectl("patch", "node", node["metadata"]["name"], "--subresource=status", "--type=merge", "-p", told)

    say("1")
    yield
    say(None)


@pytest.mark.usefixtures("one_gpu")
def test_gpu_rollout(kubectl, deploy, traffic, wait) -> None:
    deployment = deploy("only", resources={"gpu": {"count": 1}, "cpu": "600m", "memory": "1536Mi"})
    deployment.wait_ready()
    before = deployment.get()["status"]["revision"]
    with traffic("only", streams=2) as running:
        running.wait(2)
        kubectl("patch", "llm", "only", "--type=merge", "-p", '{"spec": {"engine": {"maxNumSeqs": 32}}}')
        wait(lambda: deployment.get()["status"]["revision"] != before, 30, lambda: "the change is not seen")
        deployment.wait_ready()
        running.wait(2)
        report = running.stop()
    assert report["failures"] == []
    (pod,) = deployment.pods()
    assert pod["metadata"]["labels"]["octavo.dev/revision"] == deployment.get()["status"]["revision"] != before
