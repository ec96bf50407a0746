"""The command `octavo`. It knows no verb: each package registers its own through the entry-point group
`octavo.verbs`, so the help is fast and an image without an engine has no `serve`.

An entry point names a `Verb`. Modules that define verbs import only what is cheap; the work is
imported when the verb runs.
"""

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any, NoReturn

from octavo_api import __version__
from octavo_api.errors import OctavoError

GROUP = "octavo.verbs"


@dataclass(frozen=True)
class Verb:
    """One subcommand of `octavo`.

    `requires` lists the import names without which it cannot run, `extra` the extra of the distribution that
    brings them; a verb whose requirements are missing is left out of the help and says so when it is called.
    `add_arguments` fills its parser; `run` does the work and returns the exit status.
    """

    name: str
    help: str
    extra: str
    requires: tuple[str, ...]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]

    def missing(self) -> list[str]:
        return [name for name in self.requires if find_spec(name) is None]


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line, without its usage, and exits with 2."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(word, [flag for flag in self._option_string_actions if flag.startswith("--")], n=1)
            what = "there is no such flag" if word.startswith("-") else "is one argument too many"
            self.error(f"{word}: {what}; " + (f"did you mean {near[0]}?" if near else f"see {self.prog} --help"))
        return found, []

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\n")


def verbs() -> dict[str, Verb]:
    """Every registered verb by name, in alphabetical order."""
    found: dict[str, Verb] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        verb = point.load()
        if not isinstance(verb, Verb):
            raise OctavoError(f"entry point {point.value!r} of group {GROUP!r} is not a Verb")
        found[verb.name] = verb
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `octavo VERB …`; returns the exit status: 0 done, 1 failed, 2 the caller's mistake."""
    if os.getpid() == 1:  # a container's first process is ended by no signal that it does not handle; verbs set their own later
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    words = list(sys.argv[1:] if arguments is None else arguments)
    known = verbs()
    parser = Parser(prog="octavo", description="Serve large language models on Kubernetes and on a laptop.")
    parser.add_argument("--version", action="version", version=f"octavo {__version__}")
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in known.values():
        if not verb.missing() or verb.name in words[:1]:
            verb.add_arguments(commands.add_parser(verb.name, help=verb.help, description=verb.help))
    if words and words[0] in known and (missing := known[words[0]].missing()):
        verb = known[words[0]]
        print(f"octavo {verb.name}: needs {', '.join(missing)}; install it with: pip install 'octavo[{verb.extra}]'", file=sys.stderr)
        return 2
    parsed = parser.parse_args(words)
    try:
        return known[parsed.verb].run(parsed)
    except OctavoError as error:
        print(f"octavo {parsed.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
