"""How many threads may compute: affinity and cgroup, on made-up trees of /proc and /sys/fs/cgroup."""

import os
import subprocess
import sys

import pytest

from octavo import _C
from octavo.ops import threads


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of eight CPUs whose files have these texts."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    def build(**files: str):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    def write(files: dict[str, str]):
        return build(**{name.replace("/", "__"): text for name, text in files.items()})

    return write


CASES = {
    "no cgroup": ({}, 8),
    "no limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
    "a root without the file": ({"proc/self/cgroup": "0::/\n"}, 8),
    "two": ({"proc/self/cgroup": "0::/pod\n", "sys/fs/cgroup/pod/cpu.max": "200000 100000\n"}, 2),
    "one and a half": ({"proc/self/cgroup": "0::/pod\n", "sys/fs/cgroup/pod/cpu.max": "150000 100000\n"}, 2),
    "a tenth": ({"proc/self/cgroup": "0::/pod\n", "sys/fs/cgroup/pod/cpu.max": "10000 100000\n"}, 1),
    "more than there are": ({"proc/self/cgroup": "0::/pod\n", "sys/fs/cgroup/pod/cpu.max": "6400000 100000\n"}, 8),
    "a parent's": (
        {
            "proc/self/cgroup": "0::/slice/pod/container\n",
            "sys/fs/cgroup/slice/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/slice/pod/cpu.max": "500000 100000\n",
            "sys/fs/cgroup/slice/pod/container/cpu.max": "max 100000\n",
        },
        3,
    ),
    "a container's, whose path is the host's": (
        {"proc/self/cgroup": "0::/../../kubepods/pod1/abc\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"},
        4,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "5:memory:/pod\n4:cpu,cpuacct:/pod\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
}


@pytest.mark.parametrize(("files", "count"), CASES.values(), ids=CASES.keys())
def test_available_cpus(machine, files, count):
    assert threads.available_cpus(machine(files)) == count


def test_this_machine_has_a_cpu():
    assert 1 <= threads.available_cpus() <= len(os.sched_getaffinity(0))


def test_no_threads_are_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        _C.set_threads(0)


def test_threads_without_an_openmp_runtime_say_what_to_do():
    code = "from octavo import _C; _C.set_threads(1); _C.set_threads(2)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "import torch before setting threads" in result.stderr
