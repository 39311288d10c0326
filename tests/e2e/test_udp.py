"""The silent door of a real Knocker: real datagrams, real crashes, and clients with addresses of their own.

Where a test must know that Knocker has read what was sent, it sends a knock after it, from an address that nobody
else has, and waits until that opens: datagrams are read in the order in which they came.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred

from knocker.core.addresses import Network
from knocker.core.keys import generate, udp_secret
from knocker.core.packets.native import Knock, Secrets, encode
from knocker.store.seenfile import SeenFile
from tests.conftest import LONG
from tests.e2e.test_floods import most_memory
from tests.e2e.test_service import Disk
from tests.needs import needs
from tests.net import SERVER, SERVER_6, Bench, bench_or_skip, dying_with_us
from tests.service import Caddy, Knocker, Settings, ask, eventually, free_port

PROJECT = Path(__file__).parent.parent.parent
KEY, OTHER = generate(lambda count: b"1" * count), generate(lambda count: b"2" * count)
WINDOW = 120  # seconds
HERE, THERE = "127.0.0.2", "127.0.0.3"
FRESH = (f"127.0.{part}.{last}" for part in range(1, 200) for last in range(1, 250))  # addresses nobody has yet


def settings(port: int, directory: Path, *, host: str = "127.0.0.1", realm: str = "", **keys: str) -> Settings:
    """Settings with a silent door; `keys` by name, one called phone if none is told."""
    udp = {"enabled": True, "host": host, "port": port, "realm": realm, "window_seconds": WINDOW}
    return {
        "server": {"trusted_proxies": ["127.0.0.1"], "allow_loopback_clients": True},
        "api_keys": [
            {"name": name, "key": key, "ttl": 3600, "udp": True} for name, key in (keys or {"phone": KEY}).items()
        ],
        "security": {"knock_rate_limit": {"successful_requests": 0, "failed_requests": 0}},
        "udp": udp | {"state_path": str(directory / "udp-seen.log")},
    }


def free_udp_port() -> int:
    """A UDP port that nobody listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def remember_nothing(directory: Path) -> None:
    """A seen file from long ago, as of a Knocker that nobody knocked at: its first fence is over."""
    file = SeenFile(str(directory / "udp-seen.log"), maybeDeferred)
    file.load(WINDOW * 1000, round(time.time() * 1000) - 10 * WINDOW * 1000)
    file.close()


def packet(key: str = KEY, realm: str = "", *, ahead: float = 0, **more: Any) -> bytes:
    """A packet of now."""
    knock = Knock(round((time.time() + ahead) * 1000), os.urandom(16), **more)
    return encode(Secrets.of(udp_secret(key), realm), knock)


class Door:
    """A Knocker on loopback with a silent door, and who sends to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_udp_port()
        self.knocker = Knocker(directory, settings(self.port, directory), free_port())
        remember_nothing(directory)
        self._wires: dict[str, socket.socket] = {}

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
        self.knocker.end(KEY, OTHER, udp_secret(KEY).hex(), udp_secret(OTHER).hex())

    @property
    def seen(self) -> Path:
        return self.directory / "udp-seen.log"

    def send(self, *packets: bytes, source: str = HERE) -> None:
        """Send them from there."""
        wire = self._wires.get(source)
        if wire is None:
            wire = self._wires[source] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            wire.bind((source, 0))
        for each in packets:
            wire.sendto(each, ("127.0.0.1", self.port))

    def was_answered(self) -> bool:
        """Whether anything came back to anybody; an ICMP error would show as one here too."""
        for wire in self._wires.values():
            try:
                wire.recv(2000, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            return True
        return False

    def settle(self, key: str = KEY, realm: str = "") -> str:
        """Return when Knocker has read all that was sent; the address that knocked last."""
        last = next(FRESH)
        eventually(lambda: self._knocked(last, key, realm), f"{last} is let in, the last of all who knocked")
        return last

    def _knocked(self, last: str, key: str, realm: str) -> bool:
        self.send(packet(key, realm), source=last)
        end = time.monotonic() + 1  # after which it may be lost
        while time.monotonic() < end:
            if self.knocker.verify(last) == 200:
                return True
        return False

    def opens(self, data: bytes, source: str = HERE, key: str = KEY, realm: str = "") -> bool:
        """Whether this datagram opens the address that it comes from; `key` and `realm` are those that count now."""
        assert self.knocker.verify(source) == 401
        self.send(data, source=source)
        self.settle(key, realm)
        return self.knocker.verify(source) == 200

    def shut(self, source: str = HERE) -> None:
        """End the grant of this address, so that another would show."""
        assert self.knocker.knock(source, KEY, "DELETE").status == 204
        assert self.knocker.verify(source) == 401

    def reload(self, **change: Any) -> None:
        """Run on with changed settings."""
        self.knocker.configure(settings(self.port, self.directory, **change))
        told = self.knocker.log.count("were reloaded")
        self.knocker.hup()
        eventually(lambda: self.knocker.log.count("were reloaded") > told, "it was reloaded")


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Door]:
    """One that is not started yet."""
    door = Door(tmp_path)
    try:
        yield door
    finally:
        door.close()


@pytest.fixture
def door(closed: Door) -> Door:
    """One that listens."""
    closed.knocker.start()
    return closed


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """One that listens, for the tests that leave it as it is: each uses addresses that no other has used."""
    door = Door(tmp_path_factory.mktemp("shared"))
    try:
        door.knocker.start()
        yield door
    finally:
        door.close()


# --- It opens, once --------------------------------------------------------------------------------------------------


def test_a_datagram_opens_what_was_closed_and_nobody_is_answered(shared: Door) -> None:
    here, there = next(FRESH), next(FRESH)
    assert shared.opens(packet(), here)
    assert shared.knocker.verify(there) == 401
    assert not shared.was_answered()
    (line,) = [line for line in shared.knocker.log.splitlines() if f"{here} " in line]
    assert "phone" in line


ENDS = ["at once", "a kill", "two restarts", "a restart"]


@pytest.mark.parametrize("end", ENDS if LONG else ENDS[:3])
def test_a_packet_never_opens_twice(door: Door, end: str) -> None:
    data = packet(ttl=60)
    assert door.opens(data)
    door.shut()
    for _ in range(2 if end == "two restarts" else 1):
        if end != "at once":
            if end == "a kill":
                door.knocker.kill()
            else:
                assert door.knocker.terminate() == 0
            door.knocker.start()
        assert not door.opens(data)
        assert not door.opens(data, THERE), "nor for whoever caught it"


def test_after_its_memory_is_lost_no_packet_of_before_opens(door: Door) -> None:
    data = packet()
    assert door.opens(data)
    door.shut()
    assert door.knocker.terminate() == 0
    door.seen.unlink()
    door.knocker.start()
    assert "there is no such file" in door.knocker.log
    door.send(data, source=HERE)
    door.send(packet(), source=THERE)
    # Its sender's clock is ahead by nearly the window, so that it was made after all that was forgotten.
    begin = time.monotonic()
    eventually(lambda: time.monotonic() - begin > 1, "a packet from the end of the window is later than the fence")
    last = next(FRESH)
    door.send(packet(ahead=WINDOW - 0.5), source=last)
    eventually(lambda: door.knocker.verify(last) == 200, "it is taken")
    assert [door.knocker.verify(source) for source in (HERE, THERE)] == [401, 401]
    assert door.knocker.log.count("refused a UDP knock that was made before") == 1


# The whitelist is synced by fsync, the journal by fdatasync: so this disk holds the first alone.
def _hold_the_whitelist_alone(knocker: Knocker) -> Disk:
    disk = Disk(knocker)
    site = knocker.directory / "disk/sitecustomize.py"
    text = site.read_text()
    changed = text.replace(
        "os.fsync, os.fdatasync = _like_that(os.fsync), _like_that(os.fdatasync)", "os.fsync = _like_that(os.fsync)"
    )
    assert changed != text
    site.write_text(changed)
    return disk


def test_a_kill_between_the_journal_and_the_grant_grants_nothing_now_or_later(closed: Door) -> None:
    disk = _hold_the_whitelist_alone(closed.knocker)
    closed.knocker.start()
    data = packet()
    with disk.being("held"):
        closed.send(data)
        disk.wait()
        assert data[8:24].hex() in closed.seen.read_text(), "the journal comes first"
        assert closed.knocker.verify(HERE) == 401, "and opening last"
        closed.knocker.kill()
    closed.knocker.start()
    assert not closed.opens(data)
    assert closed.opens(packet())


@pytest.mark.parametrize("held", ["journal", "whitelist"])
def test_a_knock_in_flight_at_the_end_is_kept(closed: Door, held: str) -> None:
    disk = Disk(closed.knocker) if held == "journal" else _hold_the_whitelist_alone(closed.knocker)
    closed.knocker.start()
    with disk.being("held"):
        closed.send(packet())
        disk.wait()
        closed.knocker.signal(signal.SIGTERM)
        eventually(lambda: not _listens(closed.knocker), "the doors are closed")
        assert closed.knocker.running
    assert closed.knocker.wait(8) == 0
    closed.knocker.start()
    assert closed.knocker.verify(HERE) == 200


def _listens(knocker: Knocker) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", knocker.port)) == 0


def test_a_full_disk_opens_nothing_and_the_same_packet_may_come_again(closed: Door) -> None:
    disk = Disk(closed.knocker)
    closed.knocker.start()
    data = packet()
    with disk.being("full"):
        for _ in range(3):
            closed.send(data)
        eventually(lambda: ask(closed.knocker.port, "/ready").status == 503, "it is not ready")
        assert closed.knocker.verify(HERE) == 401
        eventually(lambda: "No space left on device" in closed.knocker.log, "the log says why")
    assert closed.opens(data)
    eventually(lambda: ask(closed.knocker.port, "/ready").status == 200, "it is ready again")


# --- Whose address ---------------------------------------------------------------------------------------------------


def test_a_caught_packet_that_is_bound_opens_nothing_from_elsewhere_and_is_spent(shared: Door) -> None:
    here, there = next(FRESH), next(FRESH)
    data = packet(network=Network.parse(here), bound=True)
    assert not shared.opens(data, there)
    assert not shared.opens(data, here), "the original comes too late"
    assert shared.opens(packet(network=Network.parse(here), bound=True), here)


def test_a_packet_that_names_another_address_opens_neither(shared: Door) -> None:
    here, there = next(FRESH), next(FRESH)
    assert not shared.opens(packet(network=Network.parse(there)), here)
    assert shared.knocker.verify(there) == 401


def test_a_packet_may_close_what_its_address_has(shared: Door) -> None:
    here, there = next(FRESH), next(FRESH)
    assert shared.opens(packet(), here)
    assert shared.opens(packet(), there)
    shared.send(packet(revoke=True), source=here)
    eventually(lambda: shared.knocker.verify(here) == 401, "it is closed")
    assert shared.knocker.verify(there) == 200


# --- Floods ----------------------------------------------------------------------------------------------------------

MANY = 100_000 if LONG else 5_000
MEBI = 1 << 20


def _unread(port: int) -> int:
    """The bytes that wait for whoever listens on this UDP port."""
    rows = [line.split() for line in Path("/proc/self/net/udp").read_text().splitlines()[1:]]
    return sum(int(row[4].partition(":")[2], 16) for row in rows if int(row[1].partition(":")[2], 16) == port)


def _garbage(kind: str, count: int, genuine: bytes) -> Iterator[bytes]:
    chance = random.Random(7)
    for number in range(count):
        if kind == "of every length":
            yield chance.randbytes(number % 1501)
        elif kind == "of the right length":
            yield chance.randbytes(80)
        elif kind == "with the hint of a key":
            yield genuine[:8] + chance.randbytes(72)
        elif kind == "a packet with a bit flipped":
            flipped = bytearray(genuine)
            flipped[number % 640 // 8] ^= 1 << number % 8
            yield bytes(flipped)
        else:
            yield b""


@pytest.mark.parametrize(
    "kind",
    ["of every length", "of the right length", "with the hint of a key", "a packet with a bit flipped", "empty"],
)
def test_garbage_gets_nothing_and_leaves_nothing(shared: Door, kind: str) -> None:
    first, here = shared.settle(), next(FRESH)
    memory, said, kept = most_memory(shared.knocker), shared.knocker.log, shared.seen.read_bytes()
    for number, data in enumerate(_garbage(kind, MANY, packet())):
        shared.send(data, source=here)
        if number % 200 == 199:  # more would not fit into the system's buffer, and be lost
            eventually(lambda: _unread(shared.port) == 0, "it has read what was sent")
    last = shared.settle()
    assert [shared.knocker.verify(here), shared.knocker.verify(first)] == [401, 200]
    assert not shared.was_answered()
    assert [line for line in shared.knocker.log[len(said) :].splitlines() if last not in line] == []
    more = shared.seen.read_bytes()
    assert more.startswith(kept)
    assert len(more) - len(kept) < 1000, "nothing of it is kept"
    assert most_memory(shared.knocker) - memory < 8 * MEBI


def test_copies_of_a_knock_without_end_are_one_knock(shared: Door) -> None:
    data, here = packet(), next(FRESH)
    assert shared.opens(data, here)
    said, kept = shared.knocker.log, shared.seen.stat().st_size
    for _ in range(MANY // 200):
        shared.send(*[data] * 200, source=here)
        eventually(lambda: _unread(shared.port) == 0, "it has read what was sent")
    last = shared.settle()
    assert [line for line in shared.knocker.log[len(said) :].splitlines() if last not in line] == []
    assert shared.seen.stat().st_size - kept < 1000
    assert not shared.was_answered()


# --- Reloading -------------------------------------------------------------------------------------------------------


def test_a_new_key_knocks_as_soon_as_the_settings_are_read_and_a_removed_one_no_more(door: Door) -> None:
    data = packet()
    assert door.opens(data)
    door.shut()
    assert not door.opens(packet(OTHER), THERE)
    door.reload(phone=KEY, laptop=OTHER)
    assert not door.opens(data, HERE), "a reload forgets no packet"
    assert door.opens(packet(OTHER), THERE)
    assert door.opens(packet(KEY), HERE)
    door.reload(phone=KEY)
    assert [door.knocker.verify(source) for source in (HERE, THERE)] == [200, 401]
    assert not door.opens(packet(OTHER), THERE)


def test_a_key_of_the_same_name_with_another_secret_is_another(door: Door) -> None:
    door.reload(phone=OTHER)
    assert not door.opens(packet(KEY), HERE, OTHER)
    assert door.opens(packet(OTHER), HERE, OTHER)


def test_another_realm_counts_as_soon_as_the_settings_are_read(door: Door) -> None:
    data = packet(realm="home")
    assert not door.opens(data, HERE)
    door.reload(realm="home")
    assert not door.opens(packet(), HERE, realm="home")
    assert door.opens(data, HERE, realm="home"), "it was never seen before: nobody could read it"


# --- Starting --------------------------------------------------------------------------------------------------------


def _fails_to_start(knocker: Knocker) -> str:
    """The one line that the start says and ends with."""
    ended = subprocess.run(
        [*knocker.prefix, *knocker.command],
        cwd=knocker.directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    lines = [line for line in ended.stderr.splitlines() if line]
    assert ended.returncode == 1, ended.stderr
    assert len(lines) == 1, lines
    assert "Traceback" not in ended.stdout + ended.stderr
    assert KEY not in ended.stdout + ended.stderr
    return lines[0]


def test_a_busy_udp_port_ends_the_start(closed: Door) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as busy:
        busy.bind(("127.0.0.1", closed.port))
        line = _fails_to_start(closed.knocker)
    assert f"UDP 127.0.0.1 port {closed.port}" in line
    assert "udp.port" in line
    closed.knocker.start()  # and nothing it left behind is in the way
    assert closed.opens(packet())


def _nowhere(place: Path) -> Path:
    return place / "nosuch/udp-seen.log"


def _folder(place: Path) -> Path:
    (place / "folder").mkdir()
    return place / "folder"


def _below_a_file(place: Path) -> Path:
    (place / "plain").touch()
    return place / "plain/udp-seen.log"


def _link(place: Path) -> Path:
    (place / "link").symlink_to(place / "elsewhere")
    return place / "link"


PLACES = [
    pytest.param(_folder, id="a folder"),
    pytest.param(_nowhere, id="in a folder that is not there"),
    pytest.param(_below_a_file, id="below what is a file"),
    pytest.param(_link, id="a link"),
]


@pytest.mark.parametrize("where", PLACES if LONG else PLACES[:2])
def test_a_memory_that_cannot_be_kept_ends_the_start(closed: Door, where: Callable[[Path], Path]) -> None:
    told = dict(settings(closed.port, closed.directory))
    path = where(closed.directory)
    told["udp"] = {**told["udp"], "state_path": str(path)}
    closed.knocker.configure(told)
    assert str(path) in _fails_to_start(closed.knocker)


# --- Clients with addresses of their own -----------------------------------------------------------------------------

# Addresses of the whole world: the bench's own are of the documentation, to which no packet is bound.
WORLD_SERVER, WORLD = "9.9.9.1", "9.9.9.9"
WORLD_6_SERVER, WORLD_6 = "2620:fe::1", "2620:fe::9"
UDP_PORT, HTTP_PORT, PAGE_PORT, EAR_PORT = 62201, 8000, 8100, 62202
CADDYFILE = f"""
http://:{PAGE_PORT} {{
  forward_auth 127.0.0.1:{HTTP_PORT} {{
    uri /verify
    copy_headers X-Forwarded-For
  }}
  respond "welcome"
}}
"""

# Sends a datagram, or waits for one and prints it; run on either side of the bench.
_SEND = """
import socket, sys
source, to, port, data = sys.argv[1:]
with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as wire:
    wire.bind((source, 0))
    wire.sendto(bytes.fromhex(data), (to, int(port)))
"""
_HEAR = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
    wire.settimeout(20)
    wire.bind((sys.argv[1], int(sys.argv[2])))
    print("ready", flush=True)
    print(wire.recv(2000).hex(), flush=True)
"""


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """The two namespaces, with addresses of the whole world besides."""
    with bench_or_skip() as made:
        for prefix, addresses in (
            (made.server, [f"{WORLD_SERVER}/24", f"{WORLD_6_SERVER}/64"]),
            (made.client, [f"{WORLD}/24", f"{WORLD_6}/64"]),
        ):
            for address in addresses:
                command = ["ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else [])]
                subprocess.run([*prefix, *command], check=True, capture_output=True, timeout=10)
        yield made


@pytest.fixture(scope="module")
def caddy(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caddy]:
    """A real proxy before a page, which asks whichever Knocker runs."""
    with Caddy(tmp_path_factory.mktemp("caddy"), CADDYFILE, PAGE_PORT, bench.server) as running:
        yield running


class Street:
    """A Knocker on the bench's server behind Caddy, and a client elsewhere."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.bench = bench
        self.directory = directory
        told = dict(settings(UDP_PORT, directory, host="::", phone=KEY, household=OTHER))
        told["server"] = {"trusted_proxies": ["127.0.0.1", "::1"]}
        told["api_keys"][1]["ipv6_prefix"] = 64
        remember_nothing(directory)
        self.knocker = Knocker(directory, told, HTTP_PORT, prefix=bench.server)

    def page(self, source: str, server: str) -> int:
        """The status of the page for a client with this address."""
        host = f"[{server}]" if ":" in server else server
        command = ["curl", "-q", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", "--noproxy", "*"]
        done = self._run(self.bench.client, *command, "--interface", source, f"http://{host}:{PAGE_PORT}/")
        return int(done.stdout)

    def own(self, server: str) -> str:
        """The address that the client has for this server."""
        words = self._run(self.bench.client, "ip", "route", "get", server).stdout.split()
        return words[words.index("src") + 1]

    def command(self, *args: str) -> subprocess.CompletedProcess[str]:
        """What `knocker` says on the client."""
        return self._run(self.bench.client, sys.executable, "-m", "knocker", *args)

    def send(self, data: bytes, source: str, server: str) -> None:
        """A datagram from this address."""
        done = self._run(self.bench.client, sys.executable, "-c", _SEND, source, server, str(UDP_PORT), data.hex())
        assert done.returncode == 0, done.stderr

    def caught(self, send: Callable[[], object]) -> bytes:
        """The first datagram that arrives where no Knocker is, while `send` sends it there."""
        ear = [*self.bench.server, sys.executable, "-c", _HEAR, WORLD_SERVER, str(EAR_PORT)]
        with subprocess.Popen(dying_with_us(ear), stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                send()
                return bytes.fromhex(process.stdout.readline())
            finally:
                process.kill()

    def settle(self) -> None:
        """Return when Knocker has read all that was sent."""
        last = self.bench.stranger()
        self.send(packet(), last, SERVER)
        eventually(lambda: self.page(last, SERVER) == 200, f"{last} is let in, the last of all who knocked")

    def _run(self, prefix: list[str], *command: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KNOCKER_")}
        environment |= {"KNOCKER_KEY": KEY, "KNOCK_KEY": KEY, "HOME": str(self.directory), "PYTHONPATH": str(PROJECT)}
        done = subprocess.run(
            [*prefix, *dying_with_us(list(command))],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert KEY not in done.stdout + done.stderr
        return done


@pytest.fixture(scope="module")
def street(bench: Bench, caddy: Caddy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    """One for all tests: each uses addresses that no other has used, or leaves them closed."""
    found = Street(bench, tmp_path_factory.mktemp("street"))
    try:
        found.knocker.start()
        yield found
    finally:
        found.knocker.end(KEY, OTHER, udp_secret(KEY).hex(), udp_secret(OTHER).hex())


SERVERS = [
    pytest.param(SERVER, id="IPv4"),
    pytest.param(WORLD_6_SERVER, id="IPv6 of the world, to which the packet is bound"),
    pytest.param(SERVER_6, id="IPv6"),
    pytest.param(WORLD_SERVER, id="IPv4 of the world, to which the packet is bound"),
]


@pytest.mark.parametrize("server", SERVERS if LONG else SERVERS[:2])
def test_the_command_opens_by_packet_and_closes_by_packet(street: Street, server: str) -> None:
    source = street.own(server)
    assert street.page(source, server) == 401
    target = f"[{server}]:{UDP_PORT}" if ":" in server else f"{server}:{UDP_PORT}"
    page = f"http://{f'[{server}]' if ':' in server else server}:{PAGE_PORT}/"
    knocked = street.command("knock", "--udp", target, "--confirm", page)
    assert (knocked.returncode, knocked.stderr) == (0, "")
    assert f"for {source};" in knocked.stdout
    assert f"confirmed: {page} is open" in knocked.stdout
    assert street.page(source, server) == 200
    left = street.command("leave", "--udp", target)
    assert (left.returncode, left.stderr) == (0, "")
    eventually(lambda: street.page(source, server) == 401, "it is closed")


if LONG:  # it is asked for ten seconds

    def test_a_knock_that_opened_nothing_is_not_confirmed(street: Street) -> None:
        page = f"http://{SERVER}:{PAGE_PORT}/"
        knocked = street.command("knock", "--udp", f"{SERVER}:{UDP_PORT}", "--realm", "elsewhere", "--confirm", page)
        assert knocked.returncode == 1
        assert "answers 401, 10 s after the knock" in knocked.stderr


@needs("nc")
@pytest.mark.parametrize("server", SERVERS if LONG else SERVERS[:1])
def test_the_shell_opens_too(street: Street, server: str) -> None:
    source = street.own(server)
    assert street.page(source, server) == 401
    script = str(PROJECT / "examples/knock.sh")
    knocked = street._run(street.bench.client, "sh", script, server, str(UDP_PORT), "600")
    assert (knocked.returncode, knocked.stdout, knocked.stderr) == (0, "", "")
    eventually(lambda: street.page(source, server) == 200, "it is open")
    street.send(packet(revoke=True), source, server)
    eventually(lambda: street.page(source, server) == 401, "it is closed again")


def test_who_catches_a_packet_of_the_command_on_its_way_gets_nothing_from_it(street: Street) -> None:
    data = street.caught(lambda: street.command("knock", "--udp", f"{WORLD_SERVER}:{EAR_PORT}"))
    assert len(data) == 80
    thief = street.bench.stranger()
    street.send(data, thief, SERVER)
    street.send(data, WORLD, WORLD_SERVER)
    street.settle()
    assert street.page(thief, SERVER) == 401
    assert street.page(WORLD, WORLD_SERVER) == 401, "the original comes too late: the packet is spent"


def test_a_household_is_opened_as_wide_as_its_key_says(street: Street) -> None:
    inside, neighbour, alone = (street.bench.stranger_6() for _ in range(3))
    street.send(packet(OTHER), inside, SERVER_6)
    street.send(packet(KEY), alone, SERVER_6)
    eventually(lambda: street.page(alone, SERVER_6) == 200, "the last is open")
    assert street.page(inside, SERVER_6) == 200
    assert street.page(neighbour, SERVER_6) == 401
    told = street.knocker.log.splitlines()
    assert len([line for line in told if f"{inside.removesuffix('10')}/64 " in line]) == 1
    assert len([line for line in told if f"{alone} " in line]) == 1
