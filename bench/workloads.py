"""The benchmark workloads, as token counts: the same requests for every engine that is compared.

Each workload is a list of requests (group, prefix_len, prompt_len, output_len): a request's
prompt is the first `prefix_len` tokens of its group's shared text followed by `prompt_len`
tokens of its own, and it generates exactly `output_len` tokens (EOS ignored, greedy).
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    group: int  # requests of one group share their first `prefix_len` tokens; -1 shares nothing
    prefix_len: int
    prompt_len: int
    output_len: int


def _chat(n: int, seed: int) -> list[Request]:
    """Lengths like a chat log's: log-normal, mean about 220 tokens in and 200 out, long tails."""
    rng = random.Random(seed)

    def length(mu: float, sigma: float, hi: int) -> int:
        return max(4, min(hi, int(rng.lognormvariate(mu, sigma))))

    return [Request(-1, 0, length(4.6, 1.25, 2048), length(4.8, 1.0, 1024)) for _ in range(n)]


WORKLOADS: dict[str, list[Request]] = {
    "chat": _chat(1000, seed=1),  # throughput, mixed lengths
    "decode": [Request(-1, 0, 128, 512)] * 256,  # decode-bound batch
    "prefill": [Request(-1, 0, 4096, 16)] * 96,  # prefill-bound
    "shared_prefix": [Request(0, 2048, 64, 128)] * 512,  # one system prompt
    "multi_tenant": [Request(g % 32, 1024, 128, 64) for g in range(768)],  # 32 system prompts, interleaved
    "single": [Request(-1, 0, 512, 256)],  # one stream: TTFT and TPOT
    "long": [Request(-1, 0, 30000, 128)] * 4,  # long context
}


def prompts(name: str, vocab: int, seed: int = 7) -> list[tuple[list[int], int]]:
    """The workload's (prompt token ids, output_len) pairs, the same for every caller.

    Another `seed` gives other tokens of the same lengths: use one for the warm-up, so that
    a prefix cache is cold when the measured run starts.
    """
    rng = random.Random(seed)
    lo, hi = 1000, vocab - 1000
    shared: dict[int, list[int]] = {}
    out = []
    for r in WORKLOADS[name]:
        head: list[int] = []
        if r.group >= 0:
            if r.group not in shared:
                shared[r.group] = [rng.randrange(lo, hi) for _ in range(r.prefix_len)]
            head = shared[r.group]
        out.append((head + [rng.randrange(lo, hi) for _ in range(r.prompt_len)], r.output_len))
    return out
