"""What a list and a watch of one kind say, kept by key: pure state, no I/O.

An object that cannot be read is left out and named in `broken`; the others are not touched by it.
"""

from typing import Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from octavo_gateway.catalogue.objects import Deployment, Pod

T = TypeVar("T", Deployment, Pod)
Key = tuple[str, str]


class Expired(Exception):
    """The watch cannot go on from where it was: list again."""


class WatchFailed(Exception):
    """The API server ended the watch with an error; the text is its message."""


class _ListMetadata(Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _List(Struct, frozen=True):
    metadata: _ListMetadata
    items: list[Raw]


class _Event(Struct, frozen=True):
    type: str
    object: Raw


class _Status(Struct, frozen=True):
    code: int = 0
    message: str = ""


class _NameOnly(Struct, frozen=True):
    name: str = "?"
    namespace: str = ""


class _Named(Struct, frozen=True):
    metadata: _NameOnly = _NameOnly()


class _Versioned(Struct, frozen=True):
    metadata: _ListMetadata = _ListMetadata()


class Mirror(Generic[T]):
    """`objects` by namespace and name; `version` is where a watch goes on from."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)
        self.objects: dict[Key, T] = {}
        self.broken: dict[Key, str] = {}
        self.version = ""
        self.listed = False

    def replace(self, data: bytes) -> None:
        """Takes the answer to a list.

        Raises:
            msgspec.DecodeError: it is not a list.
        """
        found = msgspec.json.decode(data, type=_List)
        self.objects, self.broken = {}, {}
        for item in found.items:
            self._put(item)
        self.version = found.metadata.resource_version
        self.listed = True

    def event(self, line: bytes) -> bool:
        """Takes one line of a watch; returns whether something is different now.

        Raises:
            Expired, WatchFailed, msgspec.DecodeError.
        """
        event = msgspec.json.decode(line, type=_Event)
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=_Status)
            raise Expired(status.message) if status.code == 410 else WatchFailed(status.message)
        self.version = msgspec.json.decode(event.object, type=_Versioned).metadata.resource_version or self.version
        if event.type == "BOOKMARK":
            return False
        if event.type == "DELETED":
            key = _key(event.object)
            self.broken.pop(key, None)
            return self.objects.pop(key, None) is not None
        return self._put(event.object)

    def _put(self, item: Raw) -> bool:
        key = _key(item)
        before = self.objects.pop(key, None)
        self.broken.pop(key, None)
        try:
            self.objects[key] = self._decoder.decode(item)
        except msgspec.ValidationError as error:
            self.broken[key] = str(error)
            return before is not None
        return self.objects[key] != before


def _key(item: Raw) -> Key:
    metadata = msgspec.json.decode(item, type=_Named).metadata
    return (metadata.namespace, metadata.name)
