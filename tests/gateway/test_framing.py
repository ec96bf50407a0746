"""Where bodies end, however they are cut into reads."""

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_gateway.framing import MORE, BadFraming, Chunked, Sized, UntilClose


def feed_in_pieces(framing, data, cuts):
    """Feeds data cut at the given places; returns the payload and how much of the data belonged to the body."""
    payload, done = [], 0
    edges = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    for begin, end in pairwise(edges):
        found = framing.feed(data[begin:end], 0, payload)
        if found != MORE:
            return b"".join(payload), begin + found
        done = end
    return b"".join(payload), MORE if done == len(data) else done


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    st.binary(max_size=20),
    st.lists(st.integers(0, 1000), max_size=8),
    st.sampled_from(["", ";a=b", " ;x"]),
)
def test_chunked_bodies_end_where_they_end(chunks, rest, cuts, extension):
    encoded = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension.encode(), chunk) for chunk in chunks) + b"0\r\nX: y\r\n\r\n"
    assert feed_in_pieces(Chunked(), encoded + rest, cuts) == (b"".join(chunks), len(encoded))


@given(st.binary(max_size=60), st.integers(0, 60), st.lists(st.integers(0, 1000), max_size=5))
def test_sized_bodies_end_where_they_end(data, length, cuts):
    if length == 0:
        assert Sized(0).feed(data) == 0
        return
    payload, end = feed_in_pieces(Sized(length), data, cuts)
    assert payload == data[:length]
    assert end == (length if length <= len(data) else MORE)


@given(st.binary(max_size=200), st.lists(st.integers(0, 1000), max_size=5))
def test_no_bytes_break_the_chunk_reader(data, cuts):
    with suppress(BadFraming):
        feed_in_pieces(Chunked(), data, cuts)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"g\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"1_0\r\n",
        b"1\n",
        b"1\r\nab\r\n",
        b"1;\x00\r\n",
        b"0\r\nX: y\n",
        b"1" * 16 + b"\r\n",
        b"1;" + b"x" * 5000,
    ],
)
def test_bad_chunks(data):
    with pytest.raises(BadFraming):
        Chunked().feed(data)


def test_trailers_are_bounded():
    framing = Chunked()
    with pytest.raises(BadFraming, match="trailers"):
        framing.feed(b"0\r\n" + b"X: y\r\n" * 3000)


def test_a_chunk_of_ours_fits_between_chunks_only():
    framing = Chunked()
    seen = [framing.between_chunks]
    for piece in (b"3", b"\r\n", b"ab", b"c", b"\r", b"\n", b"0\r\n", b"\r\n"):
        framing.feed(piece)
        seen.append(framing.between_chunks)
    assert seen == [True, False, False, False, False, False, True, False, False]
    assert not Sized(3).between_chunks


def test_the_rest_of_a_connection():
    payload = []
    framing = UntilClose()
    assert framing.feed(b"ab", 0, payload) == framing.feed(b"cd", 1, payload) == MORE
    assert (b"".join(payload), framing.ends_with_connection) == (b"abd", True)
