"""One model on one device: loads it, keeps its KV cache and computes the scheduler's steps.

A step: take in what changed, gather the batch, copy shared blocks, forward, sample, append. Which tokens to compute is
the scheduler's, how the layers look is `octavo.models`', how they are computed `octavo.ops`'.
"""

import logging
import time
from collections import deque
from pathlib import Path

import torch

from octavo import _C
from octavo.core.schedule import ModelRunnerOutput, NewRow, ScheduledRow, SchedulerOutput
from octavo.executor.protocol import ModelFacts, ProgressCallback
from octavo.loader.checkpoint import open_checkpoint
from octavo.models.batch import KVCaches
from octavo.models.decoder import Decoder
from octavo.models.registry import CPU, load_model, model_config
from octavo.ops import threads
from octavo.runner.kv_memory import block_bytes, copy_shared_blocks, longest_sequence, make_kv_caches
from octavo.runner.memory import activation_bytes, kv_cache_bytes
from octavo.runner.request_state import RequestState
from octavo.runner.sampler import sample
from octavo.sampling_params import SamplingParams
from octavo_api.settings import BLOCK_SIZE, EngineSettings

CPU_TOKEN_BUDGET = 512

_WARM_UP_TOKENS = 64
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_log = logging.getLogger(__name__)


class ModelRunner:
    """An `Executor` on the CPU, in this process. `load` comes first, then `allocate`, then steps."""

    steps_in_flight = 1

    def __init__(self, model: Path, settings: EngineSettings) -> None:
        self._path = model
        self._settings = settings
        self._budget = settings.max_num_batched_tokens or CPU_TOKEN_BUDGET
        self._model: Decoder | None = None
        self._kv_caches: KVCaches = []
        self._state: RequestState | None = None
        self._outputs: deque[ModelRunnerOutput] = deque()

    @torch.inference_mode()
    def load(self, progress: ProgressCallback) -> ModelFacts:
        """Loads the weights. Raises ModelUnavailable with the cause."""
        started = time.monotonic()
        threads.set_threads(self._settings.cpu_threads or threads.available_cpus())
        checkpoint = open_checkpoint(self._path, self._settings.load_format)
        config = model_config(checkpoint.config)
        self._dtype = _DTYPES.get(self._settings.dtype) or auto_dtype(checkpoint.dtype)
        positions = min(config.max_positions, self._settings.max_model_len or config.max_positions)
        self._model = load_model(checkpoint, self._dtype, positions, progress)
        activations = activation_bytes(config, self._budget, self._settings.max_num_seqs, self._dtype.itemsize)
        facts = ModelFacts(
            groups=self._model.groups,
            block_bytes=tuple(block_bytes(group, self._dtype) for group in self._model.groups),
            kv_bytes=kv_cache_bytes(self._settings, activations),
            max_model_len=config.max_positions,
            max_num_batched_tokens=self._budget,
            vocab_size=config.vocab_size,
            dtype=str(self._dtype).removeprefix("torch."),
        )
        _log.info(
            "loaded %s in %s, %d layers, in %.1f s; %s kernels on %d threads",
            config.architecture,
            facts.dtype,
            config.num_layers,
            time.monotonic() - started,
            _C.level(),
            torch.get_num_threads(),
        )
        return facts

    @torch.inference_mode()
    def allocate(self, num_blocks: tuple[int, ...]) -> None:
        """Makes the KV cache and the rows, and computes once what nobody asked for: first calls are slow."""
        model = self._loaded()
        self._kv_caches = make_kv_caches(model.groups, num_blocks, self._dtype, CPU)
        longest = longest_sequence(model.groups, num_blocks, model.positions)
        self._state = RequestState(self._settings.max_num_seqs, longest, len(model.groups), self._settings.seed)
        self._warm_up()

    @torch.inference_mode()
    def execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Computes one step."""
        state = self._rows()
        state.apply(step)
        if step.copies:
            copy_shared_blocks(step.copies, self._loaded().groups, self._kv_caches)
        gathered = state.gather(step.scheduled)
        logits = self._loaded()(gathered.batch, self._kv_caches)
        if len(gathered.rows) == 0:
            return ModelRunnerOutput(token_ids=[])
        token_ids = sample(logits, state, gathered.rows, gathered.positions)
        state.append(gathered.rows, token_ids)
        return ModelRunnerOutput(token_ids=token_ids.tolist())

    def begin(self, step: SchedulerOutput) -> None:
        """Computes a step, all of it: planning the next one beside it would take from the same cores."""
        self._outputs.append(self.execute(step))

    def finish(self) -> ModelRunnerOutput:
        """What the oldest step that was begun has sampled."""
        return self._outputs.popleft()

    def shutdown(self) -> None:
        """Frees weights, KV cache and rows."""
        self._model = self._state = None
        self._kv_caches = []

    def _warm_up(self) -> None:
        """A prefill and a decode in the null block, whose content nobody reads."""
        prompt = [0] * min(_WARM_UP_TOKENS, self._budget, self._rows().tokens.shape[1] - 1)
        new = NewRow(row=0, request_id="", token_ids=prompt, num_prompt_tokens=len(prompt), sampling=SamplingParams())
        blocks = [[0] * (len(prompt) // BLOCK_SIZE + 1) for _ in self._loaded().groups]
        prefill = ScheduledRow(row=0, start=0, length=len(prompt), samples=True, new_blocks=blocks)
        decode = ScheduledRow(row=0, start=len(prompt), length=1, samples=True, new_blocks=[[] for _ in blocks])
        self.execute(SchedulerOutput(freed=[], new=[new], copies=[], scheduled=[prefill]))
        self.execute(SchedulerOutput(freed=[], new=[], copies=[], scheduled=[decode]))

    def _loaded(self) -> Decoder:
        if self._model is None:
            raise RuntimeError("the runner has no model: load comes first")
        return self._model

    def _rows(self) -> RequestState:
        if self._state is None:
            raise RuntimeError("the runner has no KV cache: allocate comes before steps")
        return self._state


def auto_dtype(stored: torch.dtype) -> torch.dtype:
    """bfloat16 where the chip computes in it and the weights are of 16 bits or fewer, else float32."""
    return torch.bfloat16 if stored.itemsize <= 2 and _C.level().endswith("bf16") else torch.float32
