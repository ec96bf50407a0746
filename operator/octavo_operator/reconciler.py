"""Observe → plan → apply, again and again: one task a resource, woken by changes and by time.

A key that is woken while its task runs is looked at once more, however often it was woken; different resources run side
by side. It knows no cluster and no process; that is left to the runtime.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from octavo_api.errors import InvalidResource
from octavo_api.resource import LLMDeployment, LLMDeploymentStatus, parse
from octavo_operator.desired import desired
from octavo_operator.plan import plan
from octavo_operator.runtime import Conflict, Refused, Runtime, Unavailable
from octavo_operator.status import rejected
from octavo_operator.types import Key

logger = logging.getLogger(__name__)

RESYNC = 30.0
"""Seconds after which a resource is looked at though nothing was heard of it."""
BUSY_RESYNC = 1.0
"""The same while replicas load or drain, whose progress no event tells."""
TROUBLE_RESYNC = 5.0
"""The same while something else is not as wanted."""
SPACING = 0.1
"""Seconds between two looks at least, so that a burst of events is one look."""
BACKOFF_FIRST, BACKOFF_LONGEST = 0.5, 60.0
"""Seconds after a look that failed: doubled with each one in a row."""
CONFLICT_LONGEST = 8.0


class Reconciler:
    """Tasks by key. `wake` may be called at any time from the loop's thread; `busy_resync` is in seconds."""

    def __init__(self, runtime: Runtime, clock: Callable[[], float], busy_resync: float = BUSY_RESYNC) -> None:
        self._runtime = runtime
        self._clock = clock
        self._busy_resync = busy_resync
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._wakes: dict[Key, asyncio.Event] = {}
        self._closed = False

    def wake(self, key: Key) -> None:
        """Look at `key` soon."""
        if self._closed:
            return
        self._wakes.setdefault(key, asyncio.Event()).set()
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._run(key), name=f"reconcile {key}")

    async def close(self) -> None:
        """Stop looking; replicas stay as they are."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: Key) -> None:
        failures = 0
        wake = self._wakes[key]
        while True:
            wake.clear()
            try:
                pause = await self.reconcile(key)
                failures = 0
            except (Conflict, Refused) as error:
                pause = _told(key, error, failures)
                failures += 1
            except Exception as error:
                await asyncio.sleep(_told(key, error, failures))
                failures += 1
                continue
            if pause is None and not wake.is_set():
                del self._tasks[key], self._wakes[key]
                return
            await asyncio.sleep(SPACING)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wake.wait()

    async def reconcile(self, key: Key) -> float | None:
        """One pass. Returns the seconds until the next one is due, None when the resource is gone."""
        manifest = await self._runtime.read(key)
        if manifest is None:
            return None
        try:
            resource = parse(manifest)
        except InvalidResource as error:
            await self._runtime.publish(key, manifest, rejected(manifest, error, self._clock()))
            return RESYNC
        if resource.deleting:
            return RESYNC
        return await self._step(key, manifest, resource)

    async def _step(self, key: Key, manifest: dict[str, object], resource: LLMDeployment) -> float:
        target = desired(resource, image=self._runtime.image, url=self._runtime.url)
        observed = await self._runtime.observe(resource)
        decided = plan(target, observed, self._clock())
        await self._runtime.publish(key, manifest, decided.status)
        refusal: Refused | None = None
        for action in decided.actions:
            logger.info("%s: %s %s: %s", key, type(action).__name__.lower(), action.replica, action.reason)
            try:
                await self._runtime.apply(resource, action)
            except Refused as error:
                refusal = error
        if refusal:
            raise refusal
        if decided.actions:
            return 0.0
        pause = resync(decided.status, self._busy_resync)
        return pause if decided.wake_at is None else min(pause, max(0.0, decided.wake_at - self._clock()))


def resync(status: LLMDeploymentStatus, busy: float) -> float:
    """Seconds after which a look is due though no event says so."""
    found = {condition.type: condition.status for condition in status.conditions}
    if found.get("Degraded") != "True" and (status.replicas.loading or status.replicas.draining):
        return busy
    settled = found.get("Progressing") == "False" and (found.get("Ready") == "True" or not status.replicas.desired)
    return RESYNC if settled else TROUBLE_RESYNC


def _told(key: Key, error: Exception, failures: int) -> float:
    """Logs why a look failed, at the length that it deserves; returns the seconds until the next."""
    pause = min(BACKOFF_LONGEST, BACKOFF_FIRST * 2.0 ** min(failures, 16))
    match error:
        case Conflict():
            pause = min(CONFLICT_LONGEST, pause)
            logger.info("%s: %s; looking again in %.1f s", key, error, pause)
        case Refused() | Unavailable():
            logger.warning("%s: %s; next try in %.1f s", key, error, pause)
        case _:
            logger.error("%s: cannot be reconciled, next try in %.1f s", key, pause, exc_info=error)
    return pause
