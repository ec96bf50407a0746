"""The first example as `make demo` runs it: a real model, our engine, nothing replaced."""

import signal
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "01-quickstart.yaml"


@pytest.mark.slow
def test_the_quickstart_answers(up) -> None:
    running = up(QUICKSTART, "--ask=In one sentence: what does Kubernetes do?", real=True)
    assert running.ended(240) == 0, running.said
    assert len(running.answer.split()) >= 5
    assert "smollm2: Ready: 1 of 1 replicas answer" in running.said
    assert "curl -N" in running.said
    assert not running.others()


@pytest.mark.slow
def test_killed_it_leaves_no_engine_behind(up) -> None:
    """The engine is a grandchild: it goes with the replica that goes with the parent. The other tests look after Ctrl-C."""
    running = up(QUICKSTART, real=True)
    running.until("curl -N", 240)
    assert len(running.others()) >= 3, "gateway, replica, engine"
    running.signal(signal.SIGKILL)
    running.ended()
