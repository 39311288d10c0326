"""The wire's bounds: size, time and number, whatever a client does (contract 3)."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from knocker.core.grant import Grant, Wish
from knocker.core.moment import Moment
from knocker.core.turns import SHARE
from knocker.core.whitelist import Plan
from knocker.listen.lane import LaneChannel
from tests.conftest import Errors
from tests.wire import KEY, SETTINGS, Disk, World, answer, hang_up

CLIENT = "198.51.100.7"
HEAD = f"Host: k\r\nX-Forwarded-For: {CLIENT}\r\nX-Api-Key: {KEY}\r\n"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(f"POST /knock HTTP/1.1\r\n{HEAD}Content-Length: 4097\r\n\r\n", id="declared"),
        pytest.param(f"POST /knock HTTP/1.1\r\n{HEAD}Content-Length: 1000000000000\r\n\r\n", id="a terabyte"),
        pytest.param(f"POST /knock HTTP/1.1\r\n{HEAD}Content-Length: {'9' * 5000}\r\n\r\n", id="5000 digits"),
        pytest.param(
            f"POST /knock HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n800\r\n{'a' * 2048}\r\n"
            f"800\r\n{'a' * 2048}\r\n1\r\na\r\n0\r\n\r\n",
            id="chunk by chunk",
        ),
    ],
)
def test_a_body_over_4096_bytes_is_refused_as_soon_as_that_is_known(world: World, raw: str) -> None:
    channel, wire = world.connect()
    channel.dataReceived(raw.encode())
    got = answer(wire.value())
    assert (got.status, json.loads(got.body)) == (413, {"error": "Request body too large."})
    assert got.headers["cache-control"] == "no-store"
    assert wire.closed
    channel.dataReceived(b"GET /verify HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n" * 3)
    assert wire.value().count(b"HTTP/1.1 ") == 1, "what follows on a refused connection is not read"
    world.clock.advance(2.1)
    assert wire.disconnected, "the client had its time to read the answer"
    hang_up(channel)
    assert len(world.whitelist) == 0


def test_a_body_of_exactly_4096_bytes_is_read(world: World) -> None:
    body = b'{"ttl": 5' + b" " * 4086 + b"}"
    assert len(body) == 4096
    assert world.knock(CLIENT, body=body).status == 200


def test_a_question_with_too_large_a_body_is_never_answered_with_yes(world: World) -> None:
    raw = "POST /verify HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: 192.0.2.1\r\nContent-Length: 5000\r\n\r\n"
    assert answer(world.send(raw.encode())).status == 413


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"GET /verify HTTP/1.1\r\nA: " + b"b" * 17000 + b"\r\n\r\n", 431, id="one long line, to verify"),
        pytest.param(b"GET /knock HTTP/1.1\r\nA: " + b"b" * 17000 + b"\r\n\r\n", 431, id="one long line"),
        pytest.param(b"GET /knock HTTP/1.1\r\n" + b"A: bbbbbbbbbbbbbbbbbbb\r\n" * 900 + b"\r\n", 431, id="many lines"),
        pytest.param(b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n", 431, id="a long target"),
        pytest.param(b"GET /knock HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, id="no number"),
        pytest.param(b"GET /knock HTTP/1.1\r\nContent-Length: " + b"x" * 50 + b"\r\n\r\n", 400, id="a long no number"),
        pytest.param(b"GET /knock HTTP/1.1\r\nA : b\r\n\r\n", 400, id="a space before the colon"),
        pytest.param(b"nonsense\r\n\r\n", 400, id="no request"),
    ],
)
def test_a_request_that_is_none_gets_one_answer_and_the_connection_ends(
    world: World, raw: bytes, status: int, errors: Errors
) -> None:
    channel, wire = world.connect()
    channel.dataReceived(raw)
    assert answer(wire.value()).status == status
    assert wire.value().count(b"HTTP/1.1 ") == 1
    assert wire.closed
    hang_up(channel)
    assert errors.events == []


@pytest.mark.parametrize(
    ("begin", "trickle"),
    [
        pytest.param(b"", b"", id="a connection that says nothing"),
        pytest.param(b"G", b"", id="a request that begins and stops"),
        pytest.param(b"GET /verify HTTP/1.1\r\nA: ", b"b", id="a head that trickles"),
        pytest.param(f"POST /knock HTTP/1.1\r\n{HEAD}Content-Length: 99\r\n\r\n".encode(), b"b", id="a slow body"),
        pytest.param(b"GET /verify HTTP/1.1\r\nHost: k\r\n\r\nGET /ver", b"i", id="a second request that trickles"),
    ],
)
def test_ten_seconds_are_ten_seconds_whatever_trickles(world: World, begin: bytes, trickle: bytes) -> None:
    channel, wire = world.connect()
    if begin:
        channel.dataReceived(begin)
    for _ in range(9):
        world.clock.advance(1)
        if trickle:
            channel.dataReceived(trickle)
        assert not wire.closed
    world.clock.advance(1.1)
    assert wire.closed
    hang_up(channel)
    assert world.clock.getDelayedCalls() == []


def test_the_second_requests_deadline_begins_when_the_first_is_answered(world: World) -> None:
    disk = Disk(world)
    channel, wire = world.connect()
    channel.dataReceived(f"POST /knock HTTP/1.1\r\n{HEAD}\r\nGET /verify HTT".encode())
    world.clock.advance(0)
    world.clock.advance(60)
    assert not wire.closed, "a knock that waits for the disk is not the client's fault"
    disk.succeed()
    world.clock.advance(9.9)
    assert not wire.closed
    world.clock.advance(0.2)
    assert wire.closed
    hang_up(channel)


def test_an_idle_connection_is_kept_for_130_seconds_between_requests(world: World) -> None:
    channel, wire = world.connect()
    for _ in range(3):
        channel.dataReceived(b"GET /verify HTTP/1.1\r\nHost: k\r\n\r\n")
        world.clock.advance(129)
        assert not wire.closed
    world.clock.advance(2)
    assert wire.closed
    hang_up(channel)
    assert world.clock.getDelayedCalls() == []


def test_more_connections_than_the_setting_allows_are_closed_at_once(tmp_path: Path, errors: Errors) -> None:
    world = World(tmp_path, SETTINGS.replace("server: {", "server: {max_connections: 2, "))
    first, _ = world.connect()
    second, _ = world.connect()
    assert world.site.buildProtocol(None) is None
    (line,) = [line for line in errors.lines if "server.max_connections" in line]
    assert "closed a new connection: 2 are open" in line
    hang_up(first)
    third, wire = world.connect()
    third.dataReceived(b"GET /verify HTTP/1.1\r\nHost: k\r\n\r\n")
    assert answer(wire.value()).status == 401
    hang_up(second)
    hang_up(third)


def test_at_the_end_connections_close_once_their_request_is_answered(world: World) -> None:
    disk = Disk(world)
    idle, idle_wire = world.connect()
    busy, busy_wire = world.connect()
    busy.dataReceived(f"POST /knock HTTP/1.1\r\n{HEAD}\r\n".encode())
    world.clock.advance(0)
    left: list[None] = []
    world.site.leave().addCallback(left.append)
    assert (idle_wire.closed, busy_wire.closed) == (True, False)
    hang_up(idle)
    disk.succeed()
    assert answer(busy_wire.value()).status == 200
    assert busy_wire.closed
    assert left == []
    hang_up(busy)
    assert left == [None]


VERIFY = b"GET /verify HTTP/1.1\r\nHost: k\r\n\r\n"


def test_a_client_that_pipelines_takes_turns_with_the_others(world: World) -> None:
    channel, wire = world.connect()
    channel.dataReceived(VERIFY * 30)
    assert wire.value().count(b"HTTP/1.1 401") == 8, "the reactor has its turn before the next ones"
    world.clock.advance(0)
    assert wire.value().count(b"HTTP/1.1 401") == 30
    channel.dataReceived(VERIFY)
    assert wire.value().count(b"HTTP/1.1 401") == 31
    hang_up(channel)
    world.clock.advance(0)
    assert world.clock.getDelayedCalls() == []


def test_a_client_that_reads_no_answers_is_asked_no_more(world: World) -> None:
    channel, wire = world.connect()
    channel.dataReceived(VERIFY)
    channel.pauseProducing()  # as a transport does whose buffer is full, in the middle of a write or not
    before = len(wire.value())
    for _ in range(5):
        channel.dataReceived(VERIFY * 20)
        world.clock.advance(0)
    assert wire.producerState == "paused"
    assert len(wire.value()) - before <= 2 * before
    channel.resumeProducing()
    for _ in range(20):
        world.clock.advance(0)
    assert wire.value().count(b"HTTP/1.1 401") == 101
    channel.pauseProducing()
    world.clock.advance(131)
    world.clock.advance(16)
    assert wire.disconnected
    hang_up(channel)


def test_a_client_that_does_not_read_its_last_answer_is_cut_off(world: World) -> None:
    channel, wire = world.connect()
    channel.dataReceived(VERIFY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert wire.disconnecting
    assert not wire.disconnected
    world.clock.advance(16)
    assert wire.disconnected
    hang_up(channel)


def test_a_line_break_alone_buys_no_time(world: World) -> None:
    channel, wire = world.connect()
    channel.dataReceived(b"\r\n")
    world.clock.advance(10.1)
    assert wire.closed
    hang_up(channel)


def test_line_breaks_without_end_are_refused_at_once(world: World) -> None:
    channel, wire = world.connect()
    channel.dataReceived(b"\r\n" * 32768)
    assert answer(wire.value()).status == 400
    assert channel.clearLineBuffer() == b""
    hang_up(channel)


def test_strangers_cannot_shut_the_port_for_the_proxy(tmp_path: Path) -> None:
    world = World(tmp_path, SETTINGS.replace("server: {", "server: {max_connections: 3, "))
    strangers = [world.connect("198.51.100.9") for _ in range(3)]
    assert world.site.buildProtocol(strangers[0][1].getPeer()) is None
    proxy, wire = world.connect("127.0.0.1")
    assert [stranger.disconnected for _, stranger in strangers] == [True, False, False]
    proxy.dataReceived(VERIFY)
    assert answer(wire.value()).status == 401
    for channel, _ in [*strangers, (proxy, wire)]:
        hang_up(channel)
    assert len(world.site.channels) == 0


def test_at_the_end_a_knock_that_is_still_arriving_is_answered(world: World) -> None:
    channel, wire = world.connect()
    channel.dataReceived(f"POST /knock HTTP/1.1\r\n{HEAD}Content-Length: 10\r\n\r\n".encode())
    world.site.leave()
    assert not wire.closed
    channel.dataReceived(b'{"ttl": 5}')
    world.clock.advance(0)
    assert answer(wire.value()).status == 200
    assert wire.closed
    hang_up(channel)


@pytest.mark.parametrize(
    ("target", "readable"),
    [("/knock", True), ("/grants", True), ("/verify", False), ("/verify/x?y", False)],
)
@pytest.mark.parametrize("framing", ["Content-Length: 5000", "Transfer-Encoding: chunked"])
def test_a_page_may_read_that_its_body_was_too_large_but_nothing_of_verify(
    tmp_path: Path, target: str, readable: bool, framing: str
) -> None:
    world = World(tmp_path, SETTINGS + "cors: {allowed_origin: 'https://app.example.com'}\n")
    body = b"1388\r\n" + b"x" * 5000 + b"\r\n0\r\n\r\n" if "chunked" in framing else b"x" * 5000
    got = answer(world.send(f"POST {target} HTTP/1.1\r\nHost: k\r\n{framing}\r\n\r\n".encode() + body))
    assert got.status == 413
    assert got.headers.get("access-control-allow-origin") == ("https://app.example.com" if readable else None)
    assert got.headers.get("vary") == ("Origin" if readable else None)


class Busy:
    """A world whose reactor's turn is used up, with a proxy that asks all the same."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder, channel=LaneChannel)
        self.world.knock(CLIENT)
        self.world.clock.advance(0)
        self.proxy, self.proxys_wire = self.world.connect()
        assert self.world.house.turns.has_room()
        self.world.worked += 1

    def ask(self) -> int:
        """A verdict."""
        self.proxys_wire.clear()
        self.proxy.dataReceived(f"GET /verify HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: {CLIENT}\r\n\r\n".encode())
        return answer(self.proxys_wire.value()).status


@pytest.fixture
def busy(tmp_path: Path) -> Busy:
    return Busy(tmp_path)


def test_a_knock_waits_for_its_turn_and_a_verdict_does_not(busy: Busy) -> None:
    channel, wire = busy.world.connect()
    channel.dataReceived(f"POST /knock HTTP/1.1\r\n{HEAD}\r\n".encode())
    assert (wire.value(), wire.producerState) == (b"", "paused")
    assert busy.ask() == 200
    busy.world.clock.advance(0)
    busy.world.clock.advance(0)
    assert (answer(wire.value()).status, wire.producerState) == (200, "producing")


def test_who_comes_while_others_wait_goes_behind_them(busy: Busy) -> None:
    wires = []
    for _ in range(4):
        channel, wire = busy.world.connect()
        channel.dataReceived(b"GET /health HTTP/1.1\r\nHost: k\r\n\r\n")
        wires.append(wire)
    order: list[int] = []
    for number, wire in enumerate(wires):

        def write(data: bytes, number: int = number) -> None:
            order.append(number)

        wire.write = write  # type: ignore[method-assign]
    assert order == []
    busy.world.clock.advance(0)
    assert list(dict.fromkeys(order)) == [0, 1, 2, 3]


def test_a_request_that_comes_in_pieces_while_it_waits_is_one(busy: Busy) -> None:
    channel, wire = busy.world.connect()
    for piece in (b"GET /he", b"alth HTTP/1.1\r\nHost", b": k\r\n\r\n"):
        channel.dataReceived(piece)
        busy.world.worked += 1
    busy.world.clock.advance(0)
    assert answer(wire.value()).status == 200


def test_a_question_behind_a_knock_that_waits_is_answered_behind_it(busy: Busy) -> None:
    channel, wire = busy.world.connect()
    channel.dataReceived(b"GET /health HTTP/1.1\r\nHost: k\r\n\r\n")
    channel.dataReceived(f"GET /verify HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: {CLIENT}\r\n\r\n".encode())
    assert wire.value() == b""
    busy.world.clock.advance(0)
    first, second = wire.value().split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert b'"ok"' in first
    assert b"X-Forwarded-For" in second


def test_who_left_while_waiting_is_not_read(busy: Busy, errors: Errors) -> None:
    channel, wire = busy.world.connect()
    channel.dataReceived(f"POST /knock HTTP/1.1\r\n{HEAD}\r\n".replace(CLIENT, "198.51.100.8").encode())
    hang_up(channel)
    busy.world.clock.advance(0)
    busy.world.clock.advance(0)
    assert (wire.value(), len(busy.world.whitelist), errors.events) == (b"", 1, [])


@pytest.mark.parametrize("arrived", ["whole", "in part"])
def test_at_the_end_a_knock_that_waits_for_its_turn_is_answered(busy: Busy, arrived: str) -> None:
    channel, wire = busy.world.connect()
    raw = f"POST /knock HTTP/1.1\r\n{HEAD}\r\n".encode()
    cut = len(raw) if arrived == "whole" else 30
    channel.dataReceived(raw[:cut])
    left = busy.world.site.leave()
    assert not wire.closed
    busy.world.clock.advance(0)
    if arrived == "in part":
        channel.dataReceived(raw[cut:])
    busy.world.clock.advance(0)
    assert (answer(wire.value()).status, wire.closed) == (200, True)
    hang_up(channel)
    hang_up(busy.proxy)
    assert left.called


def one_turn(clock: Clock) -> None:
    """What is due, and not what that plans for the next turn, as a reactor does it."""
    due: list[Any] = [call for call in clock.getDelayedCalls() if call.getTime() <= clock.seconds()]
    work = [partial(call.func, *call.args, **call.kw) for call in due]
    for call in due:
        call.cancel()
    for do in work:
        do()


def test_knocks_of_one_write_are_planned_and_answered_in_turns(tmp_path: Path) -> None:
    world = World(tmp_path)
    disk = Disk(world)
    wires = []
    for host in range(1, 6):
        channel, wire = world.connect()
        channel.dataReceived(f"POST /knock HTTP/1.1\r\n{HEAD}\r\n".replace(CLIENT, f"198.51.100.{host}").encode())
        wires.append(wire)
    done: list[str] = []
    plan, settle = world.whitelist.plan, world.whitelist.settle

    def plans(wish: Wish, now: Moment) -> Plan:
        world.worked += SHARE
        done.append("planned")
        return plan(wish, now)

    def settles(plan: Plan, now: Moment) -> Grant | None:
        world.worked += SHARE
        done.append("counts")
        return settle(plan, now)

    world.whitelist.plan, world.whitelist.settle = plans, settles  # type: ignore[method-assign]
    seen = []
    while len(done) < 10:
        before = len(done)
        one_turn(world.clock)
        seen.append(done[before:])
        if disk.writes:
            disk.succeed()
        answered = sum(bool(wire.value()) for wire in wires)
        assert answered == done.count("counts"), "who is let in is told so at once"
    assert max(len(turn) for turn in seen) == 1, "the rest of each turn is everybody else's"
    assert done == ["planned"] * 5 + ["counts"] * 5


def test_a_knock_that_is_closed_while_others_are_planned_stays_closed(tmp_path: Path) -> None:
    world = World(tmp_path)
    disk = Disk(world)
    pairs = [world.connect() for _ in range(3)]
    for host, (channel, _) in enumerate(pairs):
        channel.dataReceived(f"POST /knock HTTP/1.1\r\n{HEAD}\r\n".replace(CLIENT, f"198.51.100.{host}").encode())
    plan = world.whitelist.plan

    def plans(wish: Wish, now: Moment) -> Plan:
        world.worked += SHARE
        return plan(wish, now)

    world.whitelist.plan = plans  # type: ignore[method-assign]
    world.clock.advance(0)
    leaving = []
    for host in (0, 2):  # one that is planned, one that is not
        channel, wire = world.connect()
        raw = f"DELETE /knock HTTP/1.1\r\n{HEAD}\r\n".replace(CLIENT, f"198.51.100.{host}")
        channel.dataReceived(raw.encode())
        leaving.append(wire)
    while not disk.writes:
        world.clock.advance(0)
    disk.succeed()
    for _ in range(5):
        world.clock.advance(0)
    assert [wire.value()[9:12] for wire in leaving] == [b"", b""], "the write of before does not hold what they did"
    disk.succeed()
    for _ in range(5):
        world.clock.advance(0)
    assert [wire.value()[9:12] for wire in leaving] == [b"204", b"204"]
    assert [wire.value()[9:12] for _, wire in pairs] == [b"503", b"200", b"503"]
    assert [str(grant.network) for grant in world.whitelist] == ["198.51.100.1"]
    assert json.loads((tmp_path / "whitelist.json").read_bytes())["grants"][0]["entry"] == "198.51.100.1"
    assert len(json.loads((tmp_path / "whitelist.json").read_bytes())["grants"]) == 1


@pytest.mark.parametrize("pieces", [[0], [30], [0, 60], [70]])
def test_a_question_that_takes_the_long_way_waits_for_nobody(busy: Busy, pieces: list[int]) -> None:
    channel, wire = busy.world.connect()
    lines = f"Host: k\r\nExpect: nothing\r\nX-Forwarded-For: {CLIENT}\r\nAccept: text/html\r\n\r\n"
    raw = f"GET /verify?x HTTP/1.1\r\n{lines}".encode()
    for start, end in zip([0, *pieces], [*pieces, len(raw)], strict=True):
        if start < end:
            channel.dataReceived(raw[start:end])
    assert answer(wire.value()).status == 200


def test_a_strangers_question_waits_as_all_of_a_strangers_do(busy: Busy) -> None:
    channel, wire = busy.world.connect("198.51.100.9")
    channel.dataReceived(b"GET /verify HTTP/1.1\r\nHost: k\r\n\r\n")
    assert wire.value() == b""
    busy.world.clock.advance(0)
    assert answer(wire.value()).status == 401
