"""Floods against the real process: strangers open, push and ask without end; the proxy's questions are answered.

The proxy asks from 127.0.0.1, the strangers come from 127.0.0.2. No test judges a speed (benchmarks/attack.py shows
those); the seconds here are what a hanging or spinning Knocker would exceed.
"""

from __future__ import annotations

import os
import re
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.e2e.conftest import PHONE, Start, phone, settings
from tests.e2e.test_service import Disk
from tests.service import Knocker, ask, eventually

CLIENT, OTHER = "203.0.113.7", "203.0.113.8"
STRANGER = "127.0.0.2"
MEBI = 1 << 20
# Limits would turn most of a flood away before what it is meant for; loopback is allowed so that strangers have keys
# looked at.
OPEN_HANDED = {
    "server": {"trusted_proxies": ["127.0.0.1"], "allow_loopback_clients": True},
    "api_keys": [phone()],
    "security": {"knock_rate_limit": {"successful_requests": 0, "failed_requests": 0}},
}


def opened(port: int, source: str = STRANGER, receive_buffer: int = 0) -> socket.socket:
    """One connection of a stranger's."""
    wire = socket.socket()
    try:
        wire.settimeout(10)
        if receive_buffer:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        wire.bind((source, 0))
        wire.connect(("127.0.0.1", port))
    except BaseException:
        wire.close()
        raise
    return wire


@contextmanager
def strangers(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections of theirs, which end with the block."""
    with ExitStack() as stack:
        yield [stack.enter_context(opened(port)) for _ in range(count)]


@contextmanager
def kept(port: int, source: str = "127.0.0.1") -> Iterator[HTTPConnection]:
    """A connection that asks one thing after the other, and that nobody opens anew when it is closed."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10, source_address=(source, 0))
    try:
        connection.connect()
        connection.auto_open = 0
        yield connection
    finally:
        connection.close()


def status(connection: HTTPConnection, path: str, method: str = "GET", body: bytes | None = None, **lines: str) -> int:
    """What it is answered there."""
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in lines.items()})
    answer: HTTPResponse = connection.getresponse()
    answer.read()
    return answer.status


def verdict(connection: HTTPConnection, client: str) -> int:
    """The status of /verify for a client of the proxy's."""
    return status(connection, "/verify", X_Forwarded_For=client, X_Forwarded_Uri="/", X_Forwarded_Method="GET")


def is_closed(wire: socket.socket) -> bool:
    """Whether the other side has closed it; nothing was ever asked on it."""
    wire.setblocking(False)
    try:
        return wire.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def processor_seconds(knocker: Knocker) -> float:
    """How long it has been at work since it began."""
    fields = Path(f"/proc/{knocker.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def most_memory(knocker: Knocker) -> int:
    """The most bytes of memory that it ever had."""
    lines = Path(f"/proc/{knocker.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def lines_since(knocker: Knocker, said: str) -> list[str]:
    """What it has logged since its log was `said`."""
    return knocker.log[len(said) :].splitlines()


# --- Connections -----------------------------------------------------------------------------------------------------


def test_over_the_bound_the_surplus_is_closed_at_once_and_the_others_go_on(start: Start) -> None:
    knocker = start(settings(max_connections=20))
    knocker.knock(CLIENT, PHONE)
    said = knocker.log
    with kept(knocker.port) as proxy, kept(knocker.port, STRANGER) as early:
        assert verdict(proxy, CLIENT) == 200
        assert status(early, "/health") == 200
        with strangers(knocker.port, 18) as first:
            assert verdict(proxy, CLIENT) == 200
            with strangers(knocker.port, 300) as surplus:
                eventually(lambda: all(is_closed(wire) for wire in surplus), "the surplus is closed", seconds=5)
                assert not any(is_closed(wire) for wire in first)
                assert [verdict(proxy, CLIENT), verdict(proxy, OTHER)] == [200, 401]
                assert status(early, "/health") == 200
                # A proxy that comes anew gets the place of a stranger, and of one only.
                assert knocker.verify(CLIENT) == 200
                assert sum(is_closed(wire) for wire in [*first, early.sock]) == 1
        eventually(lambda: _answers(knocker, STRANGER), "strangers are let in again")
        assert verdict(proxy, CLIENT) == 200
    assert knocker.knock(OTHER, PHONE).status == 200
    told = lines_since(knocker, said)
    assert len([line for line in told if "server.max_connections" in line]) == 1
    assert len(told) == 2, told  # that one, and the grant


def _answers(knocker: Knocker, source: str) -> bool:
    try:
        with kept(knocker.port, source) as connection:
            return status(connection, "/health") == 200
    except OSError:
        return False


# --- Descriptors -----------------------------------------------------------------------------------------------------


SURPLUS = 300  # strangers that come when no descriptor is left


@contextmanager
def exhausted(knocker: Knocker) -> Iterator[None]:
    """From now to the block's end it cannot open any file more, and strangers come and are refused."""
    descriptors = Path(f"/proc/{knocker.pid}/fd")
    before = resource.prlimit(knocker.pid, resource.RLIMIT_NOFILE)
    # Below the bound on connections, whatever that is; so a running process is made to feel the lack.
    limit = max(int(entry.name) for entry in descriptors.iterdir()) + 5
    resource.prlimit(knocker.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        with strangers(knocker.port, limit + SURPLUS) as wires:
            # Twisted keeps one descriptor in reserve, to accept and close whoever it has none for.
            eventually(lambda: sum(is_closed(wire) for wire in wires) >= SURPLUS, "who comes too late is refused")
            eventually(lambda: len(list(descriptors.iterdir())) >= limit, "the descriptors are used up")
            yield
    finally:
        resource.prlimit(knocker.pid, resource.RLIMIT_NOFILE, before)


def test_with_few_descriptors_a_flood_leaves_enough_to_store_knocks(make: Start) -> None:
    """The bound on connections, whatever the setting says, has to lie below what the system allows."""
    knocker = make(OPEN_HANDED)
    knocker.prefix = ["sh", "-c", 'ulimit -n 64 && exec "$0" "$@"']
    knocker.start()
    knocker.knock(CLIENT, PHONE)
    said = knocker.log
    with kept(knocker.port) as proxy, strangers(knocker.port, 300):
        assert [verdict(proxy, CLIENT), verdict(proxy, OTHER)] == [200, 401]
        assert _knock(proxy, None, X_Forwarded_For=OTHER) == 200
        assert [verdict(proxy, CLIENT), verdict(proxy, OTHER)] == [200, 200]
        assert knocker.verify(CLIENT) == 200
    eventually(lambda: _answers(knocker, STRANGER), "strangers are let in again")
    told = lines_since(knocker, said)
    assert len(told) <= 4, told


def test_without_descriptors_open_connections_go_on_and_nothing_spins(start: Start) -> None:
    knocker = start(OPEN_HANDED)
    knocker.knock(CLIENT, PHONE)
    with kept(knocker.port) as proxy:
        assert verdict(proxy, CLIENT) == 200
        with exhausted(knocker):
            assert [verdict(proxy, CLIENT), verdict(proxy, OTHER)] == [200, 401]
            spent, begin = processor_seconds(knocker), time.monotonic()
            eventually(lambda: time.monotonic() - begin > 1.5, "a while is over")
            assert processor_seconds(knocker) - spent < 0.5
            assert [verdict(proxy, CLIENT), verdict(proxy, OTHER)] == [200, 401]
        eventually(lambda: _answers(knocker, STRANGER), "strangers are let in again")
        assert verdict(proxy, CLIENT) == 200
    assert knocker.running


def test_connections_refused_for_want_of_descriptors_do_not_fill_the_log(start: Start) -> None:
    knocker = start(OPEN_HANDED)
    said = knocker.log
    with exhausted(knocker):
        assert not _answers(knocker, STRANGER)
    eventually(lambda: _answers(knocker, STRANGER), "strangers are let in again")
    kinds = Counter(re.sub(r"[0-9]+", "", line) for line in lines_since(knocker, said))
    # What Twisted says of each is told twenty times a minute.
    assert max(kinds.values(), default=0) <= 20, kinds
    assert len(kinds) <= 5, kinds


BODY = {"Content_Type": "application/json"}
# A first request of each kind, with the answers that it may get while no file can be opened, and has to get afterwards.
FIRST: dict[str, tuple[Callable[[HTTPConnection], int], set[int], int]] = {
    "an unknown path": (lambda wire: status(wire, "/nowhere"), {404}, 404),
    "health": (lambda wire: status(wire, "/health"), {200}, 200),
    "grants": (lambda wire: status(wire, "/grants", X_Forwarded_For=CLIENT, X_Api_Key=PHONE), {200}, 200),
    "a grant": (
        lambda wire: status(wire, "/grants/x", "DELETE", X_Forwarded_For=CLIENT, X_Api_Key=PHONE),
        {404},
        404,
    ),
    "a knock": (lambda wire: _knock(wire, None), {200, 503}, 200),
    "a knock with a body": (lambda wire: _knock(wire, b'{"ttl": 60}', **BODY), {200, 503}, 200),
    "a knock that is no JSON": (lambda wire: _knock(wire, b"{\xff", **BODY), {400}, 400),
    "leaving": (lambda wire: status(wire, "/knock", "DELETE", X_Forwarded_For=OTHER, X_Api_Key=PHONE), {204, 503}, 204),
    "a preflight": (lambda wire: status(wire, "/knock", "OPTIONS"), {204}, 204),
    "a wrong key": (lambda wire: _knock(wire, None, X_Api_Key="no-key-of-ours-0123456789"), {401}, 401),
    "too large a body": (lambda wire: _knock(wire, b"x" * 5000), {413}, 413),
    "readiness": (lambda wire: status(wire, "/ready"), {200, 503}, 200),
}


def _knock(wire: HTTPConnection, body: bytes | None, **lines: str) -> int:
    return status(wire, "/knock", "POST", body, **{"X_Forwarded_For": CLIENT, "X_Api_Key": PHONE, **lines})


@pytest.mark.parametrize("first", [*FIRST, "all of them"] if LONG else ["all of them"])
def test_a_first_request_without_a_descriptor_left_is_answered(start: Start, first: str) -> None:
    """Whatever is imported at a first use has to be there by then; the long run starts anew for each of them."""
    knocker = start(OPEN_HANDED)
    chosen = list(FIRST) if first == "all of them" else [first]
    with ExitStack() as stack:
        wires = {name: stack.enter_context(kept(knocker.port)) for name in chosen}
        # They come in order: when this one is answered, the others are in.
        assert verdict(stack.enter_context(kept(knocker.port)), OTHER) == 401
        with exhausted(knocker):
            for name, wire in wires.items():
                asked, at_first, _ = FIRST[name]
                assert asked(wire) in at_first, name
    eventually(lambda: _answers(knocker, STRANGER), "strangers are let in again")
    eventually(lambda: ask(knocker.port, "/ready").status == 200, "what could not be stored is stored")
    for name in chosen:
        asked, _, afterwards = FIRST[name]
        with kept(knocker.port) as wire:
            assert asked(wire) == afterwards, name
    if "a knock" in chosen:
        assert knocker.verify(CLIENT) == 200
    assert knocker.terminate() == 0


# --- Slowness --------------------------------------------------------------------------------------------------------


if LONG:  # it takes twelve seconds

    def test_many_slow_ones_are_all_cut_off_after_ten_seconds(start: Start) -> None:
        """The corpus of attacks has each kind once; here many share one Knocker, and it forgets them all."""
        knocker = start(OPEN_HANDED)
        knocker.knock(CLIENT, PHONE)
        said = knocker.log
        begins = [
            b"GET /verify HTTP/1.1\r\nHost: k\r\nX-Slow: ",
            b"POST /knock HTTP/1.1\r\nHost: k\r\nContent-Length: 4000\r\n\r\n",
            b"POST /knock HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n",
            b"G",
            b"",
        ]
        with kept(knocker.port) as proxy, strangers(knocker.port, 40) as wires:
            began = time.monotonic()
            for number, wire in enumerate(wires):
                wire.sendall(begins[number % len(begins)])
            lasted: dict[socket.socket, float] = {}
            while len(lasted) < len(wires):
                assert time.monotonic() - began < 16, f"{len(wires) - len(lasted)} are still there"
                assert verdict(proxy, CLIENT) == 200
                for number, wire in enumerate(wires):
                    if wire not in lasted and not _goes_on(wire, trickle=bool(begins[number % len(begins)])):
                        lasted[wire] = time.monotonic() - began
                time.sleep(0.5)
            assert min(lasted.values()) > 9
            assert verdict(proxy, CLIENT) == 200
        assert lines_since(knocker, said) == []


def _goes_on(wire: socket.socket, trickle: bool) -> bool:
    if is_closed(wire):
        return False
    try:
        if trickle:
            wire.send(b"a")
    except (ConnectionResetError, BrokenPipeError):
        return False
    return True


# --- The log ---------------------------------------------------------------------------------------------------------

HEAD = b"Host: knock.example.com\r\n"
# Requests that strangers repeat, what each is answered, and how many lines of it the log may have.
ABUSE = {
    "forged headers": (b"GET /verify HTTP/1.1\r\n" + HEAD + b"X-Forwarded-For: 203.0.113.7\r\n\r\n", 401, 1),
    "forged knocks": (b"GET /knock HTTP/1.1\r\n" + HEAD + b"X-Forwarded-For: 203.0.113.7\r\n\r\n", 400, 20),
    "the wrong address": (b"GET /health HTTP/1.1\r\n" + HEAD + b"X-Forwarded-Uri: /\r\n\r\n", 401, 1),
    "wrong keys": (b"GET /knock HTTP/1.1\r\n" + HEAD + b"X-Api-Key: no-key-of-ours-0123456789\r\n\r\n", 401, 20),
    "no request": (b"GET\r\n\r\n", 400, 0),
    "an endless length": (b"POST /knock HTTP/1.1\r\n" + HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 413, 0),
    "two lengths": (b"POST /knock HTTP/1.1\r\n" + HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, 0),
    "a large body": (b"POST /knock HTTP/1.1\r\n" + HEAD + b"Content-Length: 5000\r\n\r\n", 413, 0),
    "a large head": (b"GET /verify HTTP/1.1\r\n" + HEAD + b"X-Large: " + b"a" * 17_000 + b"\r\n\r\n", 431, 0),
    "an unreadable path": (b"GET /%ff%0d%0a HTTP/1.1\r\n" + HEAD + b"\r\n", 404, 0),
}


def test_a_flood_of_any_kind_is_a_few_lines_in_the_log(start: Start) -> None:
    knocker = start(OPEN_HANDED)
    for name, (request, expected, most) in ABUSE.items():
        said = knocker.log
        answered = [_answered(knocker.port, request) for _ in range(400 if LONG else 60)]
        assert set(answered) == {expected}, name
        assert knocker.verify(CLIENT) == 401
        told = lines_since(knocker, said)
        assert len(told) <= most, (name, told)
        assert bool(told) == bool(most), f"{name}: the admin is told nothing"


def _answered(port: int, request: bytes) -> int:
    with opened(port) as wire:
        wire.sendall(request)
        return int(wire.recv(65536).split()[1])


# --- Memory ----------------------------------------------------------------------------------------------------------

PIPELINED = (b"GET /verify HTTP/1.1\r\n" + HEAD + b"\r\n") * 500


def _bodies(framing: bytes) -> Iterator[bytes]:
    yield b"POST /knock HTTP/1.1\r\n" + HEAD + framing + b"\r\n\r\n"
    piece = b" " * 65536
    while True:
        yield b"10000\r\n" + piece + b"\r\n" if b"chunked" in framing else piece


def _requests() -> Iterator[bytes]:
    while True:
        yield PIPELINED


PUSHED: dict[str, Callable[[], Iterator[bytes]]] = {
    "pipelined requests whose answers are not read": _requests,
    "a declared body": lambda: _bodies(b"Content-Length: 67108864"),
    "a body in chunks": lambda: _bodies(b"Transfer-Encoding: chunked"),
    "a head without end": lambda: iter(lambda: b"X-More: " + b"a" * 5000, b""),
}


@pytest.mark.parametrize("pushed", PUSHED)
def test_whoever_pushes_without_end_takes_no_memory(start: Start, pushed: str) -> None:
    knocker = start(OPEN_HANDED)
    knocker.knock(CLIENT, PHONE)
    before = most_memory(knocker)
    with kept(knocker.port) as proxy, ThreadPoolExecutor(1) as pool:
        push = pool.submit(_push, knocker.port, PUSHED[pushed]())
        asked = 0
        while asked < 20 or not push.done():
            assert verdict(proxy, CLIENT) == 200
            assert most_memory(knocker) - before < 16 * MEBI
            asked += 1
        assert push.result() > (0 if "head" in pushed else MEBI)  # so much was taken, or is in the kernel's buffers
    assert knocker.verify(CLIENT) == 200


def _push(port: int, pieces: Iterator[bytes], most: int = 32 * MEBI) -> int:
    """The bytes that could be sent before nothing more was taken, or so many."""
    sent = 0
    with opened(port, receive_buffer=4096) as wire:
        wire.settimeout(1)
        for piece in pieces:
            try:
                wire.sendall(piece)
            except (TimeoutError, ConnectionResetError, BrokenPipeError):
                break
            sent += len(piece)
            if sent > most:
                break
    return sent


# --- Order -----------------------------------------------------------------------------------------------------------


def test_what_is_pipelined_behind_a_knock_that_waits_for_the_disk_is_answered_in_order(make: Start) -> None:
    knocker = make()
    disk = Disk(knocker)
    knocker.start()
    line = f"Host: a\r\nX-Forwarded-For: {CLIENT}\r\n"
    question = f"GET /verify HTTP/1.1\r\n{line}\r\n"
    knock = f"POST /knock HTTP/1.1\r\n{line}X-Api-Key: {PHONE}\r\n\r\n"
    last = f"GET /verify HTTP/1.1\r\n{line}Connection: close\r\n\r\n"
    with opened(knocker.port, "127.0.0.1") as wire:
        with disk.being("held"):
            wire.sendall((question + knock + question * 3 + last).encode())
            disk.wait()
            assert knocker.verify(CLIENT) == 401  # others do not wait
            heard = wire.recv(65536)
            assert heard.count(b"HTTP/1.1 ") == 1
        while data := wire.recv(65536):
            heard += data
    answers = [int(rest.split()[0]) for rest in heard.split(b"HTTP/1.1")[1:]]
    # The one before the knock saw the door closed, those behind it see it open.
    assert answers == [401, 200, 200, 200, 200, 200]
    assert b"whitelisted_entry" in heard.split(b"HTTP/1.1")[2]
