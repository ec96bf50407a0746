"""Where a model comes from, as a value: parsed and checked here, fetched by whoever serves it.

`hf://org/name@revision`, `pypi://package==version`, `pvc://claim/path`, `file:///path` or a path.
"""

import re
from typing import Literal

from msgspec import Struct

from octavo_api.errors import InvalidSetting

Scheme = Literal["file", "hf", "pypi", "pvc"]

_PATTERNS: dict[Scheme, tuple[str, str]] = {
    "hf": (r"(?P<location>[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)(?:@(?P<revision>[A-Za-z0-9_./-]+))?", "hf://org/name or hf://org/name@revision"),
    "pypi": (r"(?P<location>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<revision>[A-Za-z0-9.!+_-]+)", "pypi://package==version"),
    "pvc": (r"(?P<location>[a-z0-9][a-z0-9.-]*(?:/[^/\x00]+)*/?)(?P<revision>)", "pvc://claim/path"),
    "file": (r"(?P<location>/.+)(?P<revision>)", "file:///absolute/path"),
}
SOURCE_PATTERN = "|".join(f"{scheme}://{re.sub('[?]P<[a-z]+>', '', pattern)}" for scheme, (pattern, _) in _PATTERNS.items())
"""Every source with a scheme, as one regular expression that Python and the API server (RE2) read alike."""
_LATER = ("s3", "oci", "gs")


class ModelSource(Struct, frozen=True):
    """`location` is a path (file), `org/name` (hf), a package (pypi) or `claim/path` (pvc); `revision` is "" for the default one."""

    scheme: Scheme
    location: str
    revision: str = ""

    def __str__(self) -> str:
        if self.scheme == "pypi":
            return f"pypi://{self.location}=={self.revision}"
        return f"{self.scheme}://{self.location}" + (f"@{self.revision}" if self.revision else "")

    @property
    def claim(self) -> str:
        """The PersistentVolumeClaim of a pvc source."""
        return self.location.partition("/")[0]

    @property
    def path_in_claim(self) -> str:
        return self.location.partition("/")[2].strip("/")


def parse_source(text: str, revision: str | None = None) -> ModelSource:
    """Reads a source; `revision` (of an hf source) may come apart from it.

    Raises:
        InvalidSetting: with the text, what is wrong with it and how a right one looks.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        return ModelSource("file", text)
    if scheme in _LATER:
        raise InvalidSetting(f"model source {text!r}: {scheme}:// is not supported yet; use hf://, pypi://, pvc:// or a path")
    if scheme not in _PATTERNS:
        raise InvalidSetting(f"model source {text!r}: unknown scheme {scheme!r}; use hf://, pypi://, pvc:// or a path")
    pattern, example = _PATTERNS[scheme]
    match = re.fullmatch(pattern, rest)
    if match is None or ".." in rest.split("/"):
        raise InvalidSetting(f"model source {text!r}: must look like {example}")
    found = match["revision"] or ""
    if revision and (scheme != "hf" or (found and found != revision)):
        raise InvalidSetting(
            f"model revision {revision!r}: " + (f"the source {text!r} names another" if found else f"only hf:// sources have one, not {text!r}")
        )
    return ModelSource(scheme, match["location"].rstrip("/") or "/", found or revision or "")
