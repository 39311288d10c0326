"""Clocks that jump: no grant gets longer or comes back, no packet opens twice, and the service goes on.

What a test calls the time is how far Knocker's wall clock is before the right one.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.e2e.conftest import PHONE
from tests.e2e.conftest import settings as web_settings
from tests.e2e.test_udp import KEY, WINDOW, Door, packet
from tests.e2e.test_udp import settings as udp_settings
from tests.faults.clocks import Clocked
from tests.faults.conftest import entries
from tests.faults.strace import Traced
from tests.service import Settings, ask, eventually, free_port

HOUR = 3600
STEPS = {
    "+1 h": HOUR,
    "+10 years": 10 * 365 * 24 * HOUR,
    "-1 h": -HOUR,
    "to 1970": round(10 - time.time()),
    "+30 s": 30,
    "-30 s": -30,
}
LIVE, RESTART, REBOOT = "while it runs", "over a restart", "over a reboot"
UP_LONGER = "over a reboot to longer ago"

BRIEF, HONEST, NEW, CLOSED = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"


def turn(knocker: Clocked, ahead: float, way: str) -> None:
    """Set its wall clock, in one of the ways."""
    if way == LIVE:
        knocker.set_wall(ahead)
        return
    assert knocker.terminate() == 0
    knocker.set_wall(ahead)
    if way == REBOOT:
        knocker.reboot()
    elif way == UP_LONGER:
        knocker.reboot(up=int(time.clock_gettime(time.CLOCK_BOOTTIME)) + 2 * HOUR)
    knocker.start()


def survives(moved: float, way: str) -> bool:
    """Whether a grant of an hour does, that was just made when the wall clock moves."""
    return moved < HOUR and (moved > -60 or way in (LIVE, RESTART))


def opened(knocker: Clocked) -> dict[str, bool]:
    """Who is let in."""
    found = {client: knocker.verify(client) for client in (BRIEF, HONEST, NEW, CLOSED)}
    assert set(found.values()) <= {200, 401}
    return {client: status == 200 for client, status in found.items()}


def is_ready(port: int) -> bool:
    answer = ask(port, "/ready")
    assert answer.status in (200, 503)
    return answer.status == 200


@contextmanager
def soon() -> Iterator[None]:
    """What is done in it takes no longer than anything does here."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 3


@contextmanager
def running(directory: Path, told: Settings) -> Iterator[Clocked]:
    """One that listens, and whose clocks are right."""
    knocker = Clocked(directory, told, free_port())
    try:
        knocker.start()
        yield knocker
    finally:
        knocker.end(PHONE)


@pytest.fixture
def knocker(tmp_path: Path) -> Iterator[Clocked]:
    """One whose reaper does not come while a test runs: what is over is over when somebody asks."""
    with running(tmp_path, web_settings()) as knocker:
        yield knocker


@pytest.fixture
def reaped(tmp_path: Path) -> Iterator[Clocked]:
    """One whose reaper comes each second."""
    with running(tmp_path, {**web_settings(), "whitelist": {"cleanup_interval_seconds": 1}}) as knocker:
        yield knocker


# --- Grants ----------------------------------------------------------------------------------------------------------

ALL = [(step, way) for way in (LIVE, RESTART, REBOOT) for step in STEPS]
FEW = [("-1 h", UP_LONGER)]


@pytest.mark.parametrize(("step", "way"), [*ALL, *FEW, ("-30 s", UP_LONGER)] if LONG else FEW)
def test_a_step_of_the_clock_prolongs_and_revives_nothing(knocker: Clocked, step: str, way: str) -> None:
    moved = STEPS[step]
    for client, ttl in ((BRIEF, 1), (HONEST, HOUR), (CLOSED, HOUR)):
        assert knocker.knock(client, PHONE, ttl=ttl).status == 200
    assert knocker.knock(CLOSED, PHONE, "DELETE").status == 204
    turn(knocker, moved, way)
    honest = survives(moved, way)
    with soon():
        assert opened(knocker) | {BRIEF: False} == {BRIEF: False, HONEST: honest, NEW: False, CLOSED: False}
        assert [knocker.knock(client, PHONE, ttl=HOUR).status for client in (NEW, CLOSED)] == [200, 200]
        assert [opened(knocker)[client] for client in (NEW, CLOSED)] == [True, True]
        assert knocker.knock(CLOSED, PHONE, "DELETE").status == 204
        assert not opened(knocker)[CLOSED]
    eventually(lambda: knocker.verify(BRIEF) == 401, "its boot time is over", seconds=1.5)
    assert is_ready(knocker.port)
    assert ("behind the last write before the reboot" in knocker.log) == (not survives(min(moved, 0), way))
    new = survives(-moved, way)
    honest = honest and (way == LIVE or new)  # a start leaves no more than its key allows from then on
    for back in (LIVE, RESTART) if way == LIVE else (way,):
        turn(knocker, 0, back)
        assert opened(knocker) == {BRIEF: False, HONEST: honest, NEW: new, CLOSED: False}
        assert is_ready(knocker.port)


if LONG:

    @pytest.mark.parametrize(("step", "way"), [("-1 h", LIVE), ("to 1970", RESTART)])
    def test_an_hour_of_boot_time_ends_a_grant_of_an_hour_whatever_the_wall_clock_says(
        knocker: Clocked, step: str, way: str
    ) -> None:
        assert knocker.knock(HONEST, PHONE, ttl=HOUR).status == 200
        turn(knocker, STEPS[step], way)
        assert opened(knocker)[HONEST]
        assert knocker.knock(NEW, PHONE, ttl=HOUR).status == 200
        assert knocker.terminate() == 0
        knocker.sleep(HOUR - 60)
        knocker.start()
        assert (opened(knocker)[HONEST], opened(knocker)[NEW]) == (True, True)
        assert knocker.terminate() == 0
        knocker.sleep(60)
        for ahead in (STEPS[step], 0):
            knocker.set_wall(ahead)
            knocker.start()
            assert not any(opened(knocker).values())
            assert knocker.terminate() == 0

    @pytest.mark.parametrize("up", [None, 2 * HOUR], ids=["not long ago", "long ago"])
    def test_a_reboot_with_a_right_clock_ends_nothing_before_its_time(knocker: Clocked, up: int | None) -> None:
        assert knocker.knock(HONEST, PHONE, ttl=HOUR).status == 200
        for way in (REBOOT if up is None else UP_LONGER, RESTART):
            turn(knocker, 0, way)
            assert opened(knocker)[HONEST]
        assert knocker.terminate() == 0
        knocker.sleep(HOUR)
        knocker.start()
        assert not opened(knocker)[HONEST]


# --- Timers ----------------------------------------------------------------------------------------------------------

BIG = [step for step in STEPS if not step.endswith(" s")]


@pytest.mark.parametrize("step", BIG if LONG else ["-1 h"])
def test_the_reaper_works_on_after_a_step(reaped: Clocked, step: str) -> None:
    assert reaped.knock(BRIEF, PHONE, ttl=1).status == 200
    reaped.set_wall(STEPS[step])
    eventually(lambda: f"expired {BRIEF} " in reaped.log, "it is reaped", seconds=4)
    eventually(lambda: BRIEF not in entries(reaped.whitelist), "it leaves the file", seconds=1)
    if LONG:
        assert reaped.knock(NEW, PHONE, ttl=1).status == 200
        eventually(lambda: f"expired {NEW} " in reaped.log, "the next one is, too", seconds=4)


def connected(knocker: Clocked) -> HTTPConnection:
    """A connection that is not opened again once it is closed."""
    wire = HTTPConnection(knocker.host, knocker.port, timeout=4)
    wire.connect()
    wire.auto_open = 0
    return wire


def step_unseen(knocker: Clocked, step: str) -> None:
    """Let the clock step when all that was asked is done, and what that sets off have its turn: others are answered."""
    for ahead in (0, STEPS[step]):
        knocker.set_wall(ahead)
        assert [knocker.verify(CLOSED) for _ in range(5)] == [401] * 5


@pytest.mark.parametrize("step", BIG if LONG else ["+10 years"])
def test_an_idle_connection_of_a_proxy_outlives_a_step(knocker: Clocked, step: str) -> None:
    assert knocker.knock(HONEST, PHONE, ttl=HOUR).status == 200
    with closing(connected(knocker)) as proxy:
        for lives in (True, survives(STEPS[step], LIVE)):
            proxy.request("GET", "/verify", headers={"X-Forwarded-For": HONEST, "X-Forwarded-Uri": "/"})
            answer = proxy.getresponse()
            assert (answer.status, answer.read()) == (200 if lives else 401, b"")
            if knocker.ahead == 0:
                step_unseen(knocker, step)


if LONG:

    @pytest.mark.parametrize("step", BIG)
    def test_a_knock_that_is_being_sent_outlives_a_step(knocker: Clocked, step: str) -> None:
        body = b'{"ttl": 60}'
        with closing(connected(knocker)) as client:
            client.putrequest("POST", "/knock")
            for name, value in (("X-Forwarded-For", NEW), ("X-Api-Key", PHONE), ("Content-Length", str(len(body)))):
                client.putheader(name, value)
            client.putheader("Content-Type", "application/json")
            client.endheaders(body[:4])
            step_unseen(knocker, step)
            with soon():
                client.send(body[4:])
                answer = client.getresponse()
                assert (answer.status, answer.read() != b"") == (200, True)
        assert knocker.verify(NEW) == 200

    @pytest.mark.parametrize("step", BIG)
    def test_a_knock_that_is_being_stored_is_answered_after_a_step(knocker: Clocked, step: str) -> None:
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.append(knocker.knock(NEW, PHONE, ttl=HOUR).status))
        with Traced(knocker, "fsync", "tmp", 1, "delay_enter=1s"):
            thread.start()
            eventually(lambda: (knocker.directory / "whitelist.json.tmp").exists(), "the write began")
            knocker.set_wall(STEPS[step])
            thread.join(4)
        assert answers == [200]
        assert (knocker.verify(NEW) == 200) == survives(STEPS[step], LIVE)
        assert knocker.knock(HONEST, PHONE).status == 200

    def test_a_slow_client_is_cut_off_in_its_time_though_the_clock_goes_back(knocker: Clocked) -> None:
        with socket.create_connection((knocker.host, knocker.port), timeout=14) as slow:
            slow.sendall(b"GET /verify HTTP/1.1\r\n")
            step_unseen(knocker, "-1 h")
            began = time.monotonic()
            with pytest.raises(ConnectionResetError):
                slow.recv(100)
            assert 7 < time.monotonic() - began < 12


# --- UDP -------------------------------------------------------------------------------------------------------------


class ClockedDoor(Door):
    """A silent door of a Knocker whose clocks go as a test says."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        told = {**udp_settings(self.port, directory), "whitelist": {"cleanup_interval_seconds": 1}}
        self.clocked = self.knocker = Clocked(directory, told, free_port())

    def takes(self, *packets: bytes) -> list[bool]:
        """Which of these, each sent from elsewhere, open anything; nothing stays open."""
        sources = [f"127.0.0.{place}" for place in range(2, 2 + len(packets))]
        for source, data in zip(sources, packets, strict=True):
            assert self.knocker.verify(source) == 401
            self.send(data, source=source)
        eventually(lambda: _waiting(self.port) == 0, "all are read")
        # Of two knocks over HTTP the first is stored after the nonces, and the second no earlier than what they opened.
        for client in (NEW, CLOSED):
            assert self.knocker.knock(client, KEY).status == 200
        taken = [source for source in sources if self.knocker.verify(source) == 200]
        for source in taken:
            self.shut(source)
        return [source in taken for source in sources]

    def says_that_it_is_closed(self) -> bool:
        """Whether the log and /ready say that no packet of today is taken."""
        told = all(words in self.knocker.log for words in ("UDP knocks are refused", "remove the file"))
        return told and not is_ready(self.knocker.port)


def _waiting(port: int) -> int:
    """The bytes that wait for whoever listens on this UDP port."""
    rows = [line.split() for line in Path("/proc/self/net/udp").read_text().splitlines()[1:]]
    return sum(int(row[4].partition(":")[2], 16) for row in rows if int(row[1].partition(":")[2], 16) == port)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[ClockedDoor]:
    """One that listens, and whose clocks are right."""
    door = ClockedDoor(tmp_path)
    try:
        door.knocker.start()
        yield door
    finally:
        door.close()


# What kind of a start it is matters to grants alone.
PACKETS = [*((step, way) for way in (LIVE, RESTART) for step in STEPS), ("+1 h", REBOOT)]


@pytest.mark.parametrize(("step", "way"), PACKETS if LONG else [("+1 h", RESTART)])
def test_no_packet_opens_twice_wherever_the_clock_goes(door: ClockedDoor, step: str, way: str) -> None:
    moved = STEPS[step]
    old, new = packet(), packet(ahead=moved)
    assert door.takes(old) == [True]
    for ahead, again in ((moved, False), (0, True), (moved, True)) if LONG else ((moved, False), (0, True)):
        turn(door.clocked, ahead, way)
        closed = ahead < max(0, moved) - WINDOW
        assert door.takes(old, new, packet(ahead=ahead)) == [False, not closed and not again, not closed]
        assert door.says_that_it_is_closed() == closed


if LONG:

    def test_a_kill_right_after_a_reboot_gives_back_no_boot_time(knocker: Clocked) -> None:
        assert knocker.knock(HONEST, PHONE, ttl=HOUR).status == 200
        knocker.kill()
        knocker.reboot()
        knocker.start()
        knocker.kill()
        knocker.sleep(HOUR)  # and the wall clock is set back by as much
        knocker.start()
        assert not opened(knocker)[HONEST]

    @pytest.mark.parametrize("way", [LIVE, RESTART])
    def test_a_clock_that_was_ahead_closes_udp_until_the_file_is_removed(door: ClockedDoor, way: str) -> None:
        before = packet()
        assert door.takes(before) == [True]
        mark = int(door.seen.read_text().split()[1])
        turn(door.clocked, HOUR, way)
        assert is_ready(door.knocker.port)
        eventually(lambda: int(door.seen.read_text().split()[1]) > mark + 1000 * (HOUR - 60), "the file has its mark")
        turn(door.clocked, 0, RESTART)
        assert door.takes(before, packet()) == [False, False]
        assert door.says_that_it_is_closed()
        assert door.knocker.terminate() == 0
        door.seen.unlink()
        door.knocker.start()
        began = time.monotonic()
        assert "there is no such file" in door.knocker.log
        assert is_ready(door.knocker.port)
        assert door.takes(before, packet()) == [False, False]
        eventually(lambda: time.monotonic() - began > 1, "a packet from the end of the window is after the fence")
        assert door.takes(packet(ahead=WINDOW - 0.5)) == [True]
