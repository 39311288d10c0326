"""Bodies of knocks: what is granted, and what is refused with which words, by a reading of contract 3.3 of its own."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.streams import Said, cut, streams
from tests.wire import ADMIN, GATEWAYS, KEY, OWN

Net = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_BODY = 4096
TTL = {KEY: (600, 1200), ADMIN: (3600, 3600)}
MALFORMED = "Malformed JSON request body."
NOT_AN_OBJECT = "Request body must be a JSON object."
INVALID_DATA = "Invalid request data."
INVALID_TTL = "Invalid TTL specified. Must be a positive integer."
INVALID_ADDRESS = "Invalid IP address or CIDR notation in request body."
TOO_BROAD = "CIDR range is too broad."
NO_PERMISSION = "API key lacks remote whitelist permission."
TOO_LARGE = "Request body too large."
NOT_JSON = "Request body must be JSON."
STATUS = {NO_PERMISSION: 403, TOO_LARGE: 413, NOT_JSON: 415}

FORBIDDEN = [
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0", "::", "127.0.0.0/8", "::1", "169.254.0.0/16", "fe80::/10", "224.0.0.0/4", "ff00::/8",
        "255.255.255.255",
        "198.51.100.77", *map(str, OWN.members), *map(str, GATEWAYS.members),
    )
]  # fmt: skip
EMBEDDING = [
    ipaddress.ip_network(text)
    for text in ("::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")
]


@dataclass(frozen=True)
class Grant:
    """What a knock leaves."""

    entry: str
    seconds: int


def read_network(text: Any) -> Net | None:
    """The network that a text names, host bits masked off and mapped IPv4 undone; None where it is none."""
    if not isinstance(text, str) or "%" in text:
        return None
    host, slash, prefix = text.partition("/")
    if slash and not (prefix.isascii() and prefix.isdecimal() and (prefix == "0" or prefix[0] != "0")):
        return None
    try:
        address = ipaddress.ip_address(host)
        bits = int(prefix) if slash else address.max_prefixlen
        inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        if inner is not None and bits >= 96:
            return ipaddress.ip_network((inner, bits - 96), strict=False)
        return ipaddress.ip_network((address, bits), strict=False)
    except ValueError:
        return None


def objections(net: Net) -> set[str]:
    """Why nobody may open this network."""
    found = set()
    if any(net.version == other.version and net.overlaps(other) for other in FORBIDDEN):
        found.add(INVALID_ADDRESS)
    if net.prefixlen < {4: 16, 6: 48}[net.version]:
        found.add(TOO_BROAD)
    if net.version == 6 and any(net.overlaps(other) for other in EMBEDDING):
        found.add(TOO_BROAD)
    return found


def shown(net: Net) -> str:
    return str(net.network_address if net.prefixlen == net.max_prefixlen else net)


def members_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a repeated member")
    return dict(pairs)


def no_constant(name: str) -> None:
    raise ValueError(name)


def judged(body: bytes, types: list[str], key: str, client: str) -> Grant | set[str]:
    """What the body earns: a grant, or a refusal in any of these words."""
    if len(body) > MOST_BODY:
        return {TOO_LARGE}
    ttl, longest = TTL[key]
    if not body:
        return Grant(client, ttl)
    if len(types) > 1:
        return {NOT_JSON}
    declared = types[0].partition(";")[0].strip(" \t").lower() if types else ""
    if declared not in ("", "application/json", "application/x-www-form-urlencoded"):
        return {NOT_JSON}
    try:
        value = json.loads(body.decode(), object_pairs_hook=members_once, parse_constant=no_constant)
    except (ValueError, RecursionError):
        return {MALFORMED}
    if not isinstance(value, dict):
        return {NOT_AN_OBJECT}
    faults = set()
    if not set(value) <= {"ip_address", "ttl"}:
        faults.add(INVALID_DATA)
    asked = value.get("ttl")
    if asked is not None and (type(asked) is not int or asked < 1):
        faults.add(INVALID_TTL)
    named = value.get("ip_address")
    net = read_network(named)
    if named is not None and net is None:
        faults.add(INVALID_ADDRESS)
    if not faults and net is not None:
        faults = objections(net) or ({NO_PERMISSION} if key != ADMIN else set())
    if faults:
        return faults
    return Grant(shown(net) if net is not None else client, ttl if asked is None else min(asked, longest))


# Bodies: JSON written piece by piece, so that each piece may be wrong.

ADDRESSES = [
    "1.2.3.4", "1.2.3.4/32", "1.2.3.4/24", "10.0.0.0/16", "10.0.0.0/15", "198.51.100.7", "198.51.100.77",
    "198.51.0.0/16",
    "203.0.113.250", "203.0.113.0/24", "203.0.113.254", "127.0.0.1", "126.0.0.0/7", "0.0.0.0", "0.0.0.0/0", "0.0.0.1",
    "255.255.255.255",
    "255.255.0.0/16", "224.0.0.1", "169.254.9.9", "2001:db8::1", "2001:db8::/48", "2001:db8::/47", "2001:DB8::1/64",
    "::", "::1", "::/0",
    "::2", "fe80::1", "fe80::/48", "ff02::1", "64:ff9b::1", "64:ff9b:1:2::/64", "2002::1", "2001:0:1::",
    "2001:0::/48", "2001:1::/48",
    "::ffff:1.2.3.4", "::ffff:1.2.3.4/128", "::ffff:1.2.3.4/120", "::ffff:1.2.3.4/112", "::ffff:1.2.3.4/111",
    "::ffff:1.2.3.4/96",
    "::ffff:1.2.3.4/95", "::ffff:127.0.0.1", "::ffff:0:0/96", "::1.2.3.4", "::ffff:102:304/124", "1::/16",
]  # fmt: skip
NO_ADDRESSES = [
    "", " ", "x", "1.2.3", "01.2.3.4", "1.2.3.4 ", " 1.2.3.4", "1.2.3.4\\n", "1.2.3.4\\u0000", "1.2.3.4/",
    "1.2.3.4/33", "1.2.3.4/-1",
    "1.2.3.4/+24", "1.2.3.4/024", "1.2.3.4/24/24", "1.2.3.4/255.255.255.0", "1.2.3.4/\\u0662\\u0664", "\\u0661.2.3.4",
    "\\ud800",
    "::\\udfff", "::1%eth0", "fe80::1%25lo/64", "2001:db8::/129", "[2001:db8::1]", "2001:db8::1::", "1.2.3.4:80",
    "localhost", "1",
    "1.2.3.4/2\\u0034x", "::ffff:1.2.3.4/129", "1.2.3.4/" + "1" * 300, ":" * 100, "/", "/24", "\\\\", "\\\"", "\\x",
    "1.2.3.4\n",
]  # fmt: skip
NUMBERS = [
    "1", "60", "600", "601", "1200", "1201", "3600", "3601", "86400", "0", "-1", "-0", "1.0", "60.5", "1e2", "1E400",
    "0x10", "010",
    "+5", "1_000", "00", "9" * 30, "9" * 3000, "-" + "9" * 400, "1" + "0" * 308 + ".0", "true", "false", "null",
    "NaN", "Infinity",
    "-Infinity", '"60"', '"1"', "[60]", "{}", '{"ttl": 60}', "", "nan", "None", "\u0661", "60L", "1,", "6 0",
]  # fmt: skip
TEXTS = st.sampled_from([*ADDRESSES, *ADDRESSES, *NO_ADDRESSES]).map(lambda text: f'"{text}"')
NUMBER_TEXTS = st.sampled_from(NUMBERS) | st.integers(-5, 5000).map(str)
RIGHT_NUMBERS = st.integers(-1, 5000).map(str) | st.sampled_from(
    ["1", "3601", "null", "true", '"1"', "1.0", "1e2", "[1]"]
)
RIGHT_NAMES = st.sampled_from(
    [[], ['"ttl"'], ['"ip_address"'], ['"ip_address"'], ['"ttl"', '"ip_address"'], ['"ttl"', '"ttl"'], ['"ttl"', '"x"']]
)
DEEP = st.builds(
    lambda opener, depth, shut: opener * depth + ("]" if opener == "[" else "}") * (depth if shut else 0),
    st.sampled_from(["[", '{"a":']),
    st.sampled_from([1, 5, 50, 400, 900, 1000, 2000]),
    st.booleans(),
)
VALUES = st.one_of(TEXTS, NUMBER_TEXTS, DEEP, st.sampled_from(["null", "[]", "{}", '"', "'1.2.3.4'", "\x00"]))
NAMES = st.sampled_from(
    [
        '"ttl"',
        '"ttl"',
        '"ip_address"',
        '"ip_address"',
        '"TTL"',
        '"ttl "',
        '"t\\u0074l"',
        '"x"',
        '""',
        "ttl",
        "'ttl'",
        '"\\ud800"',
        "1",
    ]
)
BLANK = st.sampled_from(
    ["", "", "", " ", "\t", "\n", "\r\n", "  ", "\x0b", "\x0c", "\xa0", "\u2028", "/**/", "//\n", "\ufeff", "\x00"]
)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """An object with members, each perhaps wrong."""
    right = draw(st.integers(0, 3)) > 0
    blank = st.sampled_from(["", " ", "\n", "\t"]) if right else BLANK
    members = []
    for name in draw(RIGHT_NAMES if right else st.lists(NAMES, max_size=3)):
        values = RIGHT_NUMBERS if right and "ttl" in name else NUMBER_TEXTS if "ttl" in name else TEXTS
        value = draw(values if right or draw(st.booleans()) else VALUES)
        members.append(draw(blank) + name + draw(blank) + ":" + draw(blank) + value + draw(blank))
    comma = "," if right else draw(st.sampled_from([",", ",", ",", ",,", ";", ""]))
    ends = (
        ("{", "}")
        if right
        else draw(st.sampled_from([("{", "}"), ("{", "}"), ("[", "]"), ("{", ""), ("", "}"), ("{", "}}")]))
    )
    return draw(blank) + ends[0] + comma.join(members) + ends[1] + draw(blank)


ENCODINGS = st.sampled_from(
    ["utf-8"] * 8 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-32-be", "latin-1", "cp037", "utf-7"]
)
DAMAGE = st.sampled_from(
    [b"\x00", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"\\", b"{", b"}", b",", b" ", b"9", b""]
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A body as bytes, now and then damaged, padded to the bound or over it."""
    text = draw(st.one_of(documents(), documents(), documents(), VALUES))
    data: bytes = text.encode(draw(ENCODINGS), "replace")
    for _ in range(draw(st.sampled_from([0] * 6 + [1, 2]))):
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(DAMAGE) + data[place + draw(st.integers(0, 2)) :]
    if draw(st.integers(0, 14)) == 7:
        data += b" " * (draw(st.sampled_from([4095, 4096, 4097, 9000])) - len(data))
    return data


CONTENT_TYPES = [
    "", "application/json", "Application/JSON; charset=utf-16", "text/plain", "text/json",
    "application/jsonx",
    "application/json, text/plain", "multipart/form-data; boundary=x", ";", "application/json;",
    " application/json\t",
    "application/x-www-form-urlencoded;x", "*/*", "\xe9", "application /json",
]  # fmt: skip
TYPES: st.SearchStrategy[list[str]] = st.one_of(
    st.just(["application/json"]),
    st.just(["application/x-www-form-urlencoded"]),
    st.just([]),
    st.lists(st.sampled_from(CONTENT_TYPES), max_size=2),
)
CLIENTS = st.sampled_from(["198.51.100.7", "2001:db8:1::7"])


def knock(
    body: bytes, types: list[str], key: str, client: str, chunks: list[int] | None
) -> tuple[list[Said], list[tuple[str, int]]]:
    """The answers to one knock, and the grants that are then there with their seconds."""
    fields = [
        "Host: k",
        f"X-Forwarded-For: {client}",
        f"X-Api-Key: {key}",
        *(f"Content-Type: {value}" for value in types),
    ]
    if chunks is None:
        fields.append(f"Content-Length: {len(body)}")
        sent = body
    else:
        fields.append("Transfer-Encoding: chunked")
        sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in cut(body, chunks) if piece) + b"0\r\n\r\n"
    head = "\r\n".join(["POST /knock HTTP/1.1", *fields]) + "\r\n\r\n"
    with streams() as stream:
        stream.send([head.encode("latin-1"), sent])
        world = stream.world
        grants = [(str(grant.network), grant.seconds_left(world.now())) for grant in world.whitelist]
        kept = world.folder / "whitelist.json"
        entries = [entry["entry"] for entry in json.loads(kept.read_bytes())["grants"]] if kept.exists() else []
        assert entries == [entry for entry, _ in grants]
        return stream.answers(), grants


def earns_its_due(body: bytes, types: list[str], key: str, client: str, chunks: list[int] | None) -> None:
    expected = judged(body, types, key, client)
    found, grants = knock(body, types, key, client, chunks)
    assert len(found) == 1
    told = json.loads(found[0].body)
    if isinstance(expected, Grant):
        assert found[0].status == 200, told
        assert grants == [(expected.entry, expected.seconds)]
        assert (told["whitelisted_entry"], told["expires_in_seconds"]) == (expected.entry, expected.seconds)
    else:
        assert told["error"] in expected
        assert found[0].status == STATUS.get(told["error"], 400)
        assert grants == []


@given(
    body=bodies(),
    types=TYPES,
    key=st.sampled_from([KEY, ADMIN]),
    client=CLIENTS,
    chunks=st.none() | st.lists(st.integers(0, 9999), max_size=4),
)
@example(body=b'{"ttl": 1, "ttl": 1}', types=[], key=KEY, client="198.51.100.7", chunks=None)
@example(body=b'{"ttl": 1, "t\\u0074l": 1}', types=[], key=KEY, client="198.51.100.7", chunks=None)
@example(body=b"[" * 4096, types=[], key=KEY, client="198.51.100.7", chunks=None)
@example(body=b'{"ttl": ' + b"9" * 4000 + b"}", types=[], key=KEY, client="198.51.100.7", chunks=[1, 2])
@example(body=b" " * 4097, types=[], key=KEY, client="198.51.100.7", chunks=[4096])
@example(body=b'{"ip_address": "\\ud800:"}', types=[], key=ADMIN, client="198.51.100.7", chunks=None)
@example(body=b'{"ip_address": "::ffff:1.2.3.4/112"}', types=[], key=ADMIN, client="198.51.100.7", chunks=None)
@example(body=b'{"ip_address": "::ffff:1.2.3.4/95"}', types=[], key=ADMIN, client="198.51.100.7", chunks=None)
@example(body=b'\xef\xbb\xbf{"ttl": 60}', types=[], key=KEY, client="198.51.100.7", chunks=None)
@example(body=b"x", types=["application/json", "application/json"], key=KEY, client="198.51.100.7", chunks=None)
def test_a_body_earns_what_a_strict_reading_of_it_says(
    body: bytes, types: list[str], key: str, client: str, chunks: list[int] | None
) -> None:
    earns_its_due(body, types, key, client, chunks)


@given(
    text=st.one_of(st.sampled_from(ADDRESSES), st.ip_addresses().map(str), st.text("0123456789abcdef:./", max_size=20)),
    prefix=st.integers(0, 130),
)
def test_an_admin_opens_exactly_the_network_that_the_standard_library_reads(text: str, prefix: int) -> None:
    named = text if "/" in text or prefix == 130 else f"{text}/{prefix}"
    body = json.dumps({"ip_address": named}).encode()
    found, grants = knock(body, [], ADMIN, "198.51.100.7", None)
    expected = judged(body, [], ADMIN, "198.51.100.7")
    assert grants == ([(expected.entry, expected.seconds)] if isinstance(expected, Grant) else [])
    assert isinstance(expected, Grant) or json.loads(found[0].body)["error"] in expected


@given(body=st.binary(max_size=60), key=st.sampled_from([KEY, ADMIN]))
def test_any_bytes_at_all_are_answered_from_the_table(body: bytes, key: str) -> None:
    expected = judged(body, [], key, "198.51.100.7")
    found, grants = knock(body, [], key, "198.51.100.7", None)
    assert found[0].status == (200 if isinstance(expected, Grant) else 400)
    assert len(grants) == isinstance(expected, Grant)


def test_every_odd_value_and_type_earns_its_due() -> None:
    client = "198.51.100.7"
    for number in NUMBERS:
        earns_its_due(f'{{"ttl": {number}}}'.encode(), [], KEY, client, None)
    for text in [*ADDRESSES, *NO_ADDRESSES]:
        earns_its_due(f'{{"ip_address": "{text}"}}'.encode(), [], ADMIN, client, None)
    for declared in CONTENT_TYPES:
        earns_its_due(b'{"ttl": 60}', [declared], KEY, client, None)
    for damage in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\x00", b"\n"):
        earns_its_due(b'{"x' + damage + b'": 1}', [], KEY, client, None)
        earns_its_due(b'{"ttl": 60}' + damage, [], KEY, client, None)
