"""An answer's text, token by token, is the whole answer's, never cut within a character, and ends at a stop string."""

import itertools
import statistics
import time

import pytest
import tokenizers
from corpora import TEXTS, WIDE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models
from transformers.convert_slow_tokenizer import bytes_to_unicode

from octavo.sampling_params import SamplingParams
from octavo.text.detokenizer import Detokenizer
from octavo.text.source import TokenizerSource
from octavo.text.tokenizer import Tokenizer

many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def of_sentence_piece(*steps: decoders.Decoder) -> Tokenizer:
    """Ids 0–255 are bytes, then come words; `</s>`, the last, is special."""
    tokens = [*BYTE_TOKENS, "▁", "▁▁", "▁Hello", "world", "é", "▁日本", "</s>"]
    backend = tokenizers.Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[], byte_fallback=True))
    backend.add_special_tokens(["</s>"])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *steps])
    return Tokenizer(TokenizerSource(backend, {}, (), {}))


def of_bytes() -> Tokenizer:
    """Ids 0–255 are bytes in GPT-2's alphabet."""
    backend = tokenizers.Tokenizer(models.BPE(vocab={character: byte for byte, character in bytes_to_unicode().items()}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(TokenizerSource(backend, {}, (), {}))


def of_words(decoder: decoders.Decoder | None) -> Tokenizer:
    """Ids 0–5 are words; `</s>`, the last, is special."""
    tokens = ["▁", "▁▁a", "▁b▁", "c", "▁d", "</s>"]
    backend = tokenizers.Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="c"))
    backend.add_special_tokens(["</s>"])
    if decoder is not None:
        backend.decoder = decoder
    return Tokenizer(TokenizerSource(backend, {}, (), {}))


WORDS = {
    "none": of_words(None),
    "metaspace": of_words(decoders.Metaspace()),
    "metaspace, no blank at first": of_words(decoders.Metaspace(prepend_scheme="never")),
    "in a sequence": of_words(decoders.Sequence([decoders.Metaspace()])),
    "replace": of_words(decoders.Replace("▁", "__")),
}
TOKENIZERS = {"llama": of_sentence_piece(decoders.Strip(" ", 1, 0)), "gemma": of_sentence_piece(), "bytes": of_bytes()}
IDS = st.lists(st.integers(0, 262), max_size=16) | st.lists(st.sampled_from([0x20, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 256, 258, 262]), max_size=16)


def split(ids: list[int], cuts: list[int]) -> list[list[int]]:
    """The ids in pushes, some of them empty."""
    ends = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    return [ids[begin:end] for begin, end in itertools.pairwise(ends)]


def said(tokenizer: Tokenizer, prompt: list[int], pushes: list[list[int]], **sampling) -> tuple[str, str | None]:
    """What the answer says, and the stop string that ended it."""
    detokenizer = Detokenizer(tokenizer, prompt, SamplingParams(max_tokens=None, **sampling))
    texts = []
    for push in pushes:
        texts.append(detokenizer.push(push))
        if detokenizer.stopped is not None:
            return "".join(texts), detokenizer.stopped
    return "".join(texts) + detokenizer.flush(), None


@many
@pytest.mark.parametrize("kind", TOKENIZERS)
@given(ids=IDS, cuts=st.lists(st.integers(0, 20), max_size=6), skip=st.booleans())
def test_pushes_of_any_tokens_add_up_to_the_whole(kind, ids, cuts, skip):
    tokenizer = TOKENIZERS[kind]
    text, _ = said(tokenizer, [], split(ids, cuts), skip_special_tokens=skip)
    assert text == tokenizer.decode(ids, skip_special_tokens=skip)


WHOLE = st.lists(
    st.sampled_from([[0x20], [0x0A], [0x41], [0xE2, 0x82, 0xAC], [0xF0, 0x9F, 0x98, 0x80], *([token] for token in range(256, 263))]), max_size=12
).map(lambda characters: [token for character in characters for token in character])


@many
@pytest.mark.parametrize("kind", ["llama", "gemma"])
@given(ids=WHOLE, skip=st.booleans())
def test_whole_characters_decode_as_in_tokenizers(kind, ids, skip):
    assert TOKENIZERS[kind].decode(ids, skip_special_tokens=skip) == TOKENIZERS[kind]._backend.decode(ids, skip_special_tokens=skip)


@many
@given(ids=st.lists(st.integers(0, 300), max_size=16))
def test_bytes_decode_as_in_tokenizers(ids):
    assert TOKENIZERS["bytes"].decode(ids) == TOKENIZERS["bytes"]._backend.decode(ids)


@many
@pytest.mark.parametrize("decoder", WORDS)
@given(ids=st.lists(st.integers(0, 7), max_size=8), skip=st.booleans())
def test_words_decode_as_in_tokenizers(decoder, ids, skip):
    tokenizer = WORDS[decoder]
    whole = tokenizer._backend.decode(ids, skip_special_tokens=skip)
    assert tokenizer.decode(ids, skip_special_tokens=skip) == whole
    assert said(tokenizer, [], [[token] for token in ids], skip_special_tokens=skip)[0] == whole


@many
@pytest.mark.parametrize("kind", TOKENIZERS)
@given(prompt=IDS, ids=IDS)
def test_an_answer_goes_on_where_the_prompt_ends(kind, prompt, ids):
    """Prompt and answer together are the text of all tokens: the blank before a first word is kept, and a character that
    the prompt began is the answer's."""
    tokenizer = TOKENIZERS[kind]
    before = Detokenizer(tokenizer, [], SamplingParams()).push(prompt)
    text, _ = said(tokenizer, prompt, [[token] for token in ids])
    assert before + text == tokenizer.decode(prompt + ids)


def test_the_blank_before_a_word():
    hello, special = 258, 262
    tokenizer = TOKENIZERS["llama"]
    assert said(tokenizer, [hello], [[hello]]) == (" Hello", None)
    assert said(tokenizer, [], [[hello], [hello]]) == ("Hello Hello", None)
    assert said(tokenizer, [special], [[hello]]) == ("Hello", None), "a prompt without text begins none"
    assert said(TOKENIZERS["gemma"], [], [[hello]]) == (" Hello", None)


@many
@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.text(max_size=20))
def test_a_character_is_said_when_its_last_byte_comes(kind, text):
    detokenizer = Detokenizer(TOKENIZERS[kind], [ord("a")], SamplingParams())
    pushes = [detokenizer.push([token]) for token in text.encode()]
    assert [push for push in pushes if push] == list(text)
    assert detokenizer.flush() == ""


@many
@given(
    data=st.binary(max_size=24) | st.lists(st.sampled_from([b"\xe2", b"\x82", b"\xac", b"\xf0\x9f", b"\x98", b"a", b"\xed\xa0\x80"]), max_size=10).map(b"".join)
)
def test_broken_bytes_are_replaced_as_each_library_does(data):
    """By GPT-2's kind a cut character is replaced, by SentencePiece's each broken byte; whole characters are kept."""
    assert said(TOKENIZERS["bytes"], [], [[byte] for byte in data])[0] == data.decode(errors="replace")
    assert said(TOKENIZERS["gemma"], [], [[byte] for byte in data])[0] == _as_sentence_piece(data)


def _as_sentence_piece(data: bytes) -> str:
    text = ""
    while data:
        for length in (1, 2, 3, 4):
            try:
                text, data = text + data[:length].decode(), data[length:]
                break
            except UnicodeDecodeError:
                pass
        else:
            text, data = text + "\ufffd", data[1:]
    return text


def test_the_stop_string_ends_an_answer_across_tokens():
    tokenizer = TOKENIZERS["gemma"]
    pushes = [[token] for token in b"so far STOP and on"]
    assert said(tokenizer, [], pushes, stop=("STOP",)) == ("so far ", "STOP")
    assert said(tokenizer, [], pushes, stop=("STOP",), include_stop_str_in_output=True) == ("so far STOP", "STOP")
    assert said(tokenizer, [], pushes, stop=("STOPS",)) == ("so far STOP and on", None)
    assert said(tokenizer, [], [list(b"a STOP b")], stop=("STOP",)) == ("a ", "STOP"), "what comes after it in the same push is not said"


def test_nothing_is_said_after_a_stop_string():
    detokenizer = Detokenizer(TOKENIZERS["gemma"], [], SamplingParams(stop=("b",)))
    assert detokenizer.push(list(b"abc")) == "a"
    assert detokenizer.push(list(b"def")) == ""
    assert detokenizer.flush() == ""
    assert detokenizer.stopped == "b"


def test_what_may_become_a_stop_string_is_held_back_until_the_end():
    detokenizer = Detokenizer(TOKENIZERS["gemma"], [], SamplingParams(stop=("</end>",)))
    assert [detokenizer.push([byte]) for byte in b"a</en"] == ["a", "", "", "", ""]
    assert detokenizer.flush() == "</en"


@pytest.mark.parametrize(("min_tokens", "text"), [(0, "a"), (2, "a"), (3, "aba"), (4, "aba"), (5, "abab!")])
def test_a_stop_string_complete_before_min_tokens_does_not_stop(min_tokens, text):
    pushes = [[token] for token in b"abab!"]
    for cut in (pushes, [list(b"abab!")], [list(b"aba"), list(b"b!")]):
        assert said(TOKENIZERS["gemma"], [], cut, stop=("b",), min_tokens=min_tokens)[0] == text


@many
@pytest.mark.parametrize("kind", TOKENIZERS)
@given(
    ids=IDS,
    cuts=st.lists(st.integers(0, 20), max_size=6),
    stops=st.lists(st.text("€ Hw\ufffd", min_size=1, max_size=3), min_size=1, max_size=3),
    keep=st.booleans(),
)
def test_stop_strings_against_the_whole_text(kind, ids, cuts, stops, keep):
    tokenizer = TOKENIZERS[kind]
    unfinished = Detokenizer(tokenizer, [], SamplingParams())
    whole, rest = unfinished.push(ids), unfinished.flush()
    ends = sorted((whole.index(stop) + len(stop), -len(stop)) for stop in stops if stop in whole)
    text, stopped = said(tokenizer, [], split(ids, cuts), stop=tuple(stops), include_stop_str_in_output=keep)
    if not ends:
        assert (text, stopped) == (whole + rest, None)
    else:
        end, length = ends[0]
        assert (text, stopped) == (whole[: end if keep else end + length], whole[end + length : end])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smollm2", "qwen2_coder", "gemma3_270m"])
class TestRealModels:
    @many
    @given(data=st.data(), cuts=st.lists(st.integers(0, 40), max_size=8), skip=st.booleans())
    def test_pushes_of_any_tokens_add_up_to_the_whole(self, model, data, cuts, skip, real_tokenizer):
        tokenizer = real_tokenizer(model)
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 100), max_size=40))
        assert said(tokenizer, [], split(ids, cuts), skip_special_tokens=skip)[0] == tokenizer.decode(ids, skip_special_tokens=skip)

    @many
    @given(prompt=TEXTS, answer=TEXTS)
    def test_text_goes_on_where_the_prompt_ends(self, model, prompt, answer, real_tokenizer):
        tokenizer = real_tokenizer(model)
        before = tokenizer.encode(prompt)
        ids = tokenizer.encode(answer, add_special_tokens=False)
        text = said(tokenizer, before, [[token] for token in ids], skip_special_tokens=False)[0]
        assert tokenizer.decode(before, skip_special_tokens=False) + text == tokenizer.decode(before + ids, skip_special_tokens=False)

    @many
    @given(text=TEXTS, data=st.data())
    def test_a_stop_string_taken_from_the_answer_ends_it(self, model, text, data, real_tokenizer):
        tokenizer = real_tokenizer(model)
        ids = tokenizer.encode(text, add_special_tokens=False)
        whole = tokenizer.decode(ids)
        begin = data.draw(st.integers(0, len(whole)))
        stop = whole[begin : begin + data.draw(st.integers(1, 10))]
        if stop and "\ufffd" not in stop:
            assert said(tokenizer, [], [[token] for token in ids], stop=(stop,)) == (whole[: whole.index(stop)], stop)

    def test_a_token_costs_microseconds_however_long_the_answer(self, model, real_tokenizer):
        """0.4 µs a token, 0.8 µs with stop strings; far more passes, for slow and busy machines."""
        tokenizer = real_tokenizer(model)
        ids = (tokenizer.encode("\n".join(WIDE[:13]), add_special_tokens=False) * 200)[:40_000]
        for sampling, bound in ((SamplingParams(), 12e-6), (SamplingParams(stop=("never said", "\n\nQ:")), 40e-6)):
            detokenizer = Detokenizer(tokenizer, ids[:100], sampling)
            quarters = []
            for quarter in range(4):
                begin = time.process_time()
                for token in ids[quarter * 10_000 : (quarter + 1) * 10_000]:
                    detokenizer.push([token])
                quarters.append((time.process_time() - begin) / 10_000)
            print(f"{model}: {statistics.median(quarters) * 1e6:.2f} µs a token, {len(sampling.stop)} stop strings")
            assert detokenizer.stopped is None
            assert max(quarters) < bound
