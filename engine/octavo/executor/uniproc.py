"""Runs every step in the engine process itself, on one device. Several devices are left to an executor of their own."""

from pathlib import Path
from typing import TYPE_CHECKING

from octavo.core.schedule import ModelRunnerOutput, SchedulerOutput
from octavo.executor.protocol import ModelFacts, ProgressCallback
from octavo_api.settings import EngineSettings

if TYPE_CHECKING:
    from octavo.runner.model_runner import ModelRunner


class UniprocExecutor:
    """An `Executor` on one `ModelRunner`. Imports torch when it loads, not before."""

    def __init__(self, model: Path, settings: EngineSettings) -> None:
        self._model = model
        self._settings = settings
        self._runner: ModelRunner | None = None

    def load(self, progress: ProgressCallback) -> ModelFacts:
        from octavo.runner.model_runner import ModelRunner  # torch takes seconds to import

        self._runner = ModelRunner(self._model, self._settings)
        return self._runner.load(progress)

    def allocate(self, num_blocks: tuple[int, ...]) -> None:
        self._loaded().allocate(num_blocks)

    def execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        return self._loaded().execute(step)

    def shutdown(self) -> None:
        if self._runner is not None:
            self._runner.shutdown()
            self._runner = None

    def _loaded(self) -> "ModelRunner":
        if self._runner is None:
            raise RuntimeError("the executor has no model yet: load comes first")
        return self._runner
