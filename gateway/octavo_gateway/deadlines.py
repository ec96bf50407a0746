"""One clock for every timeout of the gateway: setting a deadline is an assignment, and one sweep finds those that passed.

A timer for each connection would cost more than the requests do. The price is coarseness: a deadline acts up to
`TICK` seconds late.
"""

import asyncio
from typing import Protocol

TICK = 0.1
"""Seconds between sweeps."""

NEVER = float("inf")


class Timed(Protocol):
    deadline: float
    """Time of the event loop, in seconds; NEVER for none."""

    def expired(self) -> None:
        """The deadline passed. Called again each sweep until it is moved or the object is taken off the clock."""
        ...


class Deadlines:
    """`now` is the event loop's time at the last sweep, in seconds."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._watched: set[Timed] = set()
        self.now = self._loop.time()
        self._timer = self._loop.call_later(TICK, self._sweep)

    def watch(self, timed: Timed) -> None:
        self._watched.add(timed)

    def forget(self, timed: Timed) -> None:
        self._watched.discard(timed)

    def close(self) -> None:
        self._timer.cancel()

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(TICK, self._sweep)
        now = self.now = self._loop.time()
        for timed in [timed for timed in self._watched if timed.deadline <= now]:
            timed.expired()
