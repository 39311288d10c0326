"""A gate's copy of the shared whitelist: in which order ever its own closes and others' knocks arrive."""

from __future__ import annotations

import pytest

from knocker.core.addresses import Network, Networks
from knocker.core.change import Change, Event
from knocker.core.grant import Via
from knocker.core.keys import Key, Keyring, digest_of
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.core.whitelist import Whitelist
from knocker.store.redis.closes import Close
from knocker.store.redis.engineclock import EngineClock
from knocker.store.redis.mirror import AFTERWARDS, ELSEWHERE, Mirror
from knocker.store.redis.record import Owner, Record
from tests.conftest import Errors

PHONE = Key("phone", digest_of(b"phone"), ttl=600, max_ttl=600)
OWNER = Owner("phone", Network.parse("203.0.113.1"), None)
OTHER = Owner("phone", Network.parse("203.0.113.2"), None)
OURS, THEIRS = b"ours", b"another-7"


class World:
    """A mirror whose clocks stand where a test says. The engine's clock is 1,000 s ahead of boot time."""

    def __init__(self) -> None:
        self.now = Moment(5_000.0, 100.0)
        self.clock = EngineClock()
        self.clock.heard(1_100_000, 100.0, 100.0)
        self.whitelist = Whitelist(Keyring((PHONE,)), 100, lambda: "a-new-id-of-the-gates-own")
        self.forbidden = Forbidden()
        self.mirror = Mirror(self.whitelist, self.clock, lambda: self.now, lambda: self.forbidden)
        self.changes: list[Change] = []
        self.whitelist.followers.append(self.changes.append)
        self.mirror.begin()

    def pass_time(self, seconds: float, wall: float | None = None) -> None:
        """Let time pass; on the wall clock another one, if told."""
        self.now = Moment(self.now.wall + (seconds if wall is None else wall), self.now.boot + seconds)
        self.mirror.begin()

    def record(self, number: int, *, ttl: float = 60, ago: float = 0) -> Record:
        """A record of a knock some seconds ago."""
        last = int(self.clock.now(self.now.boot) - 1000 * ago)
        return Record(f"id-{number:020}", last, last, last + int(1000 * ttl), Via.HTTP, PHONE.mark, number)

    def opened(self, number: int, owner: Owner = OWNER, *, ttl: float = 60, token: bytes = THEIRS) -> Record:
        """The stream tells of a knock."""
        record = self.record(number, ttl=ttl)
        fields = {b"o": owner.text.encode(), b"v": record.text.encode(), b"w": b"", b"t": token}
        self.mirror.apply(number, fields, OURS)
        return record

    def closed(self, number: int, owner: Owner = OWNER, why: bytes = b"left") -> None:
        """The stream tells of a close."""
        self.mirror.apply(number, {b"o": owner.text.encode(), b"v": b"", b"w": why, b"t": THEIRS}, OURS)

    def close(self, owner: Owner = OWNER) -> Close:
        """This gate closes, and has sent it."""
        close = Close(owner.crowd, self.now.boot, "left")
        self.mirror.closes.add(owner, close)
        assert self.mirror.closes.next(9) == [(owner, close)]
        held = self.whitelist.held(owner.key, owner.network, owner.host)
        if held is not None:
            self.whitelist.close([held])
        return close

    def lets_in(self, owner: Owner = OWNER) -> bool:
        """Whether it counts here."""
        held = self.whitelist.held(owner.key, owner.network, owner.host)
        return held is not None and held.lives(self.now)


@pytest.fixture
def world() -> World:
    return World()


def test_changes_count_as_they_come_and_say_where_they_were_made(world: World) -> None:
    world.opened(1, token=OURS + b"-3")
    world.opened(2)
    world.closed(3)
    world.closed(4)
    assert [(change.event, change.why) for change in world.changes] == [
        (Event.OPENED, ""),
        (Event.EXTENDED, ELSEWHERE),
        (Event.CLOSED, "left"),
    ]
    assert (world.mirror.position, world.mirror.token) == (4, THEIRS)


def test_a_close_on_its_way_keeps_out_what_was_opened_before_it(world: World) -> None:
    world.opened(1)
    close = world.close()
    world.opened(2)
    assert not world.lets_in(), "this renewal was made before the close"
    world.mirror.closed([(OWNER, close)], 3, {})
    assert not world.lets_in()
    world.closed(3)
    assert not world.lets_in()
    world.opened(4)
    assert world.lets_in()


def test_what_was_opened_after_a_close_counts_in_whichever_order_the_two_are_heard(world: World) -> None:
    world.opened(1)
    close = world.close()
    world.closed(2)
    world.opened(3)
    assert not world.lets_in(), "not before it is known which was first"
    world.mirror.closed([(OWNER, close)], 2, {})
    assert world.lets_in()


def test_a_close_that_is_answered_first_keeps_out_only_what_is_older(world: World) -> None:
    close = world.close()
    world.mirror.closed([(OWNER, close)], 2, {})
    world.opened(1)
    assert not world.lets_in()
    world.closed(2)
    world.opened(3)
    assert world.lets_in()


def test_what_the_engine_left_open_counts_again(world: World) -> None:
    world.opened(1)
    close = world.close()
    later = world.record(2)
    world.mirror.closed([(OWNER, close)], 2, {OWNER.text.encode(): later.text.encode()})
    assert world.lets_in()


def test_a_second_close_is_not_taken_for_the_first(world: World) -> None:
    world.opened(1)
    first = world.close()
    second = Close(OWNER.crowd, world.now.boot, "left")
    world.mirror.closes.add(OWNER, second)
    world.mirror.closed([(OWNER, first)], 2, {})
    world.closed(2)
    assert world.mirror.closes.owed == {OWNER: second}, "it is still to be sent"
    world.opened(3)
    assert not world.lets_in()


def test_a_close_that_failed_is_owed_again_and_goes_on_to_keep_out(world: World) -> None:
    world.opened(1)
    close = world.close()
    world.mirror.closes.failed([(OWNER, close)])
    world.opened(2)
    assert not world.lets_in()
    assert world.mirror.closes.next(9) == [(OWNER, close)]


def test_after_the_engine_lost_changes_all_that_is_not_over_is_owed_again(world: World) -> None:
    world.opened(1)
    close = world.close()
    world.mirror.closed([(OWNER, close)], 9, {})
    world.mirror.closes.redo()
    assert world.mirror.closes.owed == {OWNER: close}
    world.opened(2)
    assert not world.lets_in()
    assert world.mirror.closes.next(9) == [(OWNER, close)]
    world.mirror.closed([(OWNER, close)], 3, {})
    world.closed(3)
    world.opened(4)
    assert world.lets_in()


def test_a_knock_that_is_taken_back_keeps_out_itself_alone(world: World) -> None:
    record = world.record(2)
    world.mirror.closes.add(OWNER, Close(OWNER.crowd, world.now.boot, "not answered", only=record.id))
    world.opened(1)
    assert world.lets_in()
    world.opened(2)
    held = world.whitelist.held(*_of(OWNER))
    assert held is not None
    assert held.id != record.id


def test_a_close_of_all_is_not_narrowed_by_one_that_is_taken_back(world: World) -> None:
    world.mirror.closes.add(OWNER, Close(OWNER.crowd, 1.0, "left"))
    world.mirror.closes.add(OWNER, Close(OWNER.crowd, 2.0, "not answered", only="an-id"))
    (close,) = world.mirror.closes.owed.values()
    assert (close.asked, close.only) == (2.0, "")


def test_new_keys_count_among_changes_that_come_at_once(world: World) -> None:
    world.mirror.begin()
    world.whitelist.revise(Keyring(), Forbidden(), world.now)
    world.opened(1)
    assert not world.lets_in()
    assert world.mirror.left_out == 1


def test_closes_of_others_are_none_of_ours(world: World) -> None:
    world.opened(1)
    world.opened(2, OTHER)
    world.close(OTHER)
    assert (world.lets_in(), world.lets_in(OTHER)) == (True, False)


def test_reading_a_grant_again_moves_its_end_forward_alone(world: World) -> None:
    record = world.opened(1)
    held = world.whitelist.held(*_of(OWNER))
    assert held is not None
    world.clock.heard(1_000 * (world.now.boot + 990), world.now.boot, world.now.boot)  # the engine's clock went back
    world.mirror.begin()
    assert world.mirror.take(OWNER.text.encode(), record.text.encode(), 1, quiet=False)
    again = world.whitelist.held(*_of(OWNER))
    assert again is not None
    assert (again.expires_at, again.boot_ends_at) == (held.expires_at, held.boot_ends_at)
    world.clock.heard(1_000 * (world.now.boot + 1_020), world.now.boot, world.now.boot)
    world.mirror.begin()
    world.mirror.take(OWNER.text.encode(), record.text.encode(), 1, quiet=False)
    shorter = world.whitelist.held(*_of(OWNER))
    assert shorter is not None
    assert shorter.boot_ends_at == held.boot_ends_at - 20
    assert [change.event for change in world.changes] == [Event.OPENED], "the same grant is no news"


def _of(owner: Owner) -> tuple[str | None, Network, str | None]:
    return owner.key, owner.network, owner.host


def test_what_is_told_later_is_left_to_the_changes(world: World) -> None:
    record = world.record(7)
    assert not world.mirror.take(OWNER.text.encode(), record.text.encode(), 6, quiet=True)
    assert not world.lets_in()
    assert world.mirror.take(OWNER.text.encode(), record.text.encode(), 7, quiet=True)
    assert world.lets_in()
    assert world.changes == []


def test_what_our_wall_clock_ended_does_not_come_back(world: World) -> None:
    record = world.opened(1, ttl=600)
    world.pass_time(1, wall=3_600)
    held = world.whitelist.held(*_of(OWNER))
    assert held is not None
    world.whitelist.expire(world.now)
    world.mirror.ended(held)
    world.pass_time(1, wall=-3_600)
    world.mirror.take(OWNER.text.encode(), record.text.encode(), 1, quiet=False)
    assert not world.lets_in()
    world.opened(2, ttl=600)
    assert world.lets_in(), "another knock does"
    world.pass_time(700 + AFTERWARDS)
    world.mirror.forget_ended()
    assert world.mirror._ended == {}


def test_what_ended_on_time_does_not_come_back_when_the_engines_clock_is_set_back(world: World) -> None:
    record = world.opened(1, ttl=10)
    held = world.whitelist.held(*_of(OWNER))
    assert held is not None
    world.pass_time(11)
    world.whitelist.expire(world.now)
    world.mirror.ended(held)
    world.clock.heard(1_000 * (world.now.boot + 960), world.now.boot, world.now.boot)
    world.mirror.begin()
    world.mirror.take(OWNER.text.encode(), record.text.encode(), 1, quiet=False)
    assert not world.lets_in()


def test_a_change_that_this_gate_does_not_allow_ends_what_it_had(world: World) -> None:
    world.opened(1)
    world.forbidden = Forbidden(shared=Networks([OWNER.network]))
    world.mirror.begin()
    world.opened(2)
    assert not world.lets_in()
    assert world.changes[-1].why == "it may not be granted at this gate"


def test_an_unreadable_change_is_told_of_once_and_opens_nothing(world: World, errors: Errors) -> None:
    for number in (1, 2):
        world.mirror.apply(number, {b"o": b"?", b"v": b"!", b"t": THEIRS}, OURS)
    world.mirror.apply(3, {}, OURS)
    assert world.mirror.position == 3
    assert len(world.whitelist) == 0
    assert len(errors.expected()) == 1


def test_waiting_ends_with_the_change_that_is_waited_for(world: World) -> None:
    done: list[int] = []

    def told(_: None, number: int) -> None:
        done.append(number)

    for number in (3, 1, 2, 3):
        world.mirror.reached(number).addCallback(told, number)
    world.opened(1)
    assert done == [1]
    world.mirror.move(3, THEIRS)
    assert sorted(done) == [1, 2, 3, 3]
    failed: list[object] = []
    world.mirror.reached(9).addErrback(failed.append)
    world.mirror.reached(3).addCallback(told, 0)
    assert done[-1] == 0
    world.mirror.broken(ValueError("over"))
    assert len(failed) == 1
