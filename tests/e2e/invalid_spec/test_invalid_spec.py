"""A spec that cannot work is refused by the API server, with the name of the field."""

import pytest

INVALID = {
    "spec.replicas": {"replicas": -1},
    "spec.model.source": {"model": {"source": "s3://bucket/model"}},
    "spec.model": {"model": None},
    "spec.resources.memory": {"resources": {"memory": "much"}},
    "spec.engine.dtype": {"engine": {"dtype": "float8"}},
    "spec.engine.maxModelLength": {"engine": {"maxModelLength": 2048}},
    "spec.scaling": {"scaling": {"min": 3, "max": 2}},
    "spec.rollout.drainTimeout": {"rollout": {"drainTimeout": "soon"}},
}


@pytest.fixture(scope="module")
def applied(release):
    """What `kubectl apply` says to a manifest whose spec has one mistake."""

    def apply(spec):
        whole = {key: value for key, value in ({"model": {"source": "pvc://models/smollm2.gguf"}} | spec).items() if value is not None}
        manifest = {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "metadata": {"name": "invalid", "namespace": "default"}, "spec": whole}
        return release.kubectl.run("apply", "--namespace=default", "--dry-run=server", "-f", "-", manifest=manifest, check=False)

    return apply


@pytest.mark.parametrize("field", INVALID)
def test_invalid_spec(applied, field) -> None:
    done = applied(INVALID[field])
    assert done.returncode != 0
    assert field in done.stderr, done.stderr


def test_valid_spec(applied) -> None:
    done = applied({})
    assert done.returncode == 0, done.stderr
