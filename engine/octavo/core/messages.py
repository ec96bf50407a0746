"""The messages between API process, engine process and runner; everything that crosses a process is one of these."""

from typing import Literal

from msgspec import Struct

from octavo.outputs import FinishReason
from octavo.sampling_params import SamplingParams


class EngineRequest(Struct, tag="request", kw_only=True):
    """A request's whole, resumable state: preemption and resumption elsewhere admit this one type.

    `output_token_ids` are tokens generated before, by a replica that this one takes over from. `eos_token_ids`
    end the answer unless `sampling.ignore_eos`. Lower `priority` runs first, then earlier `arrival` (seconds since 1970).
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    eos_token_ids: tuple[int, ...] = ()
    output_token_ids: list[int] = []
    priority: int = 0
    arrival: float = 0.0
    cache_salt: str = ""
    adapter: str = ""


class Abort(Struct, tag="abort"):
    """The caller is gone or has seen a stop string; no update follows for requests already finished."""

    request_ids: list[str]


class Shutdown(Struct, tag="shutdown"):
    """Stop the engine process; open requests are aborted."""


ToEngine = EngineRequest | Abort | Shutdown


class RequestUpdate(Struct, kw_only=True):
    """What one step brought to one request; the last one has a `finish_reason`."""

    request_id: str
    new_token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    error: str | None = None
    num_cached_tokens: int = 0


class EngineStats(Struct, kw_only=True):
    """The engine after a step. Counters run since the start."""

    steps: int = 0
    running: int = 0
    waiting: int = 0
    preemptions: int = 0
    kv_blocks: int = 0
    kv_blocks_used: int = 0
    kv_slots_wasted: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generation_tokens: int = 0


class StepUpdates(Struct, tag="step", kw_only=True):
    """All updates of one step in one message."""

    updates: list[RequestUpdate]
    stats: EngineStats


class LoadProgress(Struct, tag="progress", kw_only=True):
    """Bytes of weights read so far."""

    stage: Literal["loading", "warming"]
    done: int
    total: int


class EngineReady(Struct, tag="ready", kw_only=True):
    """The engine takes requests from now on."""

    max_model_len: int
    max_num_seqs: int
    vocab_size: int
    kv_blocks: int
    dtype: str


class EngineFailed(Struct, tag="failed", kw_only=True):
    """The engine is about to exit. `reason` is a CamelCase condition reason, such as `WeightsNotFound`."""

    reason: str
    message: str


FromEngine = StepUpdates | LoadProgress | EngineReady | EngineFailed
