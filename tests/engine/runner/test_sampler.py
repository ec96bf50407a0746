"""The sampler draws what the parameters say, and a request's draws depend on its seed and position alone."""

import pytest
import torch

from octavo.sampling_params import SamplingParams

VOCABULARY = 1000
DRAWS = 4000


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(VOCABULARY, generator=generator) * 3


def frequencies(make_rows, logits, **parameters):
    """How often each token is drawn by as many requests as DRAWS, which differ in their seeds."""
    rows = make_rows([SamplingParams(seed=seed, **parameters) for seed in range(DRAWS)])
    return torch.bincount(torch.tensor(rows.sample(logits)), minlength=len(logits))


def expected_counts(logits, kept):
    return logits.masked_fill(~kept, -torch.inf).softmax(-1) * DRAWS


def assert_distributed(counts, expected):
    """A chi-square test over the tokens that are expected often, the rest as one; false once in ten million."""
    assert counts[expected == 0].sum() == 0, "a token was drawn that was cut"
    often = expected >= 5
    observed = torch.cat((counts[often], counts[~often].sum().reshape(1))).double()
    wanted = torch.cat((expected[often], expected[~often].sum().reshape(1))).double()
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    chi_square = ((observed - wanted) ** 2 / wanted).sum()
    freedom = max(1, len(wanted) - 1)
    assert chi_square < freedom + 5.2 * (2 * freedom) ** 0.5 + 15


def by_rank(logits):
    """Each token's place when the likeliest is 0."""
    return logits.argsort(descending=True).argsort()


def top_p_keeps(logits, p):
    order = logits.argsort(descending=True)
    shares = logits.softmax(-1)[order].double()
    kept = torch.zeros(len(logits), dtype=torch.bool)
    kept[order[(shares.cumsum(0) - shares) < p]] = True
    return kept


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature(make_rows, logits, temperature):
    everything = torch.ones(VOCABULARY, dtype=torch.bool)
    assert_distributed(frequencies(make_rows, logits, temperature=temperature), expected_counts(logits / temperature, everything))


@pytest.mark.parametrize("top_k", [1, 2, 40, VOCABULARY, VOCABULARY + 7])
def test_top_k(make_rows, logits, top_k):
    assert_distributed(frequencies(make_rows, logits, top_k=top_k), expected_counts(logits, by_rank(logits) < top_k))


@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.9, 0.999999])
def test_top_p(make_rows, logits, top_p):
    assert_distributed(frequencies(make_rows, logits, top_p=top_p), expected_counts(logits, top_p_keeps(logits, top_p)))


def test_top_p_beyond_the_sorted_candidates(make_rows):
    """Nearly flat logits: nine tenths of the probability need more tokens than are sorted at first."""
    flat = torch.linspace(0, 0.01, VOCABULARY)
    kept = top_p_keeps(flat, 0.9)
    counts = frequencies(make_rows, flat, top_p=0.9)
    assert counts[~kept].sum() == 0
    assert (counts > 0).sum() > 0.9 * kept.sum()


def test_top_p_is_of_what_top_k_leaves(make_rows):
    even = torch.zeros(8)
    even[:4] = torch.tensor([0.3, 0.2, 0.1, 0.05])
    assert_distributed(frequencies(make_rows, even, top_k=4, top_p=0.5), expected_counts(even, torch.arange(8) < 2))


def test_min_p(make_rows, logits):
    kept = logits.softmax(-1) >= 0.05 * logits.softmax(-1).max()
    assert_distributed(frequencies(make_rows, logits, min_p=0.05), expected_counts(logits, kept))
    assert set(make_rows([SamplingParams(min_p=1.0, seed=s) for s in range(50)]).sample(logits)) == {int(logits.argmax())}


def test_top_p_is_of_what_min_p_leaves(make_rows, logits):
    likely = logits.softmax(-1) >= 0.05 * logits.softmax(-1).max()
    kept = top_p_keeps(logits.masked_fill(~likely, -torch.inf), 0.5)
    assert kept.sum() < likely.sum()
    assert_distributed(frequencies(make_rows, logits, min_p=0.05, top_p=0.5), expected_counts(logits, kept))


def test_equal_logits_at_a_cut_all_stay(make_rows):
    """Which of them a sort puts first must not matter."""
    assert set(make_rows([SamplingParams(top_k=1, seed=s) for s in range(100)]).sample(torch.tensor([2.0, 1.0, 2.0]))) == {0, 2}


def test_greedy(make_rows, logits):
    rows = make_rows([SamplingParams(temperature=0.0), SamplingParams(temperature=1e-9), SamplingParams(temperature=0.0, top_p=0.1)])
    assert rows.sample(logits) == [int(logits.argmax())] * 3
    assert rows.sample(logits.bfloat16()) == [int(logits.bfloat16().argmax())] * 3


MIXED = [
    SamplingParams(temperature=0.0),
    SamplingParams(seed=11),
    SamplingParams(seed=11, top_k=30),
    SamplingParams(seed=-5, top_p=0.8, temperature=0.7),
    SamplingParams(seed=4, min_p=0.1),
    SamplingParams(seed=4, top_k=700, top_p=0.99, presence_penalty=1.0),
    SamplingParams(repetition_penalty=1.3),
    SamplingParams(seed=3, frequency_penalty=0.5, min_tokens=9, stop_token_ids=(5,)),
]


def test_a_row_does_not_depend_on_its_batch(make_rows):
    """Each request alone chooses what it chooses among the others, at every position."""
    generator = torch.Generator().manual_seed(2)
    rows = make_rows(MIXED, prompt=[1, 2, 3], answer=[4, 4, 9])
    for position in range(6, 60):
        logits = torch.randn(len(MIXED), VOCABULARY, generator=generator) * 2
        together = rows.sample(logits, position=position)
        backwards = rows.sample(logits.flip(0), rows=range(len(MIXED) - 1, -1, -1), position=position)
        alone = [rows.sample(logits[row : row + 1], rows=[row], position=position)[0] for row in range(len(MIXED))]
        assert together == alone == backwards[::-1]


def test_seeds(make_rows, logits):
    """The same seed draws the same, another one something else, none at all by the request's id."""

    def answer(parameters):
        rows = make_rows([parameters] * 2)
        return list(zip(*(rows.sample(logits, position=position) for position in range(50)), strict=True))

    first, second = answer(SamplingParams(seed=1))
    other, _ = answer(SamplingParams(seed=2))
    assert first == second != other
    assert len(set(first)) > 10
    first, second = answer(SamplingParams())
    assert first != second
    assert [first, second] == answer(SamplingParams())


def test_repetition_penalty(make_rows):
    """Tokens of prompt (0) and answer (1): positive logits are divided, negative ones multiplied, and once only."""
    rows = make_rows([SamplingParams(temperature=0.0, repetition_penalty=2.0)], prompt=[0, 0], answer=[1, 1])
    assert rows.sample(torch.tensor([3.9, 0.0, 2.0])) == [2]
    assert rows.sample(torch.tensor([4.1, 0.0, 2.0])) == [0]
    assert rows.sample(torch.tensor([-9.0, -1.0, -1.9])) == [2]
    assert rows.sample(torch.tensor([-9.0, -1.0, -2.1])) == [1]


def test_presence_penalty(make_rows):
    """Counts the answer's tokens (1), not the prompt's (0), and once only."""
    rows = make_rows([SamplingParams(temperature=0.0, presence_penalty=1.5)], prompt=[0], answer=[1, 1, 1])
    assert rows.sample(torch.tensor([1.0, 2.4, 0.0])) == [0]
    assert rows.sample(torch.tensor([1.0, 2.6, 0.0])) == [1]


def test_frequency_penalty(make_rows):
    """Counts the answer's tokens (1), each time."""
    rows = make_rows([SamplingParams(temperature=0.0, frequency_penalty=0.5)], prompt=[0], answer=[1, 1, 1])
    assert rows.sample(torch.tensor([1.0, 2.4, 0.0])) == [0]
    assert rows.sample(torch.tensor([1.0, 2.6, 0.0])) == [1]


def test_penalties_touch_their_own_row_only(make_rows):
    rows = make_rows([SamplingParams(temperature=0.0), SamplingParams(temperature=0.0, presence_penalty=2.0), SamplingParams(temperature=0.0)], answer=[1])
    assert rows.sample(torch.tensor([1.0, 2.0, 0.0])) == [1, 0, 1]


def test_min_tokens(make_rows):
    """Before them neither the end of sequence (2) nor a stop token (1) is chosen; with ignore_eos the former may be.
    Some models name an end of sequence (7) that is not in their vocabulary."""
    logits = torch.tensor([1.0, 2.0, 3.0])
    parameters = [SamplingParams(temperature=0.0, min_tokens=3, stop_token_ids=(1,), ignore_eos=ignore) for ignore in (False, True)]
    early, late = (make_rows(parameters, answer=[0] * length, eos=(2, 7)) for length in (2, 3))
    assert early.sample(logits) == [0, 2]
    assert late.sample(logits) == [2, 2]
