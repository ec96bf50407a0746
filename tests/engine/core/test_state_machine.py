"""After any sequence of add, step, abort, preempt, fork and finish: nothing leaked, nothing held twice, everyone answered,
and whoever is more urgent goes first.

The toy runner checks in every step that each query finds exactly its own tokens; the answers are compared with the
ones computed without an engine. Half of the machines plan step N+1 before they update step N.
"""

from collections import Counter, deque

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from octavo.core.messages import EngineRequest
from octavo.core.schedule import SchedulerOutput
from octavo.sampling_params import SamplingParams
from octavo_api.settings import BLOCK_SIZE

CONTEXT = 96
PROMPTS = st.builds(
    lambda shared, alphabet, length, own: ([alphabet] * shared + own)[:length],
    shared=st.integers(0, 100),
    alphabet=st.integers(0, 2),
    length=st.integers(1, 100),
    own=st.lists(st.integers(0, 99), min_size=1, max_size=20),
)


@pytest.fixture(params=["full", "window", "both", "two windows"])
def groups(request, full, window):
    narrow = type(window)(kind="sliding_window", window=5, layers=(2,), num_kv_heads=1, head_size=8)
    return {"full": (full,), "window": (window,), "both": (full, window), "two windows": (window, full, narrow)}[request.param]


def test_any_sequence(groups, make_engine, continuation):
    class Machine(RuleBasedStateMachine):
        @initialize(blocks=st.integers(8, 16), seqs=st.integers(1, 5), budget=st.integers(16, 48), overlap=st.booleans(), caching=st.booleans())
        def start(self, blocks, seqs, budget, overlap, caching):
            self.engine = make_engine(groups, blocks, seqs=seqs, budget=budget, context=CONTEXT, prefix_caching=caching)
            self.overlap = overlap
            self.in_flight: deque[SchedulerOutput] = deque()
            self.sources: dict[str, EngineRequest] = {}

        def source(self, prompt, max_tokens, priority, eos):
            source = EngineRequest(
                request_id=f"r{len(self.sources)}",
                prompt_token_ids=prompt,
                sampling=SamplingParams(max_tokens=max_tokens),
                eos_token_ids=eos,
                priority=priority,
                arrival=float(len(self.sources)),
            )
            self.sources[source.request_id] = source
            return source

        def open_ids(self):
            return sorted(self.engine.scheduler._requests)

        @rule(prompt=PROMPTS, max_tokens=st.none() | st.integers(1, 40), priority=st.integers(0, 1), eos=st.just(()) | st.tuples(st.integers(0, 96)))
        def add(self, prompt, max_tokens, priority, eos):
            self.engine.add(self.source(prompt, max_tokens, priority, eos))

        def urgency(self, request):
            source = self.sources[request.id]
            return source.priority, source.arrival

        @rule()
        def step(self):
            before = list(self.engine.scheduler.running)
            decodes = [request for request in before if request.num_uncomputed == 1]
            step = self.engine.scheduler.schedule()
            if step.scheduled:
                self.in_flight.append(step)
            self.check_turns(step, before, decodes)
            assert step.scheduled or self.in_flight or not self.engine.scheduler.has_work, "work waits and a step does none"
            while len(self.in_flight) > (self.overlap and bool(step.scheduled)):
                done = self.in_flight.popleft()
                self.engine.collect(self.engine.scheduler.update(done, self.engine.runner.execute(done)))

        def check_turns(self, step, before, decodes):
            """A decode is in every step; a preempted request is less urgent than all that go on; nobody overtakes who waits."""
            scheduler = self.engine.scheduler
            rows = {share.row for share in step.scheduled}
            left_out = [request.id for request in decodes if request.row >= 0 and request.row not in rows]
            assert not left_out or len(step.scheduled) >= scheduler.limits.max_num_batched_tokens
            assert sum(share.length for share in step.scheduled) <= scheduler.limits.max_num_batched_tokens
            stay = [request for request in before if request.row >= 0]
            preempted = [request for request in before if request.row < 0]
            assert all(self.urgency(one) < self.urgency(other) for one in stay for other in preempted)
            entered = [request for request in scheduler.running if request not in before]
            assert all(self.urgency(one) < self.urgency(other) for one in entered for other in scheduler.waiting)

        @rule()
        def steps(self):
            for _ in range(8):
                self.step()

        @precondition(lambda self: self.open_ids())
        @rule(data=st.data())
        def abort(self, data):
            used = self.engine.scheduler.stats().kv_blocks_used
            request_id = data.draw(st.sampled_from(self.open_ids()))
            held = self.engine.scheduler._requests[request_id].row >= 0
            self.engine.collect(self.engine.scheduler.abort([request_id, "nobody"]))
            assert self.engine.scheduler.stats().kv_blocks_used <= used
            assert not held or len(self.engine.scheduler.running) < self.engine.scheduler.limits.max_num_seqs

        @precondition(lambda self: self.engine.scheduler.running)
        @rule(data=st.data(), suffix=st.lists(st.integers(0, 96), max_size=3), max_tokens=st.integers(1, 40))
        def fork(self, data, suffix, max_tokens):
            parent = data.draw(st.sampled_from(self.engine.scheduler.running))
            source = self.source(list(parent.tokens) + suffix, max_tokens, self.sources[parent.id].priority, ())
            refused = self.engine.scheduler.fork(parent.id, source)
            self.engine.collect([refused] if refused else [])

        @invariant()
        def every_block_is_free_or_held_by_its_owners(self):
            for index, pool in enumerate(self.engine.kv.pools):
                requests = self.engine.scheduler._requests.values()
                owners = Counter(block for request in requests for table in request.tables[index : index + 1] for block in table.blocks if block)
                assert all(pool.references(block) == owners[block] for block in range(1, pool.num_blocks + 1))
                assert pool.num_used == len(owners)
                assert set(pool._free) == set(range(1, pool.num_blocks + 1)) - set(owners)
                assert {pool._hashes[block]: block for block in pool._by_hash.values()} == pool._by_hash

        @invariant()
        def waste_is_at_most_a_block_a_sequence_and_group(self):
            for request in self.engine.scheduler.running:
                for group, table in zip(groups, request.tables, strict=True):
                    assert 0 <= len(table.blocks) * BLOCK_SIZE - request.num_computed <= BLOCK_SIZE
                    assert all(table.blocks[table.first :])
                    assert not any(table.blocks[: table.first])
                    assert len(table.blocks) - table.first <= group.peak_blocks(CONTEXT, self.engine.kv.chunk)
            assert self.engine.scheduler.stats().kv_slots_wasted <= BLOCK_SIZE * len(groups) * len(self.engine.scheduler.running)

        @invariant()
        def rows_are_held_once(self):
            scheduler = self.engine.scheduler
            rows = [request.row for request in scheduler.running]
            assert sorted(rows + scheduler._free_rows) == list(range(scheduler.limits.max_num_seqs))
            assert scheduler.running == sorted(scheduler.running, key=self.urgency)
            assert scheduler.waiting == sorted(scheduler.waiting, key=self.urgency)
            assert {request.id for request in scheduler.running + scheduler.waiting} == set(scheduler._requests)

        def teardown(self):
            if not hasattr(self, "engine"):
                return
            for _ in range(10_000):
                if not (self.engine.scheduler.has_work or self.in_flight):
                    break
                self.step()
            assert all(pool.num_used == 0 for pool in self.engine.kv.pools)
            for request_id, source in self.sources.items():
                self.check_answer(source, self.engine.updates[request_id])

        def check_answer(self, source, updates):
            assert [update.finish_reason for update in updates[:-1]] == [None] * (len(updates) - 1)
            answer = [token for update in updates for token in update.new_token_ids]
            expected = continuation(source.prompt_token_ids, CONTEXT)[: max(0, CONTEXT - len(source.prompt_token_ids))][: source.sampling.max_tokens]
            stops = [index for index, token in enumerate(expected) if token in source.eos_token_ids]
            if updates[-1].finish_reason == "error":
                assert len(source.prompt_token_ids) >= CONTEXT or max(source.prompt_token_ids) >= 97
                assert updates[-1].error
                assert not answer
            elif updates[-1].finish_reason == "abort":
                assert answer == expected[: len(answer)]
            else:
                assert updates[-1].finish_reason == ("stop" if stops else "length")
                assert answer == (expected[: stops[0] + 1] if stops else expected)

    run_state_machine_as_test(Machine, settings=settings(max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)))
