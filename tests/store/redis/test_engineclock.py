"""The engine's clock as a gate knows it: rather too late than too early, so that nothing becomes longer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from knocker.core.moment import Moment
from knocker.store.redis.engineclock import SLOW, EngineClock

seconds = some.floats(0, 1e6)


@given(asked=seconds, way=some.floats(0, 10), back=some.floats(0, 10), later=seconds)
def test_it_is_never_behind(asked: float, way: float, back: float, later: float) -> None:
    """The engine's true clock is 1,000 s ahead of boot time; it answers somewhere between being asked and heard."""
    clock = EngineClock()
    clock.heard(1000 * (asked + way + 1_000), asked, asked + way + back)
    boot = asked + way + back + later
    truth = 1000 * (boot + 1_000)
    assert truth - 0.001 <= clock.now(boot) <= truth + 1000 * way + 0.001


def test_a_slow_answer_does_not_spoil_what_is_known() -> None:
    clock = EngineClock()
    clock.heard(50_000, 10, 10.001)
    clock.heard(60_500, 20, 20 + 2 * SLOW)
    assert clock.now(10) == 50_000
    clock.heard(90_000, 20, 20.001)
    assert clock.now(20) == 90_000


def test_a_slow_answer_corrects_what_cannot_be_any_more() -> None:
    clock = EngineClock()
    clock.heard(50_000, 10, 10.001)
    clock.heard(160_000, 20, 21)  # it was set 100 s forward, somewhere in this second
    assert clock.now(21) == 160_000
    clock.heard(10_000, 30, 31)
    assert clock.now(31) == 11_000


def test_it_tells_the_least_that_it_can_be() -> None:
    clock = EngineClock()
    clock.heard(50_000, 10, 10.25)
    assert (clock.at_least(10.25), clock.now(10.25)) == (50_000, 50_250)


def test_a_slow_answer_is_better_than_none() -> None:
    clock = EngineClock()
    assert not clock.known
    clock.heard(50_000, 10, 20)
    assert clock.known
    assert clock.now(20) == 60_000


def test_it_tells_how_far_the_clocks_are_apart() -> None:
    clock = EngineClock()
    clock.heard(50_000, 10, 10)
    assert clock.ours_ahead(Moment(53, 10)) == 3
    assert clock.ours_ahead(Moment(47.5, 11)) == -3.5
