"""Who the client is, against a naive reading of the rule: parse every item, then walk from the right."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from knocker.core.addresses import Address, networks
from knocker.core.visitor import Nameless, Peer, Unresolved, believes, direct, resolve

TRUSTED = ("10.0.0.0/24", "127.0.0.0/8", "::1", "fd00::/64")
PROXY = "10.0.0.2"


def found(peer: Peer, chain: list[bytes], forwarded: bool, allow: bool, unix: bool = False) -> Address | Unresolved:
    if believes(peer, networks(*TRUSTED), unix):
        return resolve(chain, networks(*TRUSTED), allow)
    return direct(peer, forwarded or bool(chain))


def client_of(
    chain: list[bytes], peer: str = PROXY, forwarded: bool = True, allow_loopback: bool = False
) -> str | Unresolved:
    client = found(Address.parse(peer), chain, forwarded, allow_loopback)
    return str(client) if isinstance(client, Address) else client


# The model: text and the standard library, nothing of ours.

_V4 = re.compile(r"([0-9]+\.[0-9]+\.[0-9]+\.[0-9]+)(?::([0-9]+))?")
_V6 = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]+))?")
_BARE_V6 = re.compile(r"([0-9A-Fa-f:.]+)()")
Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def model_item(item: str) -> Ip | None:
    item = item.strip(" \t")
    for pattern, kind in ((_V4, 4), (_V6, 6), (_BARE_V6, 6)):
        match = pattern.fullmatch(item)
        if match is None:
            continue
        host, port = match[1], match[2]
        if port and int(port) > 65535:
            return None
        try:
            if kind == 4:
                return ipaddress.IPv4Address(host)
            six = ipaddress.IPv6Address(host)
            return six.ipv4_mapped or six
        except ValueError:
            return None
    return None


def model_trusted(address: Ip) -> bool:
    return any(address in ipaddress.ip_network(text) for text in TRUSTED)


def model_nobody(address: Ip) -> bool:
    return address.is_unspecified or address.is_multicast or address == ipaddress.ip_address("255.255.255.255")


def model_client(peer: str, chain: list[bytes], forwarded: bool, allow_loopback: bool) -> Ip | None:
    asking = ipaddress.ip_address(peer)
    if not model_trusted(asking):
        return None if forwarded or chain or model_nobody(asking) else asking
    items = [model_item(item) for item in b",".join(chain).decode("latin-1").split(",")]
    for read, address in enumerate(reversed(items), 1):
        if read > 32 or address is None or model_nobody(address):
            return None
        if not model_trusted(address):
            return address
    first = items[0]
    return first if first is not None and first.is_loopback and allow_loopback else None


_TRUSTED = ["10.0.0.3", "10.0.0.255", "127.0.0.1", "::1", "fd00::7", "::ffff:10.0.0.3"]
_OTHERS = ["10.0.1.0", "203.0.113.9", "2001:db8::9", "::ffff:203.0.113.9", "2001:DB8:0:0::9", "fd00:0:0:1::"]
_NOBODY = ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0"]
_HOSTS = st.sampled_from([*_TRUSTED, *_OTHERS, *_NOBODY])
_BAD_V4 = [
    "01.2.3.4",
    "1.2.3",
    "1.2.3.4:",
    "1.2.3.4:70000",
    "1.2.3.4/32",
    "1.2.3.4;",
    "\xb9.2.3.4",
    "1.2.3.4:\xb2",
    "1.2.3.4\n",
]
_BAD_V6 = ["fe80::1%eth0", "[::1%25lo]", "[::1", "::1]", "[1.2.3.4]", "[::1]x", "[::1]:", "[::1]:-1", "[]", "[[::1]]"]
_BAD = ["", " ", "unknown", "_hidden", "for=1.2.3.4", '"1.2.3.4"', "1.2.3.4 5.6.7.8", "localhost", "9" * 70, "\x00"]
_GARBAGE = st.sampled_from([*_BAD_V4, *_BAD_V6, *_BAD])
_PORTS = st.sampled_from(["", "", "", ":0", ":443", ":65535", ":65536"])


def _spelt(host: str, port: str, bracketed: bool) -> str:
    if ":" in host:
        return f"[{host}]{port}" if port or bracketed else host
    return host + port


_ITEMS = st.builds(_spelt, _HOSTS, _PORTS, st.booleans()) | _GARBAGE | st.text("0123456789abcdef:.[]% ", max_size=20)
_PROXY_ITEMS = st.sampled_from(["10.0.0.3", "127.0.0.1:80", "[::1]", "fd00::7"])
_LINES = st.builds(
    lambda items, comma: comma.join(items).encode("latin-1"),
    st.lists(st.one_of(_PROXY_ITEMS, _PROXY_ITEMS, _ITEMS), max_size=6),
    st.sampled_from([",", ", ", " ,\t"]),
)
_LONG = st.builds(
    lambda head, count: [head.encode("latin-1"), b", ".join([b"10.0.0.9"] * count)], _ITEMS, st.integers(29, 34)
)
CHAINS = st.lists(_LINES, max_size=4) | _LONG
PEERS = st.sampled_from([PROXY, "::1", "203.0.113.1", "2001:db8::1", "0.0.0.0", "::"])


@given(peer=PEERS, chain=CHAINS, forwarded=st.booleans(), allow_loopback=st.booleans())
@example(peer=PROXY, chain=[b"127.0.0.1, 10.0.0.3"], forwarded=True, allow_loopback=True)
@example(peer=PROXY, chain=[b"1.2.3.4" + b",10.0.0.3" * 31], forwarded=True, allow_loopback=False)
@example(peer=PROXY, chain=[b"1.2.3.4" + b",10.0.0.3" * 32], forwarded=True, allow_loopback=False)
@example(peer=PROXY, chain=[b"127.0.0.1" + b",10.0.0.3" * 32], forwarded=True, allow_loopback=True)
def test_the_client_is_the_one_that_a_naive_walk_finds(
    peer: str, chain: list[bytes], forwarded: bool, allow_loopback: bool
) -> None:
    client = found(Address.parse(peer), chain, forwarded, allow_loopback)
    expected = model_client(peer, chain, forwarded, allow_loopback)
    assert (str(client) if isinstance(client, Address) else None) == (str(expected) if expected else None)
    assert believes(Address.parse(peer), networks(*TRUSTED), False) == model_trusted(ipaddress.ip_address(peer))


@given(chain=CHAINS, left=st.lists(_ITEMS, max_size=40))
def test_what_stands_left_of_the_client_is_not_read(chain: list[bytes], left: list[str]) -> None:
    before = client_of(chain)
    if isinstance(before, str):
        assert client_of([", ".join(left).encode("latin-1"), *chain]) == before


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        pytest.param([b"203.0.113.9"], "203.0.113.9", id="one item"),
        pytest.param([b"203.0.113.9:567"], "203.0.113.9", id="IPv4 with a port"),
        pytest.param([b"2001:db8::1"], "2001:db8::1", id="bare IPv6"),
        pytest.param([b"[2001:db8::1]"], "2001:db8::1", id="IPv6 in brackets"),
        pytest.param([b"[2001:db8::1]:443"], "2001:db8::1", id="IPv6 with a port"),
        pytest.param([b"::ffff:203.0.113.9"], "203.0.113.9", id="mapped is IPv4"),
        pytest.param([b"[::ffff:203.0.113.9]:1"], "203.0.113.9", id="mapped with a port is IPv4"),
        pytest.param([b"2002:cb00:7109::"], "2002:cb00:7109::", id="6to4 is not undone"),
        pytest.param(
            [b"6.6.6.6, 203.0.113.9, 10.0.0.3"], "203.0.113.9", id="trusted proxies are skipped, from the right"
        ),
        pytest.param([b"6.6.6.6", b"203.0.113.9"], "203.0.113.9", id="several lines are joined in order"),
        pytest.param([b"unknown, 203.0.113.9"], "203.0.113.9", id="garbage on the left is not met"),
        pytest.param([b"203.0.113.9, ::ffff:10.0.0.3"], "203.0.113.9", id="a mapped proxy is trusted as IPv4"),
        pytest.param([b"127.0.0.1, 203.0.113.9"], "203.0.113.9", id="loopback on the left gains nothing"),
        pytest.param([b"169.254.1.1"], "169.254.1.1", id="link-local is a client, though it is never granted"),
        pytest.param([b" \t203.0.113.9\t "], "203.0.113.9", id="blanks around an item"),
        pytest.param([b"203.0.113.9" + b",10.0.0.3" * 31], "203.0.113.9", id="32 hops"),
        pytest.param([b"203.0.113.9" + b",10.0.0.3" * 32], Unresolved.TOO_MANY, id="33 hops"),
        pytest.param([b"10.0.0.3," * 100_000 + b"10.0.0.3"], Unresolved.TOO_MANY, id="a hundred thousand hops"),
        pytest.param([], Unresolved.MISSING, id="no chain"),
        pytest.param([b""], Unresolved.MISSING, id="an empty line"),
        pytest.param([b" \t"], Unresolved.MISSING, id="a line of blanks"),
        pytest.param([b"10.0.0.3"], Unresolved.ONLY_PROXIES, id="only proxies"),
        pytest.param([b"127.0.0.1"], Unresolved.ONLY_PROXIES, id="loopback alone, which is trusted here"),
        pytest.param([b"203.0.113.9,"], Unresolved.UNREADABLE, id="an empty item at the right"),
        pytest.param([b"203.0.113.9", b""], Unresolved.UNREADABLE, id="an empty second line"),
        pytest.param([b"203.0.113.9, unknown"], Unresolved.UNREADABLE, id="RFC 7239's unknown"),
        pytest.param([b"203.0.113.9, fe80::1%eth0"], Unresolved.UNREADABLE, id="a zone id"),
        pytest.param([b"203.0.113.09"], Unresolved.UNREADABLE, id="a leading zero"),
        pytest.param([b"203.0.113.9:"], Unresolved.UNREADABLE, id="an empty port"),
        pytest.param([b"203.0.113.9:65536"], Unresolved.UNREADABLE, id="a port too large"),
        pytest.param([b"203.0.113.9\xa0"], Unresolved.UNREADABLE, id="a byte beyond ASCII"),
        pytest.param([b"203.0.113.9/32"], Unresolved.UNREADABLE, id="a network"),
        pytest.param([b"203.0.113.9, 0.0.0.0"], Unresolved.NOBODY, id="unspecified"),
        pytest.param([b"203.0.113.9, ::"], Unresolved.NOBODY, id="unspecified IPv6"),
        pytest.param([b"239.1.2.3"], Unresolved.NOBODY, id="multicast"),
        pytest.param([b"ff02::1"], Unresolved.NOBODY, id="multicast IPv6"),
        pytest.param([b"255.255.255.255"], Unresolved.NOBODY, id="broadcast"),
    ],
)
def test_a_trusted_peers_chain_is_read_from_the_right(chain: list[bytes], client: str | Unresolved) -> None:
    assert client_of(chain) == client


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        pytest.param([b"127.0.0.1"], "127.0.0.1", id="the proxy's own machine"),
        pytest.param([b"::1, 10.0.0.3"], "::1", id="behind a further proxy"),
        pytest.param([b"::ffff:127.0.0.1"], "127.0.0.1", id="mapped"),
        pytest.param([b"10.0.0.3, 127.0.0.1"], Unresolved.ONLY_PROXIES, id="the left-most is no loopback"),
        pytest.param([b"203.0.113.9, 127.0.0.1"], "203.0.113.9", id="an untrusted address wins"),
        pytest.param([b"unknown, 127.0.0.1"], Unresolved.UNREADABLE, id="garbage at the left is met"),
    ],
)
def test_loopback_is_a_client_only_left_of_trusted_proxies_and_only_if_allowed(
    chain: list[bytes], client: str | Unresolved
) -> None:
    assert client_of(chain, allow_loopback=True) == client


@pytest.mark.parametrize(
    ("peer", "chain", "forwarded", "client"),
    [
        pytest.param("203.0.113.1", [], False, "203.0.113.1", id="a direct client"),
        pytest.param("203.0.113.1", [], True, Unresolved.FORGED, id="a header that only proxies send"),
        pytest.param("203.0.113.1", [b"1.2.3.4"], True, Unresolved.FORGED, id="a forged chain"),
        pytest.param("203.0.113.1", [b""], False, Unresolved.FORGED, id="an empty chain is one too"),
        pytest.param("203.0.113.1", [b"203.0.113.1"], True, Unresolved.FORGED, id="even one that tells the truth"),
        pytest.param("0.0.0.0", [], False, Unresolved.NOBODY, id="an unspecified peer"),
        pytest.param(PROXY, [], False, Unresolved.MISSING, id="never the proxy's own address"),
    ],
)
def test_only_trusted_peers_are_believed(
    peer: str, chain: list[bytes], forwarded: bool, client: str | Unresolved
) -> None:
    assert client_of(chain, peer, forwarded) == client


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    peer = Address.parse("127.0.0.1")
    assert not believes(peer, networks(), False)
    assert direct(peer, False) == peer


@pytest.mark.parametrize(
    ("chain", "forwarded", "believed", "stranger"),
    [
        pytest.param([b"203.0.113.7"], True, "203.0.113.7", Unresolved.FORGED_UNIX, id="a proxy asks"),
        pytest.param([b"203.0.113.7, 10.0.0.2"], True, "203.0.113.7", Unresolved.FORGED_UNIX, id="behind another"),
        pytest.param([], True, Unresolved.MISSING, Unresolved.FORGED_UNIX, id="a proxy that names nobody"),
        pytest.param([], False, Unresolved.MISSING, Unresolved.NAMELESS, id="somebody on this machine"),
    ],
)
def test_a_peer_on_a_unix_socket_has_no_address_and_is_believed_only_if_that_is_said(
    chain: list[bytes], forwarded: bool, believed: str | Unresolved, stranger: Unresolved
) -> None:
    for trusts_unix in (True, False):
        client = found(Nameless.UNIX, chain, forwarded, False, trusts_unix)
        said = str(client) if isinstance(client, Address) else client
        assert said == (believed if trusts_unix else stranger)


def test_trusting_the_unix_socket_trusts_no_address() -> None:
    assert not believes(Address.parse("203.0.113.9"), networks(), True)
    assert believes(Nameless.UNIX, networks(), True)
