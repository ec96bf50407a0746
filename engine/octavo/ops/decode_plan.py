"""How a step's decodes are divided among a GPU's processors. Made on the GPU, once a step for each layer group."""

import torch
from torch import Tensor

from octavo import _C


class DecodePlan:
    """The plan of one layer group, in device memory that is allocated once.

    Attributes:
        address: where it lies.
        sequences: the most that it has room for.
    """

    def __init__(self, sequences: int, heads: tuple[int, int, int], window: int, device: torch.device) -> None:
        """`heads` are the numbers of query and KV heads and the head size."""
        self.sequences = sequences
        self._heads = heads
        self._window = window
        self._workspace = torch.zeros(_C.cuda.attention_workspace_bytes(sequences, *heads), dtype=torch.uint8, device=device)
        self.address = self._workspace.data_ptr()

    def make(self, context_lens: Tensor, decodes: int) -> None:
        """Plans for the first `decodes` of `context_lens` [S] int32, on the current stream, without waiting."""
        stream = torch.cuda.current_stream(context_lens.device).cuda_stream
        _C.cuda.plan_attention((self.address, context_lens.data_ptr()), (decodes, self.sequences), self._heads, self._window, stream)
