"""What a model's own files say about sampling: defaults of the parameters and the tokens that end an answer.

A GGUF file says nothing here beyond what its tokenizer knows.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo.sampling_params import SamplingParams
from octavo_api.errors import InvalidSetting, ModelUnavailable

_PARAMETERS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def read_config(model: Path, name: str) -> dict[str, Any]:
    """A JSON object of a model folder; empty when there is no such file, as beside a GGUF file.

    Raises:
        ModelUnavailable: the file is there and is no JSON object.
    """
    path = model / name
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ModelUnavailable("ModelInvalid", f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelUnavailable("ModelInvalid", f"{path}: must be a JSON object, is {type(config).__name__}")
    return config


def sampling_defaults(generation_config: Mapping[str, Any]) -> SamplingParams:
    """The sampling parameters of generation_config.json; what it leaves out is neutral.

    Raises:
        ModelUnavailable: a value is out of bounds.
    """
    given = {name: generation_config[name] for name in _PARAMETERS if generation_config.get(name) is not None}
    try:
        return SamplingParams(**given)
    except (InvalidSetting, TypeError) as error:
        raise ModelUnavailable("ModelInvalid", f"generation_config.json: {error}; generation_config=vllm does without it") from error


def eos_token_ids(*configs: Mapping[str, Any]) -> tuple[int, ...]:
    """`eos_token_id` of each config, a number or a list of them, in order and once each."""
    ids: dict[int, None] = {}
    for config in configs:
        found = config.get("eos_token_id")
        ids.update(dict.fromkeys(found if isinstance(found, list) else [] if found is None else [found]))
    return tuple(ids)
