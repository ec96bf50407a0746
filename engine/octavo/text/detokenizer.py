"""An answer's text while its tokens come in: whole characters only, and nothing that may turn out to be a stop string.

Ending the request, and aborting it in the engine, is left to the caller, who looks at `stopped` after each push.
"""

from collections.abc import Sequence

from octavo.sampling_params import SamplingParams
from octavo.text.pieces import TextStream
from octavo.text.stop_strings import StopStrings
from octavo.text.tokenizer import Tokenizer


class Detokenizer:
    """One answer's text. All that `push` and `flush` return, joined, is the decoded answer up to its stop string.

    The answer begins where the prompt ends: a space before its first word is kept, and when the prompt ends inside of a
    character, the answer begins with that whole character. A push costs the same however long the answer already is.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], sampling: SamplingParams) -> None:
        self._stream = TextStream(tokenizer.pieces(sampling.skip_special_tokens))
        self._stream.follow(prompt_ids)
        self._stops = StopStrings(sampling.stop, keep=sampling.include_stop_str_in_output) if sampling.stop else None
        self._unarmed = max(sampling.min_tokens - 1, 0) if sampling.stop else 0

    @property
    def stopped(self) -> str | None:
        """The stop string that has ended the answer. One complete before `min_tokens` tokens have come does not."""
        return self._stops.found if self._stops is not None else None

    def push(self, new_ids: Sequence[int]) -> str:
        """Text that these tokens add; nothing after a stop string."""
        stops = self._stops
        if stops is None:
            return self._stream.push(new_ids)
        if stops.found is not None:
            return ""
        text = ""
        if self._unarmed:
            unarmed = new_ids[: self._unarmed]
            self._unarmed -= len(unarmed)
            text = stops.push(self._stream.push(unarmed), armed=False)
            new_ids = new_ids[len(unarmed) :]
        return text + stops.push(self._stream.push(new_ids))

    def flush(self) -> str:
        """The end of an answer that no stop string has ended: text that was held back, an unfinished character as U+FFFD."""
        unfinished = self._stream.flush()
        if self._stops is None:
            return unfinished
        return "" if self._stops.found is not None else self._stops.flush() + unfinished
