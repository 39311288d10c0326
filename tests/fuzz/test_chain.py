"""X-Forwarded-For chains against the rule of contract 3.1, written out with the standard library alone."""

from __future__ import annotations

import ipaddress
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import event, example, given
from hypothesis import strategies as st

from knocker.core.addresses import Address, networks
from knocker.core.visitor import believes, direct, resolve
from tests.wire import World, answer

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Net = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_HOPS = 32
BLANKS = b" \t"


# The rule.


def without_port(text: str) -> tuple[str, str] | None:
    """The address of an item and the form that it must have; None where brackets or port are wrong."""
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not is_port(rest)):
            return None
        return inside, "6"
    if text.count(":") > 1:
        return text, "6"
    host, colon, port = text.partition(":")
    return None if colon and not is_port(colon + port) else (host, "4")


def is_port(text: str) -> bool:
    digits = text.removeprefix(":")
    return text != digits and digits.isascii() and digits.isdecimal() and len(digits) < 6 and int(digits) <= 65535


def read_item(raw: bytes) -> Ip | None:
    """The address that one item names, mapped ones as what they map."""
    try:
        found = without_port(raw.strip(BLANKS).decode("ascii"))
        if found is None or "%" in found[0] or "/" in found[0]:
            return None
        if found[1] == "4":
            return ipaddress.IPv4Address(found[0])
        return unmapped(ipaddress.IPv6Address(found[0]))
    except ValueError:
        return None


def unmapped(address: Ip) -> Ip:
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def read_network(text: str) -> Net:
    """A network as settings name it: mapped ones are IPv4."""
    found = ipaddress.ip_network(text, strict=False)
    inner = unmapped(found.network_address)
    if found.version == 6 and isinstance(inner, ipaddress.IPv4Address):
        return ipaddress.ip_network((inner, found.prefixlen - 96))
    return found


def is_nobody(address: Ip) -> bool:
    return address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255"


@dataclass(frozen=True)
class Asked:
    """One question of who the client is."""

    peer: str
    lines: tuple[bytes, ...]
    forwarded: bool
    trusted: tuple[str, ...]
    allow_loopback: bool

    def answer(self) -> str | None:
        """The client by the rule."""
        nets = [read_network(text) for text in self.trusted]

        def is_proxy(address: Ip) -> bool:
            return any(address.version == net.version and address in net for net in nets)

        peer = unmapped(ipaddress.ip_address(self.peer))
        if not is_proxy(peer):
            return None if self.forwarded or self.lines or is_nobody(peer) else str(peer)
        if not self.lines:
            return None
        hops = [hop for line in self.lines for hop in line.split(b",")]
        for place in range(len(hops) - 1, -1, -1):
            address = read_item(hops[place])
            if len(hops) - place > MOST_HOPS or address is None or is_nobody(address):
                return None
            if not is_proxy(address):
                return str(address)
            if place == 0 and self.allow_loopback and address.is_loopback:
                return str(address)
        return None


# The chains.

TRUSTED_SETS = [
    (),
    ("10.0.0.0/24",),
    ("10.0.0.0/24", "127.0.0.0/8", "::1", "fd00::/64"),
    ("127.0.0.1", "::1"),
    ("::ffff:10.0.0.0/120", "2001:db8:a::/48"),
    ("0.0.0.0/1",),
    ("8000::/1", "10.0.0.3"),
    ("10.0.0.2", "10.0.0.3", "fe80::/10", "2002::/16", "::/96"),
]
NEAR = [
    "10.0.0.2", "10.0.0.3", "10.0.0.255", "10.0.1.0", "9.255.255.255", "127.0.0.1", "127.255.255.254", "128.0.0.0",
    "::1", "::2", "fd00::7", "fd00:0:0:1::", "2001:db8:a::1", "2001:db8:b::1", "2001:DB8::9", "fe80::1",
    "::ffff:10.0.0.3", "::ffff:a00:3", "0:0:0:0:0:FFFF:10.0.0.3", "::ffff:127.0.0.1", "::FFFF:203.0.113.9",
    "2002:a00:3::", "64:ff9b::a00:3", "::10.0.0.3", "::ffff:0:10.0.0.3", "203.0.113.9", "0.0.0.0", "::", "224.0.0.1",
    "239.255.255.255", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0", "::ffff:224.0.0.1", "::ffff:255.255.255.255",
    "240.0.0.1", "223.255.255.255", "255.255.255.254", "0.0.0.1",
]  # fmt: skip
GARBAGE = [
    b"", b" ", b"\t", b"unknown", b"_hidden", b"for=1.2.3.4", b'"1.2.3.4"', b"1.2.3.4 5.6.7.8", b"localhost", b"\x00",
    b"1.2.3.4\x00", b"1.2.3.4\x0b", b"1.2.3.4\x0c", b"1.2.3.4\x85", b"\xa01.2.3.4", b"\xb9.2.3.4", b"1.2.3.\xb2",
    "\N{FULLWIDTH DIGIT ONE}.2.3.4".encode(), "1.2.3.4\u3002".encode(), "\N{ARABIC-INDIC DIGIT THREE}.2.3.4".encode(),
    b"1.2.3.4:\xb2", b"01.2.3.4", b"1.2.3.004",
    b"0x1.2.3.4", b"1.2.3", b"1.2.3.4.5", b"1..3.4", b"1.2.3.4.", b".1.2.3.4", b"256.1.1.1", b"16909060", b"+1.2.3.4",
    b"1.2.3.-4", b"1_0.2.3.4", b"1.2.3.4:", b"1.2.3.4::80", b"1.2.3.4:65536", b"1.2.3.4:-1", b"1.2.3.4:+1",
    b"1.2.3.4:8_0", b"1.2.3.4: 80", b"1.2.3.4 :80", b"1.2.3.4/32", b"1.2.3.4%eth0", b"1.2.3.4;", b"[1.2.3.4]",
    b"[1.2.3.4]:80", b"fe80::1%eth0", b"[fe80::1%25eth0]", b"[::1", b"::1]", b"[::1]x", b"[::1]:", b"[::1]:65536",
    b"[::1]::80", b"[::1] :80", b"[ ::1]", b"[]", b"[[::1]]", b"[::1][::1]", b"1::2::3", b":::", b":", b"1:2:3:4:5:6:7",
    b"1:2:3:4:5:6:7:8:9", b"1::2:3:4:5:6:7:8", b"12345::", b"::g", b"::ffff:1.2.3", b"::ffff:01.2.3.4", b"::1.2.3.4.5",
    b"::1.2.3.4:5", b"1.2.3.4::", b"::ffff:256.1.1.1", b"::-1", b"::1/128", b"::1 ", b"1:2:3:4:5:6:7::",
    b"::2:3:4:5:6:7:8",
    b"9" * 70, b"1" * 5000, b"1.2.3.4:" + b"9" * 5000, b"[" * 300, b":" * 300, b"1." * 3000,
]  # fmt: skip
PORTS = st.sampled_from(["", "", "", ":0", ":1", ":443", ":65535", ":65536", ":99999", ":", ":x", ":443x"])


def spelt(host: str, port: str, bracketed: bool) -> bytes:
    """An address as a header has it; brackets also where they do not belong."""
    return (f"[{host}]{port}" if bracketed else host + port).encode()


GOOD = st.builds(lambda host: host.encode(), st.sampled_from(NEAR))
RANDOM = st.builds(lambda address: str(address).encode(), st.ip_addresses())
NOISE = st.text("0123456789abcdefF:.[]%/ \t", max_size=24).map(str.encode) | st.binary(max_size=12)
ODD = st.builds(spelt, st.sampled_from(NEAR), PORTS, st.booleans()) | st.sampled_from(GARBAGE) | RANDOM | NOISE
PROXIES = st.sampled_from([b"10.0.0.3", b"10.0.0.2:80", b"127.0.0.1", b"[::1]:9", b"fd00::7", b"::ffff:10.0.0.3"])
PADDED = st.builds(
    lambda left, item, right: left + item + right,
    st.sampled_from([b"", b"", b" ", b"\t ", b"  "]),
    st.one_of(PROXIES, PROXIES, GOOD, GOOD, ODD),
    st.sampled_from([b"", b"", b"", b" ", b" \t"]),
)
# Around the bound: few items of interest, many of one proxy.
LONG = st.builds(
    lambda head, proxy, count, tail: [*head, *[proxy] * count, *tail],
    st.lists(PADDED, max_size=3),
    PROXIES,
    st.integers(28, 34),
    st.lists(PROXIES, max_size=2),
)
ITEMS = st.one_of(st.lists(PADDED, max_size=6), st.lists(PADDED, max_size=6), LONG, st.lists(PADDED, max_size=60))
PEERS = st.sampled_from(
    ["10.0.0.2", "10.0.0.2", "::ffff:10.0.0.2", "127.0.0.1", "::1", "203.0.113.1", "2001:db8:a::1", "::", "0.0.0.0"]
)


@st.composite
def chains(draw: st.DrawFn) -> tuple[bytes, ...]:
    """Items joined by commas, broken into header lines at any of them."""
    items = draw(ITEMS)
    lines: list[bytes] = []
    new = True
    for item in items:
        if new:
            lines.append(item)
        else:
            lines[-1] += b"," + item
        new = draw(st.integers(0, 5)) == 0
    return tuple(lines)


QUESTIONS = st.builds(Asked, PEERS, chains(), st.booleans(), st.sampled_from(TRUSTED_SETS), st.booleans())


def resolved(asked: Asked) -> str | None:
    """The client that the product finds."""
    peer, trusted = Address.parse(asked.peer), networks(*asked.trusted)
    if believes(peer, trusted, False):
        client = resolve(asked.lines, trusted, asked.allow_loopback)
    else:
        client = direct(peer, asked.forwarded or bool(asked.lines))
    return str(client) if isinstance(client, Address) else None


@given(asked=QUESTIONS)
@example(Asked("10.0.0.2", (b"1.2.3.4" + b",10.0.0.3" * 31,), True, TRUSTED_SETS[1], False))
@example(Asked("10.0.0.2", (b"1.2.3.4" + b",10.0.0.3" * 32,), True, TRUSTED_SETS[1], False))
@example(Asked("10.0.0.2", (b"127.0.0.1", b"10.0.0.3"), True, TRUSTED_SETS[2], True))
@example(Asked("10.0.0.2", (b"127.0.0.1" + b",10.0.0.3" * 32,), True, TRUSTED_SETS[2], True))
@example(Asked("10.0.0.2", (b"1.2.3.4", b""), True, TRUSTED_SETS[1], False))
@example(Asked("::ffff:10.0.0.2", (b"[::ffff:102:304]:5",), True, TRUSTED_SETS[4], False))
@example(Asked("10.0.0.2", (b"::10.0.0.9, ::10.0.0.3",), True, TRUSTED_SETS[7], False))
def test_the_client_of_any_chain_is_the_one_that_the_rule_names(asked: Asked) -> None:
    expected = asked.answer()
    event("a client" if expected else "no client")
    assert resolved(asked) == expected


@given(item=st.one_of(GOOD, ODD, ODD), allow_loopback=st.booleans())
@example(item=b"[::1", allow_loopback=False)
@example(item=b"[2001:db8::1", allow_loopback=False)
def test_one_item_is_read_as_the_standard_library_reads_it_or_not_at_all(item: bytes, allow_loopback: bool) -> None:
    asked = Asked("198.18.0.1", (item,), True, ("198.18.0.1",), allow_loopback)
    assert resolved(asked) == asked.answer()


def test_every_odd_spelling_is_an_address_or_none_by_the_rule() -> None:
    ports = ["", ":", ":0", ":443", ":65535", ":65536", ":x"]
    spellings = [spelt(host, port, bracketed) for host in NEAR for port in ports for bracketed in (False, True)]
    for item in [*spellings, *GARBAGE]:
        for line in (item, b"1.2.3.4, " + item, b" \t" + item + b"\t "):
            asked = Asked("198.18.0.1", (line,), True, ("198.18.0.1",), False)
            assert resolved(asked) == asked.answer(), line


def test_loopback_behind_proxies_alone_is_a_client_only_where_it_is_allowed() -> None:
    for lines in ((b"127.0.0.1",), (b"127.0.0.1", b"10.0.0.3"), (b"::1, 10.0.0.3",), (b"10.0.0.3, 127.0.0.1",)):
        for allow_loopback in (False, True):
            asked = Asked("10.0.0.2", lines, True, TRUSTED_SETS[2], allow_loopback)
            assert resolved(asked) == asked.answer(), asked


@given(asked=QUESTIONS, data=st.data())
def test_it_makes_no_difference_which_commas_are_breaks_between_lines(asked: Asked, data: st.DataObject) -> None:
    joined = b",".join(asked.lines)
    if not asked.lines:
        return
    commas = [place for place, letter in enumerate(joined) if letter == ord(",")]
    cuts = sorted(data.draw(st.sets(st.sampled_from(commas)))) if commas else []
    starts, ends = [0, *(cut + 1 for cut in cuts)], [*cuts, len(joined)]
    lines = tuple(joined[start:end] for start, end in zip(starts, ends, strict=True))
    other = Asked(asked.peer, lines, asked.forwarded, asked.trusted, asked.allow_loopback)
    assert resolved(other) == resolved(asked)


SETTINGS = """
server: {{trusted_proxies: {trusted}, allow_loopback_clients: {loopback}}}
security: {{excluded_paths: ["/open"]}}
api_keys: [{{name: user, key: "usr-Tn5c8Qe1Wz7Ux3Ib9Om2Pk6Gv4Dh0Sl", ttl: 600}}]
"""


@given(asked=QUESTIONS)
def test_verify_tells_the_proxy_the_client_that_the_rule_names(asked: Asked) -> None:
    # What a header line cannot hold, and the blanks around it, do not reach the product by HTTP.
    carried = tuple(line.strip(BLANKS) for line in asked.lines)
    if any(set(line) & set(b"\x00\r\n") or len(line) > 2000 for line in carried) or len(carried) > 100:
        return
    expected = Asked(asked.peer, carried, True, asked.trusted, asked.allow_loopback).answer()
    with tempfile.TemporaryDirectory() as folder:
        text = SETTINGS.format(trusted=list(asked.trusted), loopback=str(asked.allow_loopback).lower())
        world = World(Path(folder), text)
        chain = b"".join(b"X-Forwarded-For: %s\r\n" % line for line in carried)
        raw = b"GET /verify HTTP/1.1\r\nHost: k\r\nX-Forwarded-Uri: /open\r\n" + chain + b"\r\n"
        found = answer(world.send(raw, asked.peer))
    trusted = any(
        unmapped(ipaddress.ip_address(asked.peer)) in net
        for net in map(read_network, asked.trusted)
        if net.version == unmapped(ipaddress.ip_address(asked.peer)).version
    )
    assert found.status == (200 if trusted else 401)
    assert found.headers.get("x-forwarded-for") == expected
