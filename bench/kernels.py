"""Each operation at every instruction set of this chip, beside plain torch and beside the memory's bandwidth.

    python -m bench.kernels [--cuda]

Shapes are SmolLM2-135M's, but `smallest`, which is the cost of a call itself. The KV cache of every call is another
layer's, as in a model, so that what is read comes from where it comes from in serving. `torch_us` for attention is
scaled_dot_product_attention with the gather of the paged keys and values that it needs, `sdpa_us` without; `floor_us`
is the bytes that must be moved at the bandwidth of a sum.
"""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

from bench.record import Recorder
from octavo import _C
from octavo.ops import gated_activation, paged_attention, rms_norm, rotary_kv_write, threads

QUERY_HEADS, KV_HEADS, HEAD_SIZE, WIDTH, MLP = 9, 3, 64, 576, 1536
BATCHES = {"decode 1x512": (1, 1, 512), "decode 1x4096": (1, 1, 4096), "decode 16x512": (16, 1, 512), "prefill 1x512": (1, 512, 512)}


class Timer:
    """Microseconds of a call: the fastest of seven rounds of about 20 ms, because whatever else the machine does only
    adds to them; graph-free, with a wait for the device around each round."""

    def __init__(self, device: str) -> None:
        self.wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None

    def round(self, call: Callable[[int], object], count: int) -> float:
        self.wait()
        started = time.perf_counter()
        for i in range(count):
            call(i)
        self.wait()
        return (time.perf_counter() - started) / count

    def us(self, call: Callable[[int], object]) -> float:
        self.round(call, 3)
        count = max(3, int(0.02 / self.round(call, 3)))
        return round(min(self.round(call, count) for _ in range(7)) * 1e6, 1)


class Attention:
    """A batch of sequences of one length over a scattered KV cache of `LAYERS` layers."""

    LAYERS = 30

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
        sequences, self.tokens, self.context = shape
        blocks = -(-self.context // 16)
        self.caches = [(self._cache(sequences * blocks + 1, dtype, device), self._cache(sequences * blocks + 1, dtype, device)) for _ in range(self.LAYERS)]
        tables = (torch.randperm(sequences * blocks) + 1).view(sequences, blocks).int()
        starts = torch.arange(sequences + 1) * self.tokens
        contexts = torch.full((sequences,), self.context)
        self.batch = paged_attention.AttentionBatch(*(x.int().to(device) for x in (tables, starts, contexts)))
        self.q = torch.randn(sequences * self.tokens, QUERY_HEADS, HEAD_SIZE, device=device).to(dtype)
        self.bytes = 2 * sequences * self.context * KV_HEADS * HEAD_SIZE * self.q.element_size()
        self.dense = [self.gathered(i) for i in range(self.LAYERS)]

    @staticmethod
    def _cache(blocks: int, dtype: torch.dtype, device: str) -> torch.Tensor:
        return torch.randn(blocks, KV_HEADS, 16, HEAD_SIZE, device=device).to(dtype)

    def gathered(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (x[self.batch.block_tables].transpose(1, 2).flatten(2, 3) for x in self.caches[layer % self.LAYERS])
        return keys, values

    def ours(self, i: int) -> torch.Tensor:
        return paged_attention.paged_attention(self.q, self.caches[i % self.LAYERS], self.batch, HEAD_SIZE**-0.5, 0)

    def sdpa(self, i: int) -> torch.Tensor:
        return self._sdpa(*self.dense[i % self.LAYERS])

    def plain(self, i: int) -> torch.Tensor:
        return self._sdpa(*self.gathered(i))

    def _sdpa(self, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        q = self.q.view(-1, self.tokens, QUERY_HEADS, HEAD_SIZE).transpose(1, 2)
        out = functional.scaled_dot_product_attention(q, keys, values, is_causal=self.tokens > 1, enable_gqa=True)
        return out.transpose(1, 2).reshape(self.q.shape)


def bandwidth(device: str) -> float:
    """Bytes a second that a sum over a large tensor reads."""
    x = torch.ones(1 << 27, device=device)
    return x.numel() * 4 / (Timer(device).us(lambda _: x.sum()) * 1e-6)


def elementwise(tokens: int, dtype: torch.dtype, device: str) -> Iterator[tuple[str, Callable[[int], object], Callable[[int], object]]]:
    """Name, our call and the same in torch, of the operations without attention."""
    x, residual = (torch.randn(tokens, WIDTH, device=device).to(dtype) for _ in range(2))
    weight = torch.randn(WIDTH, device=device).to(dtype)
    yield (
        "rms_norm",
        lambda _: rms_norm.rms_norm(x, weight, 1e-6, residual),
        lambda _: functional.rms_norm(residual.add_(x), (WIDTH,), weight, 1e-6),
    )
    gate_up = torch.randn(tokens, 2 * MLP, device=device).to(dtype)
    yield (
        "silu_mul",
        lambda _: gated_activation.silu_mul(gate_up),
        lambda _: functional.silu(gate_up[:, :MLP]) * gate_up[:, MLP:],
    )
    qkv = torch.randn(tokens, (QUERY_HEADS + 2 * KV_HEADS) * HEAD_SIZE, device=device).to(dtype)
    heads = qkv.view(tokens, -1, HEAD_SIZE).split((QUERY_HEADS, KV_HEADS, KV_HEADS), 1)
    q, k, v = heads[0], heads[1], heads[2]
    angles = torch.randn(1024, HEAD_SIZE, device=device)
    positions = torch.arange(tokens, device=device)
    cache = (torch.zeros(64, KV_HEADS, 16, HEAD_SIZE, device=device, dtype=dtype), torch.zeros(64, KV_HEADS, 16, HEAD_SIZE, device=device, dtype=dtype))
    yield (
        "rotary_kv_write",
        lambda _: rotary_kv_write.rotary_kv_write((q, k, v), angles, positions, positions, cache),
        lambda _: rotary_kv_write.reference((q, k, v), angles, positions, positions, cache),
    )


def call_costs(device: str) -> Iterator[tuple[str, Callable[[int], object]]]:
    """Each operation on the smallest tensors there are: what remains is the call."""
    x, weight, gate_up = (torch.randn(*shape, device=device).bfloat16() for shape in ((1, 16), (16,), (1, 32)))
    yield "rms_norm", lambda _: rms_norm.rms_norm(x, weight, 1e-6, x)
    yield "silu_mul", lambda _: gated_activation.silu_mul(gate_up)
    head, angles, position = x.view(1, 1, 16), torch.ones(1, 16, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    cache = (torch.zeros(1, 1, 16, 16, device=device).bfloat16(), torch.zeros(1, 1, 16, 16, device=device).bfloat16())
    yield "rotary_kv_write", lambda _: rotary_kv_write.rotary_kv_write((head, head, head), angles, position, position, cache)
    batch = paged_attention.AttentionBatch(*(torch.tensor(values, dtype=torch.int32, device=device) for values in ([[0]], [0, 1], [1])))
    yield "paged_attention", lambda _: paged_attention.paged_attention(head, cache, batch, 0.25, 0)


def measure(recorder: Recorder, level: str, dtype: torch.dtype, device: str, bytes_a_second: float) -> None:
    timer = Timer(device)
    name = str(dtype).removeprefix("torch.")
    for tokens in (1, 16, 512):
        for op, ours, theirs in elementwise(tokens, dtype, device):
            recorder.row(op=op, shape=f"{tokens} tokens", dtype=name, level=level, us=timer.us(ours), torch_us=timer.us(theirs))
    for shape, sizes in BATCHES.items():
        attention = Attention(sizes, dtype, device)
        torch.testing.assert_close(attention.ours(0), attention.plain(0), rtol=2e-2, atol=2e-2)
        row: dict[str, Any] = {"us": timer.us(attention.ours), "torch_us": timer.us(attention.plain), "sdpa_us": timer.us(attention.sdpa)}
        floor = round(attention.bytes / bytes_a_second * 1e6, 1)
        recorder.row(op="paged_attention", shape=shape, dtype=name, level=level, **row, floor_us=floor)


def main() -> None:
    device = "cuda" if "--cuda" in sys.argv else "cpu"
    torch.manual_seed(0)
    recorder = Recorder("kernels", "torch", device=device)
    threads.set_threads(threads.available_cpus())
    bytes_a_second = bandwidth(device)
    recorder.row(op="read", gb_s=round(bytes_a_second / 1e9, 1), threads=torch.get_num_threads())
    timer = Timer(device)
    for op, call in call_costs(device):
        recorder.row(op=op, shape="smallest", dtype="bfloat16", us=timer.us(call))
    best = _C.level()
    for level in _C.levels() if device == "cpu" else ["sm_90"]:
        if device == "cpu":
            _C.set_level(level)
        for dtype in (torch.float32, torch.bfloat16):
            measure(recorder, level, dtype, device, bytes_a_second)
    _C.set_level(best)
    recorder.save()


if __name__ == "__main__":
    main()
