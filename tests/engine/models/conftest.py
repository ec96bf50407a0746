"""What the model tests share: small random models of every family, an engine in this process, and the judge.

The judge follows an answer token by token with transformers in float32: a token counts as wrong when the reference
likes another one better by more than 1e-3.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from octavo.core.engine_core import EngineCore
from octavo.core.messages import EngineRequest, EngineStats, FromEngine, Shutdown, StepUpdates, ToEngine
from octavo.loader.checkpoint import open_checkpoint
from octavo.models.registry import model_config
from octavo.runner.model_runner import ModelRunner
from octavo.sampling_params import SamplingParams
from octavo_api.settings import EngineSettings

NEAR = 1e-3
ANSWER = 64
"""Tokens of an answer."""

VOCABULARY = 311
WINDOW = 24
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_GEMMA3 = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "sliding_window": WINDOW,
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "pad_token_id": 0,
}

FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_COMMON, rope_parameters=_LLAMA3_ROPE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_COMMON, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_COMMON, head_dim=32)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**{**_COMMON, **_GEMMA3})),
}


class _Stages:
    """An engine's inbox: each stage's requests come when the engine has answered those of the stage before."""

    def __init__(self, stages: list[list[EngineRequest]]) -> None:
        self._stages = stages
        self._now: list[EngineRequest] = []

    def receive(self, wait: bool) -> ToEngine | None:
        if not self._now and wait:
            if not self._stages:
                return Shutdown()
            self._now = self._stages.pop(0)
        return self._now.pop(0) if self._now else None


class Answers:
    """What an engine said: tokens and cached prompt tokens by request, and its last statistics."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.cached: dict[str, int] = {}
        self.stats = EngineStats()

    def take(self, message: FromEngine) -> None:
        if isinstance(message, StepUpdates):
            self.stats = message.stats
            for update in message.updates:
                assert update.finish_reason in (None, "length", "stop"), update
                self.tokens.setdefault(update.request_id, []).extend(update.new_token_ids)
                self.cached[update.request_id] = update.num_cached_tokens


Prompts = dict[str, list[int]]


def run_engine(model: Path, *stages: Prompts, sampling: SamplingParams | None = None, **settings: Any) -> Answers:
    """Answers the prompts of each stage together, one stage after the other, on an engine of its own."""
    sampling = sampling or SamplingParams(temperature=0.0, max_tokens=ANSWER)
    asked = [[EngineRequest(request_id=name, prompt_token_ids=ids, sampling=sampling) for name, ids in stage.items()] for stage in stages]
    whole = EngineSettings(**{"dtype": "float32", "kv_cache_memory_bytes": 64 << 20, "max_num_seqs": 8, "cpu_threads": 1, **settings})
    answers = Answers()
    runner = ModelRunner(model, whole)
    EngineCore(runner, whole, _Stages(asked), answers.take).run()
    runner.shutdown()
    return answers


def judge(reference: PreTrainedModel, prompt: list[int], answer: list[int], near: float = NEAR) -> None:
    """Raises AssertionError at the first token than which the reference likes another one better by more than `near`."""
    assert answer, "there is no answer"
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
    best = logits.max(-1)
    gaps = best.values - logits[torch.arange(len(answer)), torch.tensor(answer)]
    wrong = torch.nonzero(gaps > near)
    if len(wrong):
        at = int(wrong[0])
        raise AssertionError(f"token {at} is {answer[at]}, the reference likes {int(best.indices[at])} better by {gaps[at]:.4f}")


def block_bytes(model: Path) -> int:
    """KV cache bytes of 16 tokens over all layers, in float32."""
    config = model_config(open_checkpoint(model, "auto").config)
    return 2 * 16 * 4 * config.num_layers * config.num_kv_heads * config.head_size


@pytest.fixture(scope="session")
def engine() -> Callable[..., Answers]:
    return run_engine


@pytest.fixture(scope="session")
def follows() -> Callable[..., None]:
    return judge


@pytest.fixture(scope="session")
def kv_blocks() -> Callable[[Path], int]:
    return block_bytes


class Small(tuple[Path, PreTrainedModel]):
    """A random model: its folder, and transformers' model of it."""

    folder = property(lambda self: self[0])
    reference = property(lambda self: self[1])


@pytest.fixture(scope="session")
def make_small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Small]:
    """Makes each family's random model once; Llama's in several shards."""
    made: dict[str, Small] = {}

    def make(family: str) -> Small:
        if family not in made:
            torch.manual_seed(7)
            model = FAMILIES[family]().float().eval()
            with torch.no_grad():  # norms and biases as different from neutral as trained ones
                for name, parameter in model.named_parameters():
                    if parameter.dim() == 1:
                        parameter.add_(torch.randn_like(parameter) * (0.5 if name.endswith("bias") else 0.1))
            folder = tmp_path_factory.mktemp(family)
            model.save_pretrained(folder, max_shard_size="100KB" if family == "llama" else "1GB")
            made[family] = Small((folder, model))
        return made[family]

    return make


@pytest.fixture(scope="session")
def load_reference() -> Callable[[Path], PreTrainedModel]:
    """Transformers' own reading of a GGUF file, in float32."""

    def load(gguf: Path) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()

    return load


@pytest.fixture(autouse=True, scope="session")
def quiet_transformers() -> None:
    transformers.logging.disable_progress_bar()
