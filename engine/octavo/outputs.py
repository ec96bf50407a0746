"""What a request's caller gets. Names are vLLM's."""

from typing import Literal

from msgspec import Struct

FinishReason = Literal["stop", "length", "abort", "error"]


class CompletionOutput(Struct, kw_only=True):
    """One answer so far. `stop_reason` is the stop string or token id that ended it, None for end-of-sequence."""

    index: int = 0
    text: str = ""
    token_ids: list[int] = []
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


class RequestOutput(Struct, kw_only=True):
    """One request so far. `error` says why it failed when `finish_reason` is `error`."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = False
    num_cached_tokens: int = 0
    error: str | None = None
