"""How much memory the KV cache may take on this machine: the cgroup's limit counts, not the host's memory.

How it is divided into blocks is left to `octavo.core.sizing`.
"""

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from octavo.models.config import ModelConfig
from octavo_api.errors import ModelUnavailable
from octavo_api.settings import EngineSettings

CPU_KV_LIMIT = 4 << 30
"""The most that a KV cache on a CPU takes unasked: attention over more is slower than anyone waits for."""

_UNLIMITED = 1 << 60


class Memory(Struct, frozen=True):
    """Bytes that may be used in all, and that are used and cannot be taken back."""

    limit: int
    used: int


def machine_memory(root: Path = Path("/")) -> Memory:
    """The host's memory or, where it is less, that of the tightest cgroup around this process (version 1 or 2).
    `root` is where /proc and /sys/fs/cgroup are looked for."""
    host = _host(root)
    return min((host, *_cgroups(root)), key=lambda memory: memory.limit)


def kv_cache_bytes(settings: EngineSettings, activations: int, root: Path = Path("/")) -> int:
    """Bytes for the KV cache, weights being loaded: what was asked for, else what `gpu_memory_utilization` leaves after
    what is used and what a step needs, at most CPU_KV_LIMIT; 0 when nothing is left.

    Raises:
        ModelUnavailable: more was asked for than is left; a kernel would give it and kill the engine when it is used.
    """
    memory = machine_memory(root)
    if settings.kv_cache_memory_bytes is not None:
        _check_room(settings.kv_cache_memory_bytes, memory)
        return settings.kv_cache_memory_bytes
    return max(0, min(CPU_KV_LIMIT, int(memory.limit * settings.gpu_memory_utilization) - memory.used - activations))


def _check_room(asked: int, memory: Memory) -> None:
    left = max(0, memory.limit - memory.used)
    if asked > left:
        raise ModelUnavailable(
            "KVCacheDoesNotFit",
            f"kv_cache_memory_bytes: is {asked} ({asked / 2**20:.0f} MiB), but of {memory.limit / 2**20:.0f} MiB of memory {left / 2**20:.0f} MiB are left; "
            "lower it, leave it out, or raise the memory limit",
        )


def activation_bytes(config: ModelConfig, tokens: int, rows: int, itemsize: int) -> int:
    """The most that a step of so many tokens, with logits for so many rows, holds at once beside weights and KV cache."""
    qkv = (config.num_heads + 2 * config.num_kv_heads) * config.head_size
    widest = max(2 * qkv, 3 * config.intermediate_size)
    # Logits as they come, as float32, as probabilities and as their float64 sums.
    return tokens * (3 * config.hidden_size + widest) * itemsize + min(tokens, rows) * config.vocab_size * (itemsize + 4 + 4 + 8)


def _host(root: Path) -> Memory:
    sizes = {}
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    return Memory(limit=sizes["MemTotal"], used=sizes["MemTotal"] - sizes.get("MemAvailable", sizes["MemTotal"]))


def _cgroups(root: Path) -> Iterator[Memory]:
    mount = root / "sys/fs/cgroup"
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = mount / controllers
        own = base / path.lstrip("/")
        # In a container the path may be the host's, of which only the end is mounted: then the mount itself is ours.
        for folder in (own, *own.parents):
            yield from _version_1(folder) if controllers else _version_2(folder)
            if folder == base:
                break


def _version_2(folder: Path) -> Iterator[Memory]:
    try:
        limit = (folder / "memory.max").read_text().strip()
        used, stat = (folder / "memory.current").read_text(), (folder / "memory.stat").read_text()
    except OSError:
        return
    if limit != "max":
        yield Memory(limit=int(limit), used=int(used) - _page_cache(stat, ("inactive_file", "active_file")))


def _version_1(folder: Path) -> Iterator[Memory]:
    try:
        limit = int((folder / "memory.limit_in_bytes").read_text())
        used, stat = (folder / "memory.usage_in_bytes").read_text(), (folder / "memory.stat").read_text()
    except OSError:
        return
    if limit < _UNLIMITED:
        yield Memory(limit=limit, used=int(used) - _page_cache(stat, ("total_inactive_file", "total_active_file")))


def _page_cache(stat: str, names: tuple[str, str]) -> int:
    """Pages of files, which the kernel takes back when memory runs short."""
    pairs = (line.split() for line in stat.splitlines())
    return sum(int(value) for name, value in pairs if name in names)
