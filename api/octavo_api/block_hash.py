"""The identity of a KV cache block: a chained BLAKE2b-128 over tagged fields.

Equal hashes mean equal KV content, across requests, replicas and tenants, so the hash is a cryptographic one:
collisions of fast hashes can be made on purpose and would show one tenant another's cache.
"""

from collections.abc import Sequence
from hashlib import blake2b
from struct import pack

HASH_BYTES = 16
_TAGS = (b"p", b"t", b"a", b"s")


def block_hash(parent: bytes, tokens: Sequence[int], adapter: str = "", salt: str = "") -> bytes:
    """Hash of one full block.

    Args:
        parent: hash of the block before it, b"" for the first.
        tokens: the block's token ids, each below 2**32.
        adapter: LoRA adapter's name, "" for none.
        salt: what separates tenants that must not share a cache, "" for none.
    """
    fields = (parent, pack(f"<{len(tokens)}I", *tokens), adapter.encode(), salt.encode())
    digest = blake2b(digest_size=HASH_BYTES)
    for tag, field in zip(_TAGS, fields, strict=True):
        digest.update(tag + pack("<I", len(field)) + field)
    return digest.digest()
