"""Which blocks of a prompt are computed already: the chain of block hashes and the longest hit over all layer groups.

A full-attention group needs every block from the first one on. A sliding-window group needs only the blocks that the
next query attends to; the ones before are null blocks. The hit is the longest prefix that suits all groups.
"""

from collections.abc import Sequence

from octavo.core.block_pool import BlockPool
from octavo.core.schedule import LayerGroup
from octavo_api.block_hash import block_hash
from octavo_api.settings import BLOCK_SIZE


def extend_hashes(hashes: list[bytes], token_ids: Sequence[int], adapter: str, salt: str) -> None:
    """Appends to `hashes` the hash of each full block of `token_ids` that it lacks."""
    for start in range(len(hashes) * BLOCK_SIZE, len(token_ids) - BLOCK_SIZE + 1, BLOCK_SIZE):
        hashes.append(block_hash(hashes[-1] if hashes else b"", token_ids[start : start + BLOCK_SIZE], adapter, salt))


def longest_hit(groups: Sequence[LayerGroup], pools: Sequence[BlockPool], hashes: Sequence[bytes]) -> int:
    """The most leading blocks that need not be computed, in blocks; `pools[g]` belongs to `groups[g]`."""
    length = len(hashes)
    for group, pool in zip(groups, pools, strict=True):
        if not group.window:
            length = next((index for index in range(length) if pool.find(hashes[index]) is None), length)
    while True:
        shorter = length
        for group, pool in zip(groups, pools, strict=True):
            if group.window:
                shorter = _longest_window_hit(group, pool, hashes, shorter)
        if shorter == length:
            return length
        length = shorter


def _longest_window_hit(group: LayerGroup, pool: BlockPool, hashes: Sequence[bytes], length: int) -> int:
    """The longest prefix of at most `length` blocks whose blocks in the window of the next query are all there."""
    first = group.first_block(length * BLOCK_SIZE)
    index = length - 1
    while index >= first:
        if pool.find(hashes[index]) is None:
            length = index
            first = group.first_block(length * BLOCK_SIZE)
        index -= 1
    return length
