"""Which resource serves which name: the older one, when two claim the same."""

from typing import Any

from octavo_api.errors import InvalidResource
from octavo_api.resource import parse
from octavo_operator.types import Key


class NameClaims:
    """Claims of all resources that one gateway serves. Age is creation time, then the key, so that every operator agrees."""

    def __init__(self) -> None:
        self._claims: dict[Key, tuple[str, frozenset[str]]] = {}

    def learn(self, manifest: dict[str, Any]) -> list[Key]:
        """Takes note of a resource as it is now; one that cannot be read claims nothing. Returns who else this concerns."""
        key = Key(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        try:
            resource = parse(manifest)
        except InvalidResource:
            return self.remove(key)
        before = self._claims.get(key)
        self._claims[key] = (resource.created, frozenset(resource.names))
        return [] if before == self._claims[key] else self._rivals(key, self._claims[key][1] | (before[1] if before else frozenset()))

    def remove(self, key: Key) -> list[Key]:
        """Forgets a resource. Returns who else this concerns."""
        before = self._claims.pop(key, None)
        return self._rivals(key, before[1]) if before else []

    def holder(self, key: Key) -> Key | None:
        """The older resource that has one of `key`'s names, None when it has them to itself."""
        if key not in self._claims:
            return None
        created, names = self._claims[key]
        older = [(age, other) for other, (age, claimed) in self._claims.items() if claimed & names and (age, other) < (created, key)]
        return min(older)[1] if older else None

    def _rivals(self, key: Key, names: frozenset[str]) -> list[Key]:
        return [other for other, (_, claimed) in self._claims.items() if other != key and claimed & names]
