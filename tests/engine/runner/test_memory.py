"""How much the KV cache may take: on a host, in containers of either cgroup version, and when it was said."""

import pytest

from octavo.models.config import read_model_config
from octavo.runner.memory import CPU_KV_LIMIT, activation_bytes, kv_cache_bytes, machine_memory
from octavo_api.errors import ModelUnavailable
from octavo_api.settings import EngineSettings

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path):
    """Writes files below a root folder: `machine({"proc/meminfo": "…"})`; a host of 16 GiB, 4 of them used, unless given."""

    def make(files):
        host = {"proc/meminfo": f"MemTotal: {16 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {12 * GIB // 1024} kB\n"}
        for name, content in {**host, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return make


def version_2(folder, limit, used=GIB, cache=0):
    stat = f"anon 1\ninactive_file {cache // 2}\nactive_file {cache - cache // 2}\nfile {cache}\n"
    return {f"{folder}/memory.max": f"{limit}\n", f"{folder}/memory.current": f"{used}\n", f"{folder}/memory.stat": stat}


def test_a_host_without_limits(machine):
    root = machine({"proc/self/cgroup": "0::/user.slice\n", **version_2("sys/fs/cgroup/user.slice", "max")})
    memory = machine_memory(root)
    assert (memory.limit, memory.used) == (16 * GIB, 4 * GIB)
    assert kv_cache_bytes(EngineSettings(), 0, root) == CPU_KV_LIMIT == 4 * GIB


def test_the_tightest_cgroup_counts(machine):
    """A pod's limit of 2 GiB around a container's of 3; cached files do not count as used."""
    root = machine(
        {
            "proc/self/cgroup": "0::/pod/container\n",
            **version_2("sys/fs/cgroup/pod/container", 3 * GIB, GIB),
            **version_2("sys/fs/cgroup/pod", 2 * GIB, int(1.25 * GIB), cache=GIB),
        }
    )
    memory = machine_memory(root)
    assert (memory.limit, memory.used) == (2 * GIB, GIB // 4)
    assert kv_cache_bytes(EngineSettings(gpu_memory_utilization=0.5), 1000, root) == 3 * GIB // 4 - 1000


def test_a_container_that_sees_only_its_own_cgroup(machine):
    """The path is the host's and does not exist inside; the limit is at the mount itself."""
    root = machine({"proc/self/cgroup": "0::/kubepods/pod1/abc\n", **version_2("sys/fs/cgroup", GIB, 0)})
    assert machine_memory(root).limit == GIB


def test_version_1(machine):
    folder = "sys/fs/cgroup/memory/docker/abc"
    root = machine(
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n",
            f"{folder}/memory.limit_in_bytes": str(2 * GIB),
            f"{folder}/memory.usage_in_bytes": str(GIB),
            f"{folder}/memory.stat": f"total_inactive_file {GIB // 4}\ntotal_active_file {GIB // 4}\ninactive_file 7\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1",
            "sys/fs/cgroup/memory/memory.stat": "",
        }
    )
    memory = machine_memory(root)
    assert (memory.limit, memory.used) == (2 * GIB, GIB // 2)


def test_nothing_is_left(machine):
    root = machine({"proc/self/cgroup": "0::/\n", **version_2("sys/fs/cgroup", GIB, GIB)})
    assert kv_cache_bytes(EngineSettings(), 0, root) == 0


def test_what_was_asked_for_wins(machine):
    root = machine({})
    assert kv_cache_bytes(EngineSettings(kv_cache_memory_bytes=12 * GIB), 0, root) == 12 * GIB


def test_more_was_asked_for_than_is_left(machine):
    root = machine({"proc/self/cgroup": "0::/\n", **version_2("sys/fs/cgroup", GIB, GIB // 4)})
    with pytest.raises(ModelUnavailable, match=r"kv_cache_memory_bytes: is 939524096 \(896 MiB\), but of 1024 MiB of memory 768 MiB are left") as refused:
        kv_cache_bytes(EngineSettings(kv_cache_memory_bytes=7 * GIB // 8), 0, root)
    assert refused.value.reason == "KVCacheDoesNotFit"


def test_this_machine():
    memory = machine_memory()
    assert 0 < memory.used < memory.limit


def test_activations():
    """Of SmolLM2-135M: a step of 512 tokens holds them all at once, and logits for each of 16 requests."""
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    config = read_model_config({**shape, "vocab_size": 49152, "max_position_embeddings": 8192}, "LlamaForCausalLM")
    tokens = 512 * (3 * 576 + 3 * 1536) * 2
    assert activation_bytes(config, 512, 16, 2) == tokens + 16 * 49152 * 18
    assert activation_bytes(config, 8, 16, 2) == tokens // 64 + 8 * 49152 * 18
