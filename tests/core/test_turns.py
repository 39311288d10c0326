"""A turn's share of work: what does not fit waits, in order, and nobody is forgotten."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from knocker.core.turns import SHARE, Turns


class Loop:
    """An event loop that the test turns; work takes the time that it says."""

    def __init__(self) -> None:
        self.time = 0.0
        self.planned: list[Callable[[], None]] = []
        self.did: list[str] = []
        self.turns = Turns(lambda _, function: self.planned.append(function), lambda: self.time)

    def turn(self) -> list[str]:
        """One turn; what was done in it."""
        self.did.clear()
        planned, self.planned = self.planned, []
        for function in planned:
            function()
        return self.did.copy()

    def work(self, name: str, takes: float = SHARE / 2) -> Callable[[], None]:
        """A piece of work."""

        def do() -> None:
            self.did.append(name)
            self.time += takes

        return do


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_work_begins_as_long_as_its_share_of_the_turn_is_not_used_up(loop: Loop) -> None:
    assert loop.turns.has_room()
    loop.time += SHARE * 0.99
    assert loop.turns.has_room()
    loop.time += SHARE * 0.02
    assert not loop.turns.has_room()
    loop.turn()
    assert loop.turns.has_room(), "each turn has its share"


def test_the_share_begins_with_the_work_not_with_the_last_turn(loop: Loop) -> None:
    assert loop.turns.has_room()
    loop.turn()
    loop.time += 60
    assert loop.turns.has_room()


def test_what_waits_is_done_in_order_and_before_what_comes_later(loop: Loop) -> None:
    for name in "abcde":
        loop.turns.wait(loop.work(name))
    assert not loop.turns.has_room(), "others wait"
    assert loop.turn() == ["a", "b"]
    loop.turns.wait(loop.work("first of all"), first=True)
    assert loop.turn() == ["first of all", "c"]
    assert not loop.turns.has_room()
    assert loop.turn() == ["d", "e"]
    assert not loop.turns.has_room(), "this turn's share is used up"
    assert loop.turn() == []
    assert loop.turns.has_room()


def test_work_that_leads_to_more_work_does_not_keep_the_turn(loop: Loop) -> None:
    def again() -> None:
        loop.work("again")()
        loop.turns.wait(again)

    loop.turns.wait(again)
    assert [loop.turn() for _ in range(3)] == [["again"] * 2] * 3


def test_work_that_takes_long_is_followed_by_none(loop: Loop) -> None:
    loop.turns.wait(loop.work("long", SHARE * 50))
    loop.turns.wait(loop.work("next"))
    assert loop.turn() == ["long"]
    assert loop.turn() == ["next"]


def test_work_that_fails_costs_the_others_a_turn_at_most(loop: Loop) -> None:
    def fail() -> None:
        raise RuntimeError("a mistake")

    loop.turns.wait(fail)
    loop.turns.wait(loop.work("next"))
    with pytest.raises(RuntimeError):
        loop.turn()
    assert loop.turn() == ["next"]
    loop.turn()
    assert loop.turn() == []
    assert loop.planned == [], "an idle loop has nothing to do"
