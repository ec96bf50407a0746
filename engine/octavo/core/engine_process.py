"""The engine process: sockets, signals and exit status around an `EngineCore`.

`EngineClient` starts it as `python -m octavo.core.engine_process`. Messages come and go over two ZeroMQ sockets in a
folder that only this user can enter. A third connection, the lifeline, is a socket that nobody writes to: its end
tells either side that the other is gone, however it went. A failing engine's last words, one `EngineFailed`, go
through it, because nothing can overtake them there.
"""

import argparse
import gc
import importlib
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from octavo.core.engine_core import EngineCore
from octavo.core.messages import EngineFailed, FromEngine, ToEngine
from octavo.executor.protocol import Executor
from octavo_api.errors import InvalidSetting, ModelUnavailable, OctavoError
from octavo_api.settings import EngineSettings

REQUESTS = "requests"
UPDATES = "updates"
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_PARENT_CHECK_SECONDS = 1.0
_LINGER_MILLISECONDS = 2000

_log = logging.getLogger("octavo.core.engine_process")


class _Inbox:
    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket
        self._decode: Callable[[bytes], ToEngine] = msgspec.msgpack.Decoder(ToEngine).decode

    def receive(self, wait: bool) -> ToEngine | None:
        try:
            return self._decode(self._socket.recv(0 if wait else zmq.NOBLOCK))
        except zmq.Again:
            return None


def failure(error: BaseException) -> EngineFailed:
    """What the API process is told of an exception that ends the engine."""
    if isinstance(error, ModelUnavailable):
        return EngineFailed(reason=error.reason, message=str(error))
    if isinstance(error, InvalidSetting):
        return EngineFailed(reason="InvalidSetting", message=str(error))
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower():
        return EngineFailed(reason="EngineOOM", message=f"out of memory: {error}")
    return EngineFailed(reason="EngineCrashed", message=f"{type(error).__name__}: {error}")


def _leave_with_parent(lifeline: socket.socket, folder: Path, parent: int) -> None:
    """Ends this process, whatever it does, when the parent's end of the lifeline closes. A child that the parent
    forked may keep that end open, so the parent itself is looked at too."""
    lifeline.settimeout(_PARENT_CHECK_SECONDS)
    while os.getppid() == parent:
        try:
            if not lifeline.recv(1):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _executor_class(name: str) -> Callable[[Path, EngineSettings], Executor]:
    module, _, attribute = name.partition(":")
    found: Callable[[Path, EngineSettings], Executor] = getattr(importlib.import_module(module), attribute)
    return found


def _serve(arguments: argparse.Namespace, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    requests, updates = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    for end, name in ((requests, REQUESTS), (updates, UPDATES)):
        end.set_hwm(0)
        end.setsockopt(zmq.LINGER, _LINGER_MILLISECONDS)
        end.connect(f"ipc://{arguments.folder / name}")
    encode = msgspec.msgpack.Encoder().encode

    def send(message: FromEngine) -> None:
        updates.send(encode(message))

    settings = msgspec.json.decode(arguments.settings, type=EngineSettings)
    executor = _executor_class(arguments.executor)(arguments.model, settings)
    try:
        core = EngineCore(executor, settings, _Inbox(requests), send)
        gc.collect()
        gc.freeze()  # what was loaded stays: no collection looks through it between two steps
        core.run()
    finally:
        executor.shutdown()


def main(words: list[str] | None = None) -> int:
    """Exit status: 0 after a `Shutdown`, 1 after a failure."""
    parser = argparse.ArgumentParser(prog="python -m octavo.core.engine_process", description="One engine; started by its API process.")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the sockets")
    parser.add_argument("--lifeline", type=int, required=True, help="inherited file descriptor of the lifeline")
    parser.add_argument("--parent", type=int, required=True, help="process id of the API process")
    parser.add_argument("--executor", required=True, help="module:Class of the executor")
    parser.add_argument("--model", type=Path, required=True, help="folder or file of the model")
    parser.add_argument("--settings", required=True, help="EngineSettings as JSON")
    parser.add_argument("--log-level", type=int, default=logging.INFO, help="least severe level that is logged, as a number")
    arguments = parser.parse_args(words)
    logging.basicConfig(level=arguments.log_level, format=LOG_FORMAT, stream=sys.stderr)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    lifeline = socket.socket(fileno=arguments.lifeline)
    threading.Thread(target=_leave_with_parent, args=(lifeline, arguments.folder, arguments.parent), name="lifeline", daemon=True).start()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        _serve(arguments, context)
    except Exception as error:
        if isinstance(error, OctavoError):
            _log.error("%s", error)
        else:
            _log.exception("the engine failed")
        lifeline.sendall(msgspec.msgpack.encode(failure(error)))
        return 1
    finally:
        context.destroy()
    return 0


if __name__ == "__main__":
    sys.exit(main())
