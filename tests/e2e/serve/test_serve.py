"""`kubectl apply` gives a served model: the official client streams from it, on this machine and in a pod."""


def test_serve(kubectl, deploy, traffic, traffic_from_a_pod) -> None:
    deployment = deploy("smollm")
    deployment.wait_ready()
    with traffic("smollm", requests=3) as running:
        here = running.stop()
    assert (here["completed"], here["failures"]) == (3, [])
    there = traffic_from_a_pod("smollm", requests=3)
    assert (there["completed"], there["failures"]) == (3, [])

    assert there["first_answer"] == here["first_answer"], "one question, answered greedily, has one answer"
    assert deployment.get()["status"]["url"]
    columns = kubectl("get", "llm").splitlines()
    assert "READY" in columns[0]
    assert "smollm" in columns[1]
