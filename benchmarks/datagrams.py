"""What datagrams cost: how many are refused and accepted in a second, and what /verify feels in a flood of them.

Run ``python benchmarks/datagrams.py``, with ``--quick`` for a few seconds that only show that it works. What is
compared is measured in one run, in turns. The proxy asks from 127.0.0.1 and the flood comes from 127.0.0.2, each in
a process of its own, the flood at a lower priority; it is bounded in number and time, and nothing leaves this
machine. Needs Linux, for /proc and for the many loopback addresses.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import maybeDeferred

from benchmarks.printed import machine, say
from knocker.core.keys import digest_of, generate, udp_secret
from knocker.core.packets.native import SIZE, Knock, NotOurs, Secrets, encode
from knocker.core.packets.reader import Reader
from knocker.core.packets.seen import Seen
from knocker.store.seenfile import SeenFile
from tests.e2e.test_udp import free_udp_port
from tests.service import Knocker, free_port

HOST, STRANGER = "127.0.0.1", "127.0.0.2"
KEY = generate(lambda count: b"b" * count)
SECRETS = Secrets.of(udp_secret(KEY))
WINDOW = 120  # seconds
GRANTED = [f"203.0.113.{last}" for last in range(1, 21)]
UNKNOWN = [f"198.51.100.{last}" for last in range(1, 21)]
START_DEADLINE = 30.0  # seconds
READ_DEADLINE = 30.0  # seconds in which Knocker has read what was sent
MOST_SENT = 20_000_000  # datagrams of one flood, however fast this machine is
AIM = 0.25  # of the quiet rate of /verify
PROCESSOR_SHARE = 10  # the nice value of a flood


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and how long."""

    datagrams: int = 20_000  # of each kind in a round
    rounds: int = 7
    flood: float = 5.0  # seconds of one flood
    accepted: int = 5_000  # knocks over the socket
    askers: int = 8  # connections of the proxy, each with one question at a time


QUICK = Sizes(datagrams=300, rounds=2, flood=0.4, accepted=100, askers=4)


def main() -> None:
    """Measure everything, or be the flood or the proxy (in the processes of their own that they need)."""
    parser = argparse.ArgumentParser(description="What datagrams cost.")
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see that it works")
    parser.add_argument("--flood", metavar="JSON", help="only send to a port of this machine, as told")
    parser.add_argument("--ask", metavar="JSON", help="only ask a port of this machine, as told")
    options = parser.parse_args()
    if options.flood:
        flood(**json.loads(options.flood))
    elif options.ask:
        ask(**json.loads(options.ask))
    else:
        sizes = QUICK if options.quick else Sizes()
        say(machine())
        report_in_process(sizes)
        report_over_a_socket(sizes)


# The kinds of datagrams.

KINDS = ("empty", "wrong length", "random", "right hint, bad tag", "replay")
REFERENCE = "random"  # what the others are compared with: all that a stranger without any knowledge can send


def packet() -> bytes:
    """A knock of now."""
    return encode(SECRETS, Knock(round(time.time() * 1000), os.urandom(16)))


def datagrams(kind: str, count: int, genuine: bytes) -> list[bytes]:
    """So many of a kind; `genuine` is a packet that was seen already."""
    chance = random.Random(3)  # noqa: S311 - the same bytes at every run
    makers: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "wrong length": lambda: chance.randbytes(SIZE - 1),
        "random": lambda: chance.randbytes(SIZE),
        "right hint, bad tag": lambda: genuine[:8] + chance.randbytes(SIZE - 8),
        "replay": lambda: genuine,
        "accepted": packet,
    }
    return [makers[kind]() for _ in range(count)]


# 1. In process.


def report_in_process(sizes: Sizes) -> None:
    """The time from a datagram's bytes to the decision, without socket and disk."""
    say(
        f"\nIn process, from the bytes to the decision, best and median of {sizes.rounds} rounds of"
        f" {sizes.datagrams:,}; the ratio is to random ones, best to best"
    )
    times: dict[str, list[float]] = defaultdict(list)
    kinds = (*KINDS, "accepted")
    for _ in range(sizes.rounds):
        for kind in kinds:
            times[kind].append(decided(kind, sizes.datagrams))
    for kind in kinds:
        best, median = min(times[kind]), statistics.median(times[kind])
        say(
            f"  {kind:<20} {best / 1000:7.2f} us {median / 1000:7.2f} us {1e9 / best:>10,.0f} a second"
            f"   x{best / min(times[REFERENCE]):.1f}"
        )


def decided(kind: str, count: int) -> float:
    """Nanoseconds for each of so many."""
    reader, seen, genuine = Reader({"phone": SECRETS}, WINDOW), Seen(WINDOW * 1000), packet()
    offered = datagrams(kind, count, genuine)

    def take(data: bytes) -> bool:
        wall = time.time()
        try:
            found = reader.read(data, wall)
            seen.admit(found.owner, found.knock.nonce, found.knock.moment, round(wall * 1000))
        except NotOurs:
            return False
        return True

    take(genuine)  # so that it is one that was seen, and the hints are there
    gc.disable()
    begin = time.perf_counter_ns()
    accepted = sum(map(take, offered))
    taken = time.perf_counter_ns() - begin
    gc.enable()
    if accepted != (count if kind == "accepted" else 0):
        raise AssertionError(f"{accepted} of {count} were accepted: {kind}")
    return taken / count


# 2. Over a socket: what a Knocker reads, and what its proxy feels meanwhile.


@dataclass
class Answers:
    """What a proxy that asks as fast as it is answered was told in a while."""

    rate: float
    p50: float  # ms
    p99: float  # ms
    wrong: int


def report_over_a_socket(sizes: Sizes) -> None:
    """One row for each kind, between two quiet ones."""
    with TemporaryDirectory(prefix="knocker-benchmark-") as folder, Silent(Path(folder)) as knocker:
        knocker.let_in(GRANTED)
        rates = {kind: knocker.flooded(kind, sizes.flood) for kind in KINDS}
        say(f"\nOver a socket, {sizes.flood:g} s each at full speed; what is not read, the system dropped before")
        for kind, found in rates.items():
            say(
                f"  {kind:<20} {found.rate:>10,.0f} read a second   of {found.sent / found.seconds:>10,.0f} sent"
                f"   x{found.rate / rates[REFERENCE].rate:.2f}"
            )
        report_accepted(knocker, sizes)
        report_verify(knocker, sizes)
        assert knocker.terminate() == 0  # noqa: S101 - as an admin would end it
        knocker.end()


def report_accepted(knocker: Silent, sizes: Sizes) -> None:
    """Knocks of one address that are stored for good, all sent as fast as they are read."""
    seconds = knocker.accepts(sizes.accepted)
    say(f"  {'accepted, on disk':<20} {sizes.accepted / seconds:>10,.0f} a second   ({sizes.accepted:,} knocks)")


def report_verify(knocker: Silent, sizes: Sizes) -> None:
    """The proxy alone, then beside each flood."""
    say(
        f"\n/verify on {sizes.askers} kept connections as fast as they are answered, {sizes.flood:g} s each; the ratio"
        f" is to the mean of both quiet ones (aim: at least {AIM:g})"
    )
    rows: dict[str, tuple[Answers, Flooded | None]] = {"quiet": (knocker.asked(sizes), None)}
    for kind in KINDS:
        with knocker.flooding(kind, sizes.flood + 1) as found:
            answers = knocker.asked(sizes)
        rows[kind] = (answers, found)
    rows["quiet again"] = (knocker.asked(sizes), None)
    quiet = statistics.mean(rows[name][0].rate for name in ("quiet", "quiet again"))
    say(f"  {'':<20} {'a second':>10} {'ratio':>7} {'p50 ms':>8} {'p99 ms':>8} {'datagrams read a second':>25}")
    worst = 1.0
    for name, (answers, flooding) in rows.items():
        ratio = answers.rate / quiet
        worst = min(worst, ratio) if flooding else worst
        read = f"{flooding.rate:,.0f}" if flooding else ""
        say(f"  {name:<20} {answers.rate:>10,.0f} {ratio:>7.2f} {answers.p50:>8.2f} {answers.p99:>8.2f} {read:>25}")
        if answers.wrong:
            say(f"    {answers.wrong} wrong verdicts")
    say(f"  the least is {worst:.2f} of quiet: {'as' if worst >= AIM else 'NOT as'} aimed at")


@dataclass
class Flooded:
    """What became of a flood; it is known once that is over."""

    sent: int = 0
    dropped: int = 0
    seconds: float = 1.0

    @property
    def rate(self) -> float:
        """Those that reached Knocker, a second."""
        return (self.sent - self.dropped) / self.seconds


class Silent(Knocker):
    """A real one that takes datagrams; `genuine` is a packet that it took."""

    def __init__(self, folder: Path) -> None:
        self.udp_port = free_udp_port()
        self.genuine = b""
        self._seen = folder / "udp-seen.log"
        key = {"key_sha256": digest_of(KEY.encode()).hex(), "udp_secret": udp_secret(KEY).hex(), "udp": True}
        settings = {
            "server": {"trusted_proxies": [HOST], "allow_loopback_clients": True},
            "api_keys": [{"name": "phone", **key, "ttl": 3600}],
            "security": {"knock_rate_limit": {"successful_requests": 0}},
            "udp": {"enabled": True, "host": HOST, "port": self.udp_port, "state_path": str(self._seen)},
        }
        super().__init__(folder, settings, free_port())
        # As of a Knocker from long ago: one that starts for the first time takes no packet for a while.
        past = SeenFile(str(self._seen), maybeDeferred)
        past.load(WINDOW * 1000, round(time.time() * 1000) - 10 * WINDOW * 1000)
        past.close()

    def let_in(self, clients: list[str]) -> None:
        """Knock for each of them; and once by the packet that is replayed later."""
        for client in clients:
            if self.knock(client, KEY).status != 200:
                raise AssertionError(f"the knock of {client} was refused")
        self.genuine = packet()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
            wire.bind((STRANGER, 0))
            wire.sendto(self.genuine, (HOST, self.udp_port))
        wait_for(lambda: self.verify(STRANGER) == 200, "a packet opens")

    def flooded(self, kind: str, seconds: float) -> Flooded:
        """A flood alone."""
        with self.flooding(kind, seconds) as found:
            pass
        return found

    @contextlib.contextmanager
    def flooding(self, kind: str, seconds: float) -> Iterator[Flooded]:
        """A flood that begins with the block, which ends with it; what became of it is known then."""
        found, dropped = Flooded(), self._socket()[1]
        told = {"port": self.udp_port, "kind": kind, "seconds": seconds, "genuine": self.genuine.hex()}
        command = [sys.executable, __file__, "--flood", json.dumps(told)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - this very script
            assert process.stdout is not None  # noqa: S101 - for mypy
            if not process.stdout.readline():
                raise AssertionError("the flood did not begin")
            begin = time.monotonic()
            yield found
            found.sent = int(process.stdout.readline())
        wait_for(lambda: self._socket()[0] == 0, "Knocker has read what was sent")
        found.seconds = time.monotonic() - begin
        found.dropped = self._socket()[1] - dropped

    def accepts(self, count: int) -> float:
        """Seconds in which so many knocks, made before, are known for good."""
        made = datagrams("accepted", count, b"")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
            wire.bind((STRANGER, 0))
            begin = time.monotonic()
            for number, data in enumerate(made):
                wire.sendto(data, (HOST, self.udp_port))
                if number % 100 == 99:  # as fast as they are read: what the system drops is nobody's knock
                    wait_for(lambda: self._socket()[0] == 0, "Knocker has read what was sent", pause=0.0)
            last = made[-1][8:24].hex().encode()
            wait_for(lambda: last in self._seen.read_bytes()[-20_000:], "the last knock is stored", pause=0.001)
            taken = time.monotonic() - begin
        kept = self._seen.read_bytes()
        missing = sum(data[8:24].hex().encode() not in kept for data in made[-100:])
        if missing:
            raise AssertionError(f"{missing} of the last 100 knocks were not stored")
        return taken

    def asked(self, sizes: Sizes) -> Answers:
        """What the proxy is answered in a while."""
        told = {"port": self.port, "connections": sizes.askers, "seconds": sizes.flood}
        command = [sys.executable, __file__, "--ask", json.dumps(told)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)  # noqa: S603 - this very script
        return Answers(**json.loads(done.stdout))

    def _socket(self) -> tuple[int, int]:
        """The bytes that wait on the silent door's socket, and the datagrams that found no room there."""
        for line in Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]:
            row = line.split()
            if int(row[1].partition(":")[2], 16) == self.udp_port:
                return int(row[4].partition(":")[2], 16), int(row[12])
        raise AssertionError("the silent door is closed")


def wait_for(condition: Callable[[], Any], what: str, pause: float = 0.005) -> None:
    """Ask again and again."""
    end = time.monotonic() + READ_DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {READ_DEADLINE:g} s: {what}")
        time.sleep(pause)


# 3. The flood, in a process of its own.


def flood(port: int, kind: str, seconds: float, genuine: str) -> None:
    """Send as fast as this machine does; tell that it begins, and in the end how many it were."""
    os.nice(PROCESSOR_SHARE)
    offered = datagrams(kind, 1000, bytes.fromhex(genuine))
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind((STRANGER, 0))
        wire.connect((HOST, port))
        say("it begins")
        end = time.monotonic() + seconds
        while time.monotonic() < end and sent < MOST_SENT:
            for data in offered:
                wire.send(data)
            sent += len(offered)
    say(str(sent))


# 4. The proxy, in a process of its own.


def question(client: str) -> bytes:
    """One request as Caddy sends it."""
    return (
        f"GET /verify HTTP/1.1\r\nHost: knocker:8000\r\nUser-Agent: Mozilla/5.0\r\nX-Forwarded-For: {client}\r\n"
        "X-Forwarded-Host: app.example.com\r\nX-Forwarded-Uri: /\r\nX-Forwarded-Method: GET\r\n\r\n"
    ).encode()


def ask(port: int, connections: int, seconds: float) -> None:
    """Ask on so many connections, each again as soon as it is answered; tell how that went."""
    asked = [(question(client), b"HTTP/1.1 200") for client in GRANTED]
    asked += [(question(client), b"HTTP/1.1 401") for client in UNKNOWN]
    times: list[float] = []
    wrong = number = 0
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        waiting: dict[socket.socket, tuple[float, bytes]] = {}

        def put(wire: socket.socket) -> None:
            nonlocal number
            request, expected = asked[number % len(asked)]
            number += 1
            waiting[wire] = (time.perf_counter(), expected)
            wire.send(request)

        for _ in range(connections):
            wire = stack.enter_context(socket.create_connection((HOST, port), timeout=10))
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(wire, selectors.EVENT_READ, wire)
            put(wire)
        begin = time.perf_counter()
        while (now := time.perf_counter()) - begin < seconds:
            for key, _ in selector.select(1):
                wire = key.data
                heard = wire.recv(4096)  # no answer of /verify has a body, and each fits into one piece
                since, expected = waiting[wire]
                times.append((time.perf_counter() - since) * 1000)
                wrong += not heard.startswith(expected)
                put(wire)
        rate = len(times) / (now - begin)
    times.sort()
    p50, p99 = (times[min(len(times) - 1, int(len(times) * share))] for share in (0.5, 0.99))
    say(json.dumps({"rate": rate, "p50": p50, "p99": p99, "wrong": wrong}))


if __name__ == "__main__":
    main()
