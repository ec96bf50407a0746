"""Self-attention with grouped queries over the paged KV cache, as all families have it."""

from torch import Tensor

from octavo.models.batch import Batch
from octavo.models.config import ModelConfig
from octavo.models.layers import Linear
from octavo.models.weights import Weights
from octavo.ops.paged_attention import paged_attention
from octavo.ops.rotary_kv_write import HeadNorms, norm_rotary_kv_write, rotary_kv_write


class AttentionPlan:
    """What a layer's attention shares with others: its layer group, its window and its rotary table [P, D]."""

    __slots__ = ("cos_sin", "group", "window")

    def __init__(self, group: int, window: int, cos_sin: Tensor) -> None:
        self.group = group
        self.window = window
        self.cos_sin = cos_sin


class Attention:
    """One layer's attention. With `head_norms`, queries and keys are normalised before they are rotated."""

    def __init__(
        self, weights: Weights, prefix: str, config: ModelConfig, plan: AttentionPlan, *, output_bias: bool = False, head_norms: float | None = None
    ) -> None:
        """`head_norms` is the offset of the norms' weights, None without norms."""
        self._plan = plan
        self._heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        self._head_size = config.head_size
        self._scale = config.attention_scale
        parts = {f"{prefix}.{name}_proj": heads * config.head_size for name, heads in zip("qkv", self._heads, strict=True)}
        self.qkv = Linear(weights, parts, config.hidden_size, config.attention_bias)
        self.out = Linear(weights, {f"{prefix}.o_proj": config.hidden_size}, config.num_heads * config.head_size, output_bias)
        self._norms: HeadNorms | None = None
        if head_norms is not None:
            query, key = (weights.parameter(f"{prefix}.{name}_norm.weight", config.head_size, offset=head_norms) for name in "qk")
            self._norms = HeadNorms(query, key, config.norm_eps)

    def __call__(self, x: Tensor, batch: Batch, kv_cache: tuple[Tensor, Tensor]) -> Tensor:
        """[T, H] → [T, H]; writes the tokens' keys and values to the cache first."""
        plan = self._plan
        tokens = x.shape[0]
        q, k, v = self.qkv(x).view(tokens, -1, self._head_size).split_with_sizes(self._heads, 1)
        places = batch.groups[plan.group]
        if self._norms is None:
            rotary_kv_write((q, k, v), plan.cos_sin, batch.positions, places.slots, kv_cache)
        else:
            q = norm_rotary_kv_write((q, k, v), self._norms, (plan.cos_sin, batch.positions, places.slots), kv_cache)
        return self.out(paged_attention(q, kv_cache, places.attention, self._scale, plan.window).view(tokens, -1))
