"""`kubectl scale` 1 → 2 → 1 under steady streams: none fails, none is cut."""


def test_scale(kubectl, deploy, traffic) -> None:
    deployment = deploy("scaled")
    deployment.wait_ready()
    with traffic("scaled", streams=4, tokens=64) as running:
        running.wait(4)
        kubectl("scale", "llmdeployment/scaled", "--replicas=2")
        deployment.wait_ready(replicas=2)
        running.wait(8)
        kubectl("scale", "llmdeployment/scaled", "--replicas=1")
        deployment.wait_ready(replicas=1)
        running.wait(4)
        report = running.stop()
    assert report["failures"] == []
    assert deployment.get()["status"]["replicas"]["current"] == 1
