"""A text that grows ends at the first stop string that gets complete, however it is cut into pieces."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from octavo.text.stop_strings import StopStrings


def naive(text: str, stops: list[str], *, keep: bool) -> tuple[str, str | None]:
    """What is left of a whole text, and why: tries every beginning of it."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end if keep else end - len(longest)], longest
    return text, None


PIECES = st.lists(st.text("abc", max_size=6), max_size=12)
STOPS = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=3)


@given(pieces=PIECES, stops=STOPS, keep=st.booleans())
@example(pieces=["a", "ab"], stops=["ab"], keep=False)
@example(pieces=["abab", "abac"], stops=["ababac"], keep=False)
@example(pieces=["abc"], stops=["bc", "c", "abcd"], keep=False)
def test_pieces_end_where_the_whole_text_does(pieces, stops, keep):
    followed = StopStrings(stops, keep=keep)
    texts = []
    for piece in pieces:
        texts.append(followed.push(piece))
        if followed.found is not None:
            break
    else:
        texts.append(followed.flush())
    assert ("".join(texts), followed.found) == naive("".join(pieces), stops, keep=keep)


@given(pieces=PIECES, stops=STOPS)
def test_no_more_is_held_back_than_may_become_a_stop_string(pieces, stops):
    followed = StopStrings(stops, keep=False)
    text = out = ""
    for piece in pieces:
        text += piece
        out += followed.push(piece)
        if followed.found is not None:
            return
        held = text[len(out) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


@given(before=PIECES, after=PIECES, stops=STOPS)
def test_unarmed_a_stop_string_is_text_but_one_that_it_begins_ends_the_text(before, after, stops):
    followed = StopStrings(stops, keep=True)
    out = "".join([followed.push(piece, armed=False) for piece in before])
    assert followed.found is None
    for piece in after:
        if followed.found is None:
            out += followed.push(piece)
    whole, unarmed = "".join(before + after), len("".join(before))
    ends = [end for end in range(unarmed + 1, len(whole) + 1) if whole[:end].endswith(tuple(stops))]
    assert out + followed.flush() == whole[: ends[0] if ends else len(whole)]
    assert (followed.found is not None) == bool(ends)


@pytest.mark.parametrize("stop", ["a" * 20_000 + "b", "ab" * 10_000 + "b"])
def test_a_long_stop_string_that_repeats_itself_costs_no_more(stop):
    """Looked for naively this takes minutes: 20,000 characters are compared at each of as many tokens."""
    followed = StopStrings([stop], keep=False)
    begin = time.process_time()
    held = "".join(followed.push(stop[index % 2]) for index in range(20_000))
    assert followed.found is None
    assert held + followed.flush() == "".join(stop[index % 2] for index in range(20_000))
    assert time.process_time() - begin < 5
