"""From a request's token updates to what its caller reads: detokenised deltas, stop strings, one waiting caller.

A caller that reads slower than the engine writes gets several steps' tokens in one delta, so nothing piles up but the
answer itself. Transport is left to `octavo.async_llm`.
"""

import asyncio
from typing import Protocol

from octavo.core.messages import RequestUpdate
from octavo.outputs import CompletionOutput, FinishReason, RequestOutput


class IncrementalText(Protocol):
    """What an answer needs of `octavo.text.detokenizer.Detokenizer`."""

    @property
    def stopped(self) -> str | None:
        """The stop string that has been seen."""

    def push(self, new_ids: list[int]) -> str:
        """Text that these tokens add and that can no longer become part of a stop string."""

    def flush(self) -> str:
        """Text that was held back; the answer has ended."""


class Answer:
    """One open request's answer, written by the engine's updates and read by one caller."""

    def __init__(self, request_id: str, prompt: str | None, prompt_token_ids: list[int], detokenizer: IncrementalText | None) -> None:
        self.request_id = request_id
        self._prompt = prompt
        self._prompt_token_ids = prompt_token_ids
        self._detokenizer = detokenizer
        self._written = asyncio.Event()
        self._delta = self._empty()
        self.finished = False

    def write(self, update: RequestUpdate) -> None:
        """Takes in an update; afterwards `finished` tells whether it, or a stop string in it, ended the answer."""
        delta, output = self._delta, self._delta.outputs[0]
        output.token_ids += update.new_token_ids
        delta.num_cached_tokens = max(delta.num_cached_tokens, update.num_cached_tokens)
        delta.error = update.error
        finish_reason: FinishReason | None = update.finish_reason
        stop_reason: str | int | None = update.stop_reason
        if self._detokenizer is not None:
            output.text += self._detokenizer.push(update.new_token_ids)
            if self._detokenizer.stopped is not None and finish_reason != "error":
                finish_reason, stop_reason = "stop", self._detokenizer.stopped
            elif finish_reason is not None:
                output.text += self._detokenizer.flush()
        output.finish_reason, output.stop_reason = finish_reason, stop_reason
        self.finished = delta.finished = finish_reason is not None
        if output.text or output.token_ids or self.finished:
            self._written.set()

    def fail(self, error: str) -> None:
        self.write(RequestUpdate(request_id=self.request_id, new_token_ids=[], finish_reason="error", error=error))

    async def read(self) -> RequestOutput:
        """What is new since the last read; waits until there is something. The last one has `finished`."""
        await self._written.wait()
        self._written.clear()
        delta, self._delta = self._delta, self._empty()
        return delta

    def _empty(self) -> RequestOutput:
        return RequestOutput(
            request_id=self.request_id,
            prompt=self._prompt,
            prompt_token_ids=self._prompt_token_ids,
            outputs=[CompletionOutput(token_ids=[])],
        )
