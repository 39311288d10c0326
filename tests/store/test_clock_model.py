"""Clocks that are set, sleep, crashes and reboots in any order: who is let in is what contract 3.6 says, and no more.

Beside whitelist, file and reaper stands a slow model that knows the true time, also while the machine is off. Of each
owner's grant it keeps two ends. `latest`: beyond it nothing may live. `surely`: before it the grant must be there, for
its time is over on neither clock. Within one boot both are what the knocks said: the last one, or an earlier one that
lasts longer and that the last did not shorten by a ttl of its own.

What another boot allows: of the time between the last write of the file and the start in another boot only the wall
clock can tell, and of the wall clock only that it is at most 60 s behind the file. So the boot clock's end is put off
by just so much true time as lay between that write and the start, once for each such start; the wall clock's end is
put off by nothing. The other way round no more is promised than the wall clock has left at that start.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from knocker.core.addresses import Address
from knocker.core.change import Change, Event
from knocker.core.grant import Grant, Own, Via, Wish
from knocker.core.keys import Key, Keyring, digest_of
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.core.tally import Tally
from knocker.core.turns import Turns
from knocker.core.whitelist import Whitelist
from knocker.reaper import Reaper
from knocker.store.jsonfile import JsonFile
from tests.conftest import Errors

EPOCH = 1_800_000_000.0
BOOTED = 5000.0  # boot time at the beginning
ROUND = 60.0  # seconds between two rounds of the reaper
YEARS = 10 * 365 * 86_400.0
CLIENTS = ("198.51.100.7", "198.51.100.8", "2001:db8::7", "2001:db8::c633:6407")
KEYS = {"phone": 100, "tablet": 600}  # their ttl
# The max_ttl of each key under the settings that a reload may find; the first are those of the beginning.
SETTINGS: tuple[dict[str, int], ...] = ({"phone": 1200, "tablet": 3600}, {"phone": 1200}, {"phone": 60, "tablet": 600})

Owner = tuple[str, str]  # a key and an address


class Time(NamedTuple):
    """A moment, or an end that comes with whichever of the two is first; `true` is no clock that a Knocker sees."""

    wall: float
    true: float

    def before(self, end: Time) -> bool:
        return self.wall < end.wall and self.true < end.true

    def after(self, seconds: float) -> Time:
        return Time(self.wall + seconds, self.true + seconds)

    def or_later(self, other: Time) -> Time:
        return Time(max(self.wall, other.wall), max(self.true, other.true))

    def or_sooner(self, other: Time) -> Time:
        return Time(min(self.wall, other.wall), min(self.true, other.true))


NOTHING = Time(float("-inf"), float("-inf"))


@dataclass(frozen=True)
class Record:
    """What one owner's knocks left. `ended`: somebody saw it end, so it must not come back."""

    latest: Time
    surely: Time
    ended: bool = False

    def within(self, end: Time) -> Record:
        return replace(self, latest=self.latest.or_sooner(end), surely=self.surely.or_sooner(end))


class Life:
    """One machine with one Knocker after another, and the model."""

    def __init__(self, path: Path, errors: Errors) -> None:
        path.unlink(missing_ok=True)
        self.path, self.errors = path, errors
        self.wall, self.true, self.zero = EPOCH, 0.0, -BOOTED  # `zero`: the true time at which the boot clock began
        self.boots, self.settings = 1, SETTINGS[0]
        ids = itertools.count()
        self.new_id: Callable[[], str] = lambda: f"grant-{next(ids):014d}"
        self.records: dict[Owner, Record] = {}
        self.written = self.time  # the moment that the file tells
        self.stored: dict[Owner, float] = {}  # the true time of the latest end of each grant in the file
        self.slow = False
        self.writes: list[tuple[Callable[[], None], Deferred[None]]] = []
        self.start()

    @property
    def time(self) -> Time:
        return Time(self.wall, self.true)

    def now(self) -> Moment:
        return Moment(self.wall, self.true - self.zero)

    def key(self, name: str) -> Key:
        longest = self.settings[name]
        return Key(name, digest_of(name.encode()), min(KEYS[name], longest), longest)

    # What the product is given.

    def start(self) -> None:
        """A new process finds the file."""
        self.clock, self.rounds, self.wrote = Clock(), 0, False
        keyring = Keyring(self.key(name) for name in self.settings)
        self.whitelist = Whitelist(keyring, 100, self.new_id)
        boot_id = f"boot-{self.boots}"
        turns = Turns(self.clock.callLater, self.clock.seconds)
        self.store = JsonFile(
            str(self.path), self.whitelist, self.now, boot_id, self.in_thread, self.clock.callLater, turns, Tally()
        )
        self.whitelist.followers.append(self.follow)
        before = self.path.read_bytes() if self.path.exists() else b""
        self.store.load(keyring, Forbidden(), self.new_id)
        if self.path.exists() and self.path.read_bytes() != before:
            self.written, self.wrote = self.time, True
        assert self.store.complaints() == []
        self.refit()
        self.see_ends()
        self.store.start()
        self.reaper = Reaper(self.whitelist, self.now, self.clock, self.after_round)
        self.reaper.start(ROUND)
        self.turn()

    def in_thread(self, write: Callable[[], None]) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        begun = self.time

        def finish() -> None:
            write()
            self.written, self.wrote = begun, True

        self.writes.append((finish, done))
        if not self.slow:
            self.finish()
        return done

    def finish(self) -> None:
        write, done = self.writes.pop()
        write()
        done.callback(None)

    def after_round(self) -> None:
        self.store.refresh()
        self.rounds += 1

    def follow(self, change: Change) -> None:
        if change.event is Event.EXPIRED:
            owner = owner_of(change.grant)
            assert not self.is_promised(owner), f"{owner} ended before its time"
            self.end(owner)

    def turn(self) -> None:
        """Let the reactor do all that is due, writes included."""
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)
        if self.rounds:
            self.rounds = 0
            self.see_ends()
        self.note()

    # The model.

    def end(self, owner: Owner) -> None:
        self.records[owner] = replace(self.records[owner], ended=True)

    def is_promised(self, owner: Owner) -> bool:
        record = self.records.get(owner)
        return record is not None and not record.ended and self.time.before(record.surely)

    def see_ends(self) -> None:
        """Somebody looks through all grants."""
        for owner, record in self.records.items():
            if not self.time.before(record.latest):
                self.end(owner)

    def refit(self) -> None:
        """The settings count for what was granted before: no key's grant lasts longer than they allow from now on."""
        for owner, record in self.records.items():
            longest = self.settings.get(owner[0])
            if longest is None:
                self.end(owner)
            else:
                self.records[owner] = record.within(self.time.after(longest))

    def note(self) -> None:
        """What the last write left in the file."""
        if self.wrote:
            self.wrote = False
            self.stored = {owner: record.latest.true for owner, record in self.records.items()}

    def wake_elsewhere(self) -> None:
        """Another boot has nothing but the file and the wall clock."""
        self.boots += 1
        self.zero = self.true - 10.0
        lines = len(self.errors.lines)
        if self.wall >= self.written.wall - 60:
            self.carry_over()
            self.start()
            return
        for owner in self.records:
            self.end(owner)
        self.start()
        if self.alive:
            assert any("behind the last write" in line for line in self.errors.lines[lines:]), "nobody is told why"

    def carry_over(self) -> None:
        unseen, told = self.true - self.written.true, self.wall - self.written.wall
        for owner, record in self.records.items():
            latest = self.stored.get(owner, NOTHING.true) + unseen - min(unseen, max(0.0, told))
            # A step forward may end it early, also one that looks as if the machine had been off for longer.
            surely = min(record.surely.true - max(0.0, told - unseen), self.true + record.surely.wall - self.wall)
            self.records[owner] = replace(
                record, latest=Time(record.latest.wall, latest), surely=Time(record.surely.wall, surely)
            )

    def living(self) -> set[Owner]:
        """Whom a question would find, without asking it: an answer may end grants."""
        found = [owner_of(grant) for grant in self.whitelist if grant.lives(self.now())]
        assert len(found) == len(set(found))
        return set(found)

    def check(self) -> None:
        living = self.living()
        for owner in living:
            assert owner in self.records, f"{owner} never knocked"
            record = self.records[owner]
            assert not record.ended, f"{owner} came back"
            assert self.time.before(record.latest), f"{owner} lives too long"
        for owner, record in self.records.items():
            assert owner in living or not self.is_promised(owner), f"{owner} was lost"
            if not self.time.before(record.surely):
                # A step forward may end it, asked for or not.
                self.records[owner] = replace(record, surely=NOTHING)

    # The steps.

    def do(self, name: str, *much: Any) -> None:
        """One step, and what holds after each."""
        getattr(self, name)(*much)
        self.turn()
        self.check()

    def knock(self, name: str, client: str, ttl: int | None) -> None:
        """A knock that is answered in the same moment."""
        if name in self.settings:
            answers = self.send(name, client, ttl)
            self.turn()
            self.check_answer(answers, (name, client))

    def slow_knock(self, name: str, client: str, seconds: float, step: float, crash: str) -> None:
        """Time passes during the write of a knock, and the process may end before the answer."""
        if name not in self.settings:
            return
        held = self.records.get((name, client))
        before = dict(self.records)
        self.slow = True
        answers = self.send(name, client, None)
        self.turn()
        self.sleep(seconds)
        self.step(step)
        self.slow = False
        if not crash:
            self.finish()
            self.turn()
            self.check_answer(answers, (name, client))
            return
        write, _ = self.writes.pop()
        assert answers == []
        # What planning saw ended nobody was told of.
        self.records = before
        if crash == "late":
            write()
            # It is in the file, but nobody was told that it counts: it may live and need not.
            surely = self.planned.surely.or_sooner(held.surely) if held is not None else NOTHING
            self.records[name, client] = replace(self.planned, surely=surely)
            self.note()
        self.start()

    def send(self, name: str, client: str, ttl: int | None) -> list[Grant]:
        key, address, owner = self.key(name), Address.parse(client), (name, client)
        seconds = key.granted_ttl(ttl)
        end = self.time.after(seconds)
        planned = Record(end, end)
        if ttl is None and owner in self.living():
            # No knock shortens its own key's live grant.
            held = self.records[owner]
            planned = Record(end.or_later(held.latest), end.or_later(held.surely))
        self.planned = replace(planned, surely=planned.surely.or_sooner(self.time.after(key.max_ttl)))
        answers: list[Grant] = []
        wish = Wish(address.network, key, Via.HTTP, seconds, ttl is not None)
        self.store.put(wish).addCallback(answers.append)
        return answers

    def check_answer(self, answers: list[Grant], owner: Owner) -> None:
        """Each knock of these is granted, and on disk with that."""
        assert [owner_of(grant) for grant in answers] == [owner]
        surely = self.planned.surely.or_sooner(self.time.after(self.settings[owner[0]]))
        self.records[owner] = replace(self.planned, surely=surely)
        self.wrote = True
        file = json.loads(self.path.read_text())
        assert owner in {(grant["key"], grant["entry"]) for grant in file["grants"]}
        assert file["saved_at"] == self.written.wall

    def close(self, name: str, client: str) -> None:
        if name in self.settings:
            answers: list[None] = []
            self.store.remove(Own(self.key(name), Address.parse(client))).addCallback(answers.append)
            self.turn()
            assert answers == [None]
            if (name, client) in self.records:
                self.end((name, client))

    def ask(self, client: str) -> None:
        expected = {owner for owner in self.living() if owner[1] == client}
        found = {owner_of(grant) for grant in self.whitelist.live(Address.parse(client), self.now())}
        assert found == expected
        for owner in self.records:
            if owner[1] == client and owner not in found:
                self.end(owner)

    def wait(self, seconds: float) -> None:
        self.sleep(seconds)
        self.clock.advance(seconds)

    def sleep(self, seconds: float) -> None:
        """The machine sleeps: both clocks run on, and no timer does."""
        self.true += seconds
        self.wall += seconds

    def step(self, seconds: float) -> None:
        self.wall = max(0.0, self.wall + seconds)

    def right(self) -> None:
        """The wall clock is set right."""
        self.wall = EPOCH + self.true

    def reload(self, which: int) -> None:
        self.settings = SETTINGS[which]
        self.whitelist.revise(Keyring(self.key(name) for name in self.settings), Forbidden(), self.now())
        self.refit()
        self.store.start()

    def restart(self, clean: bool, seconds: float) -> None:
        """The process ends, and another begins in the same boot."""
        self.stop(clean)
        self.sleep(seconds)
        self.start()

    def reboot(self, clean: bool, off: float, step: float | None) -> None:
        """The machine is off for a while, and its wall clock is then set by `step`; None is to 1970."""
        self.stop(clean)
        self.sleep(off)
        self.step(-EPOCH if step is None else step)
        self.wake_elsewhere()

    def reboot_without_a_clock(self, clean: bool, off: float, after: float) -> None:
        """The machine's wall clock then goes on from about what the file says."""
        self.stop(clean)
        self.true += off
        self.wall = max(0.0, self.written.wall + after)
        self.wake_elsewhere()

    def stop(self, clean: bool) -> None:
        self.alive = self.living()
        if not clean:
            return
        self.reaper.stop()
        if len(self.whitelist):
            self.store.flush()
        self.store.idle()
        self.turn()
        self.store.stop()
        assert self.clock.getDelayedCalls() == []


def owner_of(grant: Grant) -> Owner:
    return str(grant.key), str(grant.network)


NAMES = st.sampled_from(["phone", "phone", "tablet"])
PLACES = st.sampled_from([*CLIENTS, CLIENTS[0], CLIENTS[0], CLIENTS[0]])
SHORT = st.sampled_from([0.0, 1.0, 30.0, 50.0, 90.0])
TIMES = st.sampled_from([1.0, 30.0, 50.0, 60.0, 99.0, 100.0, 299.0, 500.0, 601.0, 3000.0])
SMALL, LARGE = [-50.0, -30.0, 30.0], [-3600.0, 3600.0, -YEARS, YEARS]
OFF = st.sampled_from([0.0, 0.0, 5.0, 80.0, 300.0, 4000.0])
CLEAN = st.sampled_from([False, False, True])


def step(name: str, *much: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just(name), *much)


OFTEN = st.one_of(
    step("knock", NAMES, PLACES, st.sampled_from([None, None, None, 50, 50, 1000, 5000])),
    step("ask", PLACES),
    step("wait", TIMES),
    step("wait", SHORT),
    step("step", st.sampled_from([*SMALL, *SMALL, *LARGE, -EPOCH])),
    step("restart", CLEAN, SHORT),
    step("reboot", CLEAN, OFF, st.sampled_from([0.0, *SMALL, *LARGE, None])),
)
SELDOM = st.one_of(
    step("slow_knock", NAMES, PLACES, SHORT, st.sampled_from([0.0, *SMALL, *LARGE]),
         st.sampled_from(["", "", "early", "late"])),
    step("close", NAMES, PLACES),
    step("sleep", TIMES),
    step("right"),
    step("reload", st.sampled_from([0, 0, 1, 2])),
    step("reboot_without_a_clock", CLEAN, OFF, st.sampled_from([-61.0, -60.0, -59.0, 0.0, 50.0])),
)  # fmt: skip
STEPS = st.one_of(OFTEN, OFTEN, SELDOM)


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: Errors) -> Callable[[], Life]:
    """Begins a life, on an empty disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power is cut here
    return lambda: Life(tmp_path / "whitelist.json", errors)


@pytest.mark.timeout(300)
def test_whatever_the_clocks_do_a_grant_lives_for_its_time(life: Callable[[], Life]) -> None:
    @given(st.lists(STEPS, min_size=8, max_size=40))
    def live(drawn: list[tuple[Any, ...]]) -> None:
        found = life()
        for name, *much in drawn:
            found.do(name, *much)

    live()


WHO = ("phone", CLIENTS[0])
KNOCK = ("knock", *WHO, None)
LONG_KNOCK = ("knock", *WHO, 1000)
ASK = ("ask", CLIENTS[0])
CRASH = ("restart", False, 0.0)


@pytest.mark.parametrize(
    ("told", "lives"),
    [
        pytest.param([KNOCK, ("wait", 99.0), ASK, CRASH], True, id="an honest clock"),
        pytest.param([KNOCK, ("wait", 30.0), ("reboot", False, 69.0, 0.0)], True, id="an honest clock, another boot"),
        pytest.param([KNOCK, ("sleep", 100.0)], False, id="sleep counts"),
        pytest.param([KNOCK, ("step", 100.0)], False, id="set forward"),
        pytest.param([KNOCK, ("step", -3600.0), ("wait", 100.0)], False, id="set back"),
        pytest.param([KNOCK, ("step", 3600.0), ASK, ("right",)], False, id="set forward, asked, set back"),
        pytest.param([KNOCK, ("step", 3600.0), ASK, ("right",), CRASH], False, id="asked, set back, a crash"),
        pytest.param([KNOCK, ("step", 3600.0), ASK, ("right",), ("reboot", False, 0.0, 0.0)], False,
                     id="asked, set back, another boot"),
        pytest.param([KNOCK, ("step", 3600.0), ("wait", 60.0), ("right",), CRASH], False, id="the reaper saw it end"),
        pytest.param([KNOCK, ("step", 3600.0), CRASH, ("right",), CRASH], False, id="a start saw it end"),
        pytest.param([KNOCK, ("step", -50.0), ("wait", 50.0), CRASH, ("wait", 50.0)], False,
                     id="a crash gives no time back"),
        pytest.param([KNOCK, ("reboot", False, 0.0, 0.0), ("step", -3600.0), ("wait", 100.0)], False,
                     id="set back in another boot"),
        pytest.param([KNOCK, ("reboot_without_a_clock", False, 5.0, -60.0)], True, id="a little behind the file"),
        pytest.param([KNOCK, ("reboot_without_a_clock", False, 5.0, -61.0)], False, id="behind the file"),
        pytest.param([KNOCK, ("reboot", True, 5.0, None)], False, id="1970"),
        pytest.param([LONG_KNOCK, KNOCK, ("wait", 999.0)], True, id="a knock does not shorten"),
        pytest.param([LONG_KNOCK, ("knock", *WHO, 50), ("wait", 50.0)], False, id="a knock that names its ttl does"),
        pytest.param([LONG_KNOCK, ("step", 3600.0), KNOCK, ("right",), ("wait", 100.0)], False,
                     id="of what ended nothing is kept"),
        pytest.param([KNOCK, ("close", *WHO), CRASH], False, id="closed"),
        pytest.param([KNOCK, ("reload", 1), ("knock", "tablet", CLIENTS[0], None), ("reload", 0)], True,
                     id="a reload that is about another key"),
        pytest.param([LONG_KNOCK, ("reload", 2), CRASH, ("reload", 0), ("wait", 60.0)], False, id="a reload cut it"),
        pytest.param([KNOCK, ("slow_knock", *WHO, 90.0, 0.0, ""), ("wait", 9.0)], True, id="a slow renewal"),
        pytest.param([("slow_knock", *WHO, 1.0, 0.0, "early")], False, id="a crash before the write"),
        pytest.param([KNOCK, ("slow_knock", *WHO, 90.0, 0.0, "early"), ("wait", 9.0)], True, id="a renewal was lost"),
        pytest.param([("slow_knock", *WHO, 90.0, 0.0, "late"), ("wait", 10.0)], False, id="a crash before the answer"),
        pytest.param([KNOCK, ("reboot", False, 0.0, -50.0), ("wait", 50.0), CRASH, ("wait", 50.0)], False,
                     id="a crash in another boot gives no time back"),
        pytest.param([KNOCK, ("reboot", False, 0.0, -50.0), ("step", -50.0), CRASH], True,
                     id="a crash in another boot takes no time"),
    ],
)  # fmt: skip
def test_what_becomes_of_a_grant(life: Callable[[], Life], told: list[tuple[Any, ...]], lives: bool) -> None:
    """An example of each rule, so that the test above cannot pass because the model promises nothing."""
    found = life()
    for name, *much in told:
        found.do(name, *much)
    assert (WHO in found.living()) is lives
    assert found.is_promised(WHO) is lives
