"""The CustomResourceDefinition of octavo_api's resource: as a manifest, and as a template of the chart.

The chart's copy is a template and not in Helm's `crds/` folder, which Helm installs once and never upgrades.
"""

import json
from typing import Any

import yaml

from octavo_api import resource as api
from tools.schema import Schema, structural

NAME = f"{api.PLURAL}.{api.GROUP}"
HEAD = "# Written by `python -m tools.generate` from octavo_api.resource; not to be edited.\n"


def manifest() -> str:
    definition = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": NAME}, "spec": _spec()}
    return HEAD + _yaml(definition)


def template() -> str:
    """The manifest for the chart: installed where `crds.install`, kept on uninstall where `crds.keep`."""
    spec = _yaml({"spec": _spec()})
    if "{{" in spec:
        raise ValueError("a description holds '{{', which Helm would read as a template")
    head = f"""\
{{{{- if .Values.crds.install }}}}
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {NAME}
  labels:
    {{{{- include "octavo.labels" . | nindent 4 }}}}
  {{{{- if .Values.crds.keep }}}}
  annotations:
    helm.sh/resource-policy: keep
  {{{{- end }}}}
"""
    return HEAD + head + spec + "{{- end }}\n"


def schema() -> Schema:
    """Of the whole resource, with its rules where they apply."""
    root: Schema = {
        "description": api.DESCRIPTION,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{api.GROUP}/{api.VERSION}"},
            "kind": {"type": "string", "description": api.KIND},
            "metadata": {"type": "object"},
            "spec": structural(api.LLMDeploymentSpec),
            "status": structural(api.LLMDeploymentStatus, defaults=False),
        },
    }
    conditions = root["properties"]["status"]["properties"]["conditions"]
    conditions |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    for rule in api.RULES:
        place = root
        for name in filter(None, rule.path.split(".")):
            place = place["properties"][name]
        place.setdefault("x-kubernetes-validations", []).append(_validation(rule))
    return root


def _validation(rule: api.Rule) -> dict[str, str]:
    """A rule for the API server. It can say the value only where that is a string of bounded length: `string()` of
    anything else is beyond the budget that it allows."""
    found = {"rule": rule.cel, "message": rule.message}
    if not rule.field:
        return found | {"messageExpression": f"'is ' + self + {json.dumps(', ' + rule.message, ensure_ascii=False)}"}
    if rule.field.startswith("metadata."):  # not part of a CRD's schema, so named in words alone
        return found | {"message": f"{rule.field}: {rule.message}"}
    return found | {"fieldPath": f".{rule.field}"}


def _spec() -> dict[str, Any]:
    columns = [
        {"name": c.name, "type": c.type, "jsonPath": c.path, "description": c.description} | ({"priority": c.priority} if c.priority else {})
        for c in api.COLUMNS
    ]
    version = {
        "name": api.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}, "scale": api.SCALE},
        "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": schema()},
    }
    names = {
        "kind": api.KIND,
        "listKind": f"{api.KIND}List",
        "plural": api.PLURAL,
        "singular": api.KIND.lower(),
        "shortNames": [api.SHORT_NAME],
        "categories": ["all"],
    }
    return {"group": api.GROUP, "scope": "Namespaced", "names": names, "versions": [version]}


class _Dumper(yaml.SafeDumper):
    """Without anchors: what is equal is written again."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  the base class has it
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002  lists stand under their key, indented
        super().increase_indent(flow, False)


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
