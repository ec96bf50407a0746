"""Which requests compute how many tokens in the next step.

One token budget a step. Running requests come first, decodes before prefill chunks; then waiting ones enter, as far
as rows, budget and KV blocks reach. Lower priority runs first, then earlier arrival. When blocks run out, the last in
that order is preempted: it gives its blocks back and computes them again later, its answer so far kept.

The scheduler counts tokens and does not look at them, so `schedule` for the next step may come before `update` of the
one before; steps are updated in the order in which they were planned.
"""

import heapq
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from operator import attrgetter

from msgspec import Struct

from octavo.core.kv_cache import KVCache
from octavo.core.messages import EngineRequest, EngineStats, RequestUpdate
from octavo.core.request import Request
from octavo.core.schedule import BlockCopy, ModelRunnerOutput, NewRow, ScheduledRow, SchedulerOutput
from octavo.outputs import FinishReason

_order = attrgetter("order")


class SchedulerLimits(Struct, frozen=True, kw_only=True):
    """Rows of the runner, tokens of a step, tokens of a sequence, tokens of the vocabulary."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    vocab_size: int


class _Plan:
    """A step while it is made: the output, the tokens left, and those of them kept for decodes not yet planned."""

    def __init__(self, budget: int, decodes: int) -> None:
        self.output = SchedulerOutput(freed=[], new=[], copies=[], scheduled=[])
        self.sampled: list[Request] = []
        self.left = budget
        self.reserved = min(budget, decodes)

    def share(self, request: Request) -> int:
        """Tokens that the request may compute in this step."""
        count = request.num_uncomputed
        if count == 1 and self.reserved:
            self.reserved -= 1
        room = self.left - self.reserved
        return count if count < room else room

    def add(self, request: Request, length: int, copies: list[BlockCopy]) -> None:
        if not request.entered:
            request.entered = True
            self.output.new.append(
                NewRow(
                    row=request.row,
                    request_id=request.id,
                    token_ids=list(request.tokens),
                    num_prompt_tokens=request.num_prompt_tokens,
                    sampling=request.source.sampling,
                    eos_token_ids=request.source.eos_token_ids,
                )
            )
        new_blocks = []
        for table in request.tables:
            known = len(table.blocks)
            new_blocks.append(table.blocks[table.sent :] if table.sent < known else [])
            table.sent = known
        samples = length == request.num_uncomputed
        self.output.scheduled.append(ScheduledRow(row=request.row, start=request.num_computed, length=length, samples=samples, new_blocks=new_blocks))
        if copies:
            self.output.copies += copies
        request.num_computed += length
        self.left -= length
        if samples:
            request.num_pending += 1
            self.sampled.append(request)


class Scheduler:
    """Requests from `add` to their last update. `running` and the waiting ones are kept in order of turn."""

    def __init__(self, limits: SchedulerLimits, kv: KVCache) -> None:
        if not kv.fits(limits.max_model_len):
            raise ValueError(f"a sequence of max_model_len={limits.max_model_len} tokens does not fit into the KV cache")
        self.limits = limits
        self.kv = kv
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self._requests: dict[str, Request] = {}
        self._free_rows = list(range(limits.max_num_seqs))
        self._freed: list[int] = []
        self._planned: deque[tuple[SchedulerOutput, list[Request]]] = deque()
        self._serial = 0
        self._steps = self._preemptions = self._prompt_tokens = self._cached_prompt_tokens = self._generation_tokens = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, source: EngineRequest) -> RequestUpdate | None:
        """Accepts a request, or answers one that can never run with its last update."""
        refused = self._refusal(source)
        if refused is not None:
            return refused
        insort(self.waiting, self._accept(source), key=_order)
        return None

    def fork(self, parent_id: str, source: EngineRequest) -> RequestUpdate | None:
        """Accepts a request whose tokens begin with those of a running one, and shares the running one's blocks, the
        half-filled last one included. Without a free row, or while a token of the parent is still being sampled, it
        is added like any other."""
        refused = self._refusal(source)
        if refused is not None:
            return refused
        parent = self._requests.get(parent_id)
        if parent is None or parent.row < 0 or parent.num_pending or not self._free_rows:
            return self.add(source)
        child = self._accept(source)
        if len(child.tokens) <= parent.num_computed or child.tokens[: parent.num_computed] != parent.tokens[: parent.num_computed]:
            raise ValueError(f"request {child.id!r} does not go on from request {parent_id!r}")
        self.kv.fork(parent, child)
        self._run(child)
        return None

    def abort(self, request_ids: Iterable[str]) -> list[RequestUpdate]:
        """Ends requests now, their blocks free before the next step. Ids of finished requests are passed over."""
        updates = []
        for request_id in request_ids:
            request = self._requests.get(request_id)
            if request is not None:
                self._finish(request)
                updates.append(RequestUpdate(request_id=request_id, new_token_ids=[], finish_reason="abort"))
        return updates

    def abort_all(self) -> list[RequestUpdate]:
        return self.abort(list(self._requests))

    def schedule(self) -> SchedulerOutput:
        """Plans the next step. Without anything to compute `scheduled` is empty and the step is not to be executed."""
        plan = _Plan(self.limits.max_num_batched_tokens, sum(request.num_uncomputed == 1 for request in self.running))
        if self._continue_running(plan):
            self._admit_waiting(plan)
        if plan.output.scheduled:
            plan.output.freed, self._freed = self._freed, []
            self._planned.append((plan.output, plan.sampled))
        return plan.output

    def update(self, step: SchedulerOutput, output: ModelRunnerOutput) -> list[RequestUpdate]:
        """Takes in what a step sampled; returns an update for each request that is still open."""
        planned, sampled = self._planned.popleft()
        if planned is not step:
            raise RuntimeError("steps are updated in another order than they were planned in")
        self._steps += 1
        updates = []
        for request, token in zip(sampled, output.token_ids, strict=True):
            if request.finished:
                continue
            request.num_pending -= 1
            request.tokens.append(token)
            self._generation_tokens += 1
            finish_reason, stop_reason = request.finish_after(token)
            if finish_reason is not None:
                self._finish(request)
            updates.append(
                RequestUpdate(
                    request_id=request.id,
                    new_token_ids=[token],
                    finish_reason=finish_reason,
                    stop_reason=stop_reason,
                    num_cached_tokens=request.num_cached_tokens,
                )
            )
        return updates

    def stats(self) -> EngineStats:
        return EngineStats(
            steps=self._steps,
            running=len(self.running),
            waiting=len(self.waiting),
            preemptions=self._preemptions,
            kv_blocks=sum(pool.num_blocks for pool in self.kv.pools),
            kv_blocks_used=sum(pool.num_used for pool in self.kv.pools),
            kv_slots_wasted=sum(map(self.kv.wasted_slots, self.running)),
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_prompt_tokens,
            generation_tokens=self._generation_tokens,
        )

    def _refusal(self, source: EngineRequest) -> RequestUpdate | None:
        count = len(source.prompt_token_ids) + len(source.output_token_ids)
        limits = self.limits
        finish_reason: FinishReason = "error"
        error = None
        if source.request_id in self._requests:
            error = f"a request with the id {source.request_id!r} is open already"
        elif not source.prompt_token_ids:
            error = "the prompt is empty"
        elif count >= limits.max_model_len:
            error = f"the prompt has {count} tokens and the context {limits.max_model_len}, which leaves no room for an answer; shorten the prompt"
        elif not all(min(ids) >= 0 and max(ids) < limits.vocab_size for ids in (source.prompt_token_ids, source.output_token_ids) if ids):
            error = f"the prompt has token ids outside of 0 … {limits.vocab_size - 1}"
        elif source.sampling.max_tokens is not None and len(source.output_token_ids) >= source.sampling.max_tokens:
            finish_reason = "length"
        else:
            return None
        return RequestUpdate(request_id=source.request_id, new_token_ids=[], finish_reason=finish_reason, error=error)

    def _accept(self, source: EngineRequest) -> Request:
        self._serial += 1
        request = Request(source, self._serial, self.limits.max_model_len)
        self._requests[request.id] = request
        self._prompt_tokens += request.num_prompt_tokens
        return request

    def _continue_running(self, plan: _Plan) -> bool:
        """Plans running requests in order, so that whoever is preempted is not in the step yet; whether nobody was."""
        preemptions = self._preemptions
        index = 0
        while index < len(self.running):
            request = self.running[index]
            index += 1
            length = plan.share(request)
            if length <= 0:
                continue
            copies = self.kv.extend(request, request.num_computed + length)
            while copies is None:
                if self._preempt_last() is request:
                    break
                copies = self.kv.extend(request, request.num_computed + length)
            else:
                plan.add(request, length, copies)
                self.kv.publish(request)
        return self._preemptions == preemptions

    def _admit_waiting(self, plan: _Plan) -> None:
        while self.waiting and self._free_rows and plan.left > 0:
            request = self.waiting[0]
            if request.num_pending or not self.kv.enter(request):
                return
            del self.waiting[0]
            self._run(request)
            length = plan.share(request)
            copies = self.kv.extend(request, request.num_computed + length)
            if copies is None:
                raise RuntimeError(f"request {request.id!r} was let in without room for its tokens")
            plan.add(request, length, copies)
            self.kv.publish(request)

    def _run(self, request: Request) -> None:
        if request.num_cached_tokens < 0:
            request.num_cached_tokens = min(request.num_computed, request.num_prompt_tokens)
            self._cached_prompt_tokens += request.num_cached_tokens
        request.row = heapq.heappop(self._free_rows)
        insort(self.running, request, key=_order)

    def _preempt_last(self) -> Request:
        request = self.running[-1]
        self._leave_row(request)
        insort(self.waiting, request, key=_order)
        self._preemptions += 1
        return request

    def _leave_row(self, request: Request) -> None:
        del self.running[bisect_left(self.running, request.order, key=_order)]
        self.kv.leave(request)
        heapq.heappush(self._free_rows, request.row)
        if request.entered:
            self._freed.append(request.row)
        request.row, request.entered = -1, False

    def _finish(self, request: Request) -> None:
        request.finished = True
        del self._requests[request.id]
        if request.row >= 0:
            self._leave_row(request)
        else:
            del self.waiting[bisect_left(self.waiting, request.order, key=_order)]
