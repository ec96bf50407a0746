"""Where a text that is still growing ends: the first stop string that gets complete.

Each stop string is followed by its Knuth-Morris-Pratt automaton, so a character costs the same however long the strings
are and however they repeat themselves, and where the text is cut into pieces makes no difference.
"""

from collections.abc import Sequence


class StopStrings:
    """Follows one text.

    Attributes:
        found: the stop string that ended the text; of several that end at the same character the longest.
    """

    def __init__(self, stops: Sequence[str], *, keep: bool) -> None:
        """
        Args:
            stops: not empty.
            keep: the text ends after the stop string, not before it.
        """
        self.found: str | None = None
        self._keep = keep
        self._automata = [_Automaton(stop) for stop in sorted(set(stops), key=len, reverse=True)]
        self._first_characters = {stop[0] for stop in stops}
        self._held = ""

    def push(self, text: str, *, armed: bool = True) -> str:
        """Text that is certain: that comes before a stop string, and that no stop string can begin in.

        Args:
            text: what is new.
            armed: a stop string that gets complete in `text` ends it; else it is text like any other.
        """
        if not self._held and self._first_characters.isdisjoint(text):
            return text
        window = self._held + text
        for end, character in enumerate(text, len(self._held) + 1):
            for automaton in self._automata:
                if automaton.step(character) and armed:
                    self.found, self._held = automaton.stop, ""
                    return window[: end if self._keep else end - len(automaton.stop)]
        held = max(automaton.matched for automaton in self._automata)
        self._held = window[len(window) - held :]
        return window[: len(window) - held]

    def flush(self) -> str:
        """Text that was held back."""
        held, self._held = self._held, ""
        return held


class _Automaton:
    """How much of a stop string's beginning the text ends with; less than the whole of it, between steps."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._shorter = [0] * len(stop)  # for a matched beginning, the longest shorter one that it ends with
        length = 0
        for index in range(1, len(stop)):
            while length and stop[index] != stop[length]:
                length = self._shorter[length - 1]
            length += stop[index] == stop[length]
            self._shorter[index] = length

    def step(self, character: str) -> bool:
        """Whether this character completes the stop string."""
        matched = self.matched
        while matched and self.stop[matched] != character:
            matched = self._shorter[matched - 1]
        matched += self.stop[matched] == character
        complete = matched == len(self.stop)
        self.matched = self._shorter[-1] if complete else matched
        return complete
