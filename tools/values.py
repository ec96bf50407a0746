"""`charts/octavo/values.schema.json`: what users of the chart may set, as types.

Helm checks values against it before it renders anything, so a wrong or misspelt one is refused by its name. The
gateway's settings come from its own list; what is Kubernetes' own (resources, affinity, …) is left to the API server.
"""

import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from octavo_api.settings import camel
from octavo_gateway.settings import GatewaySettings

Label = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
OptionalName = Annotated[str, Meta(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253)]
Port = Annotated[int, Meta(ge=1, le=65_535)]
Free = dict[str, Any]

OWN = {"host", "port", "internal_host", "internal_port", "api_key_file", "log_level", "shutdown_delay"}
"""Settings of the gateway that the chart sets itself."""


class _Values(Struct, forbid_unknown_fields=True, rename="camel"):
    pass


class Image(_Values):
    repository: Annotated[str, Meta(min_length=1, description="registry and name")]
    tag: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]*$", max_length=128, description="default: the chart's appVersion")] = ""
    digest: Annotated[str, Meta(pattern=r"^(sha256:[0-9a-f]{64})?$", description="stronger than the tag")] = ""
    pull_policy: Annotated[Literal["Always", "IfNotPresent", "Never"], Meta(description="when nodes pull the image")] = "IfNotPresent"


class Images(_Values):
    control: Annotated[Image, Meta(description="image of the operator and the gateway")]
    engine: Annotated[Image, Meta(description="image of the models' pods")]


class Crds(_Values):
    install: Annotated[bool, Meta(description="whether the chart brings the CRDs")] = True
    keep: Annotated[bool, Meta(description="whether CRDs, and so LLMDeployments and their pods, stay on `helm uninstall`")] = True


class Rbac(_Values):
    aggregate: Annotated[bool, Meta(description="whether the roles view, edit and admin cover LLMDeployments; only where all namespaces are watched")] = True


class Pods(_Values):
    resources: Annotated[Free, Meta(description="requests and limits")] = {}
    pod_annotations: Annotated[dict[str, str], Meta(description="annotations of the pods")] = {}
    pod_labels: Annotated[dict[str, str], Meta(description="further labels of the pods")] = {}
    node_selector: Annotated[dict[str, str], Meta(description="labels of nodes that pods may run on")] = {}
    tolerations: Annotated[list[Free], Meta(description="taints that pods tolerate")] = []
    affinity: Annotated[Free, Meta(description="nearness to nodes and other pods")] = {}
    priority_class_name: Annotated[OptionalName, Meta(description="PriorityClass of the pods")] = ""


class Service(_Values):
    type: Annotated[Literal["ClusterIP", "NodePort", "LoadBalancer"], Meta(description="how the gateway is reached")] = "ClusterIP"
    port: Annotated[Port, Meta(description="port of the Service")] = 80
    node_port: Annotated[Port | None, Meta(description="port on every node; default: one that Kubernetes picks")] = None
    annotations: Annotated[dict[str, str], Meta(description="annotations of the Service, such as those of a load balancer")] = {}


class ApiKeys(_Values):
    secret_name: Annotated[OptionalName, Meta(description="Secret with the keys that clients may use, one a line; without it no key is asked for")] = ""
    key: Annotated[str, Meta(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253, description="entry of the Secret")] = "keys"


Settings = msgspec.defstruct(
    "Settings",
    [(field.name, field.type, field.default) for field in msgspec.structs.fields(GatewaySettings) if field.name not in OWN],
    rename=camel,
    forbid_unknown_fields=True,
)


class Gateway(Pods):
    replicas: Annotated[int, Meta(ge=1, le=100, description="gateways; with more than one a PodDisruptionBudget keeps the others while one moves")] = 1
    shutdown_delay: Annotated[
        int, Meta(ge=0, le=3600, description="seconds after SIGTERM in which connections are still taken, while kube-proxy and load balancers learn of it")
    ] = 5
    url: Annotated[str, Meta(pattern=r"^(https?://.+)?$", description="what status.url says, reachable from pods; default: the Service by its name")] = ""
    service: Annotated[Service, Meta(description="the gateway's Service")] = msgspec.field(default_factory=Service)
    api_keys: Annotated[ApiKeys, Meta(description="who may ask")] = msgspec.field(default_factory=ApiKeys)
    settings: Annotated[Settings, Meta(description="settings of `octavo gateway`")] = msgspec.field(default_factory=Settings)  # type: ignore[valid-type]


class PodMonitor(_Values):
    enabled: Annotated[bool, Meta(description="whether PodMonitors of the Prometheus operator are made, for the gateway and the models' pods")] = False
    interval: Annotated[str, Meta(pattern=r"^([0-9]+(ms|s|m|h))+$", description="time between scrapes")] = "15s"
    labels: Annotated[dict[str, str], Meta(description="labels by which a Prometheus selects them")] = {}


class Values(_Values, kw_only=True):
    namespaces: Annotated[list[Label], Meta(description="namespaces whose LLMDeployments are served; none: all")] = []
    images: Annotated[Images, Meta(description="what runs")]
    image_pull_secrets: Annotated[list[Name], Meta(description="Secrets for pulling the images; the engine's must also exist where models are")] = []
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="least severe level that is logged")] = "info"
    crds: Annotated[Crds, Meta(description="the CustomResourceDefinitions")] = msgspec.field(default_factory=Crds)
    rbac: Annotated[Rbac, Meta(description="access for people")] = msgspec.field(default_factory=Rbac)
    operator: Annotated[Pods, Meta(description="the operator's pod")] = msgspec.field(default_factory=Pods)
    gateway: Annotated[Gateway, Meta(description="the gateway's pods and Service")] = msgspec.field(default_factory=Gateway)
    pod_monitor: Annotated[PodMonitor, Meta(description="metrics")] = msgspec.field(default_factory=PodMonitor)
    global_: Annotated[Free, Meta(description="Helm's, where this is part of another chart; not read")] = msgspec.field(name="global", default_factory=dict)


def schema() -> str:
    (root,), definitions = msgspec.json.schema_components([Values], ref_template="#/definitions/{name}")
    whole = {"$schema": "http://json-schema.org/draft-07/schema#", **root, "definitions": {name: _values_only(part) for name, part in definitions.items()}}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _values_only(schema: dict[str, Any]) -> dict[str, Any]:
    """Without defaults and required fields: values.yaml has the defaults, and what is left out there is null."""
    schema = {key: value for key, value in schema.items() if key not in ("default", "required", "title")}
    return schema | {"properties": {name: _without_default(value) for name, value in schema["properties"].items()}}


def _without_default(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "default"}
