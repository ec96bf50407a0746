"""From token ids to text, a token at a time: what each token spells, and how what several spell together is joined.

`tokenizers` decodes whole lists. Doing that again at every token costs time in the square of the answer's length, so
its decoders are read once here and each token's text is kept. Which tokens an answer has, and where it ends, is left
to the detokenizer.

One difference is on purpose. A run of byte tokens (`<0xE2>`, …) that is not whole UTF-8 loses only its broken bytes, as
in SentencePiece; `tokenizers` would replace its good characters too, which could not be told before the run has ended.
"""

import codecs
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import tokenizers

from octavo_api.errors import ModelUnavailable

Piece = str | bytes
"""What a token spells: text, or bytes when it begins or ends inside of a character."""

_BROKEN = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_LONGEST_CHARACTER = 4


def byte_alphabet() -> dict[str, int]:
    """The characters that byte-level vocabularies write bytes with: printable ones stand for themselves, others for
    the next free code points from 256 on (GPT-2, `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + index): byte for index, byte in enumerate(others)}}


class Spelling:
    """How a tokenizer's decoder spells one token.

    Attributes:
        piece: what a token adds to a text that has begun.
        differs_at_start: the text's first token is spelled differently.
        byte_runs: broken UTF-8 gives a replacement character a byte, not one a cut character.
    """

    def __init__(self, decoder: dict[str, Any] | None) -> None:
        """
        Args:
            decoder: the decoder as tokenizer.json has it.

        Raises:
            ModelUnavailable: `ModelInvalid`, it is none that generating models use.
        """
        steps = [] if decoder is None else decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
        kinds = [step["type"] for step in steps]
        self.differs_at_start = decoder is None
        self.byte_runs = "ByteFallback" in kinds
        self.piece: Callable[[str], Piece]
        if kinds == ["ByteLevel"]:
            self._alphabet = byte_alphabet()
            self.piece = self._byte_level
            return
        self._replaced: list[tuple[str, str]] = [] if decoder is not None else [("", " ")]
        for index, step in enumerate(steps):
            self._read(step, kinds[:index])
        self.piece = self._with_bytes if self.byte_runs else self._text

    def _read(self, step: dict[str, Any], before: Sequence[str]) -> None:
        match step:
            case {"type": "Replace", "pattern": {"String": pattern}, "content": content}:
                self._replaced.append((pattern, content))
            case {"type": "Metaspace", "replacement": replacement}:
                self._replaced.append((replacement, " "))
                self.differs_at_start = step.get("prepend_scheme", "always") != "never"
            case {"type": "Strip", "content": " ", "start": start, "stop": 0} if start == 0 or (start == 1 and "Fuse" in before):
                self.differs_at_start = self.differs_at_start or start == 1
            case {"type": "ByteFallback" | "Fuse"}:
                pass
            case _:
                text = f"tokenizer: its decoder has the step {json.dumps(step)}, which Octavo does not know; give --tokenizer the folder of another one"
                raise ModelUnavailable("ModelInvalid", text)

    def _text(self, token: str) -> str:
        for pattern, content in self._replaced:
            token = token.replace(pattern, content) if pattern else content + token
        return token

    def _with_bytes(self, token: str) -> Piece:
        text = self._text(token)
        byte = _BYTE_TOKEN.fullmatch(text)
        return text if byte is None else _text_if_whole(bytes([int(byte[1], 16)]))

    def _byte_level(self, token: str) -> Piece:
        try:
            return _text_if_whole(bytes(map(self._alphabet.__getitem__, token)))
        except KeyError:  # an added token, which is written as it is
            return token


def _text_if_whole(data: bytes) -> Piece:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


class Pieces(dict[int, Piece]):
    """What each token id spells inside of a text, filled in as ids come up; nothing for ids that are left out or unknown."""

    def __init__(self, backend: tokenizers.Tokenizer, spelling: Spelling, left_out: frozenset[int]) -> None:
        super().__init__()
        self.spelling = spelling
        self._backend = backend
        self._left_out = left_out

    def __missing__(self, token_id: int) -> Piece:
        token = None if token_id in self._left_out else self._backend.id_to_token(token_id)
        piece = self[token_id] = "" if token is None else self.spelling.piece(token)
        return piece

    def first(self, token_id: int) -> Piece:
        """What the token spells as a text's first."""
        piece = self[token_id]
        return self._backend.decode([token_id], skip_special_tokens=False) if isinstance(piece, str) else piece


class TextStream:
    """Joins pieces to text; an unfinished character waits for the tokens that finish it."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._at_start = pieces.spelling.differs_at_start
        self._unfinished = b""

    def follow(self, ids: Sequence[int]) -> None:
        """Sets the stream to where a text of these tokens ends, looking at as few of them as that takes."""
        pieces = self._pieces
        self._at_start = self._at_start and not any(pieces[token_id] for token_id in ids)
        num_bytes = begin = 0
        for begin in range(len(ids) - 1, -1, -1):
            piece = pieces[ids[begin]]
            num_bytes += len(piece)
            if (piece and isinstance(piece, str)) or num_bytes >= _LONGEST_CHARACTER:
                break
        for token_id in ids[begin:]:
            self._join(pieces[token_id])

    def push(self, ids: Sequence[int]) -> str:
        """The text that these tokens finish."""
        texts = []
        for token_id in ids:
            piece = self._pieces[token_id]
            if self._at_start and piece:
                piece = self._pieces.first(token_id)
                self._at_start = False
            texts.append(piece if isinstance(piece, str) and not self._unfinished else self._join(piece))
        return "".join(texts)

    def flush(self) -> str:
        """What becomes of an unfinished character when nothing follows it."""
        unfinished, self._unfinished = self._unfinished, b""
        return _BROKEN * (len(unfinished) if self._pieces.spelling.byte_runs else bool(unfinished))

    def _join(self, piece: Piece) -> str:
        if isinstance(piece, str):
            return self.flush() + piece if piece else ""
        data = self._unfinished + piece
        byte_runs = self._pieces.spelling.byte_runs
        text, used = codecs.utf_8_decode(data, "surrogateescape" if byte_runs else "replace", False)
        self._unfinished = data[used:]
        return _ESCAPED_BYTE.sub(_BROKEN, text) if byte_runs else text
