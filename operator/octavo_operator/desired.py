"""From a resource to what it asks for: bounds applied, revision and replica names worked out.

Everything here is a pure function of the manifest, so that two operators, or one before and after a crash, agree.
"""

from hashlib import blake2b

import msgspec

from octavo_api.resource import LLMDeployment, LLMDeploymentSpec, seconds
from octavo_api.settings import EngineSettings, rows
from octavo_operator.types import Desired

NAME_LIMIT = 63
"""Characters of a replica's name: it is a pod's host name too, which is a DNS label."""
_HASH_CHARACTERS = 10


def desired(resource: LLMDeployment, *, image: str = "", url: str = "") -> Desired:
    """What `resource` asks for. `image` is what its replicas run, part of their revision; `url` the gateway's."""
    spec = resource.spec
    return Desired(
        resource=resource,
        revision=revision(spec, resource.names, image),
        replicas=wanted(spec),
        strategy=spec.rollout.strategy,
        drain_timeout=seconds(spec.rollout.drain_timeout),
        url=url,
    )


def wanted(spec: LLMDeploymentSpec) -> int:
    """`replicas` within `scaling.min` … `scaling.max`."""
    if spec.scaling is None:
        return spec.replicas
    return max(spec.scaling.min, min(spec.replicas, spec.scaling.max))


def revision(spec: LLMDeploymentSpec, names: tuple[str, ...], image: str) -> str:
    """Hash of what a running replica cannot change: model, names it answers to, resources, restart-worthy settings, image.

    A field left at its default does not count, so that an operator which knows more fields restarts nothing.
    """
    chosen = msgspec.to_builtins(spec.engine)
    restart = {row.spec_name: chosen[row.spec_name] for row in rows(EngineSettings) if row.restart and row.spec_name in chosen}
    content = {
        "source": spec.model.source,
        "revision": spec.model.revision,
        "names": names,
        "resources": msgspec.to_builtins(spec.resources),
        "engine": restart,
        "image": image,
    }
    if spec.model.secret_ref:
        content["secretRef"] = msgspec.to_builtins(spec.model.secret_ref)
    return _digest(msgspec.json.encode(content, order="deterministic"))


def replica_name(deployment: str, revision: str, ordinal: int) -> str:
    """`<deployment>-<revision>-<ordinal>`; a deployment's name too long for that is cut and a hash of it stands for the rest."""
    tail = f"-{revision}-{ordinal}"
    if len(deployment) + len(tail) <= NAME_LIMIT:
        return deployment + tail
    mark = "-" + _digest(deployment.encode())
    return deployment[: NAME_LIMIT - len(tail) - len(mark)].rstrip("-.") + mark + tail


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=_HASH_CHARACTERS // 2).hexdigest()
