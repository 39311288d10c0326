"""What the whitelist costs: the time of a verdict, the memory of a grant, the time of a start.

Run ``python benchmarks/whitelist.py``, with ``--quick`` for small sizes that only show that it works. Every
table compares its own sizes within one run: they take turns, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import gc
import http.client
import json
import os
import random
import secrets
import signal
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

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource

from benchmarks.printed import machine, say
from knocker import clock
from knocker.core.addresses import Address, Network, Networks, networks
from knocker.core.canaries import Canaries
from knocker.core.gate import Gate, Policy, Verdict
from knocker.core.grant import Via, Wish
from knocker.core.keys import Key, Keyring, digest_of
from knocker.core.moment import Moment
from knocker.core.tally import Tally
from knocker.core.turns import Turns
from knocker.core.whitelist import Whitelist
from knocker.listen.door import Door
from knocker.listen.house import House
from knocker.listen.reports import Reports
from knocker.listen.site import GateSite
from knocker.listen.verify import Verify
from knocker.store.document import document, pages_of
from tests.asked import Asked

DAY = 86_400
SECRETS = {"phone": "benchmark-phone-0123456789-abc", "admin": "benchmark-admin-0123456789-xyz"}
PHONE, ADMIN = (
    Key(name, digest_of(secret.encode()), ttl=DAY // 2, max_ttl=DAY, admin=name == "admin")
    for name, secret in SECRETS.items()
)
KEYRING = Keyring([PHONE, ADMIN])
# Bits, prefix length, and how many of 1,000 grants have it. Every size has every length: each costs a look-up.
MIX = (
    (32, 32, 600),
    (128, 128, 300),
    (32, 24, 40),
    (32, 20, 10),
    (32, 16, 1),
    (128, 64, 40),
    (128, 56, 8),
    (128, 48, 1),
)
START_DEADLINE = 120.0  # seconds


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    verdicts: tuple[int, ...] = (10, 10_000, 1_000_000)
    addresses: int = 5_000  # asked about in a round, all different ones
    rounds: int = 9
    memory: int = 1_000_000
    stored: int = 100_000
    starts: int = 5


QUICK = Sizes(verdicts=(10, 1_000, 20_000), addresses=500, rounds=3, memory=20_000, stored=2_000, starts=1)


def main() -> None:
    """Measure everything, or with --memory only that (in the process of its own that it needs)."""
    parser = argparse.ArgumentParser(description="What the whitelist costs.")
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see that it works")
    parser.add_argument("--memory", type=int, metavar="GRANTS", help="measure the memory of so many grants alone")
    options = parser.parse_args()
    if options.memory:
        say(json.dumps(memory(options.memory)))
        return
    sizes = QUICK if options.quick else Sizes()
    say(machine())
    report_verdicts(sizes)
    report_memory(sizes)
    report_starts(sizes)


# What is measured with: grants as knocks leave them.


def filled(count: int, begin: Moment, seed: int = 1) -> Whitelist:
    """A whitelist of `count` grants that knocks left one after the other, each at a time of its own."""
    whitelist = Whitelist(KEYRING, count + 1, lambda: secrets.token_urlsafe(16))
    chance = random.Random(seed)  # noqa: S311 - the same addresses at every run
    for passed, network in enumerate(some_networks(chance)):
        if len(whitelist) == count:
            return whitelist
        now = Moment(begin.wall + passed / 997, begin.boot + passed / 997)
        key, via = (PHONE, Via.HTTP) if network.single else (ADMIN, Via.REMOTE)
        whitelist.settle(whitelist.plan(Wish(network, key, via, chance.randrange(DAY // 4, DAY)), now), now)
    raise AssertionError("networks never end")


def some_networks(chance: random.Random) -> Iterator[Network]:
    """Networks to grant, without end: one of each prefix length, then at random by MIX."""
    for bits, prefix, _ in MIX:
        yield some_address(bits, chance).widened(prefix)
    shares = [share for _, _, share in MIX]
    while True:
        for bits, prefix, _ in chance.choices(MIX, shares, k=1000):
            yield some_address(bits, chance).widened(prefix)


def some_address(bits: int, chance: random.Random, granted: bool = True) -> Address:
    """An address of the part of the Internet that grants are made in here, or of one that none are made in."""
    if bits == 32:
        return Address(32, chance.randrange(11, 100) << 24 | chance.getrandbits(24) | (0 if granted else 100 << 24))
    return Address(128, (0x2A0 if granted else 0x2C0) << 116 | chance.getrandbits(116))


# 1. The time of a verdict.


def report_verdicts(sizes: Sizes) -> None:
    """The time of a verdict at every size, for every question: answered to a proxy, and decided."""
    now = clock.now()
    whitelists = {size: filled(size, now) for size in sizes.verdicts}
    now = Moment(now.wall + 7200, now.boot + 7200)  # after the last of the knocks, before the end of the first
    asked = {size: questions(whitelist, sizes) for size, whitelist in whitelists.items()}
    gates = {size: Gate(Policy(KEYRING, networks(PROXY)), whitelist) for size, whitelist in whitelists.items()}
    say(
        f"\nA verdict, best and median of {sizes.rounds} rounds of {sizes.addresses} different addresses;"
        f" the ratio is to {sizes.verdicts[0]} grants, best to best"
    )
    say(" as a whole, from the bytes of a /verify to those of its answer, without sockets (aim: 1.3)")
    asking = {size: Connection(gate, now) for size, gate in gates.items()}
    report_turns(sizes, lambda size, turn, question: asking[size].timed(asked[size][question][turn], question))
    say(" the decision alone")
    report_turns(sizes, lambda size, turn, question: timed(gates[size], asked[size][question][turn], now, question))


def report_turns(sizes: Sizes, measure: Callable[[int, int, str], float]) -> None:
    """One table; the sizes take turns."""
    for question in QUESTIONS:
        times: dict[int, list[float]] = defaultdict(list)
        for turn in range(sizes.rounds):
            for size in sizes.verdicts:
                times[size].append(measure(size, turn, question))
        smallest = min(times[sizes.verdicts[0]])
        for size in sizes.verdicts:
            best, median = min(times[size]), statistics.median(times[size])
            say(f"  {question:<15} {size:>9,} grants {best:7.0f} ns {median:7.0f} ns   x{best / smallest:.2f}")


class Connection:
    """A proxy's connection to a gate, without a socket."""

    def __init__(self, gate: Gate, now: Moment) -> None:
        no_store: Any = None  # /verify never asks it
        clock = Clock()
        house = House(
            gate=gate,
            store=no_store,
            tally=Tally(),
            now=lambda: now,
            surroundings=lambda: (Networks(), Networks()),
            reports=Reports(time.monotonic),
            turns=Turns(clock.callLater, clock.seconds),
            canaries=Canaries(os.urandom),
        )
        site = GateSite(Door(house, Verify(house), Resource()), house, 1, clock)
        self.wire = StringTransport(peerAddress=IPv4Address("TCP", PROXY, 1))
        self.channel = site.buildProtocol(self.wire.getPeer())
        self.channel.makeConnection(self.wire)

    def timed(self, addresses: list[Address], question: str) -> float:
        """Nanoseconds that one request takes, over all `addresses`."""
        requests = [REQUEST % str(address).encode() for address in addresses]
        receive, wire = self.channel.dataReceived, self.wire
        gc.disable()
        begin = time.perf_counter_ns()
        for request in requests:
            wire.clear()
            receive(request)
        taken = time.perf_counter_ns() - begin
        gc.enable()
        expected = b"HTTP/1.1 200" if QUESTIONS[question] is Verdict.GRANT else b"HTTP/1.1 401"
        if not wire.value().startswith(expected):
            raise AssertionError(f"not {expected!r} but {wire.value()!r}")
        return taken / len(addresses)


PROXY = "127.0.0.1"
REQUEST = (
    b"GET /verify HTTP/1.1\r\nHost: knocker:8000\r\nUser-Agent: Mozilla/5.0\r\nX-Forwarded-For: %s\r\n"
    b"X-Forwarded-Host: app.example.com\r\nX-Forwarded-Uri: /\r\nX-Forwarded-Method: GET\r\n\r\n"
)
QUESTIONS = {
    "hit by address": Verdict.GRANT,
    "hit by network": Verdict.GRANT,
    "miss IPv4": Verdict.NO_GRANT,
    "miss IPv6": Verdict.NO_GRANT,
}


def questions(whitelist: Whitelist, sizes: Sizes) -> dict[str, list[list[Address]]]:
    """The addresses to ask about, by question and round; made before anything is timed."""
    chance = random.Random(2)  # noqa: S311 - the same addresses at every run
    granted: dict[tuple[int, int], list[Network]] = defaultdict(list)
    for grant in whitelist:
        granted[grant.network.bits, grant.network.prefix].append(grant.network)
    singles = [granted[bits, prefix] for bits, prefix, _ in MIX if prefix == bits]
    wide = [granted[bits, prefix] for bits, prefix, _ in MIX if prefix != bits]

    def inside(choices: list[list[Network]]) -> Address:
        network = chance.choice(chance.choice(choices))
        host = network.base | chance.getrandbits(network.bits - network.prefix)
        # Parsed as at the door, so that it shares no number with the table.
        return Address.parse(str(Address(network.bits, host)))

    makers: dict[str, Callable[[], Address]] = {
        "hit by address": lambda: inside(singles),
        "hit by network": lambda: inside(wide),
        "miss IPv4": lambda: some_address(32, chance, granted=False),
        "miss IPv6": lambda: some_address(128, chance, granted=False),
    }
    return {
        question: [[make() for _ in range(sizes.addresses)] for _ in range(sizes.rounds)]
        for question, make in makers.items()
    }


ASKED = Asked("app.example.com", "/")


def timed(gate: Gate, addresses: list[Address], now: Moment, question: str) -> float:
    """Nanoseconds that one verdict takes, over all `addresses`."""
    verdict = gate.verdict
    gc.disable()
    begin = time.perf_counter_ns()
    for address in addresses:
        verdict(address, ASKED, now)
    taken = time.perf_counter_ns() - begin
    gc.enable()
    expected = QUESTIONS[question]
    if any(verdict(address, ASKED, now) is not expected for address in addresses):
        raise AssertionError(f"not every verdict was {expected}")
    return taken / len(addresses)


# 2. The memory of a grant.


def report_memory(sizes: Sizes) -> None:
    """Bytes a grant, measured in a process that has nothing else."""
    command = [sys.executable, __file__, "--memory", str(sizes.memory)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this very script
    found = json.loads(result.stdout)
    say(f"\nMemory at {sizes.memory:,} grants, with owner and times (aim: below 400 bytes)")
    say(f"  {found['whitelist']:7.0f} bytes a grant in the whitelist")
    say(f"  {found['texts']:7.0f} bytes a grant more in the store, for the texts that it keeps")


def memory(count: int) -> dict[str, float]:
    """Resident bytes a grant: of the whitelist, and of what the store keeps besides."""
    filled(10, clock.now())  # whatever is made once is made by now
    before = resident()
    whitelist = filled(count, clock.now())
    gc.collect()
    alone = resident()
    pages = pages_of(whitelist)
    gc.collect()
    return {"whitelist": (alone - before) / count, "texts": (resident() - alone) / len(pages)}


def resident() -> int:
    """The bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# 3. The time of a start.


def report_starts(sizes: Sizes) -> None:
    """The time from exec to the first answer, with stored grants and without."""
    say(
        f"\nStart, from exec until /health answers, best and median of {sizes.starts} "
        f"(aim: below 2 s with {Sizes.stored:,} grants)"
    )
    times: dict[int, list[float]] = {0: [], sizes.stored: []}
    with TemporaryDirectory(prefix="knocker-benchmark-") as folder:
        for _ in range(sizes.starts):
            for count, found in times.items():
                write_store(Path(folder), count)
                found.append(start(Path(folder), count))
    for count, found in times.items():
        best, median = min(found), statistics.median(found)
        say(f"  {count:>9,} grants {best:7.2f} s {median:7.2f} s   x{best / min(times[0]):.2f}")


def write_store(folder: Path, count: int) -> None:
    """A whitelist.json as a Knocker of this boot would have left it just now."""
    now = clock.now()
    pages = pages_of(filled(count, Moment(now.wall - 3600, now.boot - 3600)))
    with open(folder / "whitelist.json", "wb") as file:
        file.writelines(document(pages, now, clock.boot_id()))


def start(folder: Path, count: int) -> float:
    """Seconds until a Knocker with this store answers; it is ended afterwards."""
    port = free_port()
    config = folder / "knocker.yaml"
    config.touch(mode=0o600)
    config.write_text(json.dumps(settings(folder, port, count)), encoding="utf-8")
    twistd = str(Path(sys.executable).with_name("twistd"))
    command = [twistd, "-n", "--pidfile=", "--logfile=knocker.log", "knocker", "--config", str(config)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder)  # noqa: S603 - the command is fixed
    try:
        while not healthy(port):
            if process.poll() is not None or time.perf_counter() - begin > START_DEADLINE:
                raise AssertionError(f"Knocker did not start; it left {process.poll()}")
            time.sleep(0.005)
        taken = time.perf_counter() - begin
        check_count(folder, count)
        return taken
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_DEADLINE)
        (folder / "knocker.log").unlink(missing_ok=True)


def check_count(folder: Path, count: int) -> None:
    """A fast start that dropped the grants would be no good one."""
    log = (folder / "knocker.log").read_text(encoding="utf-8")
    if f" {count} live grants" not in log:
        raise AssertionError(f"Knocker did not load {count} grants:\n{log}")


def settings(folder: Path, port: int, count: int) -> dict[str, object]:
    """The settings of a Knocker that can hold what is stored."""
    return {
        "server": {"host": "127.0.0.1", "port": port, "trusted_proxies": ["127.0.0.1"]},
        "whitelist": {"storage_path": str(folder / "whitelist.json"), "max_entries": count + 1},
        "api_keys": [
            {
                "name": key.name,
                "key": SECRETS[key.name],
                "ttl": key.ttl,
                "max_ttl": key.max_ttl,
                "allow_remote_whitelist": key.admin,
            }
            for key in KEYRING.keys
        ],
    }


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def healthy(port: int) -> bool:
    """Whether /health answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    main()
