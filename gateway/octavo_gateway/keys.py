"""API keys of the public listener."""

import hmac
from hashlib import sha256
from pathlib import Path

from octavo_api.errors import InvalidSetting


class Keys:
    """Accepted keys. A guess takes the same time whatever it shares with a real one."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    @classmethod
    def read(cls, path: str) -> "Keys":
        """
        Raises:
            InvalidSetting: the file cannot be read or holds no key.
        """
        try:
            keys = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSetting(f"--api-key-file {path}: {error}; give a readable file with one key a line") from error
        if not keys:
            raise InvalidSetting(f"--api-key-file {path}: holds no key; give one a line")
        return cls(keys)

    def accept(self, authorization: bytes) -> bool:
        """Whether an Authorization header's value carries one of the keys."""
        scheme, _, given = authorization.partition(b" ")
        digest = sha256(given.strip()).digest()
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found and scheme.lower() == b"bearer"
