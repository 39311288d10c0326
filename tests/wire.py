"""A whole Knocker without sockets: settings in, bytes in, bytes out, on clocks that only the test moves."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from knocker.core.addresses import Networks, networks
from knocker.core.canaries import Canaries
from knocker.core.gate import Gate, Policy
from knocker.core.keys import Keyring
from knocker.core.limits import Limits
from knocker.core.moment import Moment
from knocker.core.tally import Tally
from knocker.core.turns import Turns
from knocker.core.whitelist import Whitelist
from knocker.listen.channel import GateChannel
from knocker.listen.door import Door
from knocker.listen.house import House
from knocker.listen.reports import Reports
from knocker.listen.site import GateSite
from knocker.listen.verify import Verify
from knocker.listen.web import Web
from knocker.settings import parse
from knocker.store.jsonfile import JsonFile
from knocker.terms import manners

KEY = "usr-Tn5c8Qe1Wz7Ux3Ib9Om2Pk6Gv4Dh0Sl"
ADMIN = "adm-Kq7w2Zx9Rt4Vb6Nm1Lp8Hd3Fg5Js0Ay"
SETTINGS = f"""
server: {{trusted_proxies: ["127.0.0.1", "::1"], shared_addresses: ["198.51.100.77"]}}
security: {{excluded_paths: ["/metrics"], always_allowed_ips: ["192.0.2.0/25"]}}
api_keys:
  - {{name: user, key: "{KEY}", ttl: 600, max_ttl: 1200}}
  - {{name: admin, key: "{ADMIN}", ttl: 3600, allow_remote_whitelist: true}}
"""
OWN = networks("203.0.113.250")
GATEWAYS = networks("203.0.113.254", "fe80::1")


class Wire(StringTransport):
    """One connection as the server sees it."""

    half_closed = False

    def loseWriteConnection(self) -> None:
        """The server will send no more."""
        self.half_closed = True

    @property
    def closed(self) -> bool:
        """Whether the server ended the connection, in whatever way."""
        return self.half_closed or self.disconnecting or self.disconnected


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class World:
    """A Knocker in memory; its whitelist file lies in `folder`. Time stands still until `pass_time`."""

    folder: Path
    text: str = SETTINGS
    wall: float = 1_800_000_000.0
    boot: float = 5_000.0
    boot_id: str = "boot-1"
    clock: Clock = field(default_factory=Clock)
    in_thread: Callable[[Callable[[], None]], Deferred[None]] = maybeDeferred
    channel: type[GateChannel] = GateChannel
    worked: float = 0.0  # seconds that work has taken, as far as turns of the reactor are concerned

    def __post_init__(self) -> None:
        settings = parse(self.text.encode())
        keyring = Keyring(settings.keys)
        counter = itertools.count()
        self.new_id: Callable[[], str] = lambda: f"grant-{next(counter):014d}"
        self.whitelist = Whitelist(keyring, settings.storage.max_entries, self.new_id)
        turns = Turns(self.clock.callLater, lambda: self.clock.seconds() + self.worked)
        tally = Tally()
        self.store = JsonFile(
            str(self.folder / "whitelist.json"),
            self.whitelist,
            self.now,
            self.boot_id,
            lambda function: self.in_thread(function),
            self.clock.callLater,
            turns,
            tally,
        )
        server, security = settings.server, settings.security
        policy = Policy(
            keyring,
            server.trusted_proxies,
            server.shared_addresses,
            security.always_allowed_ips,
            security.exclusions,
            server.allow_loopback_clients,
            server.trusts_unix,
        )
        self.house = House(
            gate=Gate(policy, self.whitelist),
            store=self.store,
            tally=tally,
            now=self.now,
            surroundings=self.surroundings,
            reports=Reports(lambda: self.boot),
            turns=turns,
            canaries=Canaries(lambda count: next(counter).to_bytes(count)),
            limits=Limits(security.limit),
            manners=manners(settings),
        )
        door = Door(self.house, Verify(self.house), Web(self.house).app.resource())
        self.site = GateSite(door, self.house, server.max_connections, self.clock, self.channel)

    def now(self) -> Moment:
        """This world's time."""
        return Moment(self.wall, self.boot)

    def surroundings(self) -> tuple[Networks, Networks]:
        """This world's own address and gateways."""
        return OWN, GATEWAYS

    def load(self) -> None:
        """Take in what an earlier world stored."""
        self.store.load(self.whitelist.keyring, self.house.gate.forbidden(*self.surroundings()), self.new_id)

    def pass_time(self, seconds: float, step: float = 0.0) -> None:
        """Let time pass on both clocks; the wall clock makes a `step` besides."""
        self.wall += seconds + step
        self.boot += seconds
        self.clock.advance(seconds)

    def connect(self, peer: str = "127.0.0.1") -> tuple[Any, Wire]:
        """A new connection from `peer`."""
        kind = IPv6Address if ":" in peer else IPv4Address
        wire = Wire(peerAddress=kind("TCP", peer, 40000))
        channel = self.site.buildProtocol(wire.getPeer())
        channel.makeConnection(wire)
        return channel, wire

    def send(self, raw: bytes, peer: str = "127.0.0.1") -> bytes:
        """What a new connection answers to `raw`; the connection is closed afterwards."""
        channel, wire = self.connect(peer)
        channel.dataReceived(raw)
        self.clock.advance(0)
        hang_up(channel)
        return bytes(wire.value())

    def ask(
        self,
        target: str = "/verify",
        client: str | None = None,
        method: str = "GET",
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
        peer: str = "127.0.0.1",
        key: str | None = None,
    ) -> Answer:
        """One request; `client` goes into X-Forwarded-For, `key` into X-Api-Key."""
        found = [("Host", "knock.example.com"), *(headers or [])]
        if client is not None:
            found.append(("X-Forwarded-For", client))
        if key is not None:
            found.append(("X-Api-Key", key))
        if body:
            found.append(("Content-Length", str(len(body))))
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in found) + "\r\n"
        return answer(self.send(head.encode("latin-1") + body, peer))

    def knock(self, client: str, key: str = KEY, body: bytes = b"", method: str = "POST") -> Answer:
        """One knock."""
        return self.ask("/knock", client, method, key=key, body=body)

    def verdict(self, client: str, headers: list[tuple[str, str]] | None = None) -> int:
        """The status of /verify for `client`."""
        return self.ask("/verify", client, headers=headers).status


class Disk:
    """A writer's thread that the test holds: it counts the writes and decides when each ends, and how."""

    def __init__(self, world: World) -> None:
        self.writes: list[tuple[Callable[[], None], Deferred[None]]] = []
        world.in_thread = self.take

    def take(self, function: Callable[[], None]) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self.writes.append((function, done))
        return done

    def succeed(self) -> None:
        function, done = self.writes.pop(0)
        function()
        done.callback(None)

    def fail(self, number: int) -> None:
        _, done = self.writes.pop(0)
        done.errback(OSError(number, os.strerror(number)))


def hang_up(channel: Any) -> None:
    """The client goes away; a transport tells that to what writes to it first."""
    if channel.transport is not None and channel.transport.producer is not None:
        channel.transport._lenient = True  # a real transport lets a lost connection be paused
        channel.transport.producer.stopProducing()
    channel.connectionLost(Failure(ConnectionDone()))


def answer(raw: bytes) -> Answer:
    """Read one answer."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split()[1]), headers, body)
