"""Addresses and networks against the standard library, which is slow and says the same."""

from __future__ import annotations

import ipaddress
from operator import xor
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.core.addresses import Address, Network, NetworkMap, Networks, networks

Model = ipaddress.IPv4Network | ipaddress.IPv6Network

# Few starting points, each with one bit turned, so that networks often nest, meet and miss each other narrowly.
_ANCHORS = {32: (0x0A000000, 0x0A0000FF, 0xC0A80100, 0), 128: (0x20010DB8 << 96, 0xFE80 << 112, (0xFFFF << 32) + 1, 0)}


def _values(bits: int) -> st.SearchStrategy[int]:
    return st.builds(xor, st.sampled_from(_ANCHORS[bits]), st.integers(0, bits - 1).map(lambda bit: 1 << bit))


def _addresses_of(bits: int) -> st.SearchStrategy[Address]:
    return st.builds(Address, st.just(bits), _values(bits))


def _networks_of(bits: int) -> st.SearchStrategy[Network]:
    return st.builds(Address.widened, _addresses_of(bits), st.integers(0, bits))


ADDRESSES = _addresses_of(32) | _addresses_of(128)
NETWORKS = _networks_of(32) | _networks_of(128)


def model_address(address: Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return (ipaddress.IPv4Address if address.bits == 32 else ipaddress.IPv6Address)(address.value)


def model_network(network: Network) -> Model:
    if network.bits == 32:
        return ipaddress.IPv4Network((network.base, network.prefix))
    return ipaddress.IPv6Network((network.base, network.prefix))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        pytest.param("192.0.2.1", "192.0.2.1", id="IPv4 as it is"),
        pytest.param("2001:DB8::A", "2001:db8::a", id="RFC 5952 4.3: lower case"),
        pytest.param("2001:0db8:0:0:1:0:0:1", "2001:db8::1:0:0:1", id="RFC 5952 4.2.3: the first longest run of zeros"),
        pytest.param("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1", id="RFC 5952 4.2.2: one zero is not shortened"),
        pytest.param("0:0:0:0:0:0:0:1", "::1", id="loopback at full length"),
        pytest.param("::ffff:192.0.2.1", "192.0.2.1", id="mapped, as Twisted on :: reports IPv4 peers"),
        pytest.param("::FFFF:C000:0201", "192.0.2.1", id="mapped, in hexadecimal"),
        pytest.param("0:0:0:0:0:ffff:192.0.2.1", "192.0.2.1", id="mapped, at full length"),
        pytest.param("::ffff:0:192.0.2.1", "::ffff:0:c000:201", id="translated (SIIT) is not mapped"),
        pytest.param("::192.0.2.1", "::c000:201", id="compatible is not undone"),
        pytest.param("64:ff9b::192.0.2.1", "64:ff9b::c000:201", id="NAT64 is not undone"),
        pytest.param("2002:c000:201::", "2002:c000:201::", id="6to4 is not undone"),
    ],
)
def test_an_address_has_one_canonical_text(text: str, canonical: str) -> None:
    assert str(Address.parse(text)) == canonical
    assert Address.parse(canonical) == Address.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("1.2.3", id="three octets"),
        pytest.param("1.2.3.4.5", id="five octets"),
        pytest.param("1.2.3.256", id="an octet too large"),
        pytest.param("01.2.3.4", id="a leading zero, which some read as octal"),
        pytest.param("0x7f.0.0.1", id="hexadecimal"),
        pytest.param("2130706433", id="a bare number"),
        pytest.param("127.1", id="the short form of inet_aton"),
        pytest.param(" 1.2.3.4", id="a space before"),
        pytest.param("1.2.3.4\n", id="a line break after"),
        pytest.param("1.2.3.4%1", id="an IPv4 zone"),
        pytest.param("\N{FULLWIDTH DIGIT ONE}.2.3.4", id="a digit that is not ASCII"),
        pytest.param("fe80::1%eth0", id="a zone"),
        pytest.param("fe80::1%", id="an empty zone"),
        pytest.param("fe80::1%\n", id="a line break as zone"),
        pytest.param("::1::", id="two runs of zeros"),
        pytest.param("1:2:3:4:5:6:7", id="seven groups"),
        pytest.param("12345::", id="a group too long"),
        pytest.param("::ffff:1.2.3.04", id="a leading zero inside a mapped one"),
        pytest.param("[::1]", id="brackets"),
        pytest.param("1.2.3.4:80", id="a port"),
        pytest.param("localhost", id="a name"),
        pytest.param("\ud800", id="a lone surrogate"),
    ],
)
def test_bad_spellings_of_an_address_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)
    with pytest.raises(ValueError):
        Network.parse(text)


def _model_value(text: str) -> int | None:
    """What the standard library reads there: IPv6 without a zone."""
    try:
        return None if "%" in text else int(ipaddress.IPv6Address(text))
    except ValueError:
        return None


_GROUPS = st.lists(
    st.sampled_from(["0", "1", "00ff", "FFFF", "ffff", "12345", "", "g", "1.2.3.4", "1.2.3.04"]), max_size=10
)


@given(_GROUPS.map(":".join) | st.text("01f:.%/ ", max_size=12))
def test_ipv6_texts_are_read_as_the_standard_library_reads_them(text: str) -> None:
    if ":" not in text:
        text += "::"
    value = _model_value(text)
    if value is None:
        with pytest.raises(ValueError):
            Address.parse(text)
        return
    assert Address.parse(text).value == (value & 0xFFFFFFFF if value >> 32 == 0xFFFF else value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("10.0.0.0/33", id="beyond IPv4"),
        pytest.param("2001:db8::/129", id="beyond IPv6"),
        pytest.param("::ffff:10.0.0.0/129", id="beyond a mapped one"),
        pytest.param("10.0.0.0/", id="an empty prefix length"),
        pytest.param("10.0.0.0/08", id="a leading zero"),
        pytest.param("10.0.0.0/+8", id="a sign"),
        pytest.param("10.0.0.0/-8", id="a negative one"),
        pytest.param("10.0.0.0/8/8", id="two of them"),
        pytest.param("10.0.0.0/255.0.0.0", id="a netmask"),
        pytest.param("10.0.0.0/0.255.255.255", id="a host mask"),
        pytest.param("10.0.0.0/ 8", id="a space"),
        pytest.param("10.0.0.0/8\n", id="a line break"),
        pytest.param("10.0.0.0/\N{SUPERSCRIPT TWO}", id="a digit that is not ASCII"),
        pytest.param("10.0.0.0/" + "9" * 5000, id="more digits than int() takes"),
        pytest.param("fe80::%eth0/64", id="a zone"),
        pytest.param("fe80::/64%eth0", id="a zone at the end"),
        pytest.param("/24", id="no address"),
    ],
)
def test_bad_spellings_of_a_network_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Network.parse(text)


@given(address=ADDRESSES)
def test_the_text_of_an_address_is_the_standard_librarys_and_reads_back(address: Address) -> None:
    model = model_address(address)
    mapped = model.ipv4_mapped if isinstance(model, ipaddress.IPv6Address) else None
    parsed = Address.parse(str(model))
    assert str(parsed) == str(mapped or model)
    assert Address.parse(str(parsed)) == parsed


@given(bits=st.sampled_from([32, 128]), data=st.data())
def test_host_bits_are_masked_off_and_the_text_reads_back(bits: int, data: st.DataObject) -> None:
    address = data.draw(_addresses_of(bits).filter(lambda one: one.value >> 32 != 0xFFFF))
    prefix = data.draw(st.integers(0, bits))
    parsed = Network.parse(f"{address}/{prefix}")
    model = ipaddress.ip_network(f"{address}/{prefix}", strict=False)
    assert model_network(parsed) == model
    assert Network.parse(str(parsed)) == parsed
    assert str(parsed) == (str(model.network_address) if prefix == bits else str(model))
    assert parsed.single == (prefix == bits)
    assert address.widened(prefix) == parsed


@given(value=_values(32), prefix=st.integers(0, 32))
def test_a_mapped_network_is_the_ipv4_network(value: int, prefix: int) -> None:
    address = ipaddress.IPv4Address(value)
    expected = Network.parse(f"{address}/{prefix}")
    assert Network.parse(f"::ffff:{address}/{96 + prefix}") == expected
    assert Network.parse(f"::ffff:{value >> 16:x}:{value & 0xFFFF:x}/{96 + prefix}") == expected
    assert expected.bits == 32


@given(prefix=st.integers(0, 95))
def test_a_mapped_address_with_a_prefix_below_96_stays_an_ipv6_network(prefix: int) -> None:
    parsed = Network.parse(f"::ffff:1.2.3.4/{prefix}")
    assert (parsed.bits, parsed.prefix) == (128, prefix)
    assert model_network(parsed) == ipaddress.ip_network(f"::ffff:1.2.3.4/{prefix}", strict=False)


@given(network=NETWORKS, address=ADDRESSES)
def test_containment_agrees_with_the_standard_library(network: Network, address: Address) -> None:
    assert (address in network) == (model_address(address) in model_network(network))


@given(one=NETWORKS, other=NETWORKS)
def test_overlap_agrees_with_the_standard_library_and_is_mutual(one: Network, other: Network) -> None:
    same_family = one.bits == other.bits
    expected = same_family and model_network(one).overlaps(model_network(other))
    assert one.overlaps(other) == other.overlaps(one) == expected


@given(address=ADDRESSES)
def test_the_network_of_an_address_holds_it_alone(address: Address) -> None:
    assert address in address.network
    assert address.network.single
    assert str(address.network) == str(address)


@given(members=st.lists(NETWORKS, max_size=12), address=ADDRESSES, network=NETWORKS)
def test_a_set_of_networks_agrees_with_a_linear_scan(
    members: list[Network], address: Address, network: Network
) -> None:
    found = Networks(members)
    assert (address in found) == any(model_address(address) in model_network(member) for member in members)
    expected = any(
        model_network(member).overlaps(model_network(network)) for member in members if member.bits == network.bits
    )
    assert found.overlapping(network) is expected


@given(left=st.lists(NETWORKS, max_size=5), right=st.lists(NETWORKS, max_size=5), address=ADDRESSES)
def test_the_union_of_two_sets_holds_what_either_holds(
    left: list[Network], right: list[Network], address: Address
) -> None:
    assert (address in Networks(left) | Networks(right)) == (address in Networks(left) or address in Networks(right))


@given(
    steps=st.lists(st.tuples(st.booleans(), NETWORKS, st.integers(0, 3)), max_size=30),
    addresses=st.lists(ADDRESSES, min_size=1),
)
def test_a_map_of_networks_agrees_with_a_linear_scan(
    steps: list[tuple[bool, Network, int]], addresses: list[Address]
) -> None:
    found: NetworkMap[str] = NetworkMap()
    model: list[tuple[Network, str]] = []
    for number, (put, network, which) in enumerate(steps):
        if put:
            value = f"value {number}"
            found.add(network, value)
            model.append((network, value))
        elif model:
            network, value = model.pop(-1 - which % len(model))
            found.discard(network, value)
        assert found.at(network) == tuple(value for member, value in model if member == network)
        assert len(found) == len(model)
    assert sorted(found) == sorted(value for _, value in model)
    for address in addresses:
        expected = sorted(value for member, value in model if model_address(address) in model_network(member))
        assert sorted(found.covering(address)) == expected


def test_forgetting_what_is_not_there_is_no_error() -> None:
    found: NetworkMap[str] = NetworkMap()
    wide = Network.parse("10.0.0.0/8")
    found.add(wide, "wide")
    found.discard(Network.parse("10.0.0.0/9"), "wide")
    found.discard(wide, "narrow")
    assert list(found) == ["wide"]
    found.discard(wide, "wide")
    found.discard(wide, "wide")
    assert list(found.covering(Address.parse("10.0.0.1"))) == list(found) == []
    assert len(found) == 0


@given(count=st.integers(1, 6), order=st.randoms(use_true_random=False))
def test_values_of_one_network_come_and_go_one_by_one(count: int, order: Random) -> None:
    found: NetworkMap[str] = NetworkMap()
    network, neighbour = Network.parse("2001:db8::/64"), Network.parse("2001:db8:0:1::/64")
    found.add(neighbour, "beside")
    values = [f"value {number}" for number in range(count)]
    for value in values:
        found.add(network, value)
    while values:
        assert found.at(network) == tuple(values)
        assert list(found.covering(Address.parse("2001:db8::1"))) == values
        assert len(found) == len(values) + 1
        gone = order.choice(values)
        values.remove(gone)
        found.discard(network, gone)
    assert found.at(network) == ()
    assert list(found) == ["beside"]


def test_of_two_equal_values_the_very_one_is_forgotten() -> None:
    found: NetworkMap[list[int]] = NetworkMap()
    network, one, same = Network.parse("10.0.0.1"), [1], [1]
    found.add(network, one)
    found.add(network, same)
    found.discard(network, same)
    assert [value is one for value in found.at(network)] == [True]
    found.discard(network, [1])
    assert len(found) == 1


def test_a_map_can_be_read_while_it_is_empty() -> None:
    found: NetworkMap[str] = NetworkMap()
    assert (len(found), list(found), found.at(Network.parse("::/0"))) == (0, [], ())
    found.discard(Network.parse("0.0.0.0/0"), "nothing")
    assert len(found) == 0


def test_an_empty_set_holds_nothing() -> None:
    assert Address.parse("0.0.0.0") not in Networks()
    assert Address.parse("::") not in networks()
    assert Networks().overlapping(Network.parse("::/0")) is False
