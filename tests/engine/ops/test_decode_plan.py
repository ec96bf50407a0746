"""Decodes divided among a GPU's processors: any mixture of lengths, whatever the plan makes of it."""

import pytest
import torch

from octavo.ops.paged_attention import AttentionBatch, paged_attention, reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

LENGTHS = {
    "one short": [1],
    "one long": [9000],
    "odd ones": [1, 15, 16, 17, 33, 500, 4095],
    "alike": [384] * 70,
    "skewed": [20000] + [300] * 31,
    "many": [1 + 7 * i for i in range(256)],
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize(("query_heads", "kv_heads"), [(32, 8), (14, 2), (4, 4), (24, 2)])
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("window", [0, 100])
def test_decodes_and_a_chunk_after_them(lengths, query_heads, kv_heads, size, window):
    from octavo.ops.decode_plan import DecodePlan  # needs the GPU's kernels

    contexts, chunk = [*lengths, 90], 37
    blocks = [-(-context // 16) for context in contexts]
    numbers = (torch.randperm(sum(blocks)) + 1).int().split(blocks)
    tables = torch.zeros(len(contexts), max(blocks), dtype=torch.int32)
    cache = tuple(torch.randn(sum(blocks) + 1, kv_heads, 16, size, device="cuda").bfloat16() for _ in range(2))
    for row, (found, context) in enumerate(zip(numbers, contexts, strict=True)):
        tables[row, : len(found)] = found
        if context % 16:
            for part in cache:
                part[found[-1].item(), :, context % 16 :] = torch.nan  # what nobody has written yet
    starts = torch.tensor([*range(len(lengths) + 1), len(lengths) + chunk]).int().cuda()
    context_lens = torch.tensor(contexts).int().cuda()
    plan = DecodePlan(300, (query_heads, kv_heads, size), window, torch.device("cuda"))
    plan.make(context_lens, len(lengths))
    batch = AttentionBatch(tables.cuda(), starts, context_lens, num_decodes=len(lengths), plan=plan)
    q = torch.randn(len(lengths) + chunk, query_heads, size, device="cuda").bfloat16()
    expected = reference(q.float(), tuple(part.float() for part in cache), batch, size**-0.5, window)
    for _ in range(3):  # the counters of a plan begin anew for each layer
        answer = paged_attention(q, cache, batch, size**-0.5, window)
        assert ((answer.float() - expected).norm() / expected.norm()).item() < 5e-3
