"""Weights in a GGUF file under Hugging Face's names and in its layouts.

llama.cpp stores the rows of Llama's queries and keys in another order, and Gemma's norms with one added. Unpacking is
left to `octavo.loader.gguf_unpack`, the configuration to `octavo.loader.gguf_config`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from octavo.loader.gguf_config import ROPE_FACTORS, read_config
from octavo.loader.gguf_file import GgufFile
from octavo.loader.gguf_unpack import NOT_WEIGHTS, stored_dtype, unpacked, unpacked_bytes
from octavo_api.errors import ModelUnavailable

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA3_NAMES = {
    **_NAMES,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


class GgufCheckpoint:
    """A `Checkpoint` on the memory map of a GGUF file."""

    def __init__(self, path: Path) -> None:
        """Raises ModelUnavailable when the file is broken, or holds a model or a packing that is not supported."""
        self._file = GgufFile(path)
        self.config = read_config(self._file)
        self._tensors = [info for name, info in self._file.tensors.items() if name != ROPE_FACTORS]
        for info in self._tensors:
            if info.type.name in NOT_WEIGHTS:
                raise ModelUnavailable("UnsupportedModel", f"{path}: tensor {info.name} is packed as {info.type.name}, which holds no weights")
        self.num_bytes = sum(unpacked_bytes(info) for info in self._tensors)

    @property
    def dtype(self) -> torch.dtype:
        """The widest of the matrices; norms are always stored in float32, whatever the model was trained in."""
        found = {stored_dtype(info) or torch.bfloat16 for info in self._tensors if len(info.shape) > 1}
        return max(found, key=lambda dtype: (dtype.itemsize, dtype == torch.float16), default=torch.bfloat16)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor under its Hugging Face name, packed ones in float32; one that has no such name keeps its own."""
        names = _GEMMA3_NAMES if self.config["model_type"] == "gemma3_text" else _NAMES
        for info, tensor in unpacked(self._file, self._tensors):
            yield _hugging_face_name(info.name, names), self._as_trained(info.name, tensor)

    def _as_trained(self, name: str, tensor: Tensor) -> Tensor:
        if self.config["model_type"] == "llama" and ".attn_q." in name:
            return self._rows_in_order(name, tensor, self.config["num_attention_heads"])
        if self.config["model_type"] == "llama" and ".attn_k." in name:
            return self._rows_in_order(name, tensor, self.config["num_key_value_heads"])
        if self.config["model_type"] == "gemma3_text" and name.endswith("norm.weight"):
            return tensor - 1
        return tensor

    def _rows_in_order(self, name: str, tensor: Tensor, heads: int) -> Tensor:
        """Undoes llama.cpp's order of a head's rows: pairs that rotate together lie together there, half a head apart here."""
        if tensor.shape[0] % (2 * heads):
            raise ModelUnavailable("ModelInvalid", f"{self._file.path}: tensor {name} has {tensor.shape[0]} rows, which do not make {heads} heads")
        return tensor.view(heads, -1, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def _hugging_face_name(name: str, names: Mapping[str, str]) -> str:
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(\w+)", name)
    if found is None or found[2] not in names:
        return name
    layer = "" if found[1] is None else f"model.layers.{found[1]}."
    return f"{layer}{names[found[2]]}.{found[3]}"
