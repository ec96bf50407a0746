"""Which replica gets a request: a pure function over what is known of the replicas.

Today the one with the fewest outstanding tokens. Whatever a better policy needs to know goes into `Candidate`;
sockets, retries and waiting stay elsewhere.
"""

from collections.abc import Container, Iterable
from typing import Protocol, TypeVar

from octavo_api.catalogue import EndpointState

BYTES_PER_TOKEN = 4
"""Of a request's JSON body, about."""

ANSWER_TOKENS = 256
"""Guess for a request that does not bound its answer."""


class Candidate(Protocol):
    """One replica as the policy sees it."""

    @property
    def state(self) -> EndpointState: ...
    @property
    def outstanding_tokens(self) -> int:
        """Estimate of what the gateway has sent and not seen finished."""
        ...

    @property
    def avoided_until(self) -> float:
        """Until then, in seconds of the event loop, it is only a last resort."""
        ...

    @property
    def last_dispatch(self) -> int:
        """Serial number of the last request sent to it."""
        ...


C = TypeVar("C", bound=Candidate)


def choose(replicas: Iterable[C], tried: Container[C], now: float) -> C | None:
    """The ready replica with the fewest outstanding tokens, the longest unused one among equals.

    One that is loading or draining, or that is in `tried`, is never chosen; one that is being avoided only when
    there is no other.
    """
    ready = [replica for replica in replicas if replica.state == "ready" and replica not in tried]
    return min(ready, key=lambda replica: (replica.avoided_until > now, replica.outstanding_tokens, replica.last_dispatch), default=None)


def estimate_tokens(body_bytes: int, answer_tokens: int | None, choices: int = 1) -> int:
    """What a request will cost its replica: prompt and answers, in tokens."""
    return body_bytes // BYTES_PER_TOKEN + (ANSWER_TOKENS if answer_tokens is None else answer_tokens) * choices
