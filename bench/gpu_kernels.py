"""The GPU's kernels at the shapes of their peers' figures, each checked against a float32 reference first.

    python -m bench.gpu_kernels

Times are medians of graph replays over rotating inputs larger than the L2 cache. `peer` is the best figure that another
engine's kernel reached on an H100 of the same kind: FlashAttention 3 and FlashInfer for attention (GB/s of keys and
values for decodes, TFLOP/s for prefills), cuBLAS in the same run for products with weights (TB/s of weights).
"""

import statistics
from collections.abc import Callable

import torch
from torch.nn import functional

from bench.record import Recorder
from octavo.ops import paged_attention
from octavo.ops.decode_plan import DecodePlan
from octavo.ops.linear import linear

ROTATED_BYTES = 200_000_000
Shape = tuple[int, int, int]
LLAMA_8B: Shape = (32, 8, 128)

DECODES: dict[str, tuple[list[int], Shape, float]] = {
    "256 x 384": ([384] * 256, LLAMA_8B, 2731),
    "256 x 1024": ([1024] * 256, LLAMA_8B, 2933),
    "64 x 4096": ([4096] * 64, LLAMA_8B, 2992),
    "8 x 1024": ([1024] * 8, LLAMA_8B, 1847),
    "1 x 8192": ([8192], LLAMA_8B, 1684),
    "1 x 32768": ([32768], LLAMA_8B, 2400),
    "4 x 30000": ([30000] * 4, LLAMA_8B, 2843),
    "256 x 830, 16/8 heads": ([830] * 256, (16, 8, 128), 2895),
    "256 x 830, 14/2 heads of 64": ([830] * 256, (14, 2, 64), 2124),
    "4 of 16000, 60 of 500": ([16000] * 4 + [500] * 60, LLAMA_8B, 2784),
    "1 of 30000, 31 of 300": ([30000] + [300] * 31, LLAMA_8B, 2449),
    "16 x 2048": ([2048] * 16, LLAMA_8B, 2562),
    "1 x 1024": ([1024], LLAMA_8B, 516),
    "1 x 2048": ([2048], LLAMA_8B, 963),
}
PREFILLS: dict[str, tuple[list[tuple[int, int]], Shape, float]] = {
    "1 x 4096": ([(4096, 4096)], LLAMA_8B, 516),
    "8 x 4096": ([(4096, 4096)] * 8, LLAMA_8B, 541),
    "1 x 30000": ([(30000, 30000)], LLAMA_8B, 603),
    "2048 on 16384": ([(2048, 16384)], LLAMA_8B, 569),
    "16 x 512": ([(512, 512)] * 16, LLAMA_8B, 261),
    "1 x 4096, 14/2 heads of 64": ([(4096, 4096)], (14, 2, 64), 355),
}
WEIGHTS = {
    "8B qkv": (6144, 4096),
    "8B o": (4096, 4096),
    "8B gate_up": (28672, 4096),
    "8B down": (4096, 14336),
    "8B head": (128256, 4096),
    "0.6B qkv": (4096, 1024),
    "0.6B o": (1024, 2048),
    "0.6B gate_up": (6144, 1024),
    "0.6B down": (1024, 3072),
    "0.6B head": (151936, 1024),
}


def microseconds(call: Callable[[int], object], count: int) -> float:
    """Of one call: the median of replays of a graph of `count` of them."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    torch.cuda.synchronize()
    times = []
    with torch.cuda.stream(stream):
        call(0)
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(count):
                call(i)
        for _ in range(11):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / count * 1e3)
    return statistics.median(times)


class Attention:
    """Sequences of (new tokens, context) over as many scattered caches as are larger than the L2 cache."""

    def __init__(self, sequences: list[tuple[int, int]], shape: Shape) -> None:
        self.query_heads, kv_heads, self.size = shape
        blocks = [-(-context // 16) for _, context in sequences]
        tables = torch.zeros(len(sequences), max(blocks), dtype=torch.int32)
        for row, numbers in enumerate((torch.randperm(sum(blocks)) + 1).int().split(blocks)):
            tables[row, : len(numbers)] = numbers
        cache = (sum(blocks) + 1, kv_heads, 16, self.size)
        self.bytes = sum(context for _, context in sequences) * kv_heads * self.size * 4
        copies = max(1, min(24, ROTATED_BYTES // self.bytes))
        self.caches = [tuple(torch.randn(cache, device="cuda").bfloat16() for _ in range(2)) for _ in range(copies)]
        starts = torch.tensor([0, *(new for new, _ in sequences)]).cumsum(0).int().cuda()
        contexts = torch.tensor([context for _, context in sequences]).int().cuda()
        decodes = sum(new == 1 for new, _ in sequences)
        plan = DecodePlan(len(sequences), shape, 0, torch.device("cuda"))
        if decodes:
            plan.make(contexts, decodes)
        self.batch = paged_attention.AttentionBatch(tables.cuda(), starts, contexts, num_decodes=decodes, plan=plan)
        self.q = torch.randn(sum(new for new, _ in sequences), self.query_heads, self.size, device="cuda").bfloat16()
        self.flops = 4 * self.query_heads * self.size * sum(new * context - new * (new - 1) // 2 for new, context in sequences)

    def run(self, i: int) -> torch.Tensor:
        return paged_attention.paged_attention(self.q, self.caches[i % len(self.caches)], self.batch, self.size**-0.5, 0)

    def error(self) -> float:
        expected = paged_attention.reference(self.q.float(), tuple(part.float() for part in self.caches[0]), self.batch, self.size**-0.5, 0)
        return relative_error(self.run(0), expected)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


def attention_rows(recorder: Recorder) -> None:
    for name, (lengths, shape, peer) in DECODES.items():
        decode = Attention([(1, length) for length in lengths], shape)
        us = microseconds(decode.run, 40)
        found = {"us": round(us, 1), "figure": round(decode.bytes / us / 1e3), "unit": "GB/s"}
        recorder.row(kernel="decode attention", shape=name, **found, peer=peer, error=decode.error())
        del decode
    for name, (sequences, shape, peer) in PREFILLS.items():
        prefill = Attention(sequences, shape)
        error = prefill.error() if max(context for _, context in sequences) <= 4096 else None  # a reference of more does not fit
        us = microseconds(prefill.run, 5)
        found = {"us": round(us, 1), "figure": round(prefill.flops / us / 1e6), "unit": "TFLOP/s"}
        recorder.row(kernel="prefill attention", shape=name, **found, peer=peer, error=error)
        del prefill


class Products:
    """One token or a few times as many copies of a layer's weights as are larger than the L2 cache."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.bytes = shape[0] * shape[1] * 2
        self.count = 6 if shape[0] > 50_000 else 64
        copies = max(2, min(64, ROTATED_BYTES // self.bytes))
        self.weights = [torch.randn(shape, device="cuda").bfloat16() for _ in range(copies)]

    def terabytes_a_second(self, product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
        us = microseconds(lambda i: product(x, self.weights[i % len(self.weights)]), self.count)
        return round(self.bytes / us / 1e6, 2)


def weight_rows(recorder: Recorder) -> None:
    for name, shape in WEIGHTS.items():
        products = Products(shape)
        for tokens in (1, 4, 8):
            x = torch.randn(tokens, shape[1], device="cuda").bfloat16()
            error = relative_error(linear(x, products.weights[0]), x.float() @ products.weights[0].float().T)
            ours, cublas = (products.terabytes_a_second(product, x) for product in (linear, functional.linear))
            recorder.row(kernel="linear", shape=f"{name} {shape[0]} x {shape[1]}, {tokens} tokens", figure=ours, unit="TB/s", peer=cublas, error=error)
        del products


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    recorder = Recorder("kernels", "torch", device="h100")
    attention_rows(recorder)
    weight_rows(recorder)
    recorder.save()


if __name__ == "__main__":
    main()
