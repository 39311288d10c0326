"""A silent knock on its way: what the packet says for whom, and that its copies are one (contract 4, 5)."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from knocker import knocking, sending
from knocker.client import Candidate, own_address
from knocker.core.addresses import Address, Network
from knocker.core.keys import udp_secret
from knocker.core.packets.native import NO_SCOPE, SIZE, Knock, Secrets, decode, hint, scope_of
from knocker.faults import NO_ANSWER, Failed
from knocker.sending import AT, Sent, Wanted, make_packet, send

KEY, REALM = "kn_phone", "home"
SECRETS = Secrets.of(udp_secret(KEY), REALM)
NOW = 1_767_225_600.25
FOUR = Candidate("IPv4", socket.AF_INET, ("192.0.2.1", 62201))
SIX = Candidate("IPv6", socket.AF_INET6, ("2001:db8::1", 62201, 0, 0))
GLOBAL_4, GLOBAL_6 = "9.9.9.9", "2620:fe::9"


@dataclass
class Net:
    """In the place of the socket module: from which address one would send, and what goes out."""

    own: dict[int, str | None] = field(default_factory=dict)  # by family; None: there is no way to there
    fails: list[int] = field(default_factory=list)  # which of the datagrams do not go out, 0 the first
    missing: tuple[int, ...] = ()  # families that this system has none of
    sent: list[tuple[bytes, Any]] = field(default_factory=list)
    SOCK_DGRAM: int = socket.SOCK_DGRAM
    AF_INET: int = socket.AF_INET
    AF_INET6: int = socket.AF_INET6
    attempts: int = 0
    open: int = 0

    def stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let whatever is sent go out here."""
        monkeypatch.setattr(sending, "socket", self)
        for user in (sending, knocking):
            monkeypatch.setattr(user, "own_address", self.own_address)

    def own_address(self, candidate: Candidate) -> Address | None:
        """The real function, which imports the module by itself."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "socket", self)
            return own_address(candidate)

    def socket(self, family: int, kind: int) -> _Wire:
        assert kind == socket.SOCK_DGRAM
        if family in self.missing:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        self.open += 1
        return _Wire(self, family)


@dataclass
class _Wire:
    net: Net
    family: int

    def __enter__(self) -> _Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.net.open -= 1

    def connect(self, address: Any) -> None:
        if self.net.own.get(self.family) is None:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    def getsockname(self) -> tuple[Any, ...]:
        return (self.net.own[self.family], 40000, 0, 0)[: 4 if self.family == socket.AF_INET6 else 2]

    def sendto(self, data: bytes, address: Any) -> int:
        self.net.attempts += 1
        if self.net.attempts - 1 in self.net.fails:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        self.net.sent.append((data, address))
        return len(data)


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    found = Net({socket.AF_INET: "192.168.1.5", socket.AF_INET6: "fd00::5"})
    found.stand_in(monkeypatch)
    return found


def said(packet: bytes) -> Knock:
    return decode(SECRETS, packet)


# --- What a packet says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "bound"),
    [
        pytest.param(None, False, id="not known"),
        pytest.param(GLOBAL_4, True, id="IPv4 of the world"),
        pytest.param(GLOBAL_6, True, id="IPv6 of the world"),
        pytest.param("192.168.1.5", False, id="behind a router"),
        pytest.param("10.0.0.5", False, id="in an office"),
        pytest.param("172.17.0.2", False, id="in a container"),
        pytest.param("100.64.3.4", False, id="shared by a provider's customers"),
        pytest.param("169.254.3.4", False, id="link-local"),
        pytest.param("127.0.0.1", False, id="loopback"),
        pytest.param("fd00::5", False, id="IPv6 of a private network"),
        pytest.param("fe80::5", False, id="link-local IPv6"),
        pytest.param("::1", False, id="loopback of IPv6"),
        pytest.param("203.0.113.7", False, id="of the documentation"),
        pytest.param("2001:db8::7", False, id="of its IPv6"),
    ],
)
@pytest.mark.parametrize("revoke", [False, True], ids=["a knock", "a revocation"])
def test_a_packet_is_bound_to_the_own_address_exactly_where_that_is_global(
    own: str | None, bound: bool, revoke: bool
) -> None:
    address = Address.parse(own) if own is not None else None
    found = said(make_packet(KEY, REALM, Wanted(revoke=revoke), address, NOW))
    assert (found.bound, found.revoke) == (bound, revoke)
    assert found.network == (Network.parse(own) if bound and own is not None else None)


@pytest.mark.parametrize("own", [GLOBAL_4, "192.168.1.5"])
def test_a_packet_that_names_a_network_is_bound_to_none(own: str) -> None:
    network = Network.parse("198.51.100.0/24")
    found = said(make_packet(KEY, REALM, Wanted(network), Address.parse(own), NOW))
    assert (found.network, found.bound) == (network, False)


def test_a_packet_says_what_is_wanted_and_when_it_was_made() -> None:
    scope = scope_of("jellyfin.example.com")
    found = said(make_packet(KEY, REALM, Wanted(None, 600, scope), None, NOW))
    assert found == Knock(round(NOW * 1000), found.nonce, None, False, False, 600, scope)
    assert said(make_packet(KEY, REALM, Wanted(), None, NOW)).scope == NO_SCOPE


def test_no_two_packets_are_alike() -> None:
    assert len({make_packet(KEY, REALM, Wanted(), None, NOW)[8:24] for _ in range(100)}) == 100


def test_a_packet_is_of_its_realm() -> None:
    packet = make_packet(KEY, "elsewhere", Wanted(), None, NOW)
    slot = int(NOW) // 120
    assert packet[:8] == hint(Secrets.of(udp_secret(KEY), "elsewhere"), slot)
    assert packet[:8] != hint(SECRETS, slot)


def test_a_packet_holds_nothing_of_the_key() -> None:
    key = "kn_a-key-that-could-be-seen"
    packet = make_packet(key, "", Wanted(), None, NOW)
    assert key.encode() not in packet
    assert udp_secret(key)[:8] not in packet


# --- On its way ------------------------------------------------------------------------------------------------------


def sent_by(net: Net, candidate: Candidate = FOUR, **wanted: Any) -> tuple[Sent, list[float]]:
    """What was said of a packet that went out, and the seconds that were slept between its copies."""
    slept: list[float] = []
    return send(candidate, KEY, REALM, Wanted(**wanted), slept.append), slept


def test_copies_go_out_at_once_and_after_150_and_600_milliseconds(net: Net) -> None:
    sent, slept = sent_by(net)
    assert [sum(slept[: number + 1]) for number in range(3)] == pytest.approx([0, 0.15, 0.6])
    assert AT == (0, 0.15, 0.6)
    assert len({data for data, _ in net.sent}) == 1, "copies, not three knocks"
    assert [address for _, address in net.sent] == [FOUR.address] * 3
    assert len(net.sent[0][0]) == SIZE
    assert (sent, net.open) == (Sent("192.0.2.1", "192.168.1.5"), 0)


@pytest.mark.parametrize("fails", [[0], [1], [2], [0, 1], [1, 2], [0, 2]])
def test_one_copy_that_goes_out_is_enough(net: Net, fails: list[int]) -> None:
    net.fails = fails
    sent_by(net)
    assert len(net.sent) == 3 - len(fails)


def test_nothing_that_goes_out_is_no_answer(net: Net) -> None:
    net.fails = [0, 1, 2]
    for candidate in (FOUR, SIX):
        net.attempts = 0
        with pytest.raises(Failed) as caught:
            sent_by(net, candidate)
        assert caught.value.status == NO_ANSWER
        assert caught.value.error == f"nothing could be sent to {candidate.address[0]}: Network is unreachable"
        assert KEY not in caught.value.error
    assert net.open == 0


def test_a_family_that_the_system_has_not_is_no_answer(net: Net) -> None:
    """As without IPv6 in the kernel, where a name still has an address of it."""
    net.missing = (socket.AF_INET6,)
    with pytest.raises(Failed) as caught:
        sent_by(net, SIX)
    assert caught.value.status == NO_ANSWER
    assert sent_by(net, FOUR)[0].to == "192.0.2.1"


@pytest.mark.parametrize(
    ("candidate", "own", "entry"),
    [
        pytest.param(FOUR, GLOBAL_4, GLOBAL_4, id="IPv4 of the world"),
        pytest.param(SIX, GLOBAL_6, GLOBAL_6, id="IPv6 of the world"),
        pytest.param(SIX, "fe80::5%eth0", "fe80::5", id="a link-local one with its zone"),
        pytest.param(FOUR, None, "the own address", id="none that is known"),
    ],
)
def test_each_family_is_asked_for_its_own_address(net: Net, candidate: Candidate, own: str | None, entry: str) -> None:
    net.own[candidate.family] = own
    sent, _ = sent_by(net, candidate)
    assert sent == Sent(candidate.address[0], entry)
    found = said(net.sent[0][0])
    assert found.bound == (own in (GLOBAL_4, GLOBAL_6))


def test_the_named_network_is_what_is_told(net: Net) -> None:
    assert sent_by(net, network=Network.parse("10.0.0.0/24"))[0].entry == "10.0.0.0/24"


def test_no_secret_is_in_what_is_told_of_a_packet(net: Net) -> None:
    sent, _ = sent_by(net)
    for text in (repr(sent), repr(Wanted()), repr(SECRETS)):
        assert KEY not in text
        assert udp_secret(KEY).hex() not in text


# --- With real sockets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_own_address_is_that_of_the_way_there(family: int, host: str) -> None:
    address = (host, 9) if family == socket.AF_INET else (host, 9, 0, 0)
    assert str(own_address(Candidate("", family, address))) == host


def test_without_a_way_there_is_no_own_address(net: Net) -> None:
    net.own = {}
    assert net.own_address(FOUR) is None
    net.missing = (socket.AF_INET,)
    assert net.own_address(FOUR) is None
    assert net.open == 0


def test_what_arrives_are_three_equal_datagrams_one_after_the_other() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        ear.settimeout(5)
        begun, began = time.time(), time.monotonic()
        sent = send(Candidate("IPv4", socket.AF_INET, ear.getsockname()), KEY, REALM, Wanted(ttl=60))
        assert time.monotonic() - began >= 0.6
        packets = [ear.recv(2000) for _ in range(3)]
    assert sent == Sent("127.0.0.1", "127.0.0.1")
    assert len(set(packets)) == 1
    found = said(packets[0])
    assert (found.ttl, found.network) == (60, None)
    assert begun - 1 <= found.moment / 1000 <= begun + 1
