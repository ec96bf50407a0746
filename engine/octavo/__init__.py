"""Octavo's engine: paged KV memory, continuous batching, an OpenAI-compatible server.

What users import is here and loads on first use, so that `import octavo` stays fast and needs no torch.
"""

from typing import TYPE_CHECKING, Any

from octavo_api import __version__

if TYPE_CHECKING:
    from octavo.async_llm import AsyncLLMEngine
    from octavo.llm import LLM
    from octavo.outputs import CompletionOutput, RequestOutput
    from octavo.sampling_params import SamplingParams

_HOMES = {
    "LLM": "octavo.llm",
    "AsyncLLMEngine": "octavo.async_llm",
    "SamplingParams": "octavo.sampling_params",
    "RequestOutput": "octavo.outputs",
    "CompletionOutput": "octavo.outputs",
}

__all__ = ["LLM", "AsyncLLMEngine", "CompletionOutput", "RequestOutput", "SamplingParams", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'octavo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
