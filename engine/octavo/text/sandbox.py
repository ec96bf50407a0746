"""Where chat templates run: they come with models, from anywhere, so they get no objects but plain data, and so much time and text.

What templates expect to find is what `transformers` gives them. What they are given of a chat is left to `chat_template`.
"""

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_SECONDS = 5.0
MAX_CHARACTERS = 32 << 20

_DEADLINE = "end of time"  # no name, so no template can read it or set it


class TemplateRefusal(jinja2.TemplateError):
    """The template's own `raise_exception`."""


class TemplateOverrun(jinja2.TemplateError):
    """The template took too long, or wrote too much."""


class Sandbox:
    """Compiles and runs templates."""

    def __init__(self, max_seconds: float = MAX_SECONDS, max_characters: int = MAX_CHARACTERS) -> None:
        self._max_seconds = max_seconds
        self._max_characters = max_characters
        self._environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
        self._environment.filters["tojson"] = _to_json
        self._environment.globals |= {"raise_exception": _refuse, "strftime_now": _now, "namespace": _Namespace}

    def compile(self, source: str) -> jinja2.Template:
        """Raises jinja2.TemplateSyntaxError."""
        tree = self._environment.parse(source)
        for loop in tree.find_all(nodes.For):
            tick = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
            loop.body.insert(0, nodes.ExprStmt(tick).set_lineno(loop.lineno))
        code = self._environment.compile(tree)
        return jinja2.Template.from_code(self._environment, code, self._environment.make_globals(None))

    def render(self, template: jinja2.Template, values: Mapping[str, Any]) -> str:
        """Raises TemplateRefusal, TemplateOverrun, and whatever goes wrong in a template."""
        pieces, size = [], 0
        for piece in template.generate({**values, _DEADLINE: time.monotonic() + self._max_seconds}):
            size += len(piece)
            if size > self._max_characters:
                raise TemplateOverrun(f"it writes more than {self._max_characters} characters")
            pieces.append(piece)
        return "".join(pieces)


class _Environment(ImmutableSandboxedEnvironment):
    """Looks at the clock at every call. Each turn of a loop makes one, to `tick`, so no loop and no recursion goes on for ever."""

    def tick(self) -> None:
        """Called for the call alone."""

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if time.monotonic() > context.parent[_DEADLINE]:
            raise TemplateOverrun("it does not come to an end")
        return super().call(context, obj, *args, **kwargs)


class _Generation(Extension):
    """`{% generation %}` marks an assistant's words for training; here they are rendered like any other."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """Holds no names that begin with an underscore, as those lead to Python's internals."""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        for name in (held := dict(*args, **kwargs)):
            _check_name(name)
        super().__init__(held)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}, as it begins with an underscore")


def _refuse(message: str) -> NoReturn:
    raise TemplateRefusal(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
    """Unlike Jinja's own, for a prompt and not for a web page: nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
