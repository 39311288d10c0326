"""How late the reactor was."""

from __future__ import annotations

from twisted.internet.task import Clock

from knocker.lag import KEPT, Lag


def test_the_worst_of_the_last_minute_is_told() -> None:
    clock = Clock()
    lag = Lag(clock)
    lag.start()
    for _ in range(5):
        clock.advance(1)
    assert lag.worst() == 0
    clock.advance(1.25)
    assert lag.worst() == 0.25
    clock.advance(0.75)
    assert lag.worst() == 0.25, "the next one was in time"
    clock.advance(4.5)
    assert lag.worst() == 3.5, "several that were missed are one"
    clock.advance(0.5)
    for _ in range(KEPT):
        clock.advance(1)
    assert lag.worst() == 0
    lag.stop()
    lag.stop()
    assert clock.getDelayedCalls() == []
