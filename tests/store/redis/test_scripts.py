"""The scripts in a real engine against a slow model: what is there, what made room, and what the stream tells."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from knocker.core.addresses import Network
from knocker.core.grant import Via
from knocker.store.redis.keys import Keys
from knocker.store.redis.link import BEAT, CLAIM, CLOSE, COPY, OPEN, Script
from knocker.store.redis.record import Owner, Record
from tests.conftest import LONG
from tests.engine import Redis, Reply, Talk, needs_redis

pytestmark = needs_redis
ROUNDS = 20_000 if LONG else 1_500
MOST = 12
FAR = 10**13  # a deadline that never comes
CLIENTS = [*(f"203.0.113.{number}" for number in range(1, 9)), "2001:db8::1", "2001:db8::2"]
LIMITS = {"free": -1, "one": 1, "three": 3}


class Engine:
    """The scripts, called as a gate calls them."""

    def __init__(self, talk: Talk, prefix: str) -> None:
        self.talk = talk
        self.keys = Keys(prefix)
        for script in (OPEN, CLOSE, BEAT, COPY, CLAIM):
            talk.ask("SCRIPT", "LOAD", script.text)

    def run(self, script: Script, keys: list[str], *arguments: str | int) -> Reply:
        """A script's answer."""
        return self.talk.ask("EVALSHA", script.digest, len(keys), *keys, *arguments)

    def _of(self, owner: Owner) -> list[str]:
        keys = self.keys
        return [keys.state, keys.changes, keys.all, keys.crowd(owner.crowd), keys.grant(owner.text)]

    def open(
        self,
        owner: Owner,
        ttl: int = 60_000,
        *,
        named: bool = False,
        via: Via = Via.HTTP,
        most: int = MOST,
        addresses: int = -1,
        deadline: int = FAR,
        fresh: str = "an-id-that-is-long-enough",
        mark: str = "mark",
        other: str = "-",
        admin: bool = True,
    ) -> Reply:
        """A knock."""
        told = (self.keys.start, owner.text, fresh, ttl, int(named), via.value, mark, other, int(admin))
        return self.run(OPEN, self._of(owner), *told, most, addresses, deadline, "token", 1000)

    def close(self, *owners: Owner, ago: int = 0, only: str = "") -> Reply:
        """A close that was asked for so many milliseconds ago."""
        told = [part for owner in owners for part in (owner.text, owner.crowd, ago, only, "left")]
        keys = [self.keys.state, self.keys.changes, self.keys.all]
        return self.run(CLOSE, keys, self.keys.start, "token", 1000, *told)

    def beat(self, position: int = 0, token: str = "", *, lost: bool = False, fence: int = 1000) -> Reply:
        """A look at its state."""
        told = (position, token, "epoch", fence, int(lost))
        return self.run(BEAT, [self.keys.state, self.keys.changes], *told)

    def now(self) -> int:
        """Its clock, in milliseconds."""
        seconds, micros = self.talk.ask("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def copy(self, owner: Owner, left: int, name: str = "an-id-of-another-place", mark: str = "mark") -> Reply:
        """A grant from elsewhere, which lasts so many milliseconds more."""
        told = (owner.text, name, 5000, 2000, self.now() + left, "http", mark, MOST, "token", 1000)
        return self.run(COPY, self._of(owner), *told)

    def claim(self, name: str, *, made: int = FAR, epoch: str = "epoch", position: int = 0) -> Reply:
        """A UDP packet."""
        keys = self.keys
        return self.run(CLAIM, [keys.state, keys.named(f"seen:{name}")], epoch, position, made, 60_000)

    def record(self, owner: Owner) -> Record | None:
        """What is there of an owner."""
        found = self.talk.ask("GET", self.keys.grant(owner.text))
        return None if found is None else Record.parse(found.encode())

    def records(self) -> dict[Owner, Record]:
        """All that is there."""
        start = self.keys.grant("")
        names = self.talk.ask("KEYS", start.replace("[", "\\[") + "*")
        found = {name: self.talk.ask("GET", name) for name in names}
        return {
            Owner.parse(name.removeprefix(start).encode()): Record.parse(value.encode())
            for name, value in found.items()
            if value is not None
        }


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    """A connection to an engine."""
    with Redis(tmp_path_factory.mktemp("engine")) as redis, closing(Talk(redis.port)) as talk:
        yield talk


_prefixes = iter(range(10_000))


@pytest.fixture
def engine(talk: Talk) -> Engine:
    """An engine with a prefix that nobody used."""
    return Engine(talk, f"test{next(_prefixes)}")


def owner(client: str = "203.0.113.1", key: str = "free", host: str | None = None) -> Owner:
    return Owner(key, Network.parse(client), host)


@dataclass
class Held:
    """A grant in the model: its id, the number of its last change, and its via; it ends by a clock of its own."""

    id: str
    number: int
    via: Via


def test_random_knocks_closes_and_copies_leave_what_a_model_says(engine: Engine) -> None:
    chance = random.Random(7)
    model: dict[Owner, Held] = {}
    number = 0
    for place in range(ROUNDS):
        key = chance.choice(list(LIMITS))
        who = owner(chance.choice(CLIENTS), key, chance.choice([None, None, None, "app.example.com"]))
        kind = chance.random()
        if kind < 0.6:
            via = chance.choice([Via.HTTP, Via.HTTP, Via.UDP, Via.REMOTE])
            name = f"id-{place:020}"
            answer = engine.open(who, via=via, addresses=LIMITS[key], fresh=name, named=chance.random() < 0.5)
            held = model.get(who)
            settled = Via.REMOTE if held is not None and held.via is Via.REMOTE else via
            leaving: list[Owner] = []
            if settled.own and LIMITS[key] >= 0:
                crowd = [other for other in model if other.crowd == who.crowd and model[other].via.own and other != who]
                crowd.sort(key=lambda other: model[other].number)
                leaving = crowd[: max(0, len(crowd) - (LIMITS[key] - 1))]
            if held is None and len(model) + 1 - len(leaving) > MOST:
                assert answer == ["full"]
                continue
            number += 1
            model[who] = Held(held.id if held is not None else name, number, settled)
            for other in leaving:
                number += 1
                del model[other]
            assert answer == ["ok", str(number)]
        elif kind < 0.9:
            number += who in model
            assert engine.close(who) == ["ok", str(number)]
            model.pop(who, None)
        else:
            answer = engine.copy(who, 1_000)  # shorter than whatever is there
            if who in model:
                assert answer == ["kept"]
            elif len(model) + 1 > MOST:
                assert answer == ["full"]
            else:
                number += 1
                assert answer == ["ok", str(number)]
                number += 1
                assert engine.close(who) == ["ok", str(number)]
        if place % 50 == 0:
            found = {other: Held(record.id, record.number, record.via) for other, record in engine.records().items()}
            assert found == model
            assert set(engine.talk.ask("ZRANGE", engine.keys.all, 0, -1)) == {other.text for other in model}
    crowds = engine.talk.ask("KEYS", engine.keys.crowd("*"))
    counted = {member for crowd in crowds for member in engine.talk.ask("ZRANGE", crowd, 0, -1)}
    assert counted == {other.text for other, held in model.items() if held.via.own}


def test_the_stream_tells_every_change_in_order_without_a_gap(engine: Engine) -> None:
    engine.open(owner("203.0.113.1", "three"), addresses=1)
    engine.open(owner("203.0.113.2", "three"), addresses=1)
    engine.close(owner("203.0.113.2", "three"))
    engine.close(owner("203.0.113.2", "three"))
    entries = engine.talk.ask("XRANGE", engine.keys.changes, "-", "+")
    assert [name for name, _ in entries] == ["1-0", "2-0", "3-0", "4-0"]
    told = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]
    assert [(entry["o"], bool(entry["v"]), entry["w"], entry["t"]) for entry in told] == [
        (owner("203.0.113.1", "three").text, True, "", "token"),
        (owner("203.0.113.2", "three").text, True, "", "token"),
        (owner("203.0.113.1", "three").text, False, "room", "token"),
        (owner("203.0.113.2", "three").text, False, "left", "token"),
    ]


def test_a_plain_knock_never_shortens_and_a_named_time_does(engine: Engine) -> None:
    engine.open(owner(), 50_000)
    long = engine.record(owner())
    engine.open(owner(), 5_000)
    plain = engine.record(owner())
    engine.open(owner(), 5_000, named=True)
    short = engine.record(owner())
    assert long is not None
    assert plain is not None
    assert short is not None
    assert plain.ends == long.ends
    assert plain.last >= long.last
    assert short.ends < long.ends - 40_000
    assert {long.id, plain.id, short.id} == {long.id}
    assert long.created == short.created


def test_a_grant_ends_by_itself_and_makes_room(engine: Engine) -> None:
    assert engine.open(owner("203.0.113.1", "one"), 40, most=1, addresses=1)[0] == "ok"
    assert engine.open(owner("203.0.113.2"), most=1) == ["full"]
    time.sleep(0.06)
    assert engine.record(owner("203.0.113.1", "one")) is None
    assert engine.open(owner("203.0.113.2"), most=1)[0] == "ok"
    assert engine.open(owner("203.0.113.3", "one"), most=9, addresses=1) == ["ok", "3"], "nothing made room for it"


def test_what_comes_too_late_is_not_done(engine: Engine) -> None:
    assert engine.open(owner(), deadline=1000) == ["late"]
    assert engine.record(owner()) is None
    assert engine.talk.ask("EXISTS", engine.keys.state) == 0


def test_a_clock_behind_its_highest_time_opens_nothing(engine: Engine) -> None:
    engine.open(owner())
    clock = int(engine.talk.ask("HGET", engine.keys.state, "clock"))
    engine.talk.ask("HSET", engine.keys.state, "clock", clock + 50_000)
    assert engine.open(owner())[0] == "ok", "a little is usual"
    engine.talk.ask("HSET", engine.keys.state, "clock", clock + 100_000)
    answer = engine.open(owner())
    assert answer[0] == "behind"
    assert 90_000 < answer[1] <= 100_000
    assert engine.close(owner())[0] == "ok", "closing goes on"


def test_a_close_ends_nothing_that_was_knocked_for_later(engine: Engine) -> None:
    engine.open(owner("203.0.113.1"))
    engine.open(owner("203.0.113.2"))
    second = engine.record(owner("203.0.113.2"))
    assert second is not None
    answer = engine.close(owner("203.0.113.2"), ago=60_000)
    assert answer == ["ok", "2", owner("203.0.113.2").text, second.text]
    assert engine.close(owner("203.0.113.2"), ago=0) == ["ok", "3"]


def test_a_close_by_id_ends_no_other_grant(engine: Engine) -> None:
    engine.open(owner(), fresh="an-id-of-the-first-knock")
    first = engine.record(owner())
    assert first is not None
    assert engine.close(owner(), only="an-id-of-another-knock") == ["ok", "1", owner().text, first.text]
    assert engine.close(owner(), only="an-id-of-the-first-knock") == ["ok", "2"]


def test_a_knock_inherits_nothing_that_its_key_would_not_leave(engine: Engine) -> None:
    engine.open(owner(), 500_000, fresh="an-id-of-the-first-knock", mark="old")
    engine.open(owner(), 5_000, fresh="an-id-of-the-second-one", mark="new", other="udp")
    second = engine.record(owner())
    assert second is not None
    assert (second.id, second.ends - second.last) == ("an-id-of-the-second-one", 5_000)
    engine.open(owner(), 5_000, mark="udp", other="new")
    renewed = engine.record(owner())
    assert renewed is not None
    assert renewed.id == second.id, "by the key's other way it is the same grant"
    engine.open(owner("203.0.113.2"), 500_000, via=Via.REMOTE)
    engine.open(owner("203.0.113.2"), 5_000, admin=False, fresh="an-id-without-the-right")
    without = engine.record(owner("203.0.113.2"))
    assert without is not None
    assert (without.via, without.id, without.ends - without.last) == (Via.HTTP, "an-id-without-the-right", 5_000)


def test_a_clock_that_is_set_back_a_little_stands_still_for_grants(engine: Engine) -> None:
    engine.open(owner(), 60_000)
    ahead = engine.now() + 40_000
    engine.talk.ask("HSET", engine.keys.state, "clock", ahead)
    engine.open(owner("203.0.113.2"), 60_000)
    second = engine.record(owner("203.0.113.2"))
    assert second is not None
    assert (second.last, second.ends) == (ahead, ahead + 60_000)
    assert engine.beat(2, "token")[2] == ahead


def test_a_packet_is_taken_once_and_not_where_some_may_have_been_forgotten(engine: Engine) -> None:
    assert engine.claim("one") == "lost", "an engine that knows nothing yet"
    fence = int(engine.beat(fence=1000)[5])
    assert engine.claim("one", made=fence - 1) == "fenced"
    assert engine.claim("one", made=fence) == "first"
    assert engine.claim("one", made=fence) == "again"
    assert engine.claim("two", epoch="another") == "lost"
    assert engine.claim("two", position=1) == "lost"
    assert engine.claim("two") == "first"


def test_a_beat_tells_whether_the_last_change_is_still_the_same(engine: Engine) -> None:
    assert engine.beat()[3] == "same", "nothing has happened yet"
    engine.open(owner())
    engine.open(owner())
    assert engine.beat()[1:4:2] == ["2", "trimmed"], "a gate that knows nothing has to read"
    assert engine.beat(1, "token")[3] == "same"
    assert engine.beat(2, "token")[3] == "same"
    assert engine.beat(2, "another")[3] == "lost", "another change of that number"
    assert engine.beat(3, "token")[3] == "lost", "the engine has gone back"
    assert engine.beat(1, "token")[6] == "token"
    engine.talk.ask("XTRIM", engine.keys.changes, "MAXLEN", 0)
    assert engine.beat(1, "token")[3] == "trimmed"
    assert engine.beat(2, "token")[3] == "same", "nothing has happened since"


def test_the_fence_is_set_when_all_is_new_and_when_something_was_lost(engine: Engine) -> None:
    first = engine.beat(fence=1000)
    assert first[4] == "epoch"
    assert int(first[5]) == first[0] + 1000
    again = engine.beat(fence=9000)
    assert again[5] == first[5]
    lost = engine.beat(lost=True, fence=9000)
    assert int(lost[5]) >= first[0] + 9000


def test_a_copy_keeps_the_longer_and_prolongs_nothing(engine: Engine) -> None:
    assert engine.copy(owner(), 10_000) == ["ok", "1"]
    first = engine.record(owner())
    assert first is not None
    assert 9_000 < first.ends - first.last - 2000 <= 10_000
    assert (first.last - first.created, first.id) == (3000, "an-id-of-another-place")
    assert engine.copy(owner(), 10_400) == ["kept"], "the same, but for how exactly clocks are read"
    assert engine.copy(owner(), 50_000) == ["ok", "2"]
    assert engine.copy(owner(), 90_000, mark="another") == ["kept"], "another secret's is not replaced"
    assert engine.copy(owner("203.0.113.2"), 0) == ["over"]
    longer = engine.record(owner())
    assert longer is not None
    assert 49_000 < longer.ends - longer.last - 2000 <= 50_000


def test_what_no_gate_wrote_is_as_good_as_nothing(engine: Engine) -> None:
    for script in (engine.open, lambda who: engine.copy(who, 1000)):
        engine.talk.ask("SET", engine.keys.grant(owner().text), "nonsense")
        assert script(owner())[0] == "ok"
        assert engine.record(owner()) is not None
    engine.talk.ask("SET", engine.keys.grant(owner().text), "nonsense")
    assert engine.close(owner())[0] == "ok"
    assert engine.record(owner()) is None


def test_a_full_memory_leaves_nothing_done_by_halves(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Redis(tmp_path_factory.mktemp("full")) as redis, closing(Talk(redis.port)) as talk:
        engine = Engine(talk, "full")
        engine.beat()
        engine.open(owner("203.0.113.1"), 20)
        engine.open(owner("203.0.113.2"))
        time.sleep(0.03)  # so that there is something to tidy up
        before = engine.talk.ask("HMGET", engine.keys.state, "changes", "clock")
        talk.ask("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(ValueError, match="OOM"):
            engine.open(owner("203.0.113.3"))
        with pytest.raises(ValueError, match="OOM"):
            engine.open(owner("203.0.113.2"))
        assert engine.talk.ask("HMGET", engine.keys.state, "changes", "clock") == before
        assert engine.beat(2, "token")[3] == "same"
        assert "OOM" in engine.beat(2, "token")[7], "and gates are told"
        assert engine.close(owner("203.0.113.2"))[0] == "ok"
        assert engine.records() == {}
