"""Which resource serves which name: the older one, when two claim the same."""

from collections.abc import Iterable

from octavo_operator.types import Key


class NameClaims:
    """Claims of all resources that one gateway serves. Age is creation time, then the key, so that every operator agrees."""

    def __init__(self) -> None:
        self._claims: dict[Key, tuple[str, frozenset[str]]] = {}

    def update(self, key: Key, created: str, names: Iterable[str]) -> None:
        self._claims[key] = (created, frozenset(names))

    def remove(self, key: Key) -> None:
        self._claims.pop(key, None)

    def holder(self, key: Key) -> Key | None:
        """The older resource that has one of `key`'s names, None when it has them to itself."""
        if key not in self._claims:
            return None
        created, names = self._claims[key]
        older = [(age, other) for other, (age, claimed) in self._claims.items() if claimed & names and (age, other) < (created, key)]
        return min(older)[1] if older else None
