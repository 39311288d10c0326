"""What a knock may ask for: strict bodies, and addresses that nobody may open."""

from __future__ import annotations

import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.core.addresses import Address, Network, networks
from knocker.core.knock import Body, Forbidden, too_broad
from knocker.core.refusals import Refusal, Refused

FORBIDDEN = Forbidden(
    trusted=networks("172.16.238.0/24", "fd00:dead::/64"),
    shared=networks("172.20.0.1"),
    own=networks("192.0.2.10", "2001:db8:1::10"),
    gateways=networks("192.0.2.1", "2001:db8:1::1"),
)
TRYING_OUT = Forbidden(trusted=networks("127.0.0.1", "::1"), allow_loopback=True)


def refusal_of(data: bytes) -> Refusal | None:
    try:
        Body.parse(data)
    except Refused as refused:
        return refused.refusal
    return None


@pytest.mark.parametrize(
    ("data", "body"),
    [
        pytest.param(b"", Body(), id="empty"),
        pytest.param(b"{}", Body(), id="an empty object"),
        pytest.param(b' \r\n\t{ "ttl" : 60 } ', Body(ttl=60), id="white space around"),
        pytest.param(b'{"ttl": null, "ip_address": null}', Body(), id="null is absent"),
        pytest.param(b'{"ttl": 1}', Body(ttl=1), id="the smallest ttl"),
        pytest.param(b'{"ttl": 1' + b"0" * 4000 + b"}", Body(ttl=10**4000), id="a huge ttl, which is capped later"),
        pytest.param(b'{"\\u0074tl": 5}', Body(ttl=5), id="an escaped member name is the same member"),
        pytest.param(b'{"ip_address": "192.0.2.7/24"}', Body(Network.parse("192.0.2.0/24")), id="host bits masked off"),
        pytest.param(b'{"ip_address": "::ffff:192.0.2.7/120"}', Body(Network.parse("192.0.2.0/24")), id="mapped"),
        pytest.param(b'{"ip_address": "2001:DB8::"}', Body(Network.parse("2001:db8::")), id="an IPv6 address"),
    ],
)
def test_a_body_says_what_it_says(data: bytes, body: Body) -> None:
    assert Body.parse(data) == body


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        pytest.param(b"not json", Refusal.MALFORMED, id="not JSON"),
        pytest.param(b"ttl=60", Refusal.MALFORMED, id="a form"),
        pytest.param(b" ", Refusal.MALFORMED, id="white space alone"),
        pytest.param(b'{"ttl": 60', Refusal.MALFORMED, id="cut short"),
        pytest.param(b'{"ttl": 60}{}', Refusal.MALFORMED, id="something after it"),
        pytest.param(b'{"ttl": 60,}', Refusal.MALFORMED, id="a trailing comma"),
        pytest.param(b"{'ttl': 60}", Refusal.MALFORMED, id="single quotes"),
        pytest.param(b'{"ttl": 060}', Refusal.MALFORMED, id="a leading zero"),
        pytest.param(b'{"ttl": +60}', Refusal.MALFORMED, id="a plus sign"),
        pytest.param(b'{"ttl": 0x3c}', Refusal.MALFORMED, id="hexadecimal"),
        pytest.param(b'{"ttl": NaN}', Refusal.MALFORMED, id="NaN is not JSON"),
        pytest.param(b'{"ttl": Infinity}', Refusal.MALFORMED, id="nor is Infinity"),
        pytest.param(b'{"ttl": -Infinity}', Refusal.MALFORMED, id="nor its negative"),
        pytest.param(b"NaN", Refusal.MALFORMED, id="NaN alone"),
        pytest.param(b'{"ttl": 60, "ttl": 60}', Refusal.MALFORMED, id="a repeated member, even equal"),
        pytest.param(b'{"ttl": null, "ttl": 60}', Refusal.MALFORMED, id="a repeated member, once null"),
        pytest.param(b'{"ttl": 60, "\\u0074tl": 61}', Refusal.MALFORMED, id="a repeated member, once escaped"),
        pytest.param(b'{"x": {"a": 1, "a": 2}}', Refusal.MALFORMED, id="a repeated member further down"),
        pytest.param(b'\xef\xbb\xbf{"ttl": 60}', Refusal.MALFORMED, id="a byte order mark"),
        pytest.param('{"ttl": 60}'.encode("utf-16"), Refusal.MALFORMED, id="UTF-16"),
        pytest.param(b'{"ttl": 60}\x00', Refusal.MALFORMED, id="a NUL after it"),
        pytest.param(b'{"ip_address": "\xff"}', Refusal.MALFORMED, id="bad UTF-8"),
        pytest.param(b'{"ip_address": "\xed\xa0\x80"}', Refusal.MALFORMED, id="a surrogate in UTF-8"),
        pytest.param(b'{"ip_address": "1.2.3.4\n"}', Refusal.MALFORMED, id="a raw line break in a text"),
        pytest.param(b"[" * 4096, Refusal.MALFORMED, id="deep and open"),
        pytest.param(b'{"a":' * 800 + b"1" + b"}" * 800, Refusal.INVALID_DATA, id="deep, but readable"),
        pytest.param(b"[]", Refusal.NOT_AN_OBJECT, id="a list"),
        pytest.param(b"null", Refusal.NOT_AN_OBJECT, id="null"),
        pytest.param(b"60", Refusal.NOT_AN_OBJECT, id="a number"),
        pytest.param(b'"1.2.3.4"', Refusal.NOT_AN_OBJECT, id="a text"),
        pytest.param(b'{"TTL": 60}', Refusal.INVALID_DATA, id="case matters"),
        pytest.param(b'{"ttl": 60, "port": 22}', Refusal.INVALID_DATA, id="an unknown member"),
        pytest.param(b'{"port": null}', Refusal.INVALID_DATA, id="an unknown member, though null"),
        pytest.param(b'{"\\ud800": 1}', Refusal.INVALID_DATA, id="a lone surrogate as name"),
        pytest.param(b'{"ttl": true}', Refusal.INVALID_TTL, id="true is no number"),
        pytest.param(b'{"ttl": false}', Refusal.INVALID_TTL, id="nor is false"),
        pytest.param(b'{"ttl": 1.0}', Refusal.INVALID_TTL, id="1.0 is no integer"),
        pytest.param(b'{"ttl": 1e3}', Refusal.INVALID_TTL, id="nor is 1e3"),
        pytest.param(b'{"ttl": 1e999}', Refusal.INVALID_TTL, id="nor is what overflows"),
        pytest.param(b'{"ttl": "5"}', Refusal.INVALID_TTL, id="a text"),
        pytest.param(b'{"ttl": 0}', Refusal.INVALID_TTL, id="zero"),
        pytest.param(b'{"ttl": -0}', Refusal.INVALID_TTL, id="minus zero"),
        pytest.param(b'{"ttl": -60}', Refusal.INVALID_TTL, id="negative"),
        pytest.param(b'{"ttl": []}', Refusal.INVALID_TTL, id="a list as ttl"),
        pytest.param(b'{"ttl": {}}', Refusal.INVALID_TTL, id="an object as ttl"),
        pytest.param(b'{"ip_address": 16909060}', Refusal.INVALID_ADDRESS, id="a number, which ipaddress would take"),
        pytest.param(b'{"ip_address": true}', Refusal.INVALID_ADDRESS, id="true, which ipaddress would take"),
        pytest.param(b'{"ip_address": ["1.2.3.4", 24]}', Refusal.INVALID_ADDRESS, id="a pair, which it would take too"),
        pytest.param(b'{"ip_address": ""}', Refusal.INVALID_ADDRESS, id="an empty text"),
        pytest.param(b'{"ip_address": "1.2.3.4\\n"}', Refusal.INVALID_ADDRESS, id="an escaped line break"),
        pytest.param(b'{"ip_address": "fe80::1%eth0"}', Refusal.INVALID_ADDRESS, id="a zone"),
        pytest.param(b'{"ip_address": "\\ud800"}', Refusal.INVALID_ADDRESS, id="a lone surrogate"),
        pytest.param(b'{"ip_address": "::\\ud800/64"}', Refusal.INVALID_ADDRESS, id="a lone surrogate in IPv6"),
        pytest.param(b'{"ip_address": "1.2.3.4/\\u00b2"}', Refusal.INVALID_ADDRESS, id="a superscript digit"),
        pytest.param(b'{"ip_address": "10.0.0.0/255.0.0.0"}', Refusal.INVALID_ADDRESS, id="a netmask"),
    ],
)
def test_anything_else_is_refused_with_its_reason(data: bytes, refusal: Refusal) -> None:
    assert refusal_of(data) is refusal


@given(data=st.binary(max_size=60) | st.text('{}[]":,ttlip_address0123456789.e-', max_size=60).map(str.encode))
def test_no_bytes_do_more_than_refuse(data: bytes) -> None:
    refusal_of(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


@given(members=st.dictionaries(st.sampled_from(["ttl", "ip_address", "ttl ", "x"]), _JSON))
def test_a_body_is_taken_exactly_when_its_members_are_right(members: dict[str, object]) -> None:
    ttl, address = members.get("ttl"), members.get("ip_address")
    expected: Refusal | None = None
    if not set(members) <= {"ttl", "ip_address"}:
        expected = Refusal.INVALID_DATA
    elif address is not None and not _readable(address):
        expected = Refusal.INVALID_ADDRESS
    elif ttl is not None and (type(ttl) is not int or ttl < 1):
        expected = Refusal.INVALID_TTL
    assert refusal_of(json.dumps(members).encode()) is expected


def _readable(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(Network.parse(value))
    except ValueError:
        return False


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("0.0.0.0", id="unspecified"),
        pytest.param("::", id="unspecified IPv6"),
        pytest.param("127.0.0.1", id="loopback"),
        pytest.param("127.255.0.9", id="loopback is a /8"),
        pytest.param("::1", id="loopback IPv6"),
        pytest.param("127.0.0.0/24", id="a network on the loopback"),
        pytest.param("169.254.169.254", id="link-local, where clouds keep secrets"),
        pytest.param("fe80::1", id="link-local IPv6"),
        pytest.param("febf::/64", id="link-local is fe80::/10"),
        pytest.param("224.0.0.251", id="multicast"),
        pytest.param("ff02::fb", id="multicast IPv6"),
        pytest.param("255.255.255.255", id="broadcast"),
        pytest.param("255.255.255.0/24", id="contains broadcast"),
        pytest.param("172.16.238.7", id="a trusted proxy"),
        pytest.param("172.16.0.0/16", id="contains trusted proxies"),
        pytest.param("172.16.238.128/25", id="inside the trusted network"),
        pytest.param("fd00:dead::1", id="a trusted proxy, IPv6"),
        pytest.param("172.20.0.1", id="a shared address"),
        pytest.param("172.20.0.0/30", id="contains a shared address"),
        pytest.param("192.0.2.10", id="this host's own"),
        pytest.param("2001:db8:1::10", id="this host's own, IPv6"),
        pytest.param("2001:db8:1::/64", id="contains this host's own"),
        pytest.param("192.0.2.1", id="the gateway"),
        pytest.param("192.0.2.0/29", id="contains the gateway"),
        pytest.param("0.0.0.0/0", id="contains everything"),
        pytest.param("::/0", id="contains everything, IPv6"),
        pytest.param("::ffff:127.0.0.1", id="mapped loopback"),
        pytest.param("::ffff:127.0.0.0/104", id="a mapped loopback network"),
    ],
)
def test_some_addresses_are_never_granted(text: str) -> None:
    network = Network.parse(text)
    with pytest.raises(Refused) as caught:
        FORBIDDEN.check(network)
    assert caught.value.refusal is Refusal.INVALID_ADDRESS
    assert str(network) in caught.value.why
    if network.single:
        with pytest.raises(Refused) as caught:
            FORBIDDEN.check_client(Address.parse(text))
        assert caught.value.refusal is Refusal.NO_CLIENT


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("192.0.2.11", id="a neighbour of this host"),
        pytest.param("172.16.239.1", id="beside the trusted network"),
        pytest.param("172.20.0.2", id="beside a shared address"),
        pytest.param("128.0.0.1", id="beside the loopback"),
        pytest.param("10.0.0.0/16", id="the widest IPv4 network"),
        pytest.param("2001:db8:2::/48", id="the widest IPv6 network"),
        pytest.param("fec0::1", id="beside link-local"),
        pytest.param("255.255.255.254", id="beside broadcast"),
    ],
)
def test_their_neighbours_may_be_granted(text: str) -> None:
    FORBIDDEN.check(Network.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("10.0.0.0/15", id="wider than /16"),
        pytest.param("2a00::/47", id="wider than /48"),
        pytest.param("64:ff9b::102:304", id="NAT64"),
        pytest.param("64:ff9b::/96", id="all of NAT64"),
        pytest.param("64:ff9b:1:2::/64", id="local NAT64"),
        pytest.param("2002:102:304::/48", id="6to4"),
        pytest.param("2002::1", id="one 6to4 address"),
        pytest.param("2001::/48", id="Teredo"),
        pytest.param("2001:0:1:2::1", id="one Teredo address"),
        pytest.param("::102:304", id="IPv4-compatible"),
    ],
)
def test_what_stands_for_too_many_is_too_broad(text: str) -> None:
    with pytest.raises(Refused) as caught:
        FORBIDDEN.check(Network.parse(text))
    assert caught.value.refusal is Refusal.TOO_BROAD


def test_all_mapped_addresses_are_too_broad_however_they_got_here() -> None:
    assert too_broad(Network(128, 0xFFFF << 32, 96))
    assert too_broad(Network.parse("::fffe:0:0/95"))


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        pytest.param("127.0.0.1", True, id="loopback, though it is trusted"),
        pytest.param("127.0.0.2", True, id="another one"),
        pytest.param("::1", True, id="IPv6"),
        pytest.param("127.0.0.0/8", False, id="never the whole loopback"),
        pytest.param("127.0.0.0/31", False, id="never a part of it"),
        pytest.param("::/127", False, id="with the unspecified address"),
        pytest.param("0.0.0.0", False, id="unspecified all the same"),
        pytest.param("169.254.1.1", False, id="link-local all the same"),
    ],
)
def test_loopback_may_be_granted_one_by_one_if_the_settings_say_so(text: str, allowed: bool) -> None:
    assert (TRYING_OUT.why(Network.parse(text)) == "") is allowed


@pytest.mark.parametrize(
    ("client", "prefix", "opened"),
    [
        pytest.param("2001:db8:2::5", 128, "2001:db8:2::5", id="not widened"),
        pytest.param("2001:db8:2::5", 64, "2001:db8:2::/64", id="widened"),
        pytest.param("2001:db8:2::5", 48, "2001:db8:2::/48", id="as wide as it may be"),
        pytest.param("203.0.113.9", 64, "203.0.113.9", id="IPv4 never"),
        pytest.param("2001:db8:1::5", 64, "2001:db8:1::5", id="this host is next to it"),
        pytest.param("2001:db8:1::5", 125, "2001:db8:1::5", id="the gateway is next to it"),
        pytest.param("2001:db8:1::99", 124, "2001:db8:1::90/124", id="narrow enough to miss both"),
        pytest.param("fd00:dead:0:1::5", 48, "fd00:dead:0:1::5", id="the proxies are next to it"),
        pytest.param("2002:102:304::1", 64, "2002:102:304::1", id="6to4 alone"),
        pytest.param("2001:0:1::1", 64, "2001:0:1::1", id="Teredo alone"),
    ],
)
def test_a_knock_for_the_own_address_is_widened_where_the_rules_allow_it(client: str, prefix: int, opened: str) -> None:
    assert str(FORBIDDEN.around(Address.parse(client), prefix)) == opened


@given(value=st.integers(0, 2**128 - 1), prefix=st.integers(48, 128))
def test_a_widened_grant_holds_its_client_and_nothing_forbidden(value: int, prefix: int) -> None:
    client = Address(128, value)
    opened = FORBIDDEN.around(client, prefix)
    assert client in opened
    if not opened.single:
        model = ipaddress.IPv6Network((opened.base, opened.prefix))
        assert model == ipaddress.IPv6Network((value, prefix), strict=False)
        FORBIDDEN.check(opened)


def test_what_is_nested_too_deep_is_refused_whether_python_can_read_it_or_not() -> None:
    assert refusal_of(b"[" * 2000 + b"]" * 2000) in (Refusal.MALFORMED, Refusal.NOT_AN_OBJECT)
