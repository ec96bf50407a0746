"""How many threads may compute: what the cgroup allows, not the host's cores."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from octavo import _C


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may use, at least 1: its affinity, and within it the smallest CPU quota, rounded up, of its
    cgroup and those above it (version 1 or 2). `root` is where /proc and /sys/fs/cgroup are looked for."""
    quotas = [math.ceil(quota) for quota in _quotas(root)]
    return max(1, min(len(os.sched_getaffinity(0)), *quotas)) if quotas else len(os.sched_getaffinity(0))


def set_threads(count: int) -> None:
    """Makes torch and the compiled kernels compute with `count` threads."""
    torch.set_num_threads(count)
    _C.set_threads(count)


def _quotas(root: Path) -> Iterator[float]:
    """CPU quotas that bind this process, in CPUs."""
    mount = root / "sys/fs/cgroup"
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = mount / controllers
        own = base / path.lstrip("/")
        # In a container the path may be the host's, of which only the end is mounted: then the mount itself is ours.
        for folder in (own, *own.parents):
            yield from _quota(folder, bool(controllers))
            if folder == base:
                break


def _quota(folder: Path, version_1: bool) -> Iterator[float]:
    try:
        if version_1:
            quota, period = (folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text()
        else:
            quota, period = (folder / "cpu.max").read_text().split()
    except OSError:
        return
    if quota.strip() not in ("max", "-1"):
        yield int(quota) / int(period)
