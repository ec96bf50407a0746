"""Text that tells tokenizers apart: a fixed list, and a hypothesis strategy that mixes its kinds."""

from hypothesis import strategies as st

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "[PAD151700]"),
    *("<bos>", "<eos>", "<pad>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<unused99>", "[multimodal]", "<table>", "<0xE2>", "<s>", "</s>"),
)
"""Special and added tokens of all models; in the others they are text like any other."""

WIDE = (
    "",
    " ",
    "\n",
    "Hello, world!",
    " leading blank, trailing blank ",
    "It's what they'll say, I'd think; WE'RE, they'Ve",
    "0 1 12 123 1234 12345 3.14159 1,000,000 0x1F 1e-9 ½ ² ٣ ४",
    "café naïve Ünïcödé Straße cafe\u0301 e\u0308 \u1e9b\u0323 ﬁ Å",
    "def f(x):\n    return {k: v**2 for k, v in x.items() if v != 0}  # comment\n\n\n\tend;\r\n",
    "if (a && b || !c) { x->y = &z[0]; /* … */ } <<=>>= ::{}();",
    "日本語のテキスト。中文文本，标点！ 한국어 문장입니다.",
    "Привет, мир! Γειά σου Κόσμε שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก",
    "😀 👩‍👩‍👧‍👦 👍🏽 🇩🇪 ❤️ \U0001fae0",
    "a  b   c    d     e      f\t\tg\n\nh\n\n\ni \n j",
    " " * 100,
    "\n" * 40,
    "\t" * 20,
    "x" * 200,
    "ab" * 150,
    "\u00a0nbsp\u2003em\u3000ideographic\u200bzero\ufeffbom\u00ad",
    "\x00\x01\x07\x1b[0m\x7f\x80\x9f",
    "▁ lower block ▁▁two Ġ Ċ Ä",
    "\ufffd replaced \ufffe \U0010ffff \ue000",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "<|im_end|><|im_end|> <|im_end|>\n<|im_end",
    "".join(SPECIAL),
    " ".join(SPECIAL),
)

_RUNS = st.builds(lambda blank, count: blank * count, st.sampled_from(" \n\t"), st.integers(1, 40))
_WORDS = st.sampled_from([word for text in WIDE for word in text.split(" ") if 0 < len(word) < 20])
_CHARACTERS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)

TEXTS = st.lists(st.one_of(_CHARACTERS, _WORDS, _RUNS, st.sampled_from(SPECIAL), st.from_regex(r"[0-9A-Za-z' ]{1,12}", fullmatch=True)), max_size=12).map(
    "".join
)
