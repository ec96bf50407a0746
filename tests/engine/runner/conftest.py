"""What the runner's tests share: rows of given sampling parameters, and the sampler run on them."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from octavo.core.schedule import NewRow, SchedulerOutput
from octavo.runner.request_state import RequestState
from octavo.runner.sampler import sample
from octavo.sampling_params import SamplingParams

MAX_LEN = 64


class Rows:
    """Requests in the rows 0, 1, …, whose prompts are `prompt` and answers so far `answer`."""

    def __init__(self, parameters: Sequence[SamplingParams], prompt: list[int], answer: list[int], eos: tuple[int, ...] = ()) -> None:
        self.count = len(parameters)
        self.state = RequestState(self.count, MAX_LEN, 1, seed=0)
        new = [
            NewRow(row=row, request_id=f"r{row}", token_ids=prompt + answer, num_prompt_tokens=len(prompt), sampling=sampling, eos_token_ids=eos)
            for row, sampling in enumerate(parameters)
        ]
        self.state.apply(SchedulerOutput(freed=[], new=new, copies=[], scheduled=[]))

    def sample(self, logits: torch.Tensor, rows: Sequence[int] | None = None, position: int | None = None) -> list[int]:
        """The next token of each of the rows, all by default; `logits` [V] for all rows alike, or [N, V]."""
        chosen = np.arange(self.count) if rows is None else np.array(rows)
        positions = self.state.num_tokens[chosen] if position is None else np.full(len(chosen), position)
        whole = logits.expand(len(chosen), -1).clone() if logits.dim() == 1 else logits.clone()
        return sample(whole, self.state, chosen, positions).tolist()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are tiny here: more threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., Rows]:
    def make(parameters: Sequence[SamplingParams], prompt: Sequence[int] = (1,), answer: Sequence[int] = (), eos: tuple[int, ...] = ()) -> Rows:
        return Rows(parameters, list(prompt), list(answer), eos)

    return make
