"""What a tokenizer promises whatever it was made of: threads, odd text, no torch, quick."""

import subprocess
import sys
import threading
import time

import pytest

from octavo_api.errors import InvalidSetting


def test_half_of_a_surrogate_pair_is_the_clients_error(gguf_tokenizer):
    tokenizer = gguf_tokenizer("llama", model="gpt2", tokens=["a", "b", "ab"], merges=["a b"])
    with pytest.raises(InvalidSetting, match=r"prompt: has half of a surrogate pair, '\\ud83d', at character 2"):
        tokenizer.encode("ab\ud83d")


def test_the_api_process_gets_no_torch_with_a_tokenizer():
    code = "import sys, octavo.text.tokenizer, octavo.text.detokenizer; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_a_long_text_is_encoded_beside_other_threads(real_tokenizer):
    """While 30,000 tokens and more are made in one thread, another goes on: `tokenizers` would stop it in `encode`."""
    tokenizer, done = real_tokenizer("qwen2_coder"), threading.Event()
    text = "def area(radius):\n    return 3.14159 * radius ** 2  # für Kreise\n" * 4000
    encoding = threading.Thread(target=lambda: (tokenizer.encode(text), done.set()))
    begin = time.perf_counter()
    encoding.start()
    turns = 0
    while not done.is_set():
        time.sleep(0.001)
        turns += 1
    took = time.perf_counter() - begin
    encoding.join()
    ids = tokenizer.encode(text)
    print(f"{len(ids)} tokens in {took * 1e3:.0f} ms, {turns} turns of the other thread")
    assert len(ids) > 30_000
    assert turns > 10


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smollm2", "qwen2_coder", "gemma3_270m"])
@pytest.mark.parametrize("text", ["a" * 200_000, " " * 200_000 + "x", "0" * 200_000, "日" * 60_000, "\n" * 200_000, "ab " * 70_000], ids=lambda text: text[:3])
def test_monotonous_text_takes_no_longer(model, text, real_tokenizer):
    begin = time.process_time()
    assert real_tokenizer(model).encode(text)
    assert time.process_time() - begin < 5
