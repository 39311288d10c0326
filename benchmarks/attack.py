"""What honest requests feel while strangers attack: a proxy's /verify, quiet and under floods, against a real Knocker.

Run ``python benchmarks/attack.py``, with ``--quick`` for a few seconds that only show that it works. The proxy
asks from 127.0.0.1, the strangers come from 127.0.0.2 and up, out of a process of their own that gives way to the
others. Everything is bounded in number and time, and nothing leaves this machine. Needs Linux, for /proc and for
the many loopback addresses.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import resource
import select
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.printed import machine, say
from tests.service import Knocker, free_port

HOST, PROXY = "127.0.0.1", "127.0.0.1"
KEY = "benchmark-phone-0123456789-abc"
GRANTED = [f"203.0.113.{last}" for last in range(1, 21)]
UNKNOWN = [f"198.51.100.{last}" for last in range(1, 21)]
START_DEADLINE = 30.0  # seconds
LAST_ANSWERS = 10.0  # seconds that a measurement waits for what it asked last
STRANGERS_STAY = 60.0  # seconds after which the strangers end by themselves, whatever became of us
AIM_P99 = 100.0  # ms
AIM_GROWTH = 64.0  # MiB
SPARE_FILES = 200
MEBI = 1 << 20


@dataclass(frozen=True)
class Sizes:
    """How much is attacked, and how long it is measured."""

    slow: int = 500  # connections of each slow kind
    pushing: int = 20  # connections of each fast kind
    body: int = 64 * MEBI
    pipelined: int = 20_000  # requests on one connection
    comers: int = 100_000  # connections, at most, that come and go
    crowd: int = 2_000  # strangers against the default of server.max_connections
    rate: int = 100  # honest requests a second
    proxies: int = 64  # honest connections; so many that none waits for another, as a proxy would open more
    quiet: float = 6.0  # seconds
    rush: float = 10.0  # seconds in which strangers attack anew
    stay: float = 15.0  # seconds from an attack's start to the count of those that are left

    @property
    def most_connections(self) -> int:
        """What server.max_connections has to be so that every stranger gets in."""
        return 4 * self.slow + 16 * self.pushing + self.proxies


QUICK = Sizes(
    proxies=8, slow=30, pushing=4, body=MEBI, pipelined=500, comers=300, crowd=60, quiet=0.5, rush=0.3, stay=0.6
)

# What the strangers of each attack do; the names are those of CROWDS.
ATTACKS = {
    "headers, a byte at a time": ["heads"],
    "bodies, a byte at a time": ["bodies"],
    "huge bodies": ["pushes"],
    "idle connections": ["idle"],
    "pipelined, answers unread": ["unread"],
    "wrong keys": ["keys"],
    "new connections": ["comers"],
    "all of these at once": ["heads", "bodies", "pushes", "idle", "unread", "keys", "comers"],
}


def main() -> None:
    """Measure everything, or with --strangers be those (in the process of its own that they need)."""
    parser = argparse.ArgumentParser(description="What honest requests feel under attack.")
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see that it works")
    parser.add_argument("--strangers", metavar="JSON", help="only attack a port of this machine, as told")
    options = parser.parse_args()
    if options.strangers:
        attack(**json.loads(options.strangers))
        return
    sizes = QUICK if options.quick else Sizes()
    raise_file_limit(max(sizes.most_connections, sizes.crowd) + SPARE_FILES)
    say(machine())
    say(
        f"{sizes.rate} /verify a second on {sizes.proxies} connections of a trusted proxy; strangers attack for"
        f" {sizes.rush:.0f} s and are counted after {sizes.stay:.0f} s, at a lower priority"
    )
    report_attacks(sizes)
    report_default(sizes)


def raise_file_limit(wanted: int) -> None:
    """See to it that we, and the processes we start, may open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(f"this needs {wanted} open files, and no more than {hard} are allowed here (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# 1. What is measured, and the tables.


def report_attacks(sizes: Sizes) -> None:
    """One row for each attack, against a Knocker that has room for all who come."""
    say(f"\nserver.max_connections: {sizes.most_connections}, room for everybody")
    with TemporaryDirectory() as folder, Bulwark(Path(folder), sizes.most_connections) as knocker:
        knocker.let_in(GRANTED)
        quiet = knocker.measured(lambda: ask_steadily(knocker.port, sizes, sizes.quiet))
        table = Table(sizes, quiet, knocker.resident())
        table.head()
        table.row("quiet", quiet)
        for name, crowds in ATTACKS.items():
            table.row(name, attacked(knocker, sizes, crowds))
        table.row("quiet again", knocker.measured(lambda: ask_steadily(knocker.port, sizes, sizes.quiet)))
        table.foot()
        knocker.terminated()


def report_default(sizes: Sizes) -> None:
    """More strangers than server.max_connections allows: a trusted proxy gets the place of one of them."""
    most = sizes.crowd // 2 if sizes.crowd < 1024 else None
    say(
        f"\nserver.max_connections: {most or 'the default, 1024'}; {sizes.crowd} strangers hold on and come back when"
        " cut off; the proxy keeps its connections, or comes anew for every request"
    )
    with TemporaryDirectory() as folder, Bulwark(Path(folder), most) as knocker:
        knocker.let_in(GRANTED)
        half = replace(sizes, stay=sizes.stay / 2, rush=sizes.stay / 2)
        quiet = knocker.measured(lambda: ask_steadily(knocker.port, half, sizes.quiet / 2))
        table = Table(half, quiet, knocker.resident())
        table.head()
        table.row("quiet, kept", quiet)
        table.row("crowd, kept", attacked(knocker, half, ["crowd"]))
        anew = knocker.measured(lambda: ask_steadily(knocker.port, half, sizes.quiet / 2, anew=True))
        table = replace(table, quiet=anew)
        table.row("quiet, anew", anew)
        table.row("crowd, anew", attacked(knocker, half, ["crowd"], anew=True))
        table.foot(gone=False)
        knocker.terminated()


@dataclass
class Series:
    """What became of the honest requests of a while."""

    times: list[float] = field(default_factory=list)  # ms, from when a request was due to its answer
    late: list[float] = field(default_factory=list)  # ms that we ourselves came too late to ask
    wrong: int = 0  # answers that were not the right verdict
    lost: int = 0  # requests without an answer


@dataclass
class Outcome:
    """A series, and what Knocker was at meanwhile."""

    series: Series
    seconds: float
    knocker: float  # seconds of processor time
    peak: float  # MiB
    causes: Counter[str]  # of log lines
    left: int | None = None  # connections of strangers that Knocker still holds
    came: int = 0  # connections that strangers opened
    strangers: float = 0.0  # seconds of processor time


@dataclass
class Table:
    """Rows beside their aims."""

    sizes: Sizes
    quiet: Outcome
    resident: float  # MiB, before any attack
    faults: list[str] = field(default_factory=list)

    def head(self) -> None:
        """The heading."""
        say(
            f"  {'':<26}{'p50':>8}{'p99':>8}{'max':>8}{'ratio':>8}{'memory':>9}{'strangers':>11}{'left':>6}"
            f"{'log lines':>16}{'processor time':>22}\n"
            f"  {'':<26}{'ms':>8}{'ms':>8}{'ms':>8}{'p99':>8}{'MiB':>9}{'':>11}{'':>6}"
            f"{'most of a cause':>16}{'Knocker / strangers':>22}"
        )

    def row(self, name: str, found: Outcome) -> None:
        """One while."""
        times, quiet = found.series.times, self.quiet.series.times
        p99 = percentile(times, 99)
        growth = found.peak - self.resident
        lines = f"{found.causes.total()}, {max(found.causes.values(), default=0)}"
        left = "" if found.left is None else str(found.left)
        share = f"{100 * found.knocker / found.seconds:.0f} % / {100 * found.strangers / found.seconds:.0f} %"
        say(
            f"  {name:<26}{percentile(times, 50):8.1f}{p99:8.1f}{max(times, default=0):8.1f}"
            f"{'x' + format(p99 / percentile(quiet, 99), '.1f'):>8}{growth:+9.1f}{found.came or '':>11}{left:>6}"
            f"{lines:>16}{share:>22}"
        )
        late = percentile(found.series.late, 99)
        if late > max(5.0, p99 / 10):
            say(f"    we ourselves came up to {late:.1f} ms late (p99): this machine had no time for us")
        if found.series.wrong or found.series.lost:
            self.faults.append(f"{name}: {found.series.wrong} wrong verdicts, {found.series.lost} without an answer")

    def foot(self, gone: bool = True) -> None:
        """What the figures should be."""
        aims = [f"p99 below {AIM_P99:.0f} ms", f"memory below +{AIM_GROWTH:.0f} MiB"]
        aims += [f"none left {self.sizes.stay:.0f} s after the start"] if gone else []
        say(f"  aims: {', '.join(aims)}; log: about one line of a cause a minute, of refused knocks 20")
        if gone:
            say("  wrong keys and new connections leave by themselves; a whole request buys a connection 130 s more")
        for fault in self.faults or ["every verdict was right, and none was missing"]:
            say(f"  {fault}")


def percentile(values: list[float], share: float) -> float:
    """The smallest of the values that `share` percent of them do not exceed."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * share // 100) - 1)]


def attacked(knocker: Bulwark, sizes: Sizes, crowds: list[str], anew: bool = False) -> Outcome:
    """The honest requests while strangers attack, and what is left of the attack afterwards."""
    told = {"port": knocker.port, "crowds": crowds, "sizes": asdict(sizes)}
    command = [sys.executable, __file__, "--strangers", json.dumps(told)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - this very script
        assert process.stdout is not None  # noqa: S101 - for mypy
        assert process.stdin is not None  # noqa: S101 - for mypy
        if not process.stdout.readline():
            raise AssertionError("the strangers did not start")

        def measure() -> Series:
            print("come", file=process.stdin, flush=True)
            return ask_steadily(knocker.port, sizes, sizes.stay, anew=anew)

        found = knocker.measured(measure)
        found.left = knocker.held()
        process.stdin.close()
        told_back = json.loads(process.stdout.read())
    found.came, found.strangers = told_back["came"], told_back["processor"]
    knocker.wait_until_alone()
    return found


# 2. Honest requests.


@dataclass(eq=False)
class Honest:
    """One connection of the proxy."""

    wire: socket.socket
    since: float = 0.0  # when the request at hand was due
    expected: bytes = b""
    heard: bytes = b""


def ask_steadily(port: int, sizes: Sizes, seconds: float, anew: bool = False) -> Series:
    """Ask at a fixed rate, whatever the answers do; who finds no connection free has waited since the request was due.

    `anew`: every request comes on a connection of its own, and the time is that of both.
    """
    with contextlib.closing(Steadily(port, sizes, anew)) as asking:
        return asking.run(seconds)


class Steadily:
    """The honest proxy."""

    def __init__(self, port: int, sizes: Sizes, anew: bool) -> None:
        self._port = port
        self._anew = anew
        self._step = 1 / sizes.rate
        self._selector = selectors.DefaultSelector()
        self._free = deque([] if anew else [self._connected() for _ in range(sizes.proxies)])
        self._asked: set[Honest] = set()
        self._waiting: deque[float] = deque()
        self._questions = questions()
        self.series = Series()

    def close(self) -> None:
        """Hang up."""
        for honest in [*self._free, *self._asked]:
            honest.wire.close()
        self._selector.close()

    def run(self, seconds: float) -> Series:
        """All requests of a while, and their answers."""
        due = time.perf_counter()
        end = due + seconds
        while True:
            now = time.perf_counter()
            while due <= min(now, end):
                self.series.late.append((now - due) * 1000)
                self._waiting.append(now)
                due += self._step
            while self._waiting and (self._free or self._anew):
                self._ask(self._waiting.popleft())
            if (due > end and not (self._asked or self._waiting)) or now > end + LAST_ANSWERS:
                break
            for key, events in self._selector.select(max(0.0, (due if due <= end else now + 0.1) - now)):
                self._heed(key.data, events)
        self.series.lost += len(self._asked) + len(self._waiting)
        return self.series

    def _connected(self) -> Honest:
        wire = socket.create_connection((HOST, self._port), timeout=LAST_ANSWERS, source_address=(PROXY, 0))
        return self._attended(wire, selectors.EVENT_READ)

    def _attended(self, wire: socket.socket, events: int) -> Honest:
        wire.setblocking(False)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        honest = Honest(wire)
        self._selector.register(wire, events, honest)
        return honest

    def _ask(self, since: float) -> None:
        request, expected = next(self._questions)
        if self._anew:
            wire = socket.socket()
            wire.setblocking(False)
            wire.bind((PROXY, 0))
            wire.connect_ex((HOST, self._port))
            honest = self._attended(wire, selectors.EVENT_WRITE)
            honest.heard = request  # until the connection stands
        else:
            honest = self._free.popleft()
            honest.wire.send(request)
        honest.since, honest.expected = since, expected
        self._asked.add(honest)

    def _heed(self, honest: Honest, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                honest.wire.send(honest.heard)
                honest.heard = b""
                self._selector.modify(honest.wire, selectors.EVENT_READ, honest)
                return
            data = honest.wire.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        honest.heard += data
        if not data:
            self._hang_up(honest)
            self.series.lost += honest in self._asked
            self._asked.discard(honest)
            if not self._anew:
                self._free.append(self._connected())
        elif honest.heard.endswith(b"\r\n\r\n"):  # no answer of /verify has a body
            self.series.times.append((time.perf_counter() - honest.since) * 1000)
            self.series.wrong += not honest.heard.startswith(honest.expected)
            honest.heard = b""
            self._asked.discard(honest)
            if self._anew:
                self._hang_up(honest)
            else:
                self._free.append(honest)

    def _hang_up(self, honest: Honest) -> None:
        self._selector.unregister(honest.wire)
        honest.wire.close()
        if honest in self._free:
            self._free.remove(honest)


def questions() -> Iterator[tuple[bytes, bytes]]:
    """What a proxy asks, without end, and how the answers have to begin."""
    while True:
        for granted, unknown in zip(GRANTED, UNKNOWN, strict=True):
            yield question(granted), b"HTTP/1.1 200"
            yield question(unknown), b"HTTP/1.1 401"


def question(client: str) -> bytes:
    """One request as Caddy sends it."""
    return (
        f"GET /verify HTTP/1.1\r\nHost: knocker:8000\r\nUser-Agent: Mozilla/5.0\r\nX-Forwarded-For: {client}\r\n"
        "X-Forwarded-Host: app.example.com\r\nX-Forwarded-Uri: /\r\nX-Forwarded-Method: GET\r\n\r\n"
    ).encode()


# 3. The Knocker.


class Bulwark(Knocker):
    """A real one; `most_connections`: None leaves the default."""

    def __init__(self, folder: Path, most_connections: int | None) -> None:
        server: dict[str, object] = {"trusted_proxies": [PROXY]}
        # Without it strangers on loopback are nobody, and no key of theirs would ever be looked at.
        server["allow_loopback_clients"] = True
        if most_connections is not None:
            server["max_connections"] = most_connections
        keys = [{"name": "phone", "key": KEY, "ttl": 3600}]
        super().__init__(folder, {"server": server, "api_keys": keys, "logging": {"format": "json"}}, free_port())

    def let_in(self, clients: list[str]) -> None:
        """Knock for each of them."""
        for client in clients:
            if self.knock(client, KEY).status != 200:
                raise AssertionError(f"the knock of {client} was refused")

    def terminated(self) -> None:
        """Let it end as an admin would; what it says to the last must be no mistake of ours."""
        status = self.terminate()
        if status != 0:
            raise AssertionError(f"Knocker ended with {status}:\n{self.log[-3000:]}")
        self.end()

    def measured(self, measure: Callable[[], Series]) -> Outcome:
        """A series, with what it cost Knocker."""
        self._forget_peak()
        said, spent, begin = self.log_file.stat().st_size, self._processor(), time.monotonic()
        series = measure()
        seconds, processor = time.monotonic() - begin, self._processor() - spent
        return Outcome(series, seconds, processor, self._memory("VmHWM"), self._causes(said))

    def _causes(self, said: int) -> Counter[str]:
        """How many lines of each cause were logged since the log had `said` bytes."""
        with self.log_file.open("rb") as log:
            log.seek(said)
            lines = [json.loads(line) for line in log]
        return Counter(str(line.get("cause") or line["logger"]) for line in lines)

    @property
    def _proc(self) -> Path:
        return Path(f"/proc/{self.pid}")

    def _memory(self, name: str) -> float:
        lines = (self._proc / "status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))

    def resident(self) -> float:
        """MiB of memory that it has now."""
        return self._memory("VmRSS")

    def _forget_peak(self) -> None:
        with contextlib.suppress(OSError):  # then the peak is that of its whole life
            (self._proc / "clear_refs").write_text("5", encoding="ascii")

    def _processor(self) -> float:
        # What stands behind the name, which may have spaces: from field 3 on, of which user and system time are 14, 15.
        fields = (self._proc / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def held(self) -> int:
        """The connections of strangers that it has a descriptor of; whatever the kernel alone still has is no load."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
        port, proxy, listening = f":{self.port:04X}", hexadecimal(PROXY), "0A"
        return sum(
            row[1].endswith(port) and row[3] != listening and row[9] != "0" and row[2].partition(":")[0] != proxy
            for row in rows
        )

    def wait_until_alone(self) -> None:
        """Until the strangers that ended are forgotten, so that they are no part of the next attack."""
        end = time.monotonic() + LAST_ANSWERS
        while self.held():
            if time.monotonic() > end:
                raise AssertionError(f"{self.held()} strangers are gone, and Knocker still holds their connections")
            time.sleep(0.05)


def hexadecimal(address: str) -> str:
    """An address as /proc/net/tcp has it."""
    return format(struct.unpack("=I", socket.inet_aton(address))[0], "08X")


# 4. The strangers, in a process of their own.

TICK = 0.05  # seconds
SLICES = 5  # ticks in which every slow stranger has its turn once
SOURCES = 200  # addresses of strangers
# Binding to an address alone leaves the port to connect(), so that thousands do not look for one twice.
_BIND_ADDRESS_NO_PORT = 24
_CUT = struct.pack("ii", 1, 0)  # SO_LINGER: no wait, so that the ports of those who left are free at once
_HEAD = b"Host: knock.example.com\r\n"
SLOW_HEAD = b"GET /verify HTTP/1.1\r\n" + _HEAD + b"X-Slow: "
SLOW_BODY = b"POST /knock HTTP/1.1\r\n" + _HEAD + b"X-Api-Key: a-wrong-key-0123456789\r\nContent-Length: 4000\r\n\r\n"
WRONG_KEY = b"POST /knock HTTP/1.1\r\n" + _HEAD + b"X-Api-Key: a-wrong-key-0123456789\r\n\r\n"
PIPELINED = (b"GET /verify HTTP/1.1\r\n" + _HEAD + b"\r\n") * 50


def attack(port: int, crowds: list[str], sizes: dict[str, float]) -> None:
    """Be the strangers from the first line of standard input to its end; tell then how many came and what that cost."""
    os.nice(10)
    ends_at = time.monotonic() + STRANGERS_STAY
    told = Sizes(**sizes)  # type: ignore[arg-type] # they come from asdict
    street = Street(port)
    present = [CROWDS[name](street, told) for name in crowds]
    say("here they are")
    sys.stdin.readline()
    begin, spent = time.monotonic(), time.process_time()
    for crowd in present:
        crowd.come()
    rushing, next_tick = True, begin
    while not select.select([sys.stdin], [], [], 0)[0] and time.monotonic() < ends_at:
        for key, events in street.selector.select(max(0.0, next_tick - time.monotonic())):
            key.data(events)
        now = time.monotonic()
        if rushing and now - begin > told.rush:
            rushing = False
            for crowd in present:
                crowd.rest()
        if now >= next_tick:
            next_tick = now + TICK
            for crowd in present:
                crowd.tick()
    say(json.dumps({"came": street.came, "processor": time.process_time() - spent}))


class Street:
    """Where strangers come from: addresses of this machine that no setting trusts."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.selector = selectors.DefaultSelector()
        self.came = 0

    def connect(self, receive_buffer: int = 0) -> socket.socket:
        """One more stranger; the connection stands as soon as it can be written to."""
        wire = socket.socket()
        wire.setblocking(False)
        if receive_buffer:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CUT)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            wire.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        wire.bind((f"127.0.0.{2 + self.came % SOURCES}", 0))
        wire.connect_ex((HOST, self.port))
        self.came += 1
        return wire

    def leave(self, wire: socket.socket) -> None:
        """Cut a connection off."""
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(wire)
        wire.close()


class Crowd:
    """Strangers that do one thing; they `come`, get a `tick` now and then, and begin nothing new at their `rest`."""

    def __init__(self, street: Street, sizes: Sizes) -> None:
        self.street = street
        self.sizes = sizes
        self.resting = False

    def come(self) -> None:
        """Begin."""

    def tick(self) -> None:
        """What takes its time."""

    def rest(self) -> None:
        """Begin nothing new."""
        self.resting = True


class Trickling(Crowd):
    """Strangers that send `begin` and then a byte at a time, for ever."""

    begin = b""
    more = b"a"
    returning = False

    def come(self) -> None:
        """All at once."""
        self._wires: list[socket.socket | None] = [self.street.connect() for _ in range(self._number)]
        self._begun: set[int] = set()
        self._turn = 0

    @property
    def _number(self) -> int:
        return self.sizes.slow

    def tick(self) -> None:
        """A byte of every fifth."""
        self._turn += 1
        for place in range(self._turn % SLICES, len(self._wires), SLICES):
            wire = self._wires[place]
            if wire is not None and not self._trickle(wire, place):
                wire.close()
                self._begun.discard(place)
                come_back = self.returning and not self.resting
                self._wires[place] = self.street.connect() if come_back else None

    def _trickle(self, wire: socket.socket, place: int) -> bool:
        """Whether the connection is still there."""
        try:
            if place in self._begun or not self.begin:
                if self.more:
                    wire.send(self.more)
                    return True
                return wire.recv(1) != b""
            wire.send(self.begin)
            self._begun.add(place)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError as error:
            return error.errno == errno.ENOTCONN  # not yet
        return True


class SlowHeads(Trickling):
    """Headers that never end."""

    begin = SLOW_HEAD


class SlowBodies(Trickling):
    """Bodies that never end."""

    begin = SLOW_BODY
    more = b" "


class Idle(Trickling):
    """They only hold a connection."""

    more = b""


class HoldingOn(Idle):
    """More than there is room for, who come back when they are cut off."""

    returning = True

    @property
    def _number(self) -> int:
        return self.sizes.crowd


class Pushing(Crowd):
    """Strangers that send as fast as they can, each on one connection at a time."""

    receive_buffer = 0

    def come(self) -> None:
        """All at once."""
        for place in range(self.sizes.pushing):
            self._begin(place)

    def _begin(self, place: int) -> None:
        wire = self.street.connect(self.receive_buffer)
        rest = self._what(place)
        sent = b""

        def push(events: int) -> None:
            nonlocal sent
            try:
                while True:
                    sent = sent or next(rest, b"")
                    if not sent:
                        self.street.selector.modify(wire, selectors.EVENT_READ, wait)
                        return
                    sent = sent[wire.send(sent) :]
                    if sent:
                        return
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._over(wire, place)

        def wait(events: int) -> None:
            try:
                if self._heed(wire):
                    return
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                pass
            self._over(wire, place)

        self.street.selector.register(wire, selectors.EVENT_WRITE, push)

    def _what(self, place: int) -> Iterator[bytes]:
        """What one of them sends."""
        raise NotImplementedError

    def _heed(self, wire: socket.socket) -> bool:
        """Read, once all is sent; whether there may be more."""
        return wire.recv(65536) != b""

    def _over(self, wire: socket.socket, place: int) -> None:
        self.street.leave(wire)
        if not self.resting:
            self._begin(place)


class HugeBodies(Pushing):
    """Bodies of 64 MB, every other one in chunks."""

    _piece = b" " * 65536

    def _what(self, place: int) -> Iterator[bytes]:
        chunked = place % 2
        size = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % self.sizes.body
        yield b"POST /knock HTTP/1.1\r\n" + _HEAD + size + b"\r\n\r\n"
        piece = b"%x\r\n%b\r\n" % (len(self._piece), self._piece) if chunked else self._piece
        for _ in range(self.sizes.body // len(self._piece)):
            yield piece


class Unread(Pushing):
    """Thousands of requests on a connection, and no answer is ever read."""

    receive_buffer = 4096

    def _what(self, place: int) -> Iterator[bytes]:
        for _ in range(self.sizes.pipelined // 50):
            yield PIPELINED

    def _heed(self, wire: socket.socket) -> bool:
        self.street.selector.unregister(wire)
        self._held.append(wire)
        return True

    def come(self) -> None:
        """As the others, and hold on."""
        self._held: list[socket.socket] = []
        super().come()

    def _over(self, wire: socket.socket, place: int) -> None:
        self.street.leave(wire)


class WrongKeys(Crowd):
    """Each tries one key after the other, as fast as it is answered."""

    def come(self) -> None:
        """All at once."""
        for _ in range(self.sizes.pushing):
            self._begin()

    def _begin(self) -> None:
        wire = self.street.connect()
        heard = b""

        def knock(events: int) -> None:
            nonlocal heard
            try:
                if events & selectors.EVENT_WRITE:
                    self.street.selector.modify(wire, selectors.EVENT_READ, knock)
                else:
                    data = wire.recv(65536)
                    if not data:
                        raise ConnectionResetError
                    heard += data
                    if not heard.endswith(b"}"):  # the end of every refusal
                        return
                if self.resting:
                    self.street.leave(wire)
                    return
                heard = b""
                wire.send(WRONG_KEY)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.street.leave(wire)

        self.street.selector.register(wire, selectors.EVENT_WRITE, knock)


class Comers(Crowd):
    """They come and go as fast as they can."""

    def come(self) -> None:
        """As many at a time as others push."""
        self._left = self.sizes.comers
        for _ in range(self.sizes.pushing):
            self._begin()

    def _begin(self) -> None:
        if self.resting or not self._left:
            return
        self._left -= 1
        wire = self.street.connect()

        def go(events: int) -> None:
            self.street.leave(wire)
            self._begin()

        self.street.selector.register(wire, selectors.EVENT_WRITE, go)


CROWDS: dict[str, type[Crowd]] = {
    "heads": SlowHeads,
    "bodies": SlowBodies,
    "pushes": HugeBodies,
    "idle": Idle,
    "unread": Unread,
    "keys": WrongKeys,
    "comers": Comers,
    "crowd": HoldingOn,
}


if __name__ == "__main__":
    main()
