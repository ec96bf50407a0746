"""The command line of one replica: `octavo serve …` as the resource asks for it, the same for pods and processes."""

from typing import Any

import msgspec

from octavo_api.resource import LLMDeployment, seconds
from octavo_api.settings import EngineSettings, Setting, rows
from octavo_api.source import ModelSource, parse_source

CLAIM_ROOT = "/models"
"""Where a pod finds its claims: `/models/<claim>`."""


def serve_arguments(resource: LLMDeployment, model: str, listeners: dict[str, Any], engine: EngineSettings) -> list[str]:
    """`serve MODEL --flag value …`: names, drain timeout and settings from the resource, `listeners` as setting → value."""
    chosen = msgspec.to_builtins(engine)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in listeners.items()]
    flags += ["--served-model-name", *resource.names]
    flags.append(f"--drain-timeout={seconds(resource.spec.rollout.drain_timeout):g}")
    flags += [_flag(row, chosen[row.spec_name]) for row in rows(EngineSettings) if row.spec_name in chosen]
    return ["serve", model, *flags]


def source_of(resource: LLMDeployment) -> ModelSource:
    """Raises: InvalidSetting, which reading the manifest has ruled out."""
    return parse_source(resource.spec.model.source, resource.spec.model.revision)


def model_in_pod(source: ModelSource) -> str:
    """What `octavo serve` is given in a pod, where claims are folders."""
    if source.scheme == "pvc":
        return "/".join(part for part in (CLAIM_ROOT, source.claim, source.path_in_claim) if part)
    return source.location if source.scheme == "file" else str(source)


def _flag(row: Setting, value: Any) -> str:
    if isinstance(value, bool):
        return row.flag if value else row.flag.replace("--", "--no-", 1)
    return f"{row.flag}={value}"
