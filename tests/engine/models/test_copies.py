"""Two requests that share a half-filled block: the fork gets a copy before it writes."""

import pytest

from octavo.core.schedule import BlockCopy, NewRow, ScheduledRow, SchedulerOutput
from octavo.runner.model_runner import ModelRunner
from octavo.sampling_params import SamplingParams
from octavo_api.settings import EngineSettings

GREEDY = SamplingParams(temperature=0.0)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_fork_copies_what_it_writes_to(family, make_small, follows):
    small = make_small(family)
    runner = ModelRunner(small.folder, EngineSettings(dtype="float32", kv_cache_memory_bytes=1 << 20, max_num_seqs=2, cpu_threads=1))
    groups = len(runner.load(lambda done, total: None).groups)
    runner.allocate((8,) * groups)
    prompt, other = list(range(50, 70)), 7

    def share(row, start, length, *blocks):
        return ScheduledRow(row=row, start=start, length=length, samples=True, new_blocks=[list(blocks)] * groups)

    def step(scheduled, new=(), copies=()):
        return runner.execute(SchedulerOutput(freed=[], new=list(new), copies=list(copies), scheduled=scheduled)).token_ids

    parent = NewRow(row=0, request_id="parent", token_ids=prompt, num_prompt_tokens=20, sampling=GREEDY)
    child = NewRow(row=1, request_id="child", token_ids=[*prompt, other], num_prompt_tokens=21, sampling=GREEDY)
    (first,) = step([share(0, 0, 20, 1, 2)], new=[parent])
    copies = [BlockCopy(group=group, source=2, target=3) for group in range(groups)]
    second, forked = step([share(0, 20, 1), share(1, 20, 1, 1, 3)], new=[child], copies=copies)
    third, forked_second = step([share(0, 21, 1), share(1, 21, 1)])
    assert first != other
    follows(small.reference, prompt, [first, second, third])
    follows(small.reference, [*prompt, other], [forked, forked_second])
