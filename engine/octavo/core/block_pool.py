"""The KV cache blocks of one layer group: who holds them, what they contain, which are given out next.

A block is held, by one or more requests, or free. A free block whose content is known stays findable until it is
given out again, so the prefix cache is nothing but the free list's memory. Which blocks a request needs is left to
`kv_cache`, what a hash means to `prefix_cache`.
"""

from collections import OrderedDict
from collections.abc import Iterable

NULL_BLOCK = 0
"""Stands in block tables for blocks that left a window; never given out, never read."""


class BlockPool:
    """Blocks `1 … num_blocks - 1`, all free at first.

    Eviction: blocks without known content are given out first, then the ones freed longest ago. Every method takes
    constant time a block.
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 2:
            raise ValueError(f"a block pool needs the null block and at least one more, not {num_blocks} blocks")
        self.num_blocks = num_blocks - 1
        self._references = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._by_hash: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_blocks))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    def references(self, block: int) -> int:
        """How many requests hold the block."""
        return self._references[block]

    def is_exclusive(self, block: int) -> bool:
        """Whether its one holder may overwrite the block: nobody else reads it and nobody can find it."""
        return self._references[block] == 1 and self._hashes[block] is None

    def take(self, count: int) -> list[int]:
        """Gives out `count` blocks, each held once, their old content forgotten. The caller has looked at `num_free`."""
        blocks = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            known = self._hashes[block]
            if known is not None:
                del self._by_hash[known]
                self._hashes[block] = None
            self._references[block] = 1
            blocks.append(block)
        return blocks

    def hold(self, block: int) -> None:
        """One more request holds the block, which may have been free but findable."""
        if self._references[block] == 0:
            del self._free[block]
        self._references[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """One request fewer holds each of the blocks; null blocks are passed over. Later blocks are given out earlier
        than ones freed by a later call, so pass the end of a sequence first: its beginning is shared most."""
        for block in blocks:
            if block == NULL_BLOCK:
                continue
            if self._references[block] < 1:
                raise RuntimeError(f"block {block} is released but nobody holds it")
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                if self._hashes[block] is None:
                    self._free.move_to_end(block, last=False)

    def find(self, block_hash: bytes) -> int | None:
        """The block with this content, held or free."""
        return self._by_hash.get(block_hash)

    def register(self, block: int, block_hash: bytes) -> None:
        """Makes the content of a held, full block findable, unless another block with the same content is already."""
        if self._hashes[block] is None and block_hash not in self._by_hash:
            self._hashes[block] = block_hash
            self._by_hash[block_hash] = block
