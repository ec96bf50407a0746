"""A real `octavo serve` process with a real model, and the official client for it. One for all tests that leave it whole."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny_model

OCTAVO = Path(sys.executable).parent / "octavo"
LISTENING = re.compile(r"listening on http://(\S+), internally on http://(\S+)")
PATIENCE = 90.0
LITTLE = ("--kv-cache-memory-bytes", str(128 << 20), "--cpu-threads", "1")
"""One thread: several servers and the tests share few cores, where threads that wait for one another get nowhere."""


def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it did not come about in time")
        time.sleep(0.03)


@dataclass
class Replica:
    """One server. `api` and `internal` are clients of its listeners that know no model."""

    process: psutil.Popen
    log: Path
    begun: float = field(default_factory=time.monotonic)

    def find_listeners(self) -> None:
        eventually(lambda: LISTENING.search(self.log.read_text()) or self.process.poll() is not None)
        found = LISTENING.search(self.log.read_text())
        assert found, self.log.read_text()
        self.url = f"http://{found[1]}"
        self.api = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        self.internal = httpx.Client(base_url=f"http://{found[2]}", timeout=60, trust_env=False)

    def wait_ready(self) -> "Replica":
        eventually(lambda: self.process.poll() is not None or self.internal.get("/health").is_success)
        assert self.process.poll() is None, self.log.read_text()
        return self

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    @property
    def load(self) -> dict[str, int]:
        return self.internal.get("/load").json()

    @property
    def engine(self) -> psutil.Process:
        (child,) = self.process.children()
        return child

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in self.internal.get("/metrics").text.splitlines() if re.match(rf"{name}[ {{]", line)]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in wanted))

    def wait_idle(self) -> None:
        """Until nothing is open and every block is free."""
        eventually(lambda: (load := self.load)["running"] + load["waiting"] == 0 and load["kv_blocks_free"] == load["kv_blocks_total"], 20)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
        for client in ("api", "internal"):
            if hasattr(self, client):
                getattr(self, client).close()


Serve = Callable[..., Replica]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers: `serve(model, "--flag", …)` returns at once when both listeners are there. All are ended at last."""
    replicas: list[Replica] = []

    def start(model: object, *words: str, env: dict[str, str] | None = None) -> Replica:
        log = tmp_path_factory.mktemp("serve") / "log"
        command = [OCTAVO, "serve", str(model), "--port", "0", "--internal-port", "0", *LITTLE, *words]
        with log.open("wb") as output:
            process = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env)
        replicas.append(Replica(process, log))
        replicas[-1].find_listeners()
        return replicas[-1]

    yield start
    for replica in replicas:
        replica.stop()


@pytest.fixture(scope="session")
def replica(serve: Serve, smollm2: Path) -> Replica:
    """The server for tests that leave it as it was."""
    return serve(smollm2, "--served-model-name", "smollm2", "small", "--max-num-seqs", "8").wait_ready()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> tuple[str, ...]:
    """The words that serve a Llama of random weights, quick to load, with SmolLM2's tokenizer: for what ends its server."""
    folder = tiny_model.write(tmp_path_factory.mktemp("tiny"))
    return (str(folder), "--load-format", "dummy", "--tokenizer", str(smollm2), "--served-model-name", "m")


@pytest.fixture(scope="session")
def client(replica: Replica) -> Iterator[openai.OpenAI]:
    with replica.client() as found:
        yield found
