"""What the operations' tests share: every place a kernel can run, random inputs that change with each run, poisoned memory.

A test that takes `device` runs once for each instruction set of this chip, and on a CUDA device where there is one.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from octavo import _C
from octavo.ops import threads
from octavo.ops.paged_attention import AttentionBatch
from octavo_api.settings import BLOCK_SIZE


@pytest.fixture(params=[*(f"cpu {level}" for level in _C.levels()), "cuda"])
def device(request) -> Iterator[str]:
    name, _, level = request.param.partition(" ")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    before = _C.level()
    if level:
        _C.set_level(level)
    yield name
    _C.set_level(before)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(autouse=True)
def fresh_inputs() -> None:
    """Other random numbers in every run; a failure shows the seed to repeat it with."""
    seed = int(os.environ.get("OCTAVO_TEST_SEED", "0")) or int.from_bytes(os.urandom(4), "big")
    print(f"OCTAVO_TEST_SEED={seed}")
    torch.manual_seed(seed)


@pytest.fixture(autouse=True)
def usual_threads() -> Iterator[None]:
    """Kernels on all threads; torch, which has only small references to compute here, on one."""
    torch.set_num_threads(1)
    _C.set_threads(threads.available_cpus())
    yield
    threads.set_threads(threads.available_cpus())


@pytest.fixture
def poisoned() -> Callable:
    """Inside of it, memory that torch gives out is NaN, so that what a kernel leaves unwritten shows."""

    @contextmanager
    def run() -> Iterator[None]:
        torch.set_deterministic_debug_mode("error")
        try:
            assert torch.empty(4).isnan().all()
            yield
        finally:
            torch.set_deterministic_debug_mode("default")

    return run


@pytest.fixture
def assert_close(dtype) -> Callable:
    """Compares a kernel's answer with a float32 one. Errors are allowed in units of the last place of `dtype`, relative
    to `scale`: the answer itself, or the sum of the magnitudes that it was summed up from."""
    unit = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8}[dtype]

    def check(answer: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor | None = None, units: float = 1.0) -> None:
        assert answer.dtype == dtype
        assert answer.shape == expected.shape
        assert expected.dtype == torch.float32
        allowed = units * unit * (expected.abs() if scale is None else scale) + 1e-30
        wrong = ~((answer.float() - expected).abs() <= allowed)
        assert not wrong.any(), (
            f"{int(wrong.sum())} of {wrong.numel()} are off, by up to {((answer.float() - expected).abs() / allowed).max():.2f} of what is allowed"
        )

    return check


class Sequences:
    """Sequences over a paged KV cache as a server has it: blocks in no order, NaN wherever no query may look.

    `shape` is query heads, KV heads and head size; `lengths` has query tokens and context of each sequence. Table
    entries behind a context are no blocks at all; those before the window are the null block.
    """

    def __init__(self, shape: tuple[int, int, int], lengths: list[tuple[int, int]], window: int, dtype: torch.dtype, device: str) -> None:
        query_heads, kv_heads, size = shape
        counts = [-(-context // BLOCK_SIZE) for _, context in lengths]
        numbers = iter((torch.randperm(sum(counts) + 3) + 1).tolist())
        caches = torch.full((2, sum(counts) + 4, kv_heads, BLOCK_SIZE, size), float("nan"), dtype=dtype)
        tables = torch.full((len(lengths), max(counts, default=0) + 2), -1, dtype=torch.int32)
        for row, (queries, context) in enumerate(lengths):
            first = max(0, context - queries - window + 1) if window else 0
            for index in range(counts[row]):
                begin, end = max(first - index * BLOCK_SIZE, 0), min(context - index * BLOCK_SIZE, BLOCK_SIZE)
                tables[row, index] = block = next(numbers) if begin < BLOCK_SIZE else 0
                if block:
                    caches[:, block, :, begin:end] = torch.randn(2, kv_heads, end - begin, size).to(dtype)
        starts = torch.tensor([0, *(queries for queries, _ in lengths)]).cumsum(0).int()
        contexts = torch.tensor([context for _, context in lengths], dtype=torch.int32)
        self.batch = AttentionBatch(tables.to(device), starts.to(device), contexts.to(device))
        self.kv_cache = (caches[0].contiguous().to(device), caches[1].contiguous().to(device))
        # Queries lie in a wider row, beside what a fused projection also gives.
        self.q = torch.randn(int(starts[-1]), query_heads + 2 * kv_heads, size).to(dtype).to(device)[:, :query_heads]


@pytest.fixture
def make_sequences(device, dtype) -> Callable[..., Sequences]:
    return lambda shape, lengths, window=0: Sequences(shape, lengths, window, dtype, device)


@pytest.fixture
def small_sequences() -> Sequences:
    return Sequences((4, 2, 64), [(1, 20), (4, 40)], 0, torch.bfloat16, "cpu")
