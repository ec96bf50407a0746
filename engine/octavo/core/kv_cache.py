"""Requests' block tables, one a layer group: which blocks a request holds, when it gets, shares and returns them.

It decides nothing about who runs: it answers whether there is room, and the scheduler acts on it. Nothing is held
after an answer that there is none.
"""

from collections.abc import Sequence

from octavo.core.block_pool import NULL_BLOCK, BlockPool
from octavo.core.prefix_cache import extend_hashes, longest_hit
from octavo.core.request import BlockTable, Request
from octavo.core.schedule import BlockCopy, LayerGroup
from octavo_api.settings import BLOCK_SIZE


class KVCache:
    """The pools of all layer groups and the rules by which requests hold their blocks.

    KV content only ever gets appended. So of the requests that share a half-filled block, the one that filled it goes
    on writing to it, and a fork copies it before its own first write.
    """

    def __init__(self, groups: Sequence[LayerGroup], num_blocks: Sequence[int], chunk: int, prefix_caching: bool) -> None:
        """`num_blocks[g]` counts the null block; `chunk` is the most tokens of a request that one step computes."""
        self.groups = tuple(groups)
        self.pools = [BlockPool(count) for count in num_blocks]
        self.chunk = chunk
        self.prefix_caching = prefix_caching
        self._windowed = any(group.window for group in self.groups)

    def fits(self, tokens: int) -> bool:
        """Whether a sequence of so many tokens fits when it has all pools to itself."""
        return all(group.peak_blocks(tokens, self.chunk) <= pool.num_blocks for group, pool in zip(self.groups, self.pools, strict=True))

    def enter(self, request: Request) -> bool:
        """Begins a request, with all it can share of the prefix cache, if there is room for all its tokens and one more.

        At least one token is left to compute, because only computing gives logits.
        """
        hit = self._hit(request)
        position = hit * BLOCK_SIZE
        shares: list[list[int]] = []
        for group, pool in zip(self.groups, self.pools, strict=True):
            found = [pool.find(block_hash) for block_hash in request.hashes[group.first_block(position) : hit]]
            shared = [block for block in found if block is not None]
            revived = sum(pool.references(block) == 0 for block in shared)
            peak = group.peak_blocks(len(request.tokens) + 1, self.chunk)
            if max(0, peak - len(shared)) > pool.num_free - revived:
                return False
            shares.append(shared)
        request.tables = []
        for shared, pool in zip(shares, self.pools, strict=True):
            table = BlockTable()
            table.first = hit - len(shared)
            table.blocks = [NULL_BLOCK] * table.first + shared
            for block in shared:
                pool.hold(block)
            request.tables.append(table)
        request.num_computed = position
        request.num_published = hit
        return True

    def extend(self, request: Request, end: int) -> list[BlockCopy] | None:
        """Makes room for the tokens up to `end`, first returning the blocks that left the window of the next query.

        Returns the copies to make before the step, or None when a pool has too few free blocks.
        """
        if not (request.forked or self._windowed) and end <= len(request.tables[0].blocks) * BLOCK_SIZE:
            return []  # most decodes: the last block has room, and it is the request's own
        num_blocks = -(-end // BLOCK_SIZE)
        copied = self._shared_tails(request) if request.forked else [False] * len(self.groups)
        enough = True
        for group, pool, table, copy in zip(self.groups, self.pools, request.tables, copied, strict=True):
            if group.window:
                self._leave_window(group, pool, table, request.num_computed)
            enough = enough and num_blocks - len(table.blocks) + copy <= pool.num_free
        if not enough:
            return None
        copies = []
        for index, (pool, table) in enumerate(zip(self.pools, request.tables, strict=True)):
            if copied[index]:
                copies.append(self._copy_tail(index, request))
            if num_blocks > len(table.blocks):
                table.blocks += pool.take(num_blocks - len(table.blocks))
        request.forked = False
        return copies

    def publish(self, request: Request) -> None:
        """Makes the request's full blocks findable, those of the planned step included: within a step every layer
        writes all KV before it reads any, and steps run in order."""
        if not self.prefix_caching:
            return
        count = min(request.num_computed, len(request.tokens)) // BLOCK_SIZE
        if count <= request.num_published:
            return
        extend_hashes(request.hashes, request.tokens, request.source.adapter, request.source.cache_salt)
        for pool, table in zip(self.pools, request.tables, strict=True):
            for index in range(max(request.num_published, table.first), count):
                pool.register(table.blocks[index], request.hashes[index])
        request.num_published = count

    def leave(self, request: Request) -> None:
        """Returns all of the request's blocks, the end of the sequence first."""
        for pool, table in zip(self.pools, request.tables, strict=True):
            pool.release(reversed(table.blocks))
        request.tables = []
        request.num_computed = 0
        request.num_published = 0
        request.forked = False

    def fork(self, parent: Request, child: Request) -> None:
        """Gives `child`, whose tokens begin with the parent's computed ones, a share of all of the parent's blocks."""
        child.tables = []
        for pool, source in zip(self.pools, parent.tables, strict=True):
            table = BlockTable()
            table.blocks, table.first = list(source.blocks), source.first
            for block in source.blocks[source.first :]:
                pool.hold(block)
            child.tables.append(table)
        child.num_computed = min(parent.num_computed, len(child.tokens) - 1)
        child.num_published = min(parent.num_published, child.num_computed // BLOCK_SIZE)
        child.hashes = parent.hashes[: child.num_published]
        child.forked = True

    def wasted_slots(self, request: Request) -> int:
        """Slots that the request holds and has not filled, over all groups: less than a block in each."""
        return sum(len(table.blocks) * BLOCK_SIZE - request.num_computed for table in request.tables)

    def _hit(self, request: Request) -> int:
        if not self.prefix_caching:
            return 0
        extend_hashes(request.hashes, request.tokens, request.source.adapter, request.source.cache_salt)
        return longest_hit(self.groups, self.pools, request.hashes[: (len(request.tokens) - 1) // BLOCK_SIZE])

    def _leave_window(self, group: LayerGroup, pool: BlockPool, table: BlockTable, position: int) -> None:
        first = group.first_block(position)
        if first > table.first:
            pool.release(reversed(table.blocks[table.first : first]))
            table.blocks[table.first : first] = [NULL_BLOCK] * (first - table.first)
            table.first = first

    def _shared_tails(self, request: Request) -> list[bool]:
        """For each group whether the block of the next token to compute is there and is not the request's own."""
        index = request.num_computed // BLOCK_SIZE
        return [index < len(table.blocks) and not pool.is_exclusive(table.blocks[index]) for pool, table in zip(self.pools, request.tables, strict=True)]

    def _copy_tail(self, group: int, request: Request) -> BlockCopy:
        pool, table, index = self.pools[group], request.tables[group], request.num_computed // BLOCK_SIZE
        source, (target,) = table.blocks[index], pool.take(1)
        pool.release([source])
        table.blocks[index] = target
        return BlockCopy(group=group, source=source, target=target)
