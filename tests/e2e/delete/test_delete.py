"""`kubectl delete` of an LLMDeployment leaves nothing of it behind."""


def objects(kubectl) -> set[str]:
    """Every object of the namespace but events and metrics."""
    kinds = set(kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split())
    return kubectl.names(",".join(sorted(kinds - {"events", "events.events.k8s.io"})))


def test_delete(kubectl, deploy, wait) -> None:
    before = objects(kubectl)
    deployment = deploy("gone")
    deployment.wait_ready()
    assert objects(kubectl) > before
    kubectl("delete", "llmdeployment", "gone", "--timeout=90s")
    wait(lambda: objects(kubectl) == before, 90, lambda: f"left behind: {objects(kubectl) - before}; missing: {before - objects(kubectl)}")


def runs(deployment) -> bool:
    return any("running" in container["state"] for pod in deployment.pods() for container in pod["status"].get("containerStatuses", []))


def test_delete_while_loading(kubectl, deploy, wait) -> None:
    """What has no request to finish goes at once, and not when its grace period of 75 s is over."""
    before = objects(kubectl)
    deployment = deploy("unready")
    wait(lambda: runs(deployment), 60, lambda: f"no container runs: {deployment.pods()}")
    kubectl("delete", "llmdeployment", "unready", "--timeout=90s")
    wait(lambda: objects(kubectl) == before, 40, lambda: f"left behind: {objects(kubectl) - before}")
