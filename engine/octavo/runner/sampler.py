"""From logits to token ids, all rows of a step at once.

The order is vLLM's: tokens that may not come yet, penalties, temperature, min_p, top_k, top_p, draw. A draw is one
number a row, looked up in the running sum of the probabilities in vocabulary order, so that neither the order in
which equal logits are sorted nor any other row can change an answer.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from octavo.runner.random import uniform
from octavo.runner.request_state import Ints, RequestState

_CANDIDATES = 512
"""Logits that are sorted to find where top_p cuts. Rows whose cut lies beyond have all of theirs sorted."""
_CHUNK = 128
"""Probabilities that are summed at once to find the one that was drawn."""


def sample(logits: Tensor, state: RequestState, rows: Ints, positions: Ints) -> Ints:
    """Chooses the token at `positions[i]` of row `rows[i]` by `logits[i]`; [N, V], which may be changed."""
    changed = state.penalised[rows].any() or (positions < state.barred_until[rows]).any()
    if changed:
        logits = logits.float()
        _bar_enders(logits, state, rows, positions)
        _penalise(logits, state, rows)
    drawn = np.flatnonzero(state.temperature[rows] > 0)
    if len(drawn) == 0:
        return _likeliest(logits)
    if len(drawn) == len(rows):
        return _draw(logits.float(), state, rows, positions)
    token_ids = _likeliest(logits)
    token_ids[drawn] = _draw(logits[torch.from_numpy(drawn)].float(), state, rows[drawn], positions[drawn])
    return token_ids


def _likeliest(logits: Tensor) -> Ints:
    """NumPy finds it many times faster than torch."""
    token_ids: Ints = logits.float().numpy().argmax(-1)
    return token_ids


def _bar_enders(logits: Tensor, state: RequestState, rows: Ints, positions: Ints) -> None:
    """Before `min_tokens`, tokens that would end the answer cannot be chosen."""
    for index in np.flatnonzero(positions < state.barred_until[rows]):
        logits[index, [token for token in state.enders[rows[index]] if token < logits.shape[1]]] = -torch.inf


def _penalise(logits: Tensor, state: RequestState, rows: Ints) -> None:
    """Repetition counts tokens of prompt and answer, presence and frequency those of the answer."""
    penalised = np.flatnonzero(state.penalised[rows])
    if len(penalised) == 0:
        return
    row, length = rows[penalised], state.num_tokens[rows[penalised]]
    places = np.arange(length.max())
    which, place = np.nonzero(places < length[:, None])
    token = torch.from_numpy(state.tokens[row[which], place].astype(np.int64))
    at = torch.from_numpy(penalised[which])
    # A token that comes twice gets the same value written twice, so repetition and presence need no counting.
    seen = logits[at, token]
    penalty = torch.from_numpy(state.repetition[row[which]])
    logits[at, token] = torch.where(seen > 0, seen / penalty, seen * penalty)
    answered = np.flatnonzero(place >= state.num_prompt_tokens[row[which]])
    token, at = token[answered], at[answered]
    logits[at, token] = logits[at, token] - torch.from_numpy(state.presence[row[which[answered]]])
    logits.index_put_((at, token), -torch.from_numpy(state.frequency[row[which[answered]]]), accumulate=True)


def _draw(logits: Tensor, state: RequestState, rows: Ints, positions: Ints) -> Ints:
    logits = logits / torch.from_numpy(state.temperature[rows]).unsqueeze(1)
    threshold = _thresholds(logits, state, rows)
    if threshold is not None:
        logits = logits.masked_fill_(logits < threshold.unsqueeze(1), -torch.inf)
    return _look_up(logits.softmax(-1), torch.from_numpy(uniform(state.seeds[rows], positions))).numpy()


def _look_up(shares: Tensor, numbers: Tensor) -> Tensor:
    """For each row of `shares` [N, V] the first token where their running sum passes its number in [0, 1), as a share
    of the whole sum. Sums are of chunks first, then within the one that was hit."""
    rows, vocabulary = shares.shape
    chunks = pad(shares, (0, -vocabulary % _CHUNK)).view(rows, -1, _CHUNK)
    sums = chunks.sum(-1).cumsum(-1, dtype=torch.float64)
    target = numbers.unsqueeze(1) * sums[:, -1:]
    chunk = _first_beyond(sums, target)
    before = torch.where(chunk > 0, sums.gather(1, (chunk - 1).clamp(min=0)), 0.0)
    within = chunks[torch.arange(rows), chunk.squeeze(1)].cumsum(-1, dtype=torch.float64)
    return (chunk * _CHUNK + _first_beyond(within, target - before)).squeeze(1)


def _first_beyond(sums: Tensor, target: Tensor) -> Tensor:
    """[N, 1]: the first of a row's sums above its target; rounding cannot lead past the last one that adds anything."""
    return torch.minimum(torch.searchsorted(sums, target, right=True), torch.searchsorted(sums, sums[:, -1:].contiguous()))


def _thresholds(logits: Tensor, state: RequestState, rows: Ints) -> Tensor | None:
    """For each row the least logit that may be chosen; None when no row is limited."""
    vocabulary = logits.shape[1]
    top_k, top_p, min_p = state.top_k[rows], state.top_p[rows], state.min_p[rows]
    limited = np.flatnonzero(((top_k > 0) & (top_k < vocabulary)) | (top_p < 1))
    if len(limited) == 0 and not (min_p > 0).any():
        return None
    threshold = logits.amax(-1) + torch.from_numpy(min_p).log() if (min_p > 0).any() else torch.full((len(rows),), -torch.inf)
    if len(limited):
        chosen = torch.from_numpy(limited)
        part = logits if len(limited) == len(rows) else logits[chosen]
        cuts = _Cuts(torch.from_numpy(top_k[limited]), torch.from_numpy(top_p[limited]), threshold[chosen])
        threshold[chosen] = _cut(part, cuts, _width(top_k[limited], vocabulary))
    return threshold


def _width(top_k: Ints, vocabulary: int) -> int:
    """How many logits to sort at first."""
    return min(vocabulary, max(int(top_k.max()), 1 if top_k.all() else _CANDIDATES))


class _Cuts(NamedTuple):
    """[N] each; logits below `least` are gone already."""

    top_k: Tensor
    top_p: Tensor
    least: Tensor


def _cut(logits: Tensor, cuts: _Cuts, width: int) -> Tensor:
    """For each row the least logit that top_k, and top_p of what top_k leaves, let through. Sorts `width` logits."""
    vocabulary = logits.shape[1]
    k = torch.where(cuts.top_k > 0, cuts.top_k, vocabulary)
    least = cuts.least.unsqueeze(1)
    values = logits.topk(width, dim=-1).values
    kept = values.masked_fill((values < least) | (torch.arange(width) >= k.unsqueeze(1)), -torch.inf)
    whole = kept.logsumexp(-1)
    if width < vocabulary:
        whole = torch.where(k <= width, whole, logits.masked_fill(logits < least, -torch.inf).logsumexp(-1))
    shares = (kept - whole.unsqueeze(1)).exp()
    before = shares.cumsum(-1, dtype=torch.float64) - shares
    # A token stays while those before it do not reach top_p; the likeliest always does.
    stays = (before < cuts.top_p.unsqueeze(1)) & (kept > -torch.inf)
    stays[:, 0] = True
    count = stays.sum(-1, keepdim=True)
    cut = values.gather(1, count - 1).squeeze(1)
    beyond = (count.squeeze(1) == width) & (k > width)
    if beyond.any():
        cut[beyond] = _cut(logits[beyond], _Cuts(*(x[beyond] for x in cuts)), vocabulary)
    return cut
