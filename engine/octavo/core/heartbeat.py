"""Tells a slow engine from a stalled one."""

import time
from collections import deque
from collections.abc import Callable

_RECENT_STEPS = 64
_SLOWEST_FACTOR = 20


class Heartbeat:
    """Fed with progress, asked for stalls. Times are in seconds.

    A stall: work waits, and nothing has come for longer than the timeout and than 20 times the slowest recent step.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._recent: deque[float] = deque(maxlen=_RECENT_STEPS)

    def begin(self) -> None:
        """Work has come to an idle engine: waiting counts from now on."""
        self._last = self._clock()

    def beat(self) -> None:
        """A step has completed, or loading has got on."""
        now = self._clock()
        self._recent.append(now - self._last)
        self._last = now

    def stalled(self, timeout: float) -> bool:
        """Whether work, which the caller knows to be waiting, has waited too long."""
        return self._clock() - self._last > max(timeout, _SLOWEST_FACTOR * max(self._recent, default=0.0))
