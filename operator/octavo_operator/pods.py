"""A replica as a pod: a pure function from what the plan asked for to a manifest.

The pod passes the restricted Pod Security Standard. Probes read the internal listener as `docs/replica.md` tells:
the startup probe waits for the API process alone, because from then on liveness is progress of loading or of steps.
"""

from typing import Any

from msgspec import Struct

from octavo_api.replica import API_PORT, HEALTH, INTERNAL_PORT, LIVE
from octavo_api.resource import GROUP, KIND, LABEL_DEPLOYMENT, LABEL_ORDINAL, LABEL_REVISION, VERSION, LLMDeployment, seconds
from octavo_operator.serve import CLAIM_ROOT, model_in_pod, serve_arguments, source_of
from octavo_operator.types import Create

ANNOTATION_ATTEMPT = "octavo.dev/attempt"
CONTAINER = "engine"
USER = 65532
"""Uid and gid of the engine image's user."""
CACHE = "/cache"
_MODELS = "models"
GRACE_MARGIN = 15
"""Seconds that a pod gets beyond its drain timeout to close up."""


class PodOptions(Struct, frozen=True, kw_only=True):
    """What the operator's flags say about every pod."""

    image: str
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()


def pod(resource: LLMDeployment, create: Create, options: PodOptions) -> dict[str, Any]:
    """The manifest of one replica's pod."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": create.replica,
            "namespace": resource.namespace,
            "labels": _labels(resource, create),
            "annotations": {ANNOTATION_ATTEMPT: str(create.attempt), "kubectl.kubernetes.io/default-container": CONTAINER},
            "ownerReferences": [{"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "name": resource.name, "uid": resource.uid, "controller": True}],
        },
        "spec": {
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": round(seconds(resource.spec.rollout.drain_timeout)) + GRACE_MARGIN,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [_container(resource, options)],
            "volumes": _volumes(resource),
            **_placement(resource),
            **({"imagePullSecrets": [{"name": name} for name in options.pull_secrets]} if options.pull_secrets else {}),
        },
    }


def _labels(resource: LLMDeployment, create: Create) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "octavo",
        "app.kubernetes.io/component": CONTAINER,
        "app.kubernetes.io/managed-by": "octavo-operator",
        LABEL_DEPLOYMENT: resource.name,
        LABEL_REVISION: create.revision,
        LABEL_ORDINAL: str(create.ordinal),
    }


def _container(resource: LLMDeployment, options: PodOptions) -> dict[str, Any]:
    listeners = {"host": "0.0.0.0", "port": API_PORT, "internal_host": "0.0.0.0", "internal_port": INTERNAL_PORT}  # noqa: S104 a pod's address is its own
    return {
        "name": CONTAINER,
        "image": options.image,
        "imagePullPolicy": options.pull_policy,
        "command": ["octavo"],
        "args": serve_arguments(resource, model_in_pod(source_of(resource)), listeners, resource.spec.engine),
        "env": _environment(resource),
        "ports": [{"name": "api", "containerPort": API_PORT}, {"name": "internal", "containerPort": INTERNAL_PORT}],
        "resources": _resources(resource),
        "startupProbe": _probe(LIVE, periodSeconds=2, failureThreshold=60),
        "livenessProbe": _probe(LIVE, periodSeconds=10, failureThreshold=3),
        "readinessProbe": _probe(HEALTH, periodSeconds=2, failureThreshold=2),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": _mounts(resource),
    }


def _environment(resource: LLMDeployment) -> list[dict[str, Any]]:
    fixed = [{"name": "OCTAVO_CACHE", "value": CACHE}, {"name": "HOME", "value": "/tmp"}]  # noqa: S108 a volume of the pod's own
    token = resource.spec.model.secret_ref
    return [*fixed, {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": token.name, "key": token.key}}}] if token else fixed


def _probe(path: str, **numbers: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "internal"}, "timeoutSeconds": 3, **numbers}


def _resources(resource: LLMDeployment) -> dict[str, Any]:
    asked = resource.spec.resources
    amounts = {"cpu": asked.cpu, "memory": asked.memory}
    if asked.gpu:
        amounts["nvidia.com/gpu"] = str(asked.gpu.count)
    return {"requests": amounts, "limits": dict(amounts)}


def _placement(resource: LLMDeployment) -> dict[str, Any]:
    gpu = resource.spec.resources.gpu
    if gpu is None:
        return {}
    tolerated = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return {"tolerations": tolerated, **({"nodeSelector": {"nvidia.com/gpu.product": gpu.product}} if gpu.product else {})}


def _mounts(resource: LLMDeployment) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [{"name": "cache", "mountPath": CACHE}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 a volume of the pod's own
    source = source_of(resource)
    if source.scheme == "pvc":
        mounts.append({"name": _MODELS, "mountPath": f"{CLAIM_ROOT}/{source.claim}", "readOnly": True})
    return mounts


def _volumes(resource: LLMDeployment) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [{"name": "cache", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    source = source_of(resource)
    if source.scheme == "pvc":
        volumes.append({"name": _MODELS, "persistentVolumeClaim": {"claimName": source.claim, "readOnly": True}})
    return volumes
