"""Compiled kernels. Addresses and streams are integers; what the arguments mean stands in `octavo.ops`."""

class Kernels:
    """The operations on one kind of device. Each call ends with the code of the dtype and the stream, 0 on the CPU."""

    def rms_norm(self, tensors: tuple[int, int, int, int], shape: tuple[int, int, int], strides: tuple[int, int], eps: float, dtype: int, stream: int) -> None:
        """tensors: out, x, weight, residual or 0; shape: tokens, heads, width; strides: of x, from token to token and from head to head."""

    def rotary_kv_write(
        self,
        qkv: tuple[int, int, int],
        strides: tuple[int, int, int],
        tables: tuple[int, int, int],
        kv_cache: tuple[int, int],
        shape: tuple[int, int, int, int, int, int],
        dtype: int,
        stream: int,
    ) -> None:
        """tables: cos_sin, positions, slots; shape: tokens, query heads, KV heads, head size, positions, blocks."""

    def paged_attention(
        self,
        tensors: tuple[int, int, int, int],
        batch: tuple[int, int, int],
        shape: tuple[int, int, int, int, int],
        tables: tuple[int, int, int],
        scores: tuple[float, int],
        dtype: int,
        stream: int,
    ) -> None:
        """tensors: out, q, keys, values; batch: block_tables, query_start, context_lens; shape: tokens, query heads, KV heads,
        head size, stride of q; tables: sequences, blocks of a table, blocks of the cache; scores: scale, window."""

    def gated_activation(self, tensors: tuple[int, int], shape: tuple[int, int], gelu_tanh: bool, dtype: int, stream: int) -> None:
        """tensors: out, gate_up; shape: tokens, width of out."""

    def copy_blocks(self, kv_cache: tuple[int, int], pairs: int, shape: tuple[int, int, int], stream: int) -> None:
        """pairs: sources, then targets, int64; shape: pairs, blocks of the cache, bytes of a block."""

class CudaKernels(Kernels):
    """What only a GPU has. Rows are three tensors (tokens, parameters, tables) and a shape: rows, tokens of a row, blocks
    of a table, groups; `csrc/cuda/step.h` says what is in them."""

    ROW_PARAMETERS: int
    ROW_ENDERS: int

    def attention_workspace_bytes(self, sequences: int, q_heads: int, kv_heads: int, head_size: int) -> int:
        """Bytes of a layer group's workspace, zeros at first."""

    def plan_attention(self, tensors: tuple[int, int], sequences: tuple[int, int], heads: tuple[int, int, int], window: int, stream: int) -> None:
        """tensors: workspace, context_lens; sequences: of the step, that there is room for; heads: query, KV, size."""

    def planned_attention(
        self,
        tensors: tuple[int, int, int, int],
        batch: tuple[int, int, int],
        shape: tuple[int, int, int, int, int],
        tables: tuple[int, int, int],
        scores: tuple[float, int],
        plan: tuple[int, int, int],
        dtype: int,
        stream: int,
    ) -> None:
        """As `paged_attention`; plan: decodes, workspace, sequences that it has room for."""

    def norm_rotary_kv_write(
        self,
        qkv: tuple[int, int, int],
        strides: tuple[int, int, int],
        tables: tuple[int, int, int],
        kv_cache: tuple[int, int],
        shape: tuple[int, int, int, int, int, int],
        norms: tuple[int, int],
        eps: float,
        dtype: int,
        stream: int,
    ) -> None:
        """As `rotary_kv_write`; norms: weights of the queries' and the keys' RMSNorm."""

    def small_linear(self, tensors: tuple[int, int, int, int], shape: tuple[int, int, int, int], stream: int) -> None:
        """tensors: out, x, weight, bias or 0; shape: tokens, inputs, outputs, stride of x."""

    def apply_step(self, rows: tuple[int, int, int], shape: tuple[int, int, int, int], step: int, records: tuple[int, int], stream: int) -> None:
        """records: how many, and the word of the step where their places begin."""

    def gather_step(
        self,
        rows: tuple[int, int, int],
        shape: tuple[int, int, int, int],
        step: int,
        sequences: tuple[int, int],
        batch: tuple[int, int, int, int, int, int],
        max_tokens: int,
        stream: int,
    ) -> None:
        """sequences: the most, and of this step; batch: token_ids, positions, slots, block_tables, query_start, context_lens."""

    def sample(
        self, rows: tuple[int, int, int], shape: tuple[int, int, int, int], tensors: tuple[int, int, int, int], counts: tuple[int, int], stream: int
    ) -> None:
        """tensors: logits, rows, positions, token_ids; counts: rows of logits, vocabulary."""

cpu: Kernels
cuda: CudaKernels
"""Only where it was compiled with nvcc."""

def levels() -> list[str]:
    """Instruction sets that this chip has, the widest last."""

def level() -> str:
    """The one in use."""

def set_level(name: str) -> None:
    """Raises ValueError for one that this chip lacks."""

def set_threads(count: int) -> None:
    """Threads that a call may use."""
