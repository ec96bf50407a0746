"""One request while the engine has it: its tokens, how far it is computed, and when it ends."""

from octavo.core.messages import EngineRequest
from octavo.outputs import FinishReason


class BlockTable:
    """A request's blocks of one layer group, in token order. The first `first` entries are null blocks; the runner's
    row has the first `sent` entries."""

    __slots__ = ("blocks", "first", "sent")

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.first = 0
        self.sent = 0


class Request:
    """Prompt and answer so far, and the request's place in the engine.

    Attributes:
        tokens: prompt and the answer's tokens whose values are known.
        num_pending: tokens that a planned step will sample and whose values are not known yet.
        num_computed: tokens whose KV is in the cache once every planned step has run.
        num_cached_tokens: prompt tokens that were in the cache when it first ran; -1 before.
        limit: most tokens of prompt and answer together.
        order: who comes first: lower priority, then earlier arrival, then who was added first.
        row: its place in the runner while it runs; `entered` once the runner knows of it.
        forked: shares blocks with the request it was forked from, so copies what it writes to first.
        hashes: chain of the hashes of its full blocks; the first `num_published` of its blocks are findable.
    """

    __slots__ = (
        "entered",
        "finished",
        "forked",
        "hashes",
        "limit",
        "num_cached_tokens",
        "num_computed",
        "num_pending",
        "num_prompt_tokens",
        "num_published",
        "order",
        "row",
        "source",
        "tables",
        "tokens",
    )

    def __init__(self, source: EngineRequest, serial: int, max_model_len: int) -> None:
        self.source = source
        self.num_prompt_tokens = len(source.prompt_token_ids)
        self.tokens = source.prompt_token_ids + source.output_token_ids
        max_tokens = source.sampling.max_tokens
        self.limit = max_model_len if max_tokens is None else min(max_model_len, self.num_prompt_tokens + max_tokens)
        self.order = (source.priority, source.arrival, serial)
        self.num_computed = 0
        self.num_pending = 0
        self.num_cached_tokens = -1
        self.num_published = 0
        self.hashes: list[bytes] = []
        self.tables: list[BlockTable] = []
        self.row = -1
        self.entered = False
        self.forked = False
        self.finished = False

    @property
    def id(self) -> str:
        return self.source.request_id

    @property
    def num_uncomputed(self) -> int:
        """Tokens to compute before the next one is sampled; 0 when the answer is as long as it may get."""
        count = len(self.tokens) + self.num_pending
        return count - self.num_computed if count < self.limit else 0

    def finish_after(self, token: int) -> tuple[FinishReason | None, int | None]:
        """Whether the answer ends with `token`, just appended: finish reason and the stop token that did it."""
        sampling = self.source.sampling
        if len(self.tokens) - self.num_prompt_tokens >= sampling.min_tokens:
            if not sampling.ignore_eos and token in self.source.eos_token_ids:
                return "stop", None
            if token in sampling.stop_token_ids:
                return "stop", token
        return ("length" if len(self.tokens) >= self.limit else None), None
