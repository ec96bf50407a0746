"""A block's hash names its content: tokens, everything before them, the adapter and the tenant; nothing else collides with it."""

from hypothesis import assume, given
from hypothesis import strategies as st

from octavo_api.block_hash import HASH_BYTES, block_hash

tokens = st.lists(st.integers(0, 2**32 - 1), max_size=16)
texts = st.text(max_size=8)


def chain(sequence: list[int], size: int, **domain: str) -> list[bytes]:
    """Hashes of the full blocks of `sequence`, in order."""
    found = [b""]
    for start in range(0, len(sequence) - size + 1, size):
        found.append(block_hash(found[-1], sequence[start : start + size], **domain))
    return found[1:]


@given(tokens, texts, texts)
def test_equal_content_has_equal_hashes(block: list[int], adapter: str, salt: str) -> None:
    one = block_hash(b"", block, adapter, salt)
    assert one == block_hash(b"", tuple(block), adapter, salt)
    assert len(one) == HASH_BYTES


@given(tokens, tokens)
def test_other_tokens_have_another_hash(one: list[int], other: list[int]) -> None:
    assume(one != other)
    assert block_hash(b"", one) != block_hash(b"", other)


@given(st.lists(st.integers(0, 99), min_size=8, max_size=24), st.data())
def test_a_change_is_seen_in_every_later_block_and_in_no_earlier_one(sequence: list[int], data: st.DataObject) -> None:
    changed = data.draw(st.integers(0, len(sequence) // 4 * 4 - 1))
    other = [token + 1 if place == changed else token for place, token in enumerate(sequence)]
    pairs = list(zip(chain(sequence, 4), chain(other, 4), strict=True))
    assert [one == two for one, two in pairs] == [block < changed // 4 for block in range(len(pairs))]


@given(tokens, st.tuples(texts, texts), st.tuples(texts, texts))
def test_adapters_and_tenants_share_nothing(block: list[int], one: tuple[str, str], other: tuple[str, str]) -> None:
    """Nor can a name be moved from one field to the next: ("ab", "c") is not ("a", "bc")."""
    assume(one != other)
    assert block_hash(b"", block, *one) != block_hash(b"", block, *other)


@given(tokens)
def test_bytes_of_tokens_cannot_pose_as_a_parent(block: list[int]) -> None:
    raw = b"".join(token.to_bytes(4, "little") for token in block)
    assume(raw)
    assert block_hash(raw, []) != block_hash(b"", block)


def test_the_hash_is_fixed() -> None:
    """Replicas of different versions share caches and routes by it: a change here is a change of the protocol."""
    assert block_hash(b"", range(16)).hex() == "faae747905eeecf1c86044b9698b39fd"
    assert block_hash(block_hash(b"", range(16)), range(16), "adapter", "salt").hex() == "d723dc6efe4b42a3738a4068ce2699c4"
