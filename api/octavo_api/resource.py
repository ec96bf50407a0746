"""`LLMDeployment` (octavo.dev/v1alpha1): spec, status, conditions. The CRD is generated from these types.

Field names are snake_case here and camelCase in YAML. Every string, list and map has a bound, because the
API server prices CEL rules by them. Reading a manifest checks it as the API server would.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta, Struct

from octavo_api.errors import InvalidResource, InvalidSetting
from octavo_api.reading import convert, plain, value_at
from octavo_api.settings import EngineSettings
from octavo_api.source import SOURCE_PATTERN, parse_source

GROUP = "octavo.dev"
VERSION = "v1alpha1"
KIND = "LLMDeployment"
PLURAL = "llmdeployments"
SHORT_NAME = "llm"
DESCRIPTION = "One language model: where it is from, what clients call it, how many replicas serve it and with what."

LABEL_DEPLOYMENT = "octavo.dev/deployment"
LABEL_REVISION = "octavo.dev/revision"
LABEL_ORDINAL = "octavo.dev/ordinal"
ANNOTATION_DRAINING = "octavo.dev/draining"
"""Set to an RFC 3339 time on a replica that gets no new requests and is deleted when its open ones are done."""

Name = Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
_INT_OR_STRING = {"x-kubernetes-int-or-string": True, "minimum": 0}
Quantity = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=32,
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
        extra_json_schema=_INT_OR_STRING,
    ),
]
"""Text here; a manifest may write a whole number."""
DAY = 86_400.0
Duration = Annotated[str, Meta(min_length=2, max_length=32, pattern=r"^([0-9]+(ms|s|m|h))+$")]


class _Block(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    pass


class SecretRef(_Block, frozen=True):
    """An entry of a Secret in the resource's namespace."""

    name: Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", description="name of the Secret")]
    key: Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="entry that holds the token")] = "token"


class ModelSpec(_Block, frozen=True):
    """Which model, and what clients call it."""

    source: Annotated[
        str,
        Meta(min_length=1, max_length=1024, description="where the model is: hf://org/name, pypi://package==version, pvc://claim/path, file:///path or a path"),
    ]
    revision: Annotated[Annotated[str, Meta(max_length=256)] | None, Meta(description="branch, tag or commit of an hf:// source")] = None
    secret_ref: Annotated[
        SecretRef | None, Meta(description="access token of an hf:// source that is private or gated; `octavo up` reads HF_TOKEN of its environment instead")
    ] = None
    served_name: Annotated[Name | None, Meta(description="the name clients ask for; default: the resource's name")] = None
    aliases: Annotated[Annotated[tuple[Name, ...], Meta(max_length=16)], Meta(description="further names clients may ask for")] = ()


class GpuSpec(_Block, frozen=True):
    count: Annotated[int, Meta(ge=1, le=64, description="GPUs a replica gets")] = 1
    product: Annotated[Annotated[str, Meta(max_length=253)] | None, Meta(description="value of the node label nvidia.com/gpu.product")] = None


class ResourcesSpec(_Block, frozen=True):
    """What one replica gets of its node."""

    gpu: Annotated[GpuSpec | None, Meta(description="GPUs; without it the model runs on the CPU")] = None
    cpu: Annotated[Quantity, Meta(description="CPU request and limit; the engine runs as many threads")] = "2"
    memory: Annotated[Quantity, Meta(description="memory request and limit; weights and KV cache are sized by it")] = "4Gi"


class HoldSpec(_Block, frozen=True):
    """Requests for a model without a ready replica wait at the gateway."""

    max_requests: Annotated[int, Meta(ge=0, le=100_000, description="requests that may wait at one gateway; more get a 429")] = 256
    max_wait: Annotated[Duration, Meta(description="how long one may wait before it gets a 503")] = "120s"


class ScalingSpec(_Block, frozen=True):
    """Bounds of `replicas`; whoever writes /scale stays within them."""

    min: Annotated[int, Meta(ge=0, le=1000, description="fewest replicas; 0 lets the model sleep")] = 1
    max: Annotated[int, Meta(ge=1, le=1000, description="most replicas")] = 1
    hold: Annotated[HoldSpec, Meta(description="what happens to requests while no replica is ready")] = HoldSpec()


class RolloutSpec(_Block, frozen=True):
    """How a change of the spec reaches the replicas."""

    strategy: Annotated[
        Literal["auto", "surge", "recreate"],
        Meta(description="surge: a new replica first; recreate: an old one goes first; auto: surge, and recreate where the new replica finds no room"),
    ] = "auto"
    drain_timeout: Annotated[Duration, Meta(description="how long open requests get to finish on a replica that goes")] = "300s"


class LLMDeploymentSpec(_Block, frozen=True):
    """What is wanted."""

    model: Annotated[ModelSpec, Meta(description="which model is served")]
    replicas: Annotated[int, Meta(ge=0, le=1000, description="replicas wanted; kubectl scale, HPA and KEDA write it through /scale")] = 1
    resources: Annotated[ResourcesSpec, Meta(description="what one replica gets of its node")] = ResourcesSpec()
    engine: Annotated[EngineSettings, Meta(description="settings of the engine, as `octavo serve --help` explains them")] = EngineSettings()
    scaling: Annotated[ScalingSpec | None, Meta(description="bounds of replicas and what happens at zero")] = None
    rollout: Annotated[RolloutSpec, Meta(description="how a change reaches the replicas")] = RolloutSpec()


class _Seen(Struct, frozen=True, kw_only=True, rename="camel"):
    """Part of a status: written in full, zeros too; unknown fields are passed over, because a newer operator may have written it."""


class Condition(_Seen, frozen=True):
    """A condition as Kubernetes defines it."""

    type: Annotated[str, Meta(max_length=316, description="what the condition is about, such as Ready")]
    status: Annotated[Literal["True", "False", "Unknown"], Meta(description="whether it holds")]
    reason: Annotated[str, Meta(max_length=1024, description="the cause in one CamelCase word, for programs")]
    message: Annotated[str, Meta(max_length=32_768, description="the cause in words, for people")] = ""
    last_transition_time: Annotated[str, Meta(max_length=64, description="RFC 3339 time at which status last changed; empty when it never did")] = ""
    observed_generation: Annotated[int, Meta(ge=0, description="metadata.generation of the spec it speaks of")] = 0


class ReplicaCounts(_Seen, frozen=True):
    """How many replicas there are."""

    current: Annotated[int, Meta(ge=0, description="replicas that exist and do not drain; /scale reports it")] = 0
    desired: Annotated[int, Meta(ge=0, description="replicas that there should be, within the bounds of scaling")] = 0
    ready: Annotated[int, Meta(ge=0, description="replicas that take requests")] = 0
    loading: Annotated[int, Meta(ge=0, description="replicas that start or load the model")] = 0
    draining: Annotated[int, Meta(ge=0, description="replicas that finish their requests and go")] = 0
    updated: Annotated[int, Meta(ge=0, description="replicas of the newest revision")] = 0


class LLMDeploymentStatus(_Seen, frozen=True):
    """What the operator saw."""

    observed_generation: Annotated[int, Meta(ge=0, description="metadata.generation of the spec that the status speaks of")] = 0
    url: Annotated[str, Meta(max_length=2048, description="where clients reach the gateway")] = ""
    revision: Annotated[str, Meta(max_length=64, description="name of what would need new replicas if it changed")] = ""
    selector: Annotated[str, Meta(max_length=1024, description="labels of the replicas' pods, for autoscalers that read /scale")] = ""
    replicas: Annotated[ReplicaCounts, Meta(description="how many replicas there are")] = ReplicaCounts()
    conditions: Annotated[Annotated[tuple[Condition, ...], Meta(max_length=32)], Meta(description="what is true of the deployment, and why")] = ()


class LLMDeployment(Struct, frozen=True, kw_only=True):
    """One resource, read. `generation` and `created` are 0 and "" where there is no API server."""

    name: str
    namespace: str
    uid: str
    generation: int
    created: str
    deleting: bool
    spec: LLMDeploymentSpec
    status: LLMDeploymentStatus

    @property
    def served_name(self) -> str:
        return self.spec.model.served_name or self.name

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that clients may ask for, the served one first."""
        return tuple(dict.fromkeys((self.served_name, *self.spec.model.aliases)))


class Column(NamedTuple):
    """A column of `kubectl get`; those of priority 1 show with `-o wide`."""

    name: str
    type: Literal["string", "integer", "date"]
    path: str
    description: str
    priority: int = 0


COLUMNS = (
    Column("Model", "string", ".spec.model.source", "where the model is from"),
    Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "whether requests are answered by the newest spec"),
    Column("Replicas", "integer", ".status.replicas.ready", "replicas that take requests"),
    Column("Wanted", "integer", ".status.replicas.desired", "replicas that there should be"),
    Column("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "why it is ready or not"),
    Column("Age", "date", ".metadata.creationTimestamp", "time since it was made"),
    Column("URL", "string", ".status.url", "where clients ask", 1),
    Column("Message", "string", '.status.conditions[?(@.type=="Ready")].message', "the reason in words", 1),
)

SCALE = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas.current", "labelSelectorPath": ".status.selector"}
"""The paths of the /scale subresource."""


class Rule(NamedTuple):
    """What one field's schema cannot say, for the API server in CEL and for files read here in Python.

    `path` is the value that is `self` in the CEL rule, "" for the resource, and `field` the field in it that is to
    blame, "" for all of it; defaults are filled in before rules run. `message` follows on "<place>: is <value>, ".
    """

    path: str
    field: str
    cel: str
    message: str
    holds: Callable[[LLMDeployment], bool]

    @property
    def place(self) -> str:
        return ".".join(filter(None, (self.path, self.field)))


def _source_is_known(resource: LLMDeployment) -> bool:
    try:
        parse_source(resource.spec.model.source)
    except InvalidSetting:
        return False
    return True


def _revision_fits(resource: LLMDeployment) -> bool:
    model = resource.spec.model
    return not model.revision or (model.source.startswith("hf://") and "@" not in model.source)


RULES = (
    Rule("", "metadata.name", "size(self.metadata.name) <= 63", "may have at most 63 characters, because pods carry it as label", lambda r: len(r.name) <= 63),
    Rule(
        "spec.model.source",
        "",
        rf"!self.contains('://') || (self.matches(r'^({SOURCE_PATTERN})$') && !self.matches(r'(^|/)[.][.](/|$)'))",
        "must be hf://org/name[@revision], pypi://package==version, pvc://claim/path, file:///path or a path; s3:// and oci:// are not supported yet",
        _source_is_known,
    ),
    Rule(
        "spec.model",
        "revision",
        "!has(self.revision) || self.revision == '' || (self.source.startsWith('hf://') && !self.source.contains('@'))",
        "must be left out unless source is an hf:// one without @revision",
        _revision_fits,
    ),
    Rule(
        "spec.model",
        "secretRef",
        "!has(self.secretRef) || self.source.startsWith('hf://')",
        "must be left out unless source is an hf:// one",
        lambda r: r.spec.model.secret_ref is None or r.spec.model.source.startswith("hf://"),
    ),
    Rule(
        "spec.scaling",
        "min",
        "self.min <= self.max",
        "must not be greater than max",
        lambda r: r.spec.scaling is None or r.spec.scaling.min <= r.spec.scaling.max,
    ),
    Rule(
        "spec.scaling.hold.maxWait",
        "",
        "duration(self) <= duration('24h')",
        "may be at most 24h",
        lambda r: r.spec.scaling is None or seconds(r.spec.scaling.hold.max_wait) <= DAY,
    ),
    Rule("spec.rollout.drainTimeout", "", "duration(self) <= duration('24h')", "may be at most 24h", lambda r: seconds(r.spec.rollout.drain_timeout) <= DAY),
)


def seconds(duration: str) -> float:
    """`1m30s` → 90.0."""
    units = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"([0-9]+)(ms|s|m|h)", duration))


def quantity(text: str) -> float:
    """`500m` → 0.5, `4Gi` → 4294967296.0: a Kubernetes resource quantity in units or bytes."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", text)
    if match is None:
        raise InvalidResource(f"{text!r} is not a quantity such as 500m, 2 or 4Gi")
    scale = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
    return float(match[1]) * scale[match[2] or ""]


def parse(manifest: dict[str, Any]) -> LLMDeployment:
    """Reads a manifest or an object of the API server.

    Raises:
        InvalidResource: with the path of the field that is wrong.
    """
    expected = {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND}
    for key, value in expected.items():
        if manifest.get(key) != value:
            raise InvalidResource(f"{key}: is {manifest.get(key)!r}, must be {value!r}")
    metadata = manifest.get("metadata") or {}
    if not isinstance(metadata.get("name"), str):
        raise InvalidResource("metadata.name: is missing")
    resource = LLMDeployment(
        name=metadata["name"],
        namespace=metadata.get("namespace", "default"),
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        created=metadata.get("creationTimestamp", ""),
        deleting=bool(metadata.get("deletionTimestamp")),
        spec=convert(plain(manifest.get("spec")), LLMDeploymentSpec, "spec"),
        status=read_status(manifest),
    )
    for rule in RULES:
        if not rule.holds(resource):
            raise InvalidResource(f"{rule.place}: is {value_at(manifest, rule.place)}, {rule.message}")
    return resource


def read_status(manifest: dict[str, Any]) -> LLMDeploymentStatus:
    """The status of an object of the API server, an empty one where it has none yet."""
    return convert(manifest.get("status") or {}, LLMDeploymentStatus, "status")
