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


def test_delete_while_loading(kubectl, deploy, wait) -> None:
    before = objects(kubectl)
    deployment = deploy("unready")
    wait(lambda: bool(deployment.pods()), 30, lambda: "no pod is made")
    kubectl("delete", "llmdeployment", "unready", "--timeout=90s")
    wait(lambda: objects(kubectl) == before, 90, lambda: f"left behind: {objects(kubectl) - before}")
