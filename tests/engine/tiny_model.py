"""A Llama of random weights, as a folder with a config.json: quick to load, with the vocabulary of SmolLM2's tokenizer."""

import json
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 49152,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}


def write(folder: Path, generation_config: dict[str, object] | None = None) -> Path:
    """To be loaded with load_format=dummy."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if generation_config is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation_config))
    return folder
