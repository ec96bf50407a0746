"""The engine process is killed in mid-stream: that stream ends with an error, the status says so, the next request is answered."""

import openai
import pytest

KILL_ENGINE = """
import os, pathlib, signal
children = [p for p in pathlib.Path("/proc").iterdir() if p.name.isdigit() and (p / "stat").read_text().rpartition(")")[2].split()[1] == "1"]
engine = max(children, key=lambda p: int((p / "statm").read_text().split()[1]))
os.kill(int(engine.name), signal.SIGKILL)
"""


def ready_pods(deployment) -> int:
    pods = [pod for pod in deployment.pods() if not pod["metadata"].get("deletionTimestamp")]
    return sum(any(entry["type"] == "Ready" and entry["status"] == "True" for entry in pod["status"]["conditions"]) for pod in pods)


def test_engine_crash(release, kubectl, deploy, traffic, wait) -> None:
    deployment = deploy("crashed")
    deployment.wait_ready()
    pod = deployment.pods()[0]["metadata"]["name"]
    with openai.OpenAI(base_url=release.gateway_url(), api_key="none", max_retries=0, timeout=120) as client:
        stream = client.completions.create(model="crashed", prompt="Once", max_tokens=900, stream=True, extra_body={"ignore_eos": True})
        next(stream)
        kubectl("exec", pod, "--", "python3", "-c", KILL_ENGINE)
        with pytest.raises(openai.APIError) as ended:
            for _ in stream:
                pass
    assert not isinstance(ended.value, openai.APIConnectionError), f"the stream was cut instead of ended: {ended.value!r}"
    assert "engine" in str(ended.value).lower()

    wait(lambda: deployment.condition()["status"] == "False", 20, lambda: f"Ready stays {deployment.condition()} after the engine died")
    told = deployment.condition()
    assert "engine" in (told["reason"] + told["message"]).lower(), f"the condition does not name the cause: {told}"
    with traffic("crashed", requests=1) as running:
        report = running.stop()
    assert (report["completed"], report["failures"]) == (1, [])
    assert ready_pods(deployment) == 1
    deployment.wait_ready()
