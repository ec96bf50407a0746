"""Whatever keeps a model from being served, its Ready condition names the cause."""

import pytest

CAUSES = {
    "weights-missing": ({"model": {"source": "pvc://models/absent.gguf"}}, "ModelNotFound", "absent.gguf"),
    "claim-missing": ({"model": {"source": "pvc://absent/smollm2.gguf"}}, "ClaimNotFound", "absent"),
    "no-memory": ({"resources": {"cpu": "100m", "memory": "900Gi"}}, "InsufficientMemory", "memory"),
    "no-cpu": ({"resources": {"cpu": "600", "memory": "1Gi"}}, "InsufficientCPU", "cpu"),
    "no-gpu": ({"resources": {"gpu": {"count": 1}, "cpu": "100m", "memory": "1Gi"}}, "InsufficientGPU", "nvidia.com/gpu"),
    "cache-too-large": ({"engine": {"kvCacheMemoryBytes": 64 << 30}}, "KVCacheDoesNotFit", "kv_cache_memory_bytes: is 68719476736"),
}


def told(deployment) -> tuple[str, str]:
    """Ready's reason while it is False."""
    condition = deployment.condition()
    return (condition["reason"] if condition["status"] == "False" else "", condition["message"])


@pytest.mark.parametrize("cause", CAUSES)
def test_truth(deploy, wait, cause) -> None:
    spec, reason, word = CAUSES[cause]
    deployment = deploy(cause, **spec)
    wait(lambda: told(deployment)[0] == reason, 60, lambda: f"Ready says {told(deployment)} instead of {reason}")
    assert word in told(deployment)[1]


@pytest.fixture
def reinstalled(release):
    yield
    release.install()


@pytest.mark.usefixtures("reinstalled")
def test_image_missing(release, deploy, traffic, wait) -> None:
    """A roll-out to an image that is nowhere says so and takes nothing from the replica that answers."""
    deployment = deploy("rolled")
    deployment.wait_ready()
    (pod,) = deployment.pods()
    with traffic("rolled", streams=2) as running:
        release.install("images.engine.tag=absent")
        wait(lambda: told(deployment)[0] == "ImagePullFailed", 60, lambda: f"Ready says {told(deployment)}")
        assert "octavo-engine:absent" in told(deployment)[1]
        running.wait(4)
        assert pod["metadata"]["uid"] in {each["metadata"]["uid"] for each in deployment.pods()}
        release.install()
        deployment.wait_ready()
        report = running.stop()
    assert report["failures"] == []
