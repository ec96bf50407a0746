"""API keys of the API listener. They are kept as digests and never logged."""

import hmac
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from octavo.server.flags import reason_of
from octavo_api.errors import InvalidSetting

VARIABLE = "OCTAVO_API_KEY"


class Keys:
    """Accepted keys; without any, every request is accepted. A guess takes the same time whatever it shares with a key."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    @classmethod
    def read(cls, path: str | None, variable: str | None) -> "Keys":
        """Keys of a file, one a line, and the one in the environment.

        Raises:
            InvalidSetting: the file cannot be read or holds no key.
        """
        keys = [variable] if variable else []
        if path is not None:
            try:
                found = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidSetting(f"--api-key-file {path}: {reason_of(error)}; give a readable file with one key a line") from error
            if not found:
                raise InvalidSetting(f"--api-key-file {path}: holds no key; give one a line")
            keys += found
        return cls(keys)

    def accept(self, authorization: bytes) -> bool:
        """Whether an Authorization header's value carries one of the keys."""
        if not self._digests:
            return True
        scheme, _, given = authorization.partition(b" ")
        digest = sha256(given.strip()).digest()
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found and scheme.lower() == b"bearer"
