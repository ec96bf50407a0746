"""The operator dies in mid-change: the next one carries the change to its end, doubles nothing and loses nothing."""


def test_operator_restart(release, kubectl, deploy, wait) -> None:
    deployment = deploy("moving")
    deployment.wait_ready()
    before = deployment.get()["status"]["revision"]
    operators = ("pods", "-l", "app.kubernetes.io/component=operator")

    kubectl("patch", "llm", "moving", "--type=merge", "-p", '{"spec": {"replicas": 2, "engine": {"maxNumSeqs": 32}}}')
    wait(lambda: len(deployment.pods()) > 1, 30, lambda: "the change does not begin")
    release.kubectl("delete", *operators, "--grace-period=0", "--force")
    deployment.wait_ready(replicas=2, seconds=180)

    status = deployment.get()["status"]
    assert status["revision"] != before
    wait(lambda: len(deployment.pods()) == 2, 90, lambda: f"old replicas stay: {deployment.kubectl('get', 'pods')}")
    assert {pod["metadata"]["labels"]["octavo.dev/revision"] for pod in deployment.pods()} == {status["revision"]}
