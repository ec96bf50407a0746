"""The process of `octavo serve`.

Exit status: 0 after a drain, 1 when the engine failed, 2 when a setting cannot work. The second of two signals ends it
at once.
"""

import logging
import os
import resource
import sys
from importlib import import_module
from pathlib import Path

import uvloop

from octavo.async_llm import AsyncLLMEngine
from octavo.in_thread import in_thread
from octavo.model_text import TextOptions
from octavo.server.flags import Command, reason_of
from octavo.server.keys import VARIABLE, Keys
from octavo_api.errors import InvalidSetting


async def run(command: Command) -> int:
    """
    Raises:
        InvalidSetting: something of the settings cannot work here.
    """
    settings = command.server
    keys = Keys.read(settings.api_key_file, os.environ.get(VARIABLE))
    template = _read(settings.chat_template, "--chat-template")
    _check_there(settings.tokenizer, "--tokenizer")
    text = TextOptions(tokenizer=settings.tokenizer, chat_template=template)
    engine = await AsyncLLMEngine.start(command.model, command.engine, text)
    # The engine process takes seconds to begin; the web framework is imported meanwhile.
    module = await in_thread(lambda: import_module("octavo.server.server"))
    try:
        server = module.Server(command, engine, keys)
    except InvalidSetting:
        await engine.shutdown()
        raise
    status: int = await server.run()
    return status


def serve(command: Command) -> int:
    """`run` on an event loop of its own, with as many open files as the system lets us have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.basicConfig(level=command.server.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return uvloop.run(run(command))


def _check_there(path: str | None, flag: str) -> None:
    if path is not None and not Path(path).exists():
        raise InvalidSetting(f"{flag} {path}: there is no such folder or file")


def _read(path: str | None, flag: str) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{flag} {path}: {reason_of(error)}; give a readable file") from error
