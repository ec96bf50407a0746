"""The GPU's rows and sampler against the definition, in float64, of what a token's distribution is and how it is drawn."""

import numpy as np
import pytest
import torch

from octavo.core.schedule import LayerGroup, NewRow, ScheduledRow, SchedulerOutput
from octavo.runner.random import request_seed, uniform
from octavo.sampling_params import SamplingParams

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

ROWS = 24
GROUPS = (LayerGroup(kind="full", window=0, layers=(0,), num_kv_heads=2, head_size=64),)
CASES = {
    "greedy": {"temperature": 0.0},
    "everything": {"temperature": 0.9},
    "top_k": {"temperature": 0.8, "top_k": 40},
    "top_p": {"temperature": 1.2, "top_p": 0.7},
    "both": {"temperature": 0.7, "top_k": 60, "top_p": 0.9},
    "min_p": {"temperature": 1.0, "min_p": 0.05},
    "penalties": {"temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.4},
    "penalised greedy": {"temperature": 0.0, "repetition_penalty": 1.5, "frequency_penalty": 1.0},
    "barred": {"temperature": 1.0, "top_k": 5, "min_tokens": 16},
}


class Request:
    """One row's tokens and parameters, and the distribution of its next token."""

    def __init__(self, row: int, vocabulary: int, parameters: dict, rng: np.random.Generator) -> None:
        self.tokens = rng.integers(0, vocabulary, 20 + row * 3).tolist()
        self.num_prompt = 10 + row
        self.eos = tuple(rng.integers(0, vocabulary, 3).tolist())
        self.sampling = SamplingParams(**parameters, seed=row)
        self.new = NewRow(
            row=row, request_id=f"r{row}", token_ids=self.tokens, num_prompt_tokens=self.num_prompt, sampling=self.sampling, eos_token_ids=self.eos
        )

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Not normalised; for a greedy request the logits."""
        s, x = self.sampling, logits.astype(np.float64).copy()
        if len(self.tokens) < self.num_prompt + s.min_tokens:
            x[list(self.eos)] = -np.inf
        seen = np.unique(self.tokens)
        x[seen] = np.where(x[seen] > 0, x[seen] / s.repetition_penalty, x[seen] * s.repetition_penalty)
        answered, counts = np.unique(self.tokens[self.num_prompt :], return_counts=True)
        x[answered] -= s.presence_penalty + s.frequency_penalty * counts
        if s.temperature == 0:
            return x
        p = np.exp((x - x.max()) / s.temperature)
        p[p < s.min_p] = 0
        if 0 < s.top_k < len(p):
            p[p < np.sort(p)[-s.top_k]] = 0
        if s.top_p < 1:
            ordered = np.sort(p)[::-1]
            before = np.cumsum(ordered) - ordered
            p[p < ordered[(before < s.top_p * ordered.sum()).sum() - 1]] = 0
        return p

    def accepts(self, token: int, logits: np.ndarray) -> bool:
        """Whether the token is the one that the seed draws, but for the rounding of float32 sums."""
        p = self.probabilities(logits)
        if self.sampling.temperature == 0:
            return bool(p[token] == p.max())
        sums = np.cumsum(p)
        seed, position = np.array([request_seed(self.sampling.seed, 0, "")], np.uint64), np.array([len(self.tokens)])
        target, slack = uniform(seed, position)[0] * sums[-1], 3e-5 * sums[-1]
        return bool(sums[token] - p[token] - slack <= target <= sums[token] + slack)


@pytest.mark.parametrize("vocabulary", [1000, 32003, 128256, 262208])
@pytest.mark.parametrize("case", CASES)
def test_tokens_are_those_that_the_seeds_draw(case, vocabulary):
    from octavo.runner.device_state import DeviceState  # needs the GPU's kernels

    rng = np.random.default_rng()
    requests = [Request(row, vocabulary, CASES[case], rng) for row in range(ROWS)]
    state = DeviceState((ROWS, 512, 4096), GROUPS, 8, 0, torch.device("cuda"))
    shares = [ScheduledRow(row=r.new.row, start=0, length=len(r.tokens), samples=True, new_blocks=[list(range(1, 10))]) for r in requests]
    state.send(SchedulerOutput(freed=[], new=[r.new for r in requests], copies=[], scheduled=shares), shares, list(range(ROWS)), ROWS)
    batch = state.gather(ROWS, sum(len(r.tokens) for r in requests), 0, ROWS)
    assert batch.token_ids.tolist() == [token for r in requests for token in r.tokens]
    assert batch.positions.tolist() == [place for r in requests for place in range(len(r.tokens))]
    logits = (torch.randn(ROWS, vocabulary, device="cuda") * 3).bfloat16()
    state.sample(logits)
    wrong = [
        row for row, (r, token) in enumerate(zip(requests, state.token_ids.tolist(), strict=True)) if not r.accepts(token, logits[row].float().cpu().numpy())
    ]
    assert wrong == []


def test_a_sampled_token_is_read_by_the_next_step_before_the_host_knows_it():
    from octavo.runner.device_state import DeviceState

    state = DeviceState((ROWS, 512, 4096), GROUPS, 8, 0, torch.device("cuda"))
    request = Request(3, 1000, {"temperature": 0.0}, np.random.default_rng(1))
    first = ScheduledRow(row=3, start=0, length=len(request.tokens), samples=True, new_blocks=[[1, 2, 3]])
    state.send(SchedulerOutput(freed=[], new=[request.new], copies=[], scheduled=[first]), [first], [0], 1)
    state.gather(1, first.length, 0, 1)
    logits = torch.zeros(1, 1000, dtype=torch.bfloat16, device="cuda")
    logits[0, 321] = 1.0
    state.sample(logits)
    second = ScheduledRow(row=3, start=first.length, length=1, samples=True, new_blocks=[[]])
    state.send(SchedulerOutput(freed=[], new=[], copies=[], scheduled=[second]), [second], [0], 1)
    batch = state.gather(1, 1, 1, 1)
    assert batch.token_ids.tolist() == [321]
    assert batch.groups[0].slots.tolist() == [([1, 2, 3][first.length // 16]) * 16 + first.length % 16]
