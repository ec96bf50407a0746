"""`octavo up` as a user runs it: a process of its own, its gateway and replicas real processes, `serve` a stand-in."""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

OCTAVO = str(Path(sys.executable).with_name("octavo"))
LONG = {"words": "a b c d e f g h i j k l m n o p q r s t", "pause": 0.1}


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


def stream(url: str, model: str) -> Iterator[str]:
    with httpx.stream("POST", f"{url}/chat/completions", json={"model": model, "messages": [], "stream": True}, timeout=30, trust_env=False) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))["choices"][0]["delta"]["content"].strip()


def test_a_question_is_answered(up, write_manifest) -> None:
    """Without a terminal: conditions as they change, the answer alone on stdout, the endpoint, exit 0, nothing left."""
    running = up(write_manifest("tiny", {"load": 0.8, "words": "forty two"}), "--ask=What?")
    assert running.ended() == 0
    assert running.answer == "forty two \n"
    lines = running.said.splitlines()
    reasons = [line.removeprefix("tiny: ") for line in lines if line.startswith("tiny: ")]
    assert reasons[0].startswith("not ready, Pending")
    assert any("Loading: the model is loading, " in line for line in reasons)
    assert reasons[-1] == "Ready: 1 of 1 replicas answer"
    assert f"tiny answers at {running.url}, for example:" in lines
    assert lines[-1].startswith(f"  curl -N {running.url}/chat/completions ")
    assert not running.others()


def test_the_curl_line_works(up, write_manifest) -> None:
    running = up(write_manifest("tiny", {"words": "hello there"}))
    running.until("curl -N")
    (line,) = [line for line in running.said.splitlines() if "curl -N" in line]
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True, timeout=30)
    assert '"hello "' in done.stdout
    assert done.stdout.rstrip().endswith("[DONE]")
    running.signal(signal.SIGINT)
    assert running.ended() == 0


def test_on_a_terminal_it_stays(write_manifest, stand_in) -> None:
    """The answer streams there, then it waits for Ctrl-C, which a terminal sends as a character."""
    manifest = write_manifest("tiny", {"load": 0.5, "words": "forty two"})
    master, slave = pty.openpty()
    command = ["setsid", "--ctty", OCTAVO, "up", str(manifest), "--ask=What?", "--port=0"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env={**stand_in, "TERM": "xterm"})
    os.close(slave)
    seen = b""
    while b"Ctrl-C stops it" not in seen:
        seen += os.read(master, 4096)
    assert b"forty two" in seen
    assert b"loading" in seen
    os.write(master, b"\x03")
    with contextlib.suppress(OSError):
        while chunk := os.read(master, 4096):
            seen += chunk
    assert process.wait(20) == 0
    os.close(master)
    assert b"draining" in seen


def test_a_model_that_cannot_load(up, write_manifest) -> None:
    running = up(write_manifest("tiny", {"fail": "reading\noctavo serve: WeightsNotFound: /models/tiny has no weights"}), "--ask=What?")
    assert running.ended() == 1
    assert running.answer.strip() == ""
    assert "tiny: not ready, WeightsNotFound: " in running.said
    assert "last line of tiny-" in running.said
    assert "/models/tiny has no weights" in running.said
    logs = Path(running.said.rpartition("logs: ")[2].strip())
    assert "reading" in "".join(file.read_text() for file in logs.glob("tiny-*.log"))


def test_a_port_that_is_taken(up, write_manifest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = up(write_manifest("tiny", {}), port=port)
        assert running.ended() == 2
    (line,) = running.said.splitlines()
    assert line.startswith(f"octavo up: --port {port}: 127.0.0.1 cannot listen there")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("kind: LLMDeployment", "apiVersion: is None"),
        ("{", "is not YAML"),
        ("[1]", "is list, must be an LLMDeployment"),
        ("", "holds no LLMDeployment"),
    ],
)
def test_a_file_that_is_wrong(up, tmp_path, text, complaint) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    running = up(file)
    assert running.ended() == 2
    (line,) = running.said.splitlines()
    assert line.startswith(f"octavo up: {file}")
    assert complaint in line


def test_ctrl_c_lets_open_answers_end(up, write_manifest) -> None:
    running = up(write_manifest("tiny", LONG))
    running.until("curl -N")
    words = stream(running.url, "tiny")
    got = [next(words)]
    running.signal(signal.SIGINT)
    running.until("draining")
    got += words
    assert " ".join(got) == LONG["words"]
    assert running.ended() == 0
    assert not running.others()


def test_a_second_ctrl_c_hurries(up, write_manifest) -> None:
    running = up(write_manifest("tiny", LONG | {"pause": 10, "ignore_term": True}))
    running.until("curl -N")
    words = stream(running.url, "tiny")
    next(words)
    running.signal(signal.SIGINT)
    running.until("draining")
    running.signal(signal.SIGINT)
    assert running.ended(5) == 0
    assert not running.others()
    left: list[str] = []
    with contextlib.suppress(httpx.HTTPError):
        left += words
    assert left == []


def test_interrupted_before_the_answer(up, write_manifest) -> None:
    running = up(write_manifest("tiny", {"load": 60}), "--ask=What?")
    running.until("Loading")
    running.signal(signal.SIGTERM)
    assert running.ended() == 130
    assert not running.others()


def test_killed_it_leaves_nothing(up, write_manifest) -> None:
    running = up(write_manifest("tiny", LONG))
    running.until("curl -N")
    assert len(running.others()) == 2
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not running.others(), 10)


def test_a_replica_that_dies_is_replaced(up, write_manifest) -> None:
    """Its open answer ends with an error, the reason is shown, the next request is answered."""
    running = up(write_manifest("tiny", {"words": "one two"}))
    running.until("curl -N")
    (replica,) = running.replicas()
    replica.kill()
    running.until("not ready, EngineCrashed")
    assert list(stream(running.url, "tiny")) == ["one", "two"]
    assert running.replicas() != [replica]


def test_an_edited_file_is_applied(up, write_manifest) -> None:
    """Scaled up by an edit; a new revision replaces the old one; a mistake changes nothing."""
    manifest = write_manifest("tiny", {"words": "one"})
    running = up(manifest)
    running.until("curl -N")
    write_manifest("tiny", {"words": "one"}, replicas=2)
    wait_until(lambda: len(running.replicas()) == 2, 20)
    before = {process.pid for process in running.replicas()}
    manifest.write_text("{")
    running.until("not applied")
    write_manifest("tiny", {"words": "two"}, replicas=1, engine={"maxNumSeqs": 4})
    wait_until(lambda: len(running.replicas()) == 1 and not before & {process.pid for process in running.replicas()}, 30)
    assert list(stream(running.url, "tiny")) == ["two"]


def test_two_models_and_one_that_fails(up, write_manifest) -> None:
    """The one that works is worth staying for."""
    running = up(write_manifest("good", {"words": "fine"}), write_manifest("bad", {"fail": "no"}))
    running.until("good answers at")
    running.until("bad: not ready, EngineCrashed")
    assert list(stream(running.url, "good")) == ["fine"]
    running.signal(signal.SIGINT)
    assert running.ended() == 0


def test_no_stay_ends_when_all_are_ready(up, write_manifest) -> None:
    running = up(write_manifest("tiny", {"load": 0.3}), "--no-stay")
    assert running.ended() == 0
    assert "tiny answers at" in running.said
