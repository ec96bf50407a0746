"""A stall is silence, for longer than the timeout and than what slow steps make likely."""

from octavo.core.heartbeat import Heartbeat


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_silence_beyond_the_timeout_is_a_stall():
    clock = Clock()
    heartbeat = Heartbeat(clock)
    clock.now += 60
    assert not heartbeat.stalled(60)
    clock.now += 1
    assert heartbeat.stalled(60)
    heartbeat.beat()
    assert not heartbeat.stalled(60)


def test_slow_steps_earn_patience():
    clock = Clock()
    heartbeat = Heartbeat(clock)
    clock.now += 10
    heartbeat.beat()
    clock.now += 200
    assert not heartbeat.stalled(60)
    clock.now += 1
    assert heartbeat.stalled(60)


def test_idle_time_is_no_step():
    clock = Clock()
    heartbeat = Heartbeat(clock)
    clock.now += 3600
    heartbeat.begin()
    heartbeat.beat()
    clock.now += 61
    assert heartbeat.stalled(60)
