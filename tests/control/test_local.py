"""What a laptop's runtime does with a spec that was written for nodes; its processes are tested through `octavo up`."""

import os

import pytest

from octavo_api.resource import parse
from octavo_operator.local import local_engine
from octavo_operator.pod_state import crash


def engine(**spec):
    spec = {"model": {"source": "/m"}} | spec
    return local_engine(parse({"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "metadata": {"name": "m"}, "spec": spec}))


@pytest.mark.parametrize(("cpu", "threads"), [("500m", 1), ("1", 1), ("1500m", 2), ("999", os.cpu_count())])
def test_cpu_becomes_threads(cpu, threads) -> None:
    assert engine(resources={"cpu": cpu}).cpu_threads == min(threads, os.cpu_count())


@pytest.mark.parametrize(("memory", "cache"), [("2Gi", 1 << 30), ("1Mi", 1 << 19), ("1k", 65_536), ("100Gi", 4 << 30)])
def test_memory_becomes_cache(memory, cache) -> None:
    assert engine(resources={"memory": memory}).kv_cache_memory_bytes == cache


def test_what_the_spec_says_itself_stands() -> None:
    found = engine(engine={"cpuThreads": 7, "kvCacheMemoryBytes": 1 << 20, "maxModelLen": 512})
    assert (found.cpu_threads, found.kv_cache_memory_bytes, found.max_model_len) == (7, 1 << 20, 512)


def test_a_gpu_sets_its_own_bounds() -> None:
    found = engine(resources={"gpu": {"count": 1}})
    assert (found.cpu_threads, found.kv_cache_memory_bytes) == (None, None)


@pytest.mark.parametrize(
    ("code", "output", "reason", "message"),
    [
        (1, "loading\noctavo serve: WeightsNotFound: /m is empty\n\n", "WeightsNotFound", "/m is empty"),
        (1, "octavo serve: EngineOOM: out of memory: 3 GiB\n", "EngineOOM", "out of memory: 3 GiB"),
        (2, "octavo serve: --port 80: permission denied\n", "InvalidSetting", "the engine exited with status 2: octavo serve: --port 80: permission denied"),
        (1, "ValueError: odd\n", "EngineCrashed", "the engine exited with status 1: ValueError: odd"),
        (137, "", "EngineCrashed", "the engine was killed (SIGKILL)"),
        (0, "", "EngineCrashed", "the engine exited with status 0"),
    ],
)
def test_last_words(code, output, reason, message) -> None:
    failure = crash(code, output)
    assert (failure.reason, failure.message) == (reason, message)
