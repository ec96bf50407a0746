"""The one list of settings: name, type, bounds, default, help, whether a change needs a restart.

CLI flags, `LLM(...)` keywords, `spec.engine` and its schema, the YAML file of `octavo serve --config`,
`docs/reference` and the revision hash are all derived from the two structs below. Names are vLLM's;
`spec.engine` and the YAML file spell them in camelCase (`SPEC_NAMES` has the exceptions).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct


def camel(name: str) -> str:
    """`max_model_len` → `maxModelLen`, and the shorter names that `spec.engine` uses."""
    head, *rest = SPEC_NAMES.get(name, name).split("_")
    return head + "".join(word.capitalize() for word in rest)


SPEC_NAMES = {"enable_prefix_caching": "prefix_caching"}
"""Settings whose name in `spec.engine` is not just their camelCase."""

BLOCK_SIZE = 16
"""Tokens a KV cache block holds. Not a setting: block hashes, and so routing, depend on it."""


class EngineSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename=camel):
    """How the engine of one replica runs. `None` means that the engine works the value out itself."""

    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Meta(description="type of weights and activations; auto: bfloat16 where the chip computes in it and the weights are of 16 bits or fewer, else float32"),
    ] = "auto"
    load_format: Annotated[
        Literal["auto", "safetensors", "gguf", "dummy"],
        Meta(description="how weights are read; auto goes by the files found, dummy makes random weights from config.json alone"),
    ] = "auto"
    max_model_len: Annotated[
        Annotated[int, Meta(ge=16, le=16_777_216)] | None,
        Meta(description="longest prompt and answer together, in tokens; auto: what the model allows and the KV cache holds"),
    ] = None
    max_num_seqs: Annotated[int, Meta(ge=1, le=4096, description="requests that run at once; more wait their turn")] = 128
    max_num_batched_tokens: Annotated[
        Annotated[int, Meta(ge=16, le=1_048_576)] | None,
        Meta(description="token budget of one step, prefill chunks and decodes together; auto: 512 on a CPU"),
    ] = None
    enable_prefix_caching: Annotated[bool, Meta(description="reuse the KV cache of prompts that begin alike")] = True
    gpu_memory_utilization: Annotated[
        float, Meta(gt=0.0, le=1.0, description="share of the device's memory, on a CPU of the cgroup's limit, that weights, activations and KV cache may take")
    ] = 0.9
    kv_cache_memory_bytes: Annotated[
        Annotated[int, Meta(ge=65_536, le=1 << 50)] | None,
        Meta(description="bytes of KV cache; auto: what gpu_memory_utilization leaves, on a CPU at most 4 GiB"),
    ] = None
    enforce_eager: Annotated[bool, Meta(description="on a GPU, launch kernel by kernel and capture no CUDA graphs: slower, for finding faults")] = False
    cpu_threads: Annotated[Annotated[int, Meta(ge=1, le=1024)] | None, Meta(description="compute threads; auto: the cgroup's CPU limit")] = None
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1, description="seed of requests that bring none")] = 0
    generation_config: Annotated[
        Literal["auto", "vllm"],
        Meta(description="defaults of sampling parameters; auto: the model's generation_config.json, vllm: neutral ones"),
    ] = "auto"


class ServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename=camel):
    """How one replica listens. Not part of `spec.engine`: in a cluster the operator sets them."""

    host: Annotated[str, Meta(description="address of the API listener")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="port of the API listener; 0: any free one")] = 8000
    internal_host: Annotated[str, Meta(description="address of the internal listener: metrics, probes, drain")] = "127.0.0.1"
    internal_port: Annotated[int, Meta(ge=0, le=65_535, description="port of the internal listener; 0: any free one")] = 8001
    served_model_name: Annotated[tuple[str, ...], Meta(description="names that requests may use for the model; the first is the one in answers")] = ()
    tokenizer: Annotated[str | None, Meta(description="folder of another tokenizer than the model's")] = None
    chat_template: Annotated[str | None, Meta(description="file of another chat template than the model's")] = None
    api_key_file: Annotated[str | None, Meta(description="file of accepted API keys, one a line; or the environment variable OCTAVO_API_KEY")] = None
    drain_timeout: Annotated[float, Meta(ge=0.0, le=86_400.0, description="seconds that open requests get to finish after SIGTERM")] = 300.0
    stall_timeout: Annotated[float, Meta(ge=1.0, le=86_400.0, description="seconds without progress, of loading or of a step, after which /live fails")] = 60.0
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 32, description="largest request body")] = 16 << 20
    max_waiting_requests: Annotated[int, Meta(ge=1, le=1_000_000, description="requests that may wait for a turn; more get a 429")] = 2048
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="least severe level that is logged")] = "info"


@dataclass(frozen=True)
class Setting:
    """One row of the list. `schema` is the JSON schema of its value; `default` None with `nullable` means auto."""

    name: str
    spec_name: str
    help: str
    default: Any
    restart: bool
    nullable: bool
    schema: dict[str, Any]

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def rows(struct: type[Struct]) -> Iterator[Setting]:
    """The settings of one of the two structs, in order."""
    defaults = struct()
    for field in msgspec.structs.fields(struct):
        schema = msgspec.json.schema(field.type)
        extra: dict[str, Any] = next((m.extra for m in getattr(field.type, "__metadata__", ()) if isinstance(m, Meta) and m.extra), {})
        help_text = schema.pop("description", "")
        variants = schema.pop("anyOf", [schema])
        (value,) = [variant for variant in variants if variant != {"type": "null"}]
        yield Setting(
            name=field.name,
            spec_name=field.encode_name,
            help=help_text,
            default=getattr(defaults, field.name),
            restart=extra.get("restart", True),
            nullable=len(variants) > 1,
            schema=value,
        )
