"""The gateway's process: event loop, listeners, catalogue, and SIGTERM as drain."""

import asyncio
import gc
import logging
import resource
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from octavo_api.catalogue import Catalogue
from octavo_api.errors import InvalidSetting
from octavo_gateway.deadlines import Deadlines
from octavo_gateway.fleet import Fleet
from octavo_gateway.internal import InternalService
from octavo_gateway.keys import Keys
from octavo_gateway.metrics import Metrics
from octavo_gateway.protocol import ClientConnection
from octavo_gateway.public import PublicService
from octavo_gateway.service import Service
from octavo_gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

Follow = Callable[[Callable[[Catalogue], None]], Coroutine[Any, Any, None]]
"""Applies a catalogue as it changes, until cancelled."""

BACKLOG = 4096


class Gateway:
    """Both listeners over one fleet. Whoever makes it applies catalogues to `fleet`."""

    def __init__(self, settings: GatewaySettings, keys: Keys | None = None) -> None:
        self._settings = settings
        self._deadlines = Deadlines()
        self.fleet = Fleet(settings, self._deadlines)
        metrics = Metrics(self.fleet)
        self.public = PublicService(settings, self._deadlines, self.fleet, metrics, keys)
        self.internal = InternalService(settings, self._deadlines, self.fleet, metrics, self.public)
        self._listeners: list[asyncio.Server] = []

    async def listen(self) -> tuple[str, str]:
        """Opens both listeners; returns their addresses, public first.

        Raises:
            InvalidSetting: one cannot be opened.
        """
        public = await self._listen(self.public, self._settings.host, self._settings.port, "--port")
        internal = await self._listen(self.internal, self._settings.internal_host, self._settings.internal_port, "--internal-port")
        return public, internal

    async def _listen(self, service: Service, host: str, port: int, flag: str) -> str:
        loop = asyncio.get_running_loop()
        try:
            listener = await loop.create_server(lambda: ClientConnection(service), host, port, reuse_port=True, backlog=BACKLOG)
        except OSError as error:
            raise InvalidSetting(f"{flag} {port}: cannot listen on {host}: {error}; choose another, or 0 for any free one") from error
        self._listeners.append(listener)
        address = listener.sockets[0].getsockname()
        return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"

    async def drain(self) -> None:
        """Tells load balancers by its health, takes no new connections once they know, lets open requests finish within
        the drain timeout, then closes everything."""
        public, internal = self._listeners
        self.public.draining = True
        await asyncio.sleep(self._settings.shutdown_delay)
        public.close()
        left = await self.public.drain(self._settings.drain_timeout)
        if left:
            logger.warning("%d requests were still open after %g s of drain and were cut off", left, self._settings.drain_timeout)
        internal.close()
        await self.internal.drain(0.0)
        self._deadlines.close()


async def run(settings: GatewaySettings, follow: Follow) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status.

    Raises:
        InvalidSetting: something of the settings cannot work here.
    """
    gateway = Gateway(settings, Keys.read(settings.api_key_file) if settings.api_key_file else None)
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    public, internal = await gateway.listen()
    logger.info("listening on http://%s, internally on http://%s", public, internal)
    following = asyncio.create_task(follow(gateway.fleet.apply))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((following, stopped), return_when=asyncio.FIRST_COMPLETED)
    logger.info("draining")
    await gateway.drain()
    for task in (following, stopped):
        task.cancel()
    for outcome in await asyncio.gather(following, stopped, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    return 0


def serve(settings: GatewaySettings, follow: Follow) -> int:
    """`run` on an event loop of its own, with as many open files as the system lets us have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    gc.freeze()  # what was imported stays: no collection looks through it in the middle of a stream
    return uvloop.run(run(settings, follow))
