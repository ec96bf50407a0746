"""Objects of the Kubernetes API → the gateway's catalogue, as pure functions.

Only the fields that the gateway needs are read, and unknown ones are passed over: a gateway that is older than
the CRD keeps serving. Checking a resource as a whole is left to the API server and the operator.
"""

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct, field

from octavo_api.catalogue import Catalogue, Endpoint, EndpointState, Model
from octavo_api.replica import API_PORT, INTERNAL_PORT
from octavo_api.resource import ANNOTATION_DRAINING, LABEL_DEPLOYMENT, HoldSpec, seconds


class _Part(Struct, frozen=True, rename="camel"):
    pass


class Metadata(_Part, frozen=True):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _ModelPart(_Part, frozen=True):
    served_name: str | None = None
    aliases: tuple[str, ...] = ()


class _HoldPart(_Part, frozen=True):
    max_requests: int = HoldSpec().max_requests
    max_wait: str = HoldSpec().max_wait


class _ScalingPart(_Part, frozen=True):
    hold: _HoldPart | None = None


class _SpecPart(_Part, frozen=True):
    model: _ModelPart
    scaling: _ScalingPart | None = None


class Deployment(_Part, frozen=True):
    """An LLMDeployment."""

    metadata: Metadata
    spec: _SpecPart


class _ConditionPart(_Part, frozen=True):
    type: str
    status: str


class _PodStatus(_Part, frozen=True):
    phase: str = ""
    pod_ip: str = field(default="", name="podIP")
    conditions: tuple[_ConditionPart, ...] = ()


class Pod(_Part, frozen=True):
    metadata: Metadata
    status: _PodStatus = _PodStatus()


def catalogue(deployments: Iterable[Deployment], pods: Iterable[Pod]) -> Catalogue:
    """Models oldest first, so that of two which claim a name the older one has it, whoever looks and whenever.

    A deployment that is being deleted is no longer offered; one without pods is.
    """
    by_deployment: dict[tuple[str, str], list[Pod]] = {}
    for pod in pods:
        owner = (pod.metadata.labels or {}).get(LABEL_DEPLOYMENT)
        if owner is not None:
            by_deployment.setdefault((pod.metadata.namespace, owner), []).append(pod)
    offered = sorted((d for d in deployments if d.metadata.deletion_timestamp is None), key=_age)
    return Catalogue(models=tuple(_model(d, by_deployment.get((d.metadata.namespace, d.metadata.name), [])) for d in offered))


def _age(deployment: Deployment) -> tuple[float, str, str]:
    created = deployment.metadata.creation_timestamp
    return (created.timestamp() if created else float("inf"), deployment.metadata.namespace, deployment.metadata.name)


def _model(deployment: Deployment, pods: list[Pod]) -> Model:
    metadata, spec = deployment.metadata, deployment.spec
    hold = (spec.scaling.hold if spec.scaling else None) or _HoldPart()
    endpoints = (endpoint(pod) for pod in sorted(pods, key=lambda pod: pod.metadata.name))
    return Model(
        name=spec.model.served_name or metadata.name,
        aliases=spec.model.aliases,
        namespace=metadata.namespace,
        deployment=metadata.name,
        created=int(metadata.creation_timestamp.timestamp()) if metadata.creation_timestamp else 0,
        hold_max_requests=hold.max_requests,
        hold_max_wait=seconds(hold.max_wait),
        endpoints=tuple(found for found in endpoints if found is not None),
    )


def endpoint(pod: Pod) -> Endpoint | None:
    """The replica that a pod is; None when it has no address yet or has ended."""
    address = pod.status.pod_ip
    if not address or pod.status.phase in ("Succeeded", "Failed"):
        return None
    host = f"[{address}]" if ":" in address else address
    return Endpoint(replica=pod.metadata.name, api=f"{host}:{API_PORT}", internal=f"{host}:{INTERNAL_PORT}", state=state(pod))


def state(pod: Pod) -> EndpointState:
    if pod.metadata.deletion_timestamp is not None or ANNOTATION_DRAINING in (pod.metadata.annotations or {}):
        return "draining"
    ready = any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions)
    return "ready" if ready else "loading"
