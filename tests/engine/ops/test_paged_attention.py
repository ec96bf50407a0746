"""Attention over scattered blocks: parity with plain torch in float32, invariance, and refusal of what leaves the cache."""

import msgspec
import pytest
import torch

from octavo import _C
from octavo.ops.paged_attention import paged_attention, reference

SHAPES = [(1, 1, 16), (9, 3, 64), (6, 1, 32), (8, 2, 80), (4, 2, 96), (7, 1, 64), (16, 2, 128), (4, 1, 256), (3, 3, 48), (64, 1, 16), (5, 1, 240)]
"""Query heads, KV heads, head size."""

DECODES = [(1, 1), (1, 15), (1, 16), (1, 17), (2, 2), (1, 33), (1, 255), (1, 256), (1, 257), (1, 513), (8, 600)]
CHUNKS = [(17, 17), (17, 50), (64, 64), (65, 300), (9, 530)]
MIXED = [(1, 700), (30, 30), (1, 3), (8, 1100), (9, 40), (0, 20), (1, 1301)]
"""Query tokens and context of each sequence: across the borders of blocks and of what one thread computes at a time."""


def attend(sequences, window=0):
    return paged_attention(sequences.q, sequences.kv_cache, sequences.batch, sequences.q.shape[2] ** -0.5, window)


def expect(sequences, window=0):
    """The answer in float32, and the sum of the magnitudes of what it is summed up from."""
    keys, values = (cache.float() for cache in sequences.kv_cache)
    arguments = (sequences.batch, sequences.q.shape[2] ** -0.5, window)
    return reference(sequences.q.float(), (keys, values), *arguments), reference(sequences.q.float(), (keys, values.abs()), *arguments)


@pytest.mark.parametrize("lengths", [DECODES, CHUNKS, MIXED], ids=["decodes", "chunks", "mixed"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parity(make_sequences, assert_close, poisoned, shape, lengths):
    sequences = make_sequences(shape, lengths)
    with poisoned():
        answer = attend(sequences)
    assert answer.is_contiguous()
    assert_close(answer, *expect(sequences), units=2 if answer.dtype == torch.bfloat16 else 64)


def test_a_long_context(make_sequences, assert_close, poisoned):
    sequences = make_sequences((6, 2, 128), [(1, 6001), (20, 3000)])
    with poisoned():
        answer = attend(sequences)
    assert_close(answer, *expect(sequences), units=2 if answer.dtype == torch.bfloat16 else 64)


@pytest.mark.parametrize(
    ("shape", "window"), [((9, 3, 64), 1), ((9, 3, 64), 16), ((9, 3, 64), 300), ((9, 3, 64), 5000), ((4, 1, 256), 24), ((8, 2, 80), 33)], ids=str
)
def test_windows_do_not_read_what_lies_before(make_sequences, assert_close, poisoned, shape, window):
    sequences = make_sequences(shape, MIXED + CHUNKS[1:3], window)
    with poisoned():
        answer = attend(sequences, window)
    assert_close(answer, *expect(sequences, window), units=2 if answer.dtype == torch.bfloat16 else 64)


def test_scores_far_apart(make_sequences, assert_close):
    """A later key that outweighs all before it, and one that every later key is nothing beside."""
    sequences = make_sequences((3, 1, 64), [(1, 900), (40, 400)])
    keys = sequences.kv_cache[0]
    keys *= 100
    answer = attend(sequences)
    assert_close(answer, *expect(sequences), units=2 if answer.dtype == torch.bfloat16 else 4096)


def test_no_sequences(make_sequences):
    assert attend(make_sequences((4, 2, 64), [])).shape == (0, 4, 64)


def test_answers_depend_neither_on_threads_nor_on_the_rest_of_the_batch(make_sequences, device):
    sequences = make_sequences((8, 2, 64), [(1, 2000), (40, 60), (4, 700), (1, 30)])
    together = attend(sequences)
    for count in (1, 3, 16):
        _C.set_threads(count)
        assert torch.equal(attend(sequences), together)
    if device == "cpu":
        starts = sequences.batch.query_start.tolist()
        for row in range(4):
            alone = msgspec.structs.replace(
                sequences.batch,
                block_tables=sequences.batch.block_tables[row : row + 1],
                query_start=torch.tensor([0, starts[row + 1] - starts[row]], dtype=torch.int32),
                context_lens=sequences.batch.context_lens[row : row + 1],
            )
            answer = paged_attention(sequences.q[starts[row] : starts[row + 1]], sequences.kv_cache, alone, 64**-0.5, 0)
            assert torch.equal(answer, together[starts[row] : starts[row + 1]])


@pytest.mark.parametrize(
    ("name", "index", "value", "words"),
    [
        ("block_tables", (1, 1), -1, "sequence 1: block -1 in a cache of"),
        ("block_tables", (1, 0), 1 << 30, "sequence 1: block 1073741824 in a cache of"),
        ("context_lens", 1, 2, "context of 2 tokens, with 4 of them queries"),
        ("context_lens", 1, 1000, "context of 1000 tokens"),
        ("context_lens", 0, -5, "context of -5 tokens"),
        ("query_start", 2, 6, "leaves the 5 tokens"),
        ("query_start", 1, -3, "leaves the 5 tokens"),
        ("query_start", 0, -(1 << 31), "leaves the 5 tokens"),
        ("query_start", 1, 1 << 30, "leaves the 5 tokens"),
    ],
)
def test_what_leaves_the_cache_is_refused(small_sequences, name, index, value, words):
    getattr(small_sequences.batch, name)[index] = value
    with pytest.raises(IndexError, match=words):
        attend(small_sequences)


WRONG = {
    "q's heads apart": (lambda s: {"q": s.q.transpose(0, 1).contiguous().transpose(0, 1)}, "last two dimensions contiguous"),
    "q of two dimensions": (lambda s: {"q": s.q.flatten(1)}, "q must be"),
    "head sizes differ": (lambda s: {"q": s.q[:, :, :32].contiguous()}, "keys must be"),
    "heads do not divide": (lambda s: {"q": s.q[:, :3].contiguous()}, "a divisor of Hq"),
    "dtypes differ": (lambda s: {"q": s.q.double()}, "keys must be"),
    "values unlike keys": (lambda s: {"kv_cache": (s.kv_cache[0], s.kv_cache[1][1:])}, "values must be"),
    "cache not contiguous": (lambda s: {"kv_cache": (s.kv_cache[0][::2], s.kv_cache[1][::2])}, "keys must be"),
    "tables of int64": (lambda s: {"block_tables": s.batch.block_tables.long()}, "block_tables must be"),
    "tables not contiguous": (lambda s: {"block_tables": s.batch.block_tables[:, ::2]}, "block_tables must be"),
    "a start too few": (lambda s: {"query_start": s.batch.query_start[:-1]}, "query_start must be"),
    "a context too many": (lambda s: {"context_lens": torch.cat((s.batch.context_lens, s.batch.context_lens))}, "context_lens must be"),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_are_named(small_sequences, change, words):
    sequences = small_sequences
    changed = change(sequences)
    parts = {name: changed.pop(name) for name in tuple(changed) if hasattr(sequences.batch, name)}

    def call():
        batch = msgspec.structs.replace(sequences.batch, **parts)
        return paged_attention(changed.get("q", sequences.q), changed.get("kv_cache", sequences.kv_cache), batch, 0.125, 0)

    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("shape", [(4, 2, 20), (2, 1, 272), (65, 1, 16)], ids=str)
def test_shapes_without_a_kernel_are_computed_all_the_same(make_sequences, assert_close, shape):
    sequences = make_sequences(shape, [(1, 20), (4, 40)])
    assert_close(attend(sequences), *expect(sequences), units=2)
