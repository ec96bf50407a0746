"""What the engine core needs of whatever computes its steps."""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from octavo.core.schedule import LayerGroup, ModelRunnerOutput, SchedulerOutput

ProgressCallback = Callable[[int, int], None]
"""Called with bytes read and bytes in all while weights are loaded."""


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What the engine core learns of a loaded model.

    `max_model_len` is what the model allows; `block_bytes[g]` is what one block of layer group g takes over all its
    layers; `kv_bytes` is the memory that the KV cache may take in all.
    """

    groups: tuple[LayerGroup, ...]
    block_bytes: tuple[int, ...]
    kv_bytes: int
    max_model_len: int
    max_num_batched_tokens: int
    vocab_size: int
    dtype: str


class Executor(Protocol):
    """One model on one or more devices. Calls come from one thread, in this order."""

    def load(self, progress: ProgressCallback) -> ModelFacts:
        """Loads the weights. Raises ModelUnavailable or InvalidSetting with the cause."""

    def allocate(self, num_blocks: tuple[int, ...]) -> None:
        """Makes the KV cache, `num_blocks[g]` blocks for layer group g, and warms up. Block 0 of each group is never
        given to a request: it stands for blocks that left a window."""

    @property
    def steps_in_flight(self) -> int:
        """Steps that may be begun before the first of them is finished: 1 where nothing is won by planning ahead."""

    def begin(self, step: SchedulerOutput) -> None:
        """Begins to compute a step. It may need what a step before it samples, which nobody but the executor knows yet."""

    def finish(self) -> ModelRunnerOutput:
        """What the oldest step sampled that was begun and not finished; waits for it."""

    def shutdown(self) -> None:
        """Frees what it holds."""
