"""Runs every step in the engine process itself, on one device. Several devices are left to an executor of their own."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.core.schedule import ModelRunnerOutput, SchedulerOutput
from octavo.executor.protocol import ModelFacts, ProgressCallback
from octavo_api.settings import EngineSettings

if TYPE_CHECKING:
    from octavo.runner.cuda_runner import CudaRunner
    from octavo.runner.model_runner import ModelRunner


_SPINS = "1000"
"""How often a compute thread looks for work before it sleeps: some 50 µs, as long as Python takes from one operation to
the next. OpenMP's default is milliseconds, in which a core that others need too computes nothing."""


class UniprocExecutor:
    """An `Executor` on one runner: the GPU's where there is a GPU, else the CPU's. Imports torch when it loads, not before."""

    def __init__(self, model: Path, settings: EngineSettings) -> None:
        self._model = model
        self._settings = settings
        self._runner: ModelRunner | CudaRunner | None = None

    def load(self, progress: ProgressCallback) -> ModelFacts:
        self._runner = _runner(self._model, self._settings)
        return self._runner.load(progress)

    @property
    def steps_in_flight(self) -> int:
        return self._loaded().steps_in_flight

    def allocate(self, num_blocks: tuple[int, ...]) -> None:
        self._loaded().allocate(num_blocks)

    def begin(self, step: SchedulerOutput) -> None:
        self._loaded().begin(step)

    def finish(self) -> ModelRunnerOutput:
        return self._loaded().finish()

    def shutdown(self) -> None:
        if self._runner is not None:
            self._runner.shutdown()
            self._runner = None

    def _loaded(self) -> "ModelRunner | CudaRunner":
        if self._runner is None:
            raise RuntimeError("the executor has no model yet: load comes first")
        return self._runner


def _runner(model: Path, settings: EngineSettings) -> "ModelRunner | CudaRunner":
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # read when torch loads OpenMP
    import torch  # takes seconds, as do the modules below

    if torch.cuda.is_available():
        from octavo.runner.cuda_runner import CudaRunner

        return CudaRunner(model, settings)
    from octavo.runner.model_runner import ModelRunner

    return ModelRunner(model, settings)
