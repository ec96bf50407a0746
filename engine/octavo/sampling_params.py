"""How one request wants its tokens chosen and when it wants to stop. Names and defaults are vLLM's."""

from msgspec import Struct

from octavo_api.errors import InvalidSetting

GREEDY_BELOW = 1e-5
"""Temperatures by which logits cannot be divided without leaving the range of float32."""

MOST_BARRED = 16
"""Stop tokens that a request with `min_tokens` may have: a GPU's rows keep what is not to be sampled yet."""


class SamplingParams(Struct, kw_only=True, omit_defaults=True):
    """Sampling parameters of one request.

    Args:
        temperature: 0, or less than 1e-5, is greedy; in [0, 100].
        top_p: smallest set of tokens whose probabilities reach it; in (0, 1].
        top_k: only the k likeliest tokens; 0 or -1 for all.
        min_p: only tokens at least this share as likely as the likeliest; in [0, 1].
        repetition_penalty: in [0.01, 100]; above 1 makes tokens of prompt and answer less likely (CTRL, arXiv:1909.05858).
        presence_penalty: in [-2, 2]; subtracted from logits of tokens already in the answer.
        frequency_penalty: in [-2, 2]; subtracted once for each time a token is in the answer.
        seed: makes the answer repeatable; None takes the engine's.
        stop: the answer ends before the first of these strings.
        stop_token_ids: the answer ends at the first of these tokens; at most 16 of them together with `min_tokens`.
        ignore_eos: go on past the end-of-sequence token.
        max_tokens: most tokens of the answer; None for the rest of the context.
        min_tokens: no end before this many tokens.
        skip_special_tokens: leave special tokens out of the text.
        include_stop_str_in_output: keep the stop string at the end of the text.
        detokenize: make text; without it only token ids come back.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    detokenize: bool = True

    def __post_init__(self) -> None:
        self.stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        self.stop_token_ids = tuple(self.stop_token_ids)
        for name, valid, bounds in (
            ("temperature", 0.0 <= self.temperature <= 100.0, "in [0, 100]"),
            ("top_p", 0.0 < self.top_p <= 1.0, "in (0, 1]"),
            ("top_k", -1 <= self.top_k < 2**31, "-1, 0 or more, and below 2**31"),
            ("min_p", 0.0 <= self.min_p <= 1.0, "in [0, 1]"),
            ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100.0, "in [0.01, 100]"),
            ("presence_penalty", -2.0 <= self.presence_penalty <= 2.0, "in [-2, 2]"),
            ("frequency_penalty", -2.0 <= self.frequency_penalty <= 2.0, "in [-2, 2]"),
            ("max_tokens", self.max_tokens is None or 1 <= self.max_tokens < 2**31, "1 or more, and below 2**31"),
            ("min_tokens", 0 <= self.min_tokens < 2**31, "0 or more, and below 2**31"),
            ("seed", self.seed is None or -(2**63) <= self.seed < 2**63, "a 64-bit integer"),
            ("stop", "" not in self.stop, "without empty strings"),
            ("stop_token_ids", not self.min_tokens or len(self.stop_token_ids) <= MOST_BARRED, f"at most {MOST_BARRED} tokens together with min_tokens"),
        ):
            if not valid:
                raise InvalidSetting(f"{name}: is {getattr(self, name)!r}, must be {bounds}")
        if self.temperature < GREEDY_BELOW:
            self.temperature = 0.0
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidSetting(f"min_tokens: is {self.min_tokens}, must not exceed max_tokens, which is {self.max_tokens}")
