"""Requests that wait for a replica of one model: bounded in number and in time, oldest first.

Only the waiting room: who is let out, and when, is left to `fleet`.
"""

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Waiter(Protocol):
    held_until: float
    """When its wait ends, in seconds of the event loop."""


W = TypeVar("W", bound=Waiter)


class Hold(Generic[W]):
    def __init__(self) -> None:
        self._waiting: dict[W, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiter: W, max_requests: int) -> bool:
        """Returns whether there was room."""
        if len(self._waiting) >= max_requests:
            return False
        self._waiting[waiter] = None
        return True

    def discard(self, waiter: W) -> None:
        self._waiting.pop(waiter, None)

    def release(self) -> Iterator[W]:
        """All of them, oldest first. They may come back while this goes on."""
        waiting, self._waiting = self._waiting, {}
        yield from waiting

    def overdue(self, now: float) -> list[W]:
        """Those whose wait is over; they are out."""
        late = [waiter for waiter in self._waiting if waiter.held_until <= now]
        for waiter in late:
            del self._waiting[waiter]
        return late
