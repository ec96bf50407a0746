"""What `octavo up` shows on stderr: condition changes as lines and, on a terminal, bars for downloads and loading.

Stdout is left to answers. While one streams, `quiet` keeps everything else back.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from octavo_api.resource import Condition, LLMDeploymentStatus
from octavo_operator.types import Key, Observed, ObservedReplica

_STEP = 10
"""Per cent of a load between two lines, where there is no terminal for a bar."""


class Display:
    """Told of every status; says what changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[Key, tuple[str, ...]] = {}
        self._bars: dict[str, TaskID] = {}
        self._kept_back: list[str] | None = None
        self._progress = _progress(console)

    def line(self, text: str) -> None:
        if self._kept_back is not None:
            self._kept_back.append(text)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Says nothing until the end of the block, then everything."""
        self._kept_back = []
        self._stop_bars()
        try:
            yield
        finally:
            kept, self._kept_back = self._kept_back, None
            for text in kept:
                self.line(text)

    def close(self) -> None:
        """Takes the bars away; the cursor comes back."""
        self._stop_bars()

    def show(self, key: Key, status: LLMDeploymentStatus, observed: Observed) -> None:
        """What is new in `status` since the last one of the same resource."""
        self._draw(key, [replica for replica in observed.replicas if _is_loading(replica)])
        found = {condition.type: condition for condition in status.conditions}
        degraded = found.get("Degraded")
        news = degraded if degraded and degraded.status == "True" else found["Ready"]
        said = (news.type, news.status, news.reason, self._brief(news, observed))
        if self._said.get(key) != said:
            self._said[key] = said
            self.line(f"{key.name}: {'Ready' if news is not degraded and news.status == 'True' else f'not ready, {news.reason}'}: {said[3]}")

    def _brief(self, news: Condition, observed: Observed) -> str:
        """The message, less often than each per cent of it."""
        loading = [replica.progress for replica in observed.replicas if _is_loading(replica) and replica.progress]
        if news.reason not in ("Downloading", "Loading", "Warming") or not loading:
            return news.message
        progress = loading[0]
        what = f"the model is {progress.stage}"
        if self._console.is_terminal or not progress.total:
            return what
        return f"{what}, {100 * progress.done // progress.total // _STEP * _STEP}%"

    def _draw(self, key: Key, loading: list[ObservedReplica]) -> None:
        """The bars of one resource; the key before a bar's name tells whose it is."""
        if not self._console.is_terminal or self._kept_back is not None:
            return
        now = {f"{key}/{replica.name}": replica for replica in loading}
        for name in [name for name in self._bars if name.startswith(f"{key}/") and name not in now]:
            self._progress.remove_task(self._bars.pop(name))
        for name, replica in now.items():
            self._move(name, replica)
        if not self._bars:
            self._stop_bars()

    def _move(self, name: str, replica: ObservedReplica) -> None:
        progress = replica.progress
        if progress is None:
            return
        if not self._bars:
            self._progress.start()
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(replica.name, total=None)
        self._progress.update(self._bars[name], description=f"{replica.name} {progress.stage}", completed=progress.done, total=progress.total or None)

    def _stop_bars(self) -> None:
        for name in list(self._bars):
            self._progress.remove_task(self._bars.pop(name))
        if self._progress.live.is_started:
            self._progress.stop()


def _progress(console: Console) -> Progress:
    """Bars that leave stdout to whoever writes there."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)


def _is_loading(replica: ObservedReplica) -> bool:
    return replica.live and replica.progress is not None and replica.progress.stage in ("downloading", "loading", "warming")
