"""One model on one GPU: loads it, keeps its KV cache and computes the scheduler's steps, each begun before the one
before it is known.

A step that only decodes is one CUDA graph, from the gathering of the batch to the sampler; graphs are captured when a
batch size first comes. Everything else runs kernel by kernel. The CPU's runner is `model_runner`.
"""

import logging
import time
from collections import deque
from pathlib import Path

import torch
from msgspec import Struct
from torch import Tensor

from octavo.core.schedule import ModelRunnerOutput, ScheduledRow, SchedulerOutput
from octavo.executor.protocol import ModelFacts, ProgressCallback
from octavo.loader.checkpoint import open_checkpoint
from octavo.models.batch import KVCaches
from octavo.models.decoder import Decoder
from octavo.models.registry import load_model, model_config
from octavo.ops import dispatch
from octavo.ops.paged_attention import CUDA_HEAD_SIZES
from octavo.runner.device_state import DeviceState
from octavo.runner.kv_memory import block_bytes, copy_shared_blocks, longest_sequence, make_kv_caches
from octavo.runner.memory import activation_bytes
from octavo_api.errors import InvalidSetting, ModelUnavailable
from octavo_api.settings import EngineSettings

TOKEN_BUDGET = 8192
STEPS_IN_FLIGHT = 2
GRAPH_BYTES = 1 << 30
"""Device memory kept for CUDA graphs and the libraries' workspaces."""

_log = logging.getLogger(__name__)


class _Begun(Struct):
    """A step on its way: its sampled ids in pinned memory, there once `done`."""

    token_ids: Tensor
    count: int
    done: torch.cuda.Event


class CudaRunner:
    """An `Executor` on the current GPU. `load` comes first, then `allocate`, then steps."""

    steps_in_flight = STEPS_IN_FLIGHT

    def __init__(self, model: Path, settings: EngineSettings) -> None:
        self._path = model
        self._settings = settings
        self._budget = settings.max_num_batched_tokens or TOKEN_BUDGET
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._model: Decoder | None = None
        self._kv_caches: KVCaches = []
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._begun: deque[_Begun] = deque()
        self._free: list[Tensor] = []

    @torch.inference_mode()
    def load(self, progress: ProgressCallback) -> ModelFacts:
        """Loads the weights. Raises ModelUnavailable with the cause, InvalidSetting for a dtype without kernels."""
        started = time.monotonic()
        name, capability = torch.cuda.get_device_name(self._device), torch.cuda.get_device_capability(self._device)
        if capability != (9, 0):
            raise ModelUnavailable(
                "UnsupportedDevice", f"{name} has compute capability {capability[0]}.{capability[1]}; the GPU's kernels are for 9.0 (H100, H200)"
            )
        if self._settings.dtype == "float32":
            raise InvalidSetting("dtype: is float32, must be auto or bfloat16 on a GPU")
        if not dispatch.HAS_CUDA:
            raise ModelUnavailable(
                "UnsupportedDevice", f"there is a GPU, {name}, but octavo was built without nvcc; build it with one, or hide the GPU: CUDA_VISIBLE_DEVICES="
            )
        checkpoint = open_checkpoint(self._path, self._settings.load_format)
        config = model_config(checkpoint.config)
        if config.head_size not in CUDA_HEAD_SIZES:
            raise ModelUnavailable(
                "UnsupportedModel", f"heads have {config.head_size} components; the GPU's kernels are for {', '.join(map(str, CUDA_HEAD_SIZES))}"
            )
        positions = min(config.max_positions, self._settings.max_model_len or config.max_positions)
        self._model = load_model(checkpoint, torch.bfloat16, positions, progress, self._device)
        self._query_heads, self._vocabulary = config.num_heads, config.vocab_size
        activations = activation_bytes(config, self._budget, self._settings.max_num_seqs, 2)
        _log.info("loaded %s in bfloat16, %d layers, on %s in %.1f s", config.architecture, config.num_layers, name, time.monotonic() - started)
        return ModelFacts(
            groups=self._model.groups,
            block_bytes=tuple(block_bytes(group, torch.bfloat16) for group in self._model.groups),
            kv_bytes=self._kv_bytes(activations),
            max_model_len=config.max_positions,
            max_num_batched_tokens=self._budget,
            vocab_size=config.vocab_size,
            dtype="bfloat16",
        )

    @torch.inference_mode()
    def allocate(self, num_blocks: tuple[int, ...]) -> None:
        """Makes the KV cache, the rows and the first graph."""
        model = self._loaded()
        self._kv_caches = make_kv_caches(model.groups, num_blocks, torch.bfloat16, self._device)
        longest = longest_sequence(model.groups, num_blocks, model.positions)
        sizes = (self._settings.max_num_seqs, longest, max(self._budget, self._settings.max_num_seqs))
        self._state = DeviceState(sizes, model.groups, self._query_heads, self._settings.seed, self._device)
        self._free = [torch.zeros(self._settings.max_num_seqs, dtype=torch.int32, pin_memory=True) for _ in range(STEPS_IN_FLIGHT + 1)]
        self._state.send(SchedulerOutput(freed=[], new=[], copies=[], scheduled=[]), [], [], 1)
        if self._settings.enforce_eager:
            self._compute(1, 1, 1, 1)
        else:
            self._graph(1)
        torch.cuda.synchronize(self._device)

    @torch.inference_mode()
    def begin(self, step: SchedulerOutput) -> None:
        """Puts a step on its way."""
        shares = step.scheduled
        decodes = sum(share.length == 1 for share in shares)
        batch, samples = (shares, [at for at, share in enumerate(shares) if share.samples]) if decodes == len(shares) else decodes_first(shares)
        alike = decodes == len(shares) == len(samples) and not self._settings.enforce_eager
        padded = graph_size(len(shares), self._settings.max_num_seqs) if alike else len(shares)
        self._state.send(step, batch, samples, padded)
        if step.copies:
            copy_shared_blocks(step.copies, self._loaded().groups, self._kv_caches)
        if alike:
            self._graph(padded).replay()
        else:
            self._compute(len(batch), sum(share.length for share in batch), decodes, len(samples))
        self._answer(len(samples))

    def finish(self) -> ModelRunnerOutput:
        """Waits for the oldest step on its way."""
        begun = self._begun.popleft()
        begun.done.synchronize()
        token_ids = begun.token_ids[: begun.count].tolist()
        self._free.append(begun.token_ids)
        return ModelRunnerOutput(token_ids=token_ids)

    def shutdown(self) -> None:
        """Frees weights, KV cache, rows and graphs."""
        self._graphs.clear()
        self._model = None
        self._kv_caches = []

    def _compute(self, sequences: int, tokens: int, decodes: int, samples: int) -> None:
        batch = self._state.gather(sequences, tokens, decodes, samples)
        logits = self._loaded()(batch, self._kv_caches)
        if samples:
            self._state.sample(logits)

    def _graph(self, size: int) -> torch.cuda.CUDAGraph:
        """The graph of a decode of `size` sequences, captured when it is first asked for."""
        if size not in self._graphs:
            started = time.monotonic()
            side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream(self._device))
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.stream(side):
                if not self._graphs:
                    self._compute(size, size, size, size)  # libraries make their handles and workspaces
                pool = next(iter(self._graphs.values())).pool() if self._graphs else None
                with torch.cuda.graph(graph, pool=pool, stream=side):
                    self._compute(size, size, size, size)
            torch.cuda.current_stream(self._device).wait_stream(side)
            self._graphs[size] = graph
            _log.debug("captured the decode of %d sequences in %.0f ms", size, 1e3 * (time.monotonic() - started))
        return self._graphs[size]

    def _answer(self, count: int) -> None:
        token_ids = self._free.pop()
        token_ids[:count].copy_(self._state.token_ids[:count], non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        self._begun.append(_Begun(token_ids=token_ids, count=count, done=done))

    def _kv_bytes(self, activations: int) -> int:
        """What was asked for, else what `gpu_memory_utilization` leaves after what is used and what a step needs."""
        if self._settings.kv_cache_memory_bytes is not None:
            return self._settings.kv_cache_memory_bytes
        free, total = torch.cuda.mem_get_info(self._device)
        return max(0, int(total * self._settings.gpu_memory_utilization) - (total - free) - activations - GRAPH_BYTES)

    def _loaded(self) -> Decoder:
        if self._model is None:
            raise RuntimeError("the runner has no model: load comes first")
        return self._model


def decodes_first(shares: list[ScheduledRow]) -> tuple[list[ScheduledRow], list[int]]:
    """The shares in the order in which attention computes them, those with one token first, and where in it those are
    that sample, in the order of `shares`."""
    order = sorted(range(len(shares)), key=lambda index: shares[index].length > 1)
    place = {index: at for at, index in enumerate(order)}
    return [shares[index] for index in order], [place[index] for index, share in enumerate(shares) if share.samples]


def graph_size(sequences: int, most: int) -> int:
    """Sequences that the graph for so many computes: each number up to 8, then every 8th, from 256 every 32nd."""
    step = 1 if sequences <= 8 else 8 if sequences <= 256 else 32
    return min(-(-sequences // step) * step, most)
