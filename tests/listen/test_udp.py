"""The silent door in memory: what a datagram opens, what it never opens, and that nobody is told."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from knocker.core.addresses import Network
from knocker.core.grant import Grant
from knocker.core.keys import udp_secret
from knocker.core.limits import Limit
from knocker.core.packets.native import NO_SCOPE, Knock, Secrets, encode, scope_of
from knocker.core.packets.pace import Pace
from knocker.core.packets.reader import Reader
from knocker.listen.udp import SilentDoor
from knocker.store.seenfile import SeenFile
from tests.conftest import Errors
from tests.wire import Disk, World, hang_up

WINDOW = 120
KEYS = {"phone": "kn_phone", "tablet": "kn_tablet", "admin": "kn_admin", "late": "kn_late"}
SECRETS = {name: Secrets.of(udp_secret(key)) for name, key in KEYS.items()}
MORE = {
    "phone": "ttl: 600, max_ttl: 1200",
    "tablet": "ttl: 600, hosts: [a.example, b.example, '*.c.example']",
    "admin": "ttl: 600, allow_remote_whitelist: true",
    "late": "ttl: 600, expires: 2020-01-01",
}
SETTINGS = """
server: {trusted_proxies: ["127.0.0.1", "::1"], shared_addresses: ["198.51.100.77"]}
whitelist: {ipv6_prefix: 64}
udp: {enabled: true}
api_keys:
""" + "".join(
    f"  - {{name: {name}, {more}, key_sha256: '{n:064x}', udp: true, udp_secret: {udp_secret(KEYS[name]).hex()}}}\n"
    for n, (name, more) in enumerate(MORE.items())
)
HOME, HOME_6 = "203.0.113.9", "2001:db8:7::9"


class Street:
    """A world with a silent door, and people who knock on it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.file = SeenFile(str(world.folder / "udp-seen.log"), lambda function: world.in_thread(function))
        self.file.load(WINDOW * 1000, self.now() - 10 * WINDOW * 1000)  # long ago, so that its fence is no matter
        reader = Reader(SECRETS, WINDOW)
        self.door = SilentDoor(world.house, reader, Pace(Limit(successful=0)), lambda: self.file.seen, self.file.keep)
        self.sent = 0

    def now(self) -> int:
        return round(self.world.wall * 1000)

    def packet(self, key: str = "phone", network: str | None = None, ago: float = 0, **more: Any) -> bytes:
        self.sent += 1
        named = Network.parse(network) if network is not None else None
        return encode(SECRETS[key], Knock(self.now() - round(ago * 1000), self.sent.to_bytes(16, "big"), named, **more))

    def send(self, packet: bytes, source: str = HOME) -> None:
        self.door.datagramReceived(packet, (source, 40000))
        self.world.clock.advance(0)

    def knock(self, source: str = HOME, key: str = "phone", network: str | None = None, **more: Any) -> list[Grant]:
        """Send one packet; the grants that there are now."""
        self.send(self.packet(key, network, **more), source)
        return self.grants()

    def grants(self) -> list[Grant]:
        return sorted(self.world.whitelist, key=lambda grant: (grant.bits, grant.base, grant.prefix))

    def entries(self) -> list[str]:
        return [str(grant.network) for grant in self.grants()]

    def drops(self) -> dict[str, int]:
        return {name: count for name, count in self.world.house.tally.drops.items() if name.startswith("udp_")}


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    world = World(tmp_path, SETTINGS)
    found = Street(world)
    yield found
    found.file.close()
    for channel in tuple(world.site.channels):
        hang_up(channel)


def logged(errors: Errors, *words: str) -> int:
    return sum(all(word in line for word in words) for line in errors.lines)


# --- What it opens ---------------------------------------------------------------------------------------------------


def test_a_packet_opens_the_address_that_it_comes_from(street: Street) -> None:
    (grant,) = street.knock()
    assert (str(grant.network), grant.key, grant.via.value) == (HOME, "phone", "udp")
    assert street.world.verdict(HOME) == 200
    assert street.world.verdict("203.0.113.10") == 401
    street.world.pass_time(599)
    assert street.world.verdict(HOME) == 200
    street.world.pass_time(1)
    assert street.world.verdict(HOME) == 401


@pytest.mark.parametrize(
    ("source", "entry"),
    [
        pytest.param(f"::ffff:{HOME}", HOME, id="IPv4, as a socket of both families shows it"),
        pytest.param(HOME_6, "2001:db8:7::/64", id="IPv6, as wide as the key's ipv6_prefix"),
    ],
)
def test_a_source_is_read_as_everywhere(street: Street, source: str, entry: str) -> None:
    street.knock(source)
    assert street.entries() == [entry]


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        pytest.param(0, 600, id="the key's own"),
        pytest.param(60, 60, id="less"),
        pytest.param(1200, 1200, id="its most"),
        pytest.param(0xFFFFFFFF, 1200, id="more"),
    ],
)
def test_a_packet_may_name_its_time(street: Street, asked: int, left: int) -> None:
    (grant,) = street.knock(ttl=asked)
    assert grant.seconds_left(street.world.now()) == left


def test_copies_of_a_packet_are_one_knock(street: Street) -> None:
    packet = street.packet()
    for _ in range(3):
        street.send(packet)
    assert street.entries() == [HOME]
    assert street.drops() == {"udp_replay": 2}
    street.world.pass_time(10)
    street.knock()
    (grant,) = street.grants()
    assert grant.seconds_left(street.world.now()) == 600, "another packet renews"


@pytest.mark.parametrize(
    ("source", "key", "network", "entry"),
    [
        pytest.param(HOME, "phone", HOME, HOME, id="its own, named"),
        pytest.param(HOME_6, "phone", HOME_6, "2001:db8:7::/64", id="its own IPv6, as wide as any knock's"),
        pytest.param(HOME_6, "phone", "2001:db8:7::/64", "2001:db8:7::/64", id="its own network"),
        pytest.param(HOME_6, "phone", "2001:db8:7::8/125", "2001:db8:7::8/125", id="less than that"),
        pytest.param(HOME, "admin", "192.0.2.0/24", "192.0.2.0/24", id="another, with the right to"),
        pytest.param(HOME, "admin", "2001:db8:9::1", "2001:db8:9::1", id="of another family"),
    ],
)
def test_a_packet_may_name_a_network(street: Street, source: str, key: str, network: str, entry: str) -> None:
    (grant,) = street.knock(source, key, network)
    assert str(grant.network) == entry
    assert grant.via.value == ("remote" if network.startswith(("192", "2001:db8:9")) else "udp")


@pytest.mark.parametrize(
    ("source", "key", "network"),
    [
        pytest.param(HOME, "phone", "203.0.113.10", id="another address"),
        pytest.param(HOME, "phone", "203.0.113.8/31", id="one address more than its own"),
        pytest.param(HOME_6, "phone", "2001:db8:7::/63", id="twice the household"),
        pytest.param(HOME_6, "phone", "2001:db8:8::/64", id="the neighbours"),
        pytest.param(HOME, "admin", "10.0.0.0/15", id="too wide for anybody"),
        pytest.param(HOME, "admin", "127.0.0.1", id="a proxy"),
        pytest.param(HOME, "admin", "198.51.100.0/24", id="a shared address among others"),
        pytest.param(HOME, "admin", "203.0.113.250", id="this host's own"),
        pytest.param(HOME, "admin", "224.0.0.1", id="multicast"),
        pytest.param(HOME, "admin", "64:ff9b::/96", id="all of IPv4 in IPv6's clothes"),
    ],
)
def test_but_not_every_one(street: Street, source: str, key: str, network: str) -> None:
    assert street.knock(source, key, network) == []


@pytest.mark.parametrize(
    "source",
    ["127.0.0.1", "::1", "198.51.100.77", "203.0.113.250", "203.0.113.254", "fe80::1", "169.254.1.1", "0.0.0.0", "::"],
)
@pytest.mark.parametrize("key", ["phone", "admin"])
def test_whom_no_knock_may_open_no_packet_opens(street: Street, errors: Errors, source: str, key: str) -> None:
    for network in (None, source) if "." in source or ":" in source else (None,):
        assert street.knock(source, key, network) == []
    assert logged(errors, "refused a UDP knock") >= 1


@pytest.mark.parametrize(
    ("source", "network", "opens"),
    [
        pytest.param(HOME, HOME, True, id="from where it says"),
        pytest.param("203.0.113.10", HOME, False, id="redirected"),
        pytest.param(HOME_6, "2001:db8:7::/64", True, id="from inside"),
        pytest.param("2001:db8:8::9", "2001:db8:7::/64", False, id="from outside"),
        pytest.param(HOME, HOME_6, False, id="by the other family"),
    ],
)
@pytest.mark.parametrize("key", ["phone", "admin"])
def test_a_bound_packet_counts_only_from_where_it_says(
    street: Street, source: str, network: str, opens: bool, key: str
) -> None:
    assert bool(street.knock(source, key, network, bound=True)) is opens
    assert street.world.verdict(HOME if "." in network else HOME_6) == (200 if opens else 401)


def test_a_redirected_packet_spoils_nothing_but_itself(street: Street) -> None:
    packet = street.packet(network=HOME, bound=True)
    street.send(packet, "203.0.113.66")
    street.send(packet, HOME)
    assert street.grants() == [], "seen is seen, whoever sent it"
    assert street.knock(network=HOME, bound=True)


# --- One of the key's hosts ------------------------------------------------------------------------------------------


def verdict(street: Street, host: str) -> int:
    return street.world.verdict(HOME, [("X-Forwarded-Host", host)])


def test_a_packet_may_choose_one_of_its_keys_hosts(street: Street) -> None:
    (grant,) = street.knock(key="tablet", scope=scope_of("a.example"))
    assert grant.host == "a.example"
    assert verdict(street, "a.example") == 200
    assert [verdict(street, host) for host in ("b.example", "x.c.example")] == [401, 401]
    street.knock(key="tablet", scope=NO_SCOPE)
    assert verdict(street, "x.c.example") == 200


@pytest.mark.parametrize(
    ("key", "host"),
    [
        pytest.param("tablet", "d.example", id="not its key's"),
        pytest.param("tablet", "x.c.example", id="one of a pattern"),
        pytest.param("tablet", "*.c.example", id="the pattern itself"),
        pytest.param("tablet", "A.example", id="another spelling"),
        pytest.param("phone", "a.example", id="of a key without hosts"),
        pytest.param("admin", "a.example", id="of an admin's key without hosts"),
    ],
)
def test_a_host_that_is_no_literal_entry_opens_nothing(street: Street, errors: Errors, key: str, host: str) -> None:
    assert street.knock(key=key, scope=scope_of(host)) == []
    assert logged(errors, "no literal entry") == 1


# --- Closing ---------------------------------------------------------------------------------------------------------


def test_a_packet_closes_what_its_key_opened_here(street: Street) -> None:
    for key in ("phone", "tablet"):
        street.knock(key=key)
    street.knock(key="tablet", scope=scope_of("a.example"))
    assert [grant.key for grant in street.knock(key="tablet", revoke=True)] == ["phone"]
    assert street.knock(network=HOME, bound=True, revoke=True) == []
    assert street.knock(revoke=True) == [], "nothing to close is no fault"


def test_a_packet_closes_exactly_the_network_that_it_names(street: Street) -> None:
    for network in ("192.0.2.0/24", "192.0.2.0/25", "192.0.2.1"):
        street.knock(key="admin", network=network)
    street.knock(key="admin", network="192.0.2.0/25", revoke=True)
    assert street.entries() == ["192.0.2.0/24", "192.0.2.1"]
    street.knock(key="phone", network="192.0.2.1", revoke=True)
    assert street.entries() == ["192.0.2.0/24", "192.0.2.1"], "that is not the phone's to close"


# --- When it does not count ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 79, 81, 1500])
def test_garbage_is_counted_and_nothing_else(street: Street, errors: Errors, length: int) -> None:
    street.send(bytes(length))
    street.send(b"\xff" * 80)
    assert street.drops() == {"udp_bad_length": 1, "udp_unknown": 1}
    assert (street.grants(), errors.lines) == ([], [])


def test_no_flipped_bit_opens(street: Street, errors: Errors) -> None:
    packet = street.packet()
    for bit in range(8 * len(packet)):
        flipped = bytearray(packet)
        flipped[bit // 8] ^= 1 << bit % 8
        street.send(bytes(flipped))
    assert (street.grants(), errors.lines) == ([], [])
    assert street.drops() == {"udp_unknown": 64, "udp_bad_tag": 8 * 72}


def test_the_clock_of_a_proven_key_is_told_once_a_minute(street: Street, errors: Errors) -> None:
    for ago in (121, 500, -121, -3600):
        street.send(street.packet(ago=ago))
    assert street.grants() == []
    assert logged(errors, "refused a UDP knock with the key phone", "clock is 121 s behind") == 1
    assert logged(errors, "clock is") == 1
    street.send(street.packet("tablet", ago=-3600))
    assert logged(errors, "the key tablet", "clock is 3600 s ahead") == 1


@pytest.mark.parametrize("ago", [120, 119, 60, -60, -120])
def test_within_the_window_it_counts(street: Street, ago: float) -> None:
    assert street.knock(ago=ago)


def test_a_key_that_has_expired_opens_nothing(street: Street, errors: Errors) -> None:
    assert street.knock(key="late") == []
    assert logged(errors, "the key late has expired") == 1


@pytest.mark.parametrize("change", ["left", "another secret"])
def test_a_key_that_changed_meanwhile_opens_nothing(street: Street, errors: Errors, change: str) -> None:
    disk = Disk(street.world)
    street.knock()
    if change == "left":
        street.world.house.gate.policy.keyring._by_name.pop("phone")
    else:
        street.door.reader = Reader({"phone": SECRETS["admin"]}, WINDOW)
    disk.succeed()
    street.world.clock.advance(0)
    assert (street.grants(), disk.writes) == ([], [])
    assert logged(errors, "the key phone changed while its knock waited") == 1


def test_a_key_knocks_only_so_often(street: Street, errors: Errors) -> None:
    street.door.pace = Pace(Limit(window=60, successful=2))
    packets = [street.packet(network=f"192.0.2.{number}", key="admin") for number in range(4)]
    for packet in packets + packets:
        street.send(packet)
    assert len(street.grants()) == 2
    assert street.drops() == {"udp_limited": 4, "udp_replay": 2}
    assert logged(errors, "the key admin", "knock_rate_limit.successful_requests") == 1
    assert street.knock(), "another key has its own share"
    street.world.pass_time(60)
    street.send(packets[3])
    assert len(street.grants()) == 4, "what was not taken then may come again"


# --- In which order it counts ----------------------------------------------------------------------------------------


def test_nothing_comes_of_a_packet_before_it_is_known_for_good(street: Street) -> None:
    disk = Disk(street.world)
    street.send(street.packet())
    assert (len(disk.writes), street.grants()) == (1, [])
    disk.succeed()
    street.world.clock.advance(0)
    assert (len(disk.writes), street.grants()) == (1, []), "now the whitelist is written"
    disk.succeed()
    assert street.entries() == [HOME]


def test_a_packet_that_cannot_be_kept_opens_nothing_and_may_come_again(street: Street, errors: Errors) -> None:
    disk = Disk(street.world)
    packet = street.packet()
    street.send(packet)
    street.send(packet)
    disk.fail(errno.ENOSPC)
    street.world.clock.advance(0)
    assert (disk.writes, street.grants()) == ([], [])
    assert logged(errors, "No space left on device; UDP knocks are refused until it can be") == 1
    assert street.file.complaints(street.now()) == [f"{street.file.path} could not be written: No space left on device"]
    errors.expected()
    street.send(packet)
    while disk.writes:
        disk.succeed()
        street.world.clock.advance(0)
    assert street.entries() == [HOME]
    assert street.file.complaints(street.now()) == []
    assert street.drops() == {"udp_replay": 1}


def test_a_grant_that_cannot_be_stored_is_none(street: Street, errors: Errors) -> None:
    disk = Disk(street.world)
    street.send(street.packet())
    disk.succeed()
    street.world.clock.advance(0)
    disk.fail(errno.EIO)
    assert street.grants() == []
    errors.expected()


def test_a_packet_stays_seen_over_restarts_and_wherever_the_clock_goes(street: Street, errors: Errors) -> None:
    packet = street.packet()
    street.send(packet)
    street.world.whitelist.close(street.grants())
    for step in (0, 50, -100, 3600, -3600, -3700):
        street.world.pass_time(0, step)
        street.file.load(WINDOW * 1000, street.now())
        street.send(packet)
        assert street.grants() == [], step
    assert all("the clock is" in str(event["log_format"]) for event in errors.expected())


def test_a_clock_far_behind_is_told_and_shown(street: Street, errors: Errors) -> None:
    street.knock()
    street.world.pass_time(0, -1000)
    street.send(street.packet(network="192.0.2.1", key="admin"))
    assert street.entries() == [HOME]
    assert logged(errors, "the clock is further behind") == 1
    assert street.file.complaints(street.now()) == [f"the clock is behind the highest time in {street.file.path}"]
    street.file.load(WINDOW * 1000, street.now())
    assert logged(errors, "the clock is 1000 s behind") == 1
    errors.expected()


def test_a_lost_memory_refuses_what_it_may_have_known(street: Street, errors: Errors) -> None:
    packet = street.packet()
    street.send(packet)
    street.world.whitelist.close(street.grants())
    Path(street.file.path).unlink()
    street.file.load(WINDOW * 1000, street.now())
    street.send(packet)
    assert street.knock() == []
    assert street.drops() == {"udp_fenced": 2}
    assert logged(errors, "refused a UDP knock that was made before") == 1
    street.file.load(WINDOW * 1000, street.now())
    street.world.pass_time(WINDOW)
    street.send(packet)
    assert street.grants() == []
    assert street.knock(), "refused once, not for ever"


def test_a_mistake_of_ours_does_not_end_the_door(street: Street, errors: Errors) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    seen, street.door._seen = street.door._seen, broken  # type: ignore[assignment]
    assert street.knock() == []
    street.door._seen = seen
    assert len(errors.expected()) == 1
    assert street.knock()
