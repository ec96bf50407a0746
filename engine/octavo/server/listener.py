"""One uvicorn server on a socket of ours. Signals, logs and the end of the process are left to `serve`."""

import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from octavo.server.flags import reason_of
from octavo_api.errors import InvalidSetting

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
CLOSING_SECONDS = 5
"""How long responses may take to go out after the drain."""


class Listener(uvicorn.Server):
    """Serves `app`; `address` is host:port of what it is bound to."""

    def __init__(self, app: ASGIApp, host: str, port: int, flag: str) -> None:
        """Binds. `flag` is the port's, for messages.

        Raises:
            InvalidSetting: the address cannot be had.
        """
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=CLOSING_SECONDS,
        )
        super().__init__(config)
        try:
            (family, *_), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise InvalidSetting(f"{flag} {port}: cannot listen on {host}: {reason_of(error)}; choose another, or 0 for any free one") from error
        host, port, *_ = self._socket.getsockname()
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def run_until_stopped(self) -> None:
        await self.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Take no more connections, close idle ones, let responses go out."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are the process's, not a listener's."""
        yield
