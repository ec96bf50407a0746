"""The status of a deployment: counts and conditions of what was observed, never of what was intended."""

from typing import Any

from octavo_api.errors import InvalidResource
from octavo_api.resource import LABEL_DEPLOYMENT, LLMDeploymentStatus, ReplicaCounts, read_status
from octavo_operator.conditions import Verdict, stamped, verdicts
from octavo_operator.types import Desired, Observed


def status(desired: Desired, observed: Observed, now: float) -> LLMDeploymentStatus:
    resource = desired.resource
    return LLMDeploymentStatus(
        observed_generation=resource.generation,
        url=desired.url,
        revision=desired.revision,
        selector=f"{LABEL_DEPLOYMENT}={resource.name}",
        replicas=counts(desired, observed),
        conditions=stamped(resource.status.conditions, verdicts(desired, observed, now), resource.generation, now),
    )


def counts(desired: Desired, observed: Observed) -> ReplicaCounts:
    live = [replica for replica in observed.replicas if replica.live]
    ready = sum(replica.ready for replica in live)
    return ReplicaCounts(
        current=len(live),
        desired=desired.replicas,
        ready=ready,
        loading=len(live) - ready,
        draining=sum(replica.phase != "stopped" and not replica.live for replica in observed.replicas),
        updated=sum(replica.revision == desired.revision for replica in live),
    )


def rejected(manifest: dict[str, Any], error: InvalidResource, now: float) -> LLMDeploymentStatus:
    """The status of a resource whose spec cannot be read; its replicas, of an earlier spec, are left alone."""
    before = read_status(manifest)
    generation = manifest["metadata"].get("generation", 0)
    refusal = Verdict("False", "InvalidSpec", str(error))
    return LLMDeploymentStatus(
        observed_generation=generation,
        url=before.url,
        revision=before.revision,
        selector=before.selector,
        replicas=before.replicas,
        conditions=stamped(before.conditions, {"Ready": refusal, "Accepted": refusal}, generation, now),
    )
