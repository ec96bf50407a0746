"""Pages of `docs/reference`: tables of what the types and lists of settings say, for people."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from octavo_api import metrics as metric_names
from octavo_api import resource
from octavo_api.settings import EngineSettings, ServerSettings, Setting, camel, rows
from octavo_gateway.settings import GatewaySettings
from tools import crd, values

NOTE = "<!-- Written by `python -m tools.generate`; not to be edited. -->\n\n"
Schema = dict[str, Any]


def llmdeployment() -> str:
    whole = crd.schema()
    spec, status = whole["properties"]["spec"], whole["properties"]["status"]
    rules = [(f"`{rule.place}`", rule.message) for rule in resource.RULES]
    columns = [(column.name, f"`{column.path}`", column.description, "`-o wide`" if column.priority else "") for column in resource.COLUMNS]
    return "\n".join(
        [
            f"{NOTE}# {resource.KIND}",
            "",
            f"`{resource.GROUP}/{resource.VERSION}`, short name `{resource.SHORT_NAME}`. {resource.DESCRIPTION}",
            "`kubectl explain llm.spec` says the same; [resource.md](../resource.md) tells where each field acts.",
            "",
            "## Spec",
            "",
            table(("Field", "Type", "Default", "Meaning"), fields(spec, "spec")),
            "Further rules, which the API server and `octavo up` check alike:",
            "",
            table(("Field", "Rule"), rules),
            "## Status",
            "",
            table(("Field", "Type", "Meaning"), ((name, kind, text) for name, kind, _, text in fields(status, "status"))),
            "## Columns of `kubectl get llm`",
            "",
            table(("Column", "Path", "Meaning", "Shown with"), columns),
        ]
    )


def settings() -> str:
    return "\n".join(
        [
            f"{NOTE}# Settings",
            "",
            "## Engine",
            "",
            "Flags of `octavo serve`, keywords of `LLM(...)` (the flag's words with underscores), and fields of `spec.engine` and of",
            "the file that `octavo serve --config` reads. A setting that is switched on unless told otherwise is switched off with `--no-…`.",
            "",
            table(("Flag", "`spec.engine`", "Values", "Default", "Meaning"), setting_rows(rows(EngineSettings))),
            "## Server",
            "",
            "Further flags of `octavo serve` and fields of its file. In a cluster the operator sets them.",
            "",
            table(("Flag", "File", "Values", "Default", "Meaning"), setting_rows(rows(ServerSettings))),
            "## Gateway",
            "",
            "Flags of `octavo gateway`; the chart takes those with a name in the second column as `gateway.settings`.",
            "",
            table(("Flag", "`gateway.settings`", "Values", "Default", "Meaning"), gateway_rows()),
        ]
    )


def metrics() -> str:
    def lines(infos: Iterable[metric_names.MetricInfo], model: str) -> Iterator[tuple[str, ...]]:
        for info in infos:
            yield f"`{info.name}`", info.kind, ", ".join(f"`{label}`" for label in (model, *info.labels)), info.help

    head = ("Metric", "Kind", "Labels", "Meaning")
    return "\n".join(
        [
            f"{NOTE}# Metrics",
            "",
            "Prometheus text at `/metrics` of the internal listeners: port 8001 of a replica, port 8081 of the gateway. The chart's",
            "`podMonitor.enabled` makes PodMonitors for both.",
            "",
            "## Replica",
            "",
            table(head, lines(metric_names.ENGINE, "model_name")),
            "## Gateway",
            "",
            "`model` is empty for requests that name no known model.",
            "",
            table(head, lines(metric_names.GATEWAY, "model")),
        ]
    )


def chart() -> str:
    whole = json.loads(values.schema())
    definitions = whole["definitions"]

    def lines(name: str, path: str) -> Iterator[tuple[str, ...]]:
        for field, schema in definitions[name]["properties"].items():
            inner = schema.get("$ref", "").rpartition("/")[2]
            here = f"{path}.{field}".lstrip(".")
            if inner == "Settings":
                yield f"`{here}`", "", "settings of `octavo gateway`, see [settings.md](settings.md)"
            elif inner:
                yield from lines(inner, here)
            else:
                yield f"`{here}`", kind_of(schema), schema["description"]

    return "\n".join(
        [
            f"{NOTE}# Values of the chart",
            "",
            "`helm install octavo charts/octavo --namespace octavo-system --create-namespace`. Defaults are in",
            "[values.yaml](../../charts/octavo/values.yaml); anything that is not listed here is refused by its name.",
            "",
            table(("Value", "Type", "Meaning"), lines("Values", "")),
        ]
    )


def fields(schema: Schema, path: str) -> Iterator[tuple[str, ...]]:
    """Path, type, default and description of every field below `schema`, depth first."""
    for name, value in schema["properties"].items():
        here = f"{path}.{name}"
        required = name in schema.get("required", ())
        default = "required" if required else f"`{json.dumps(value['default'])}`" if value.get("default", {}) != {} else ""
        yield f"`{here}`", kind_of(value), default, value["description"]
        inner, suffix = (value["items"], "[]") if value.get("type") == "array" else (value, "")
        if "properties" in inner:
            yield from fields(inner, here + suffix)


def setting_rows(settings_of: Iterable[Setting]) -> Iterator[tuple[str, ...]]:
    for row in settings_of:
        flag = row.flag if row.default is not True else row.flag.replace("--", "--no-", 1)
        yield f"`{flag}`", f"`{row.spec_name}`", kind_of(row.schema), default_of(row), row.help


def gateway_rows() -> Iterator[tuple[str, ...]]:
    for row in rows(GatewaySettings):
        yield f"`{row.flag}`", "" if row.name in values.OWN else f"`{camel(row.name)}`", kind_of(row.schema), default_of(row), row.help


def default_of(row: Setting) -> str:
    if row.default is None:
        return "auto" if row.help.partition("; ")[2].startswith("auto") else ""
    return f"`{json.dumps(row.default)}`" if row.default != () else ""


def kind_of(schema: Schema) -> str:
    """A schema's type and bounds in words."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return kind_of(next(variant for variant in schema["anyOf"] if variant != {"type": "null"}))
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    kind = str(schema["type"])
    if kind == "array" and schema["items"].get("type") != "object":
        return f"list of {kind_of(schema['items'])}"
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if kind not in ("integer", "number") or low is None or high is None:
        return {"array": "list", "object": "map"}.get(kind, kind)
    above = schema.get("exclusiveMinimum", False) is not False
    bounds = [f"{int(bound):,}" if bound == int(bound) else f"{bound:g}" for bound in (low, high)]
    return f"{kind}, {'more than ' if above else ''}{bounds[0]} … {bounds[1]}"


def table(head: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in ([*head], ["---"] * len(head), *cells)) + "\n"
