"""The verb `octavo serve`. Only its flags are made here; the server is imported when it runs."""

import argparse

from octavo.server.flags import add_arguments, read
from octavo_api.command import Verb


def _run(arguments: argparse.Namespace) -> int:
    command = read(arguments)
    from octavo.server.serve import serve as run  # the help needs neither a server nor a tokenizer

    return run(command)


serve = Verb(
    name="serve",
    help="serve one model with an OpenAI-compatible API",
    extra="engine",
    requires=("torch", "fastapi", "uvicorn", "uvloop", "httptools", "zmq", "tokenizers", "yaml", "prometheus_client"),
    add_arguments=add_arguments,
    run=_run,
)
