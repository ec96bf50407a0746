"""A step's batch is what the scheduler said of it: tokens, positions, slots and tables, row by row."""

import numpy as np
import pytest

from octavo.core.schedule import NewRow, ScheduledRow, SchedulerOutput
from octavo.runner.request_state import RequestState
from octavo.sampling_params import SamplingParams


def step(*scheduled, new=(), freed=()):
    return SchedulerOutput(freed=list(freed), new=list(new), copies=[], scheduled=list(scheduled))


def entered(row, token_ids, **sampling):
    return NewRow(row=row, request_id=f"r{row}", token_ids=token_ids, num_prompt_tokens=len(token_ids), sampling=SamplingParams(**sampling))


def share(row, start, length, blocks=((), ()), samples=False):
    return ScheduledRow(row=row, start=start, length=length, samples=samples, new_blocks=[list(group) for group in blocks])


@pytest.fixture
def state():
    return RequestState(rows=4, max_len=64, num_groups=2, seed=0)


def test_a_prefill_chunk_beside_a_decode(state):
    """Row 2 computes tokens 14 … 19 of 24, which cross a block's border; row 0 the last of its 18, and samples."""
    shares = (share(2, 0, 14, ([7], [3])), share(0, 0, 17, ([4, 5], [1, 2])))
    state.apply(step(*shares, new=[entered(2, list(range(100, 124))), entered(0, list(range(18)))]))
    scheduled = [share(2, 14, 6, ([8], [9])), share(0, 17, 1, samples=True)]
    state.apply(step(*scheduled))
    gathered = state.gather(scheduled)
    batch = gathered.batch
    assert batch.token_ids.tolist() == [114, 115, 116, 117, 118, 119, 17]
    assert batch.positions.tolist() == [14, 15, 16, 17, 18, 19, 17]
    first, second = batch.groups
    assert first.slots.tolist() == [7 * 16 + 14, 7 * 16 + 15, 8 * 16, 8 * 16 + 1, 8 * 16 + 2, 8 * 16 + 3, 5 * 16 + 1]
    assert second.slots.tolist()[:3] == [3 * 16 + 14, 3 * 16 + 15, 9 * 16]
    assert first.attention.block_tables.tolist() == [[7, 8], [4, 5]]
    assert second.attention.block_tables.tolist() == [[3, 9], [1, 2]]
    assert first.attention.query_start.tolist() == [0, 6, 7]
    assert first.attention.context_lens.tolist() == [20, 18]
    assert batch.sampled.tolist() == [6]
    assert (gathered.rows.tolist(), gathered.positions.tolist()) == ([0], [18])


def test_a_sampled_token_is_computed_next(state):
    state.apply(step(share(1, 0, 3, ([2], [2]), samples=True), new=[entered(1, [5, 6, 7])]))
    state.append(np.array([1]), np.array([42]))
    gathered = state.gather([share(1, 3, 1, samples=True)])
    assert gathered.batch.token_ids.tolist() == [42]
    assert gathered.positions.tolist() == [4]


def test_a_row_is_entered_again(state):
    """Nothing of the request before is left: neither tokens nor blocks nor parameters."""
    state.apply(step(share(3, 0, 20, ([1, 2], [1, 2])), new=[entered(3, list(range(20)), temperature=0.0, presence_penalty=1.0, min_tokens=4)]))
    state.apply(step(share(3, 0, 2, ([6], [5])), new=[entered(3, [8, 9])], freed=[3]))
    gathered = state.gather([share(3, 0, 2)])
    assert gathered.batch.token_ids.tolist() == [8, 9]
    assert gathered.batch.groups[0].attention.block_tables.tolist() == [[6]]
    assert state.num_tokens[3] == 2
    assert not state.penalised[3]
    assert state.temperature[3] == 1.0


def test_a_prefix_hit_begins_after_null_blocks(state):
    """The window group's first block is the null block; the first token computed is the 17th."""
    scheduled = [share(0, 16, 4, ([3, 4], [0, 7]), samples=True)]
    state.apply(step(*scheduled, new=[entered(0, list(range(20)))]))
    gathered = state.gather(scheduled)
    assert gathered.batch.groups[1].attention.block_tables.tolist() == [[0, 7]]
    assert gathered.batch.groups[1].slots.tolist() == [112, 113, 114, 115]
    assert gathered.batch.sampled.tolist() == [3]
