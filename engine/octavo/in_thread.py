"""Blocking work beside an asyncio loop, in a thread that does not keep the program from ending."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Returns what `work` returns, or raises what it raises; when the caller is cancelled, nobody hears of it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: Callable[[], None]) -> None:
        if not done.cancelled():
            result()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            told = error
            _tell(loop, lambda: settle(lambda: done.set_exception(told)))
        else:
            _tell(loop, lambda: settle(lambda: done.set_result(result)))

    threading.Thread(target=run, name="octavo-aside", daemon=True).start()
    return await done


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
