"""The catalogue of a laptop: a JSON file that the local runtime replaces."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from octavo_api.catalogue import Catalogue
from octavo_gateway.upstream import split_address

logger = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between looks at the file."""

Signature = tuple[int, int, int]


def parse(data: bytes) -> Catalogue:
    """
    Raises:
        ValueError: it is not a whole catalogue.
    """
    catalogue = msgspec.json.decode(data, type=Catalogue)
    for model in catalogue.models:
        for endpoint in model.endpoints:
            split_address(endpoint.api)
    return catalogue


class FileCatalogue:
    """Follows a file by its identity, size and time of change. What cannot be read is said once and changes nothing."""

    def __init__(self, path: Path, apply: Callable[[Catalogue], None]) -> None:
        self._path = path
        self._apply = apply
        self._seen: Signature | None = None
        self._complaint = ""

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(POLL)

    def look(self) -> None:
        """Applies the file if it has changed since the last look and is whole."""
        try:
            stat = self._path.stat()
            signature = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if signature == self._seen:
                return
            catalogue = parse(self._path.read_bytes())
        except (OSError, ValueError) as error:
            self._complain(f"{self._path}: {error}; what was known before stays")
            return
        self._seen = signature
        self._complaint = ""
        self._apply(catalogue)

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            logger.warning("catalogue %s", text)
        self._complaint = text


async def follow(path: Path, apply: Callable[[Catalogue], None]) -> None:
    """Applies the file's catalogue as it changes, until cancelled."""
    await FileCatalogue(path, apply).run()
