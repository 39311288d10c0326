"""The engine dies, stands still, forgets, or comes late: what is granted goes on, and nothing else is granted."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.fleet import ADMIN, PHONE, SETTINGS, Fleet, grants, ready
from tests.conftest import LONG
from tests.engine import Redis, gate, needs_redis
from tests.faults.clocks import Clocked
from tests.service import Knocker, eventually, free_port

pytestmark = needs_redis
HERE, THERE, NEVER = "203.0.113.1", "203.0.113.2", "203.0.113.3"
STANDSTILL = 10.0 if LONG else 3.0  # seconds


def same_everywhere(fleet: Fleet) -> list[str]:
    """The entries that every gate shows, once they all show the same as the engine has."""

    def entries(gate: Knocker) -> list[str]:
        return sorted(grant["entry"] for grant in grants(gate))

    def engine() -> list[str]:
        names = fleet.engine.ask("KEYS", "{knocker}:grant:*")
        return sorted(json.loads(name.removeprefix("{knocker}:grant:"))[1] for name in names)

    eventually(lambda: all(entries(gate) == engine() for gate in fleet.gates), "all show what the engine has", 15)
    return engine()


def test_grants_outlive_the_engine_and_knocks_are_refused_meanwhile(fleet: Fleet) -> None:
    first, second, _ = fleet.gates
    assert first.knock(HERE, PHONE).status == 200
    fleet.agree(HERE, 200)
    fleet.engine.kill()
    eventually(lambda: all(ready(gate) for gate in fleet.gates), "all say that they are not ready")
    assert f"the store {fleet.engine.store}/0?prefix=knocker " in ready(first)[0]
    assert fleet.verdicts(HERE) == [200] * 3
    refused = second.knock(NEVER, PHONE)
    assert (refused.status, refused.json()["error"]) == (503, "The whitelist could not be stored.")
    assert fleet.verdicts(NEVER) == [401] * 3
    fleet.engine.start()
    fleet.wait_until_ready()
    assert same_everywhere(fleet) == [HERE], "an engine that keeps its word has all of it"
    assert second.knock(NEVER, PHONE).status == 200
    fleet.agree(NEVER, 200)


def test_a_close_without_the_engine_counts_here_at_once_and_everywhere_once_it_is_back(fleet: Fleet) -> None:
    first, second, _ = fleet.gates
    first.knock(HERE, PHONE)
    first.knock(THERE, PHONE)
    fleet.agree(THERE, 200)
    fleet.engine.kill()
    eventually(lambda: ready(second) != [], "the gate noticed")
    closed = second.knock(HERE, PHONE, "DELETE")
    assert (closed.status, closed.json()["error"]) == (503, "Closed, but not stored.")
    assert fleet.verdicts(HERE) == [200, 401, 200], "nobody else can know"
    assert any("closed at this gate alone" in reason for reason in ready(second))
    fleet.engine.start()
    fleet.wait_until_ready()
    fleet.agree(HERE, 401)
    fleet.agree(THERE, 200)
    assert same_everywhere(fleet) == [THERE]


def test_a_close_that_waited_ends_no_later_knock(fleet: Fleet, tmp_path: Path) -> None:
    first, second, _ = fleet.gates
    first.knock(HERE, PHONE)
    fleet.agree(HERE, 200)
    second.signal(signal.SIGSTOP)  # what it says while it cannot is said before the other's knock
    try:
        fleet.engine.signal(signal.SIGSTOP)
        second.signal(signal.SIGCONT)
        assert second.knock(HERE, PHONE, "DELETE").status == 503
    finally:
        second.signal(signal.SIGSTOP)
        fleet.engine.signal(signal.SIGCONT)
    time.sleep(0.1)
    eventually(lambda: first.knock(HERE, PHONE).status == 200, "the first is back, and knocks once more")
    second.signal(signal.SIGCONT)
    fleet.wait_until_ready()
    fleet.agree(HERE, 200)
    assert same_everywhere(fleet) == [HERE]


class Asking(threading.Thread):
    """Asks a gate for verdicts without pause, and remembers the slowest."""

    def __init__(self, gate: Knocker, client: str) -> None:
        super().__init__()
        self.gate, self.client = gate, client
        self.verdicts: set[int] = set()
        self.slowest = 0.0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            self.verdicts.add(self.gate.verify(self.client))
            self.slowest = max(self.slowest, time.monotonic() - began)


def test_a_standstill_of_the_engine_delays_no_verdict_and_grants_nothing_afterwards(fleet: Fleet) -> None:
    first, second, _ = fleet.gates
    first.knock(HERE, PHONE)
    fleet.agree(HERE, 200)
    asking = Asking(first, HERE)
    asking.start()
    try:
        fleet.engine.signal(signal.SIGSTOP)
        began = time.monotonic()
        answers = []
        while time.monotonic() < began + STANDSTILL:
            asked = time.monotonic()
            answers.append(second.knock(NEVER, PHONE).status)
            assert time.monotonic() - asked < 6, "a knock is answered in time"
        assert set(answers) == {503}
    finally:
        fleet.engine.signal(signal.SIGCONT)
        asking.over.set()
        asking.join()
    assert asking.verdicts == {200}
    assert asking.slowest < 1, "no verdict waits for the engine"
    fleet.wait_until_ready()
    assert same_everywhere(fleet) == [HERE], "what was refused is not granted later"
    assert fleet.verdicts(NEVER) == [401] * 3


def test_an_engine_that_forgot_everything_is_believed(fleet: Fleet) -> None:
    first, _, third = fleet.gates
    first.knock(HERE, PHONE)
    fleet.agree(HERE, 200)
    fleet.engine.ask("FLUSHALL")
    fleet.agree(HERE, 401, seconds=10)
    eventually(lambda: third.knock(THERE, PHONE).status == 200, "knocks count again")
    fleet.agree(THERE, 200, seconds=10)
    assert same_everywhere(fleet) == [THERE]


def test_an_engine_that_lost_its_last_changes_is_noticed(fleet: Fleet, tmp_path: Path) -> None:
    """As when a copy takes over that had not heard all, and goes on with other changes under the same numbers."""
    first, second, third = fleet.gates
    first.knock(HERE, PHONE)
    fleet.agree(HERE, 200)
    shutil.copytree(tmp_path / "engine", tmp_path / "earlier")
    lost, kept = ([f"203.0.113.{number}" for number in range(start, start + 3)] for start in (100, 200))
    for client in lost:
        first.knock(client, PHONE)
    fleet.agree(lost[-1], 200)
    second.signal(signal.SIGSTOP)
    try:
        fleet.engine.kill()
        shutil.rmtree(tmp_path / "engine" / "appendonlydir")
        shutil.copytree(tmp_path / "earlier" / "appendonlydir", tmp_path / "engine" / "appendonlydir")
        third.kill()
        fleet.engine.start()
        eventually(lambda: ready(first) == [], "the first is in step again", 20)
        for client in kept:
            assert first.knock(client, PHONE).status == 200
    finally:
        second.signal(signal.SIGCONT)
    third.start()
    fleet.wait_until_ready()
    assert same_everywhere(fleet) == sorted([HERE, *kept])
    for client in lost:
        assert fleet.verdicts(client) == [401] * 3
    assert "lost changes that this gate had seen" in second.log


def test_a_gate_that_missed_more_than_is_kept_reads_everything(fleet: Fleet) -> None:
    first, _, third = fleet.gates
    first.knock(HERE, PHONE)
    fleet.agree(HERE, 200)
    third.signal(signal.SIGSTOP)
    try:
        first.knock(HERE, PHONE, "DELETE")
        first.knock(THERE, PHONE)
        fleet.engine.ask("XTRIM", "{knocker}:changes", "MAXLEN", 0)
    finally:
        third.signal(signal.SIGCONT)
    fleet.agree(HERE, 401, seconds=10)
    fleet.agree(THERE, 200, seconds=10)
    assert same_everywhere(fleet) == [THERE]
    first.knock(HERE, PHONE)
    fleet.agree(HERE, 200)


def test_a_change_that_is_missing_among_others_is_noticed(fleet: Fleet) -> None:
    first, _, third = fleet.gates
    first.knock(HERE, PHONE)
    fleet.agree(HERE, 200)
    third.signal(signal.SIGSTOP)
    try:
        for client in (THERE, HERE, NEVER):  # of which the second closes what the third gate knows
            first.knock(client, PHONE, "DELETE" if client == HERE else "POST")
        assert fleet.engine.ask("XDEL", "{knocker}:changes", "3-0") == 1
    finally:
        third.signal(signal.SIGCONT)
    fleet.agree(HERE, 401, seconds=10)
    fleet.agree(NEVER, 200, seconds=10)


def test_no_acknowledged_knock_is_lost_when_its_gate_is_killed(fleet: Fleet) -> None:
    first, second, _ = fleet.gates
    kept: list[str] = []

    def knock() -> None:
        for number in range(1, 240):
            try:
                if first.knock(f"198.51.100.{number}", PHONE).status == 200:
                    kept.append(f"198.51.100.{number}")
            except OSError:
                return

    knocking = threading.Thread(target=knock)
    knocking.start()
    eventually(lambda: len(kept) > 20, "it knocks")
    first.kill()
    knocking.join()
    eventually(lambda: {grant["entry"] for grant in grants(second)} >= set(kept), "the others have them all")
    first.start()
    assert {grant["entry"] for grant in grants(first)} == {grant["entry"] for grant in grants(second)}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[tuple[Redis, Knocker]]:
    """An engine and a gate, neither of which is started."""
    engine = Redis(tmp_path / "engine", persistent=True)
    one = gate(tmp_path / "gate", engine.store, SETTINGS)
    try:
        yield engine, one
    finally:
        one.end()
        engine.kill()


def test_a_gate_that_starts_without_the_engine_denies_and_says_so_until_it_is_there(
    alone: tuple[Redis, Knocker],
) -> None:
    engine, one = alone
    one.start()
    assert one.verify(HERE) == 401
    assert one.knock(HERE, PHONE).status == 503
    assert "cannot be reached" in ready(one)[0]
    engine.start()
    eventually(lambda: ready(one) == [], "it is in step", 15)
    assert one.knock(HERE, PHONE).status == 200
    assert one.verify(HERE) == 200
    assert one.terminate() == 0


def test_a_gate_is_told_to_end_while_it_waits_for_the_engine(alone: tuple[Redis, Knocker]) -> None:
    _, one = alone
    one.launch()
    eventually(lambda: one.log_file.exists() and "cannot be reached" in one.log, "it tries")
    assert one.terminate() == 0


def test_attempts_become_rarer(alone: tuple[Redis, Knocker]) -> None:
    _, one = alone
    one.start()
    time.sleep(2)
    assert one.log.count("cannot be reached") == 1, "and are told once"


def test_an_engine_whose_clock_went_back_grants_nothing(fleet: Fleet) -> None:
    first, second, _ = fleet.gates
    assert first.knock(HERE, PHONE).status == 200
    fleet.agree(HERE, 200)
    clock = int(fleet.engine.ask("HGET", "{knocker}:state", "clock"))
    fleet.engine.ask("HSET", "{knocker}:state", "clock", clock + 3_600_000)  # as if it had been an hour later by now
    assert second.knock(THERE, PHONE).status == 503
    eventually(lambda: all("behind the highest time" in str(ready(gate)) for gate in fleet.gates), "all say so", 20)
    assert fleet.verdicts(HERE) == [200] * 3, "it goes on to its end on the gates' own clocks"
    second.terminate()
    second.start()
    assert second.verify(HERE) == 401, "whoever does not know its end lets nobody in"
    fleet.engine.ask("HSET", "{knocker}:state", "clock", clock)
    fleet.wait_until_ready()
    assert fleet.verdicts(HERE) == [200] * 3, "all is well once the clock is"


def test_clocks_that_differ_are_told_of_and_grants_end_by_the_engines(tmp_path: Path) -> None:
    with Redis(tmp_path / "engine") as engine:
        right = gate(tmp_path / "right", engine.store, SETTINGS)
        (tmp_path / "late").mkdir()
        late = Clocked(tmp_path / "late", {**SETTINGS, "whitelist": {"store": engine.store}}, free_port())
        late.set_wall(-3600)
        try:
            late.start()
            right.start()
            answer = late.knock(HERE, PHONE, ttl=2).json()
            assert answer["expires_in_seconds"] == 2
            assert abs(answer["expires_at"] - time.time() - 2 + 3600) < 1.5, "as its own clock has it"
            eventually(lambda: (late.verify(HERE), right.verify(HERE)) == (200, 200), "it counts at both", 1)
            eventually(lambda: (late.verify(HERE), right.verify(HERE)) == (401, 401), "it ends at both", 3)
            assert "behind the store's; grants end by the store's" in late.log
            assert "the store's; grants end" not in right.log
        finally:
            late.end()
            right.end()


def test_admins_see_no_secret_and_no_traceback(fleet: Fleet) -> None:
    fleet.gates[0].knock(HERE, ADMIN)
    fleet.engine.kill()
    eventually(lambda: ready(fleet.gates[0]) != [], "it noticed")
    for one in fleet.gates:
        assert one.terminate() == 0
        assert "Traceback" not in one.log
