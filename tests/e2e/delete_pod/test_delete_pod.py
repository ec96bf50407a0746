"""`kubectl delete pod` under steady streams: open answers end whole, new requests find another replica or wait for one."""


def test_delete_pod(kubectl, deploy, traffic) -> None:
    deployment = deploy("deleted", replicas=2)
    deployment.wait_ready(replicas=2)
    victim = deployment.pods()[0]["metadata"]
    with traffic("deleted", streams=4, tokens=64) as running:
        running.wait(4)
        kubectl("delete", "pod", victim["name"], "--wait=true", "--timeout=120s")
        deployment.wait_ready(replicas=2)
        running.wait(4)
        report = running.stop()
    assert report["failures"] == []
    assert victim["uid"] not in {pod["metadata"]["uid"] for pod in deployment.pods()}


def test_delete_only_pod(kubectl, deploy, traffic) -> None:
    deployment = deploy("alone")
    deployment.wait_ready()
    with traffic("alone", streams=2, tokens=64) as running:
        running.wait(2)
        kubectl("delete", "pod", deployment.pods()[0]["metadata"]["name"], "--wait=true", "--timeout=120s")
        deployment.wait_ready()
        running.wait(2)
        report = running.stop()
    assert report["failures"] == []
