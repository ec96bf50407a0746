"""How many KV cache blocks each layer group gets, and how long a sequence may be: arithmetic on what a loaded model says.

Every group can hold one sequence of the greatest length. What is left is shared out as sequences of a usual length
would use it, because a window group needs many blocks for many short sequences and few for a long one.
"""

import logging

from msgspec import Struct

from octavo.executor.protocol import ModelFacts
from octavo_api.errors import InvalidSetting, ModelUnavailable
from octavo_api.settings import BLOCK_SIZE, EngineSettings

USUAL_TOKENS = 2048
"""Length of the sequences that memory beyond the one longest sequence is divided for."""

_log = logging.getLogger(__name__)


class Sizes(Struct, frozen=True, kw_only=True):
    """`num_blocks[g]` counts the null block of layer group g."""

    max_model_len: int
    num_blocks: tuple[int, ...]


def size_kv_cache(facts: ModelFacts, settings: EngineSettings) -> Sizes:
    """Divides the KV cache memory.

    Raises:
        InvalidSetting: `max_model_len` is more than the model allows.
        ModelUnavailable: nothing fits, or not the `max_model_len` that was asked for; with the numbers and what would fit.
    """
    wanted = min(settings.max_model_len or facts.max_model_len, facts.max_model_len)
    if settings.max_model_len is not None and settings.max_model_len > facts.max_model_len:
        raise InvalidSetting(f"max_model_len: is {settings.max_model_len}, but the model allows {facts.max_model_len} tokens; lower it or leave it out")
    longest = wanted if _bytes(facts, wanted) <= facts.kv_bytes else _longest_fitting(facts, wanted)
    if longest < wanted and (settings.max_model_len is not None or longest == 0):
        remedy = f"set max_model_len to {longest} or less, or give" if longest else "give"
        raise ModelUnavailable(
            "KVCacheDoesNotFit",
            f"one sequence of {wanted} tokens needs {_mib(_bytes(facts, wanted))} of KV cache and there are {_mib(facts.kv_bytes)}; "
            f"{remedy} it more memory: a larger memory limit, gpu_memory_utilization or kv_cache_memory_bytes",
        )
    if longest < wanted:
        _log.warning("max_model_len is %d: the KV cache of %s holds no sequence of the model's %d tokens", longest, _mib(facts.kv_bytes), wanted)
    return Sizes(max_model_len=longest, num_blocks=_divide(facts, longest))


def _blocks(facts: ModelFacts, tokens: int) -> list[int]:
    """For each group the blocks that one sequence takes."""
    return [group.peak_blocks(tokens, facts.max_num_batched_tokens) for group in facts.groups]


def _bytes(facts: ModelFacts, tokens: int) -> int:
    """KV memory for one sequence and the null blocks."""
    return sum((blocks + 1) * size for blocks, size in zip(_blocks(facts, tokens), facts.block_bytes, strict=True))


def _longest_fitting(facts: ModelFacts, limit: int) -> int:
    """The most tokens, at most `limit`, of a sequence that fits; 0 when there is not even room for a block of them."""
    if _bytes(facts, BLOCK_SIZE) > facts.kv_bytes:
        return 0
    low, high = BLOCK_SIZE, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _bytes(facts, middle) <= facts.kv_bytes else (low, middle - 1)
    return low


def _divide(facts: ModelFacts, longest: int) -> tuple[int, ...]:
    usual = _blocks(facts, min(USUAL_TOKENS, longest))
    more = (facts.kv_bytes - _bytes(facts, longest)) / sum(blocks * size for blocks, size in zip(usual, facts.block_bytes, strict=True))
    return tuple(1 + blocks + int(more * usually) for blocks, usually in zip(_blocks(facts, longest), usual, strict=True))


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
