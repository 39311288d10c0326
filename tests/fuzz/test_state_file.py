"""whitelist.json after damage: what is left of it opens no more than the undamaged file, or any knock, could."""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import tempfile
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from knocker.core.addresses import networks
from knocker.core.grant import Grant
from knocker.core.keys import Keyring
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.settings import parse
from knocker.store.document import document
from knocker.store.loading import Stored, stored
from tests.conftest import LONG, Errors

WALL, BOOT = 1_800_000_000.0, 5_000.0
KEYS = """
api_keys:
  - {name: user, key: "usr-Tn5c8Qe1Wz7Ux3Ib9Om2Pk6Gv4Dh0Sl", ttl: 600, max_ttl: 1200}
  - {name: home, key: "hom-Tn5c8Qe1Wz7Ux3Ib9Om2Pk6Gv4Dh0Sl", ttl: 600, ipv6_prefix: 64,
     hosts: [a.example.com, "*.b.example.com"]}
  - {name: guest, key: "gue-Tn5c8Qe1Wz7Ux3Ib9Om2Pk6Gv4Dh0Sl", ttl: 86400, expires: "2027-01-15T08:10:00Z"}
  - {name: admin, key: "adm-Kq7w2Zx9Rt4Vb6Nm1Lp8Hd3Fg5Js0Ay", ttl: 3600, allow_remote_whitelist: true}
"""
KEYRING = Keyring(parse(KEYS.encode()).keys)
LONGEST = {"user": 1200, "home": 600, "guest": 86400, "admin": 3600, None: 86400}
ROUNDING = 1e-4  # seconds: the difference of two clocks is a float
GUEST_ENDS = WALL + 600  # 2027-01-15T08:10:00Z
HOSTS: dict[str | None, list[str] | None] = {
    "user": None,
    "home": ["a.example.com", "*.b.example.com"],
    "guest": None,
    "admin": None,
    None: None,
}
OWN_PREFIX = {"user": 128, "home": 64, "guest": 128, "admin": 128}
TRUSTED, SHARED, OWN, GATEWAY = "10.9.0.0/24", "198.51.100.77", "203.0.113.250", "203.0.113.254"
FORBIDDEN = Forbidden(networks(TRUSTED), networks(SHARED), networks(OWN), networks(GATEWAY))
NEVER = [
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0", "::", "127.0.0.0/8", "::1", "169.254.0.0/16", "fe80::/10", "224.0.0.0/4", "ff00::/8",
        "255.255.255.255", TRUSTED,
        SHARED, OWN, GATEWAY,
    )
]  # fmt: skip
EMBEDDING = [
    ipaddress.ip_network(text)
    for text in ("::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")
]


def mark_of(name: str) -> str:
    key = KEYRING.named(name)
    assert key is not None
    return key.mark


def entry(number: int, text: str, key: str | None, via: str, left: float) -> dict[str, Any]:
    """One entry as it stands in the file."""
    return {
        "id": f"grant-{number:014d}",
        "entry": text,
        "key": key,
        "key_mark": mark_of(key) if key else "",
        "via": via,
        "created_at": WALL - 100.5,
        "last_knock_at": WALL - 10.25,
        "expires_at": WALL + left,
        "boot_ends_at": BOOT + left,
    }


ENTRIES = [
    entry(0, "198.51.100.1", "user", "http", 600.5),
    entry(1, "2001:db8:1:2::/64", "home", "http", 500.0),
    entry(2, "203.0.112.0/24", "admin", "remote", 3000.125),
    entry(3, "2001:db8:7::/48", "admin", "remote", 100.0),
    entry(4, "198.51.100.1", "home", "udp", 90.0) | {"host": None},
    entry(5, "198.51.100.2", "guest", "http", 599.0),
    entry(6, "203.0.113.9", None, "file", 50000.0),
    entry(7, "2002:c000:204::1", "user", "http", 30.0),
    entry(8, "2001:db8:1:2::/64", "home", "udp", 400.0) | {"host": "a.example.com"},
]


def written(head: dict[str, Any], entries: list[Any]) -> bytes:
    """The file as Knocker lays it out: one entry a line."""
    rows = ",\n".join(json.dumps(item) for item in entries)
    return (json.dumps(head)[:-1] + ', "grants": [\n' + rows + "\n]}\n").encode()


HEAD = {"version": 1, "saved_at": WALL, "boot_id": "boot-1", "boot_time": BOOT}
FILE = written(HEAD, ENTRIES)


@dataclass(frozen=True)
class Start:
    """When the file is read: seconds after it was written on either clock, and whether in another boot."""

    wall: float = 1.0
    boot: float = 1.0
    rebooted: bool = False

    @property
    def now(self) -> Moment:
        return Moment(WALL + self.wall, self.boot if self.rebooted else BOOT + self.boot)

    @property
    def boot_id(self) -> str:
        return "boot-2" if self.rebooted else "boot-1"

    def left(self, expires_at: float, boot_ends_at: float) -> float:
        """The seconds that an entry of the undamaged file has left at most."""
        if self.rebooted:
            return 0 if self.wall < -60 else min(expires_at - self.now.wall, boot_ends_at - BOOT)
        return min(expires_at - self.now.wall, boot_ends_at - self.now.boot)


STARTS = st.one_of(
    st.just(Start()),
    st.builds(Start, st.floats(-3600, 4000), st.floats(0, 4000), st.just(False)),
    st.builds(Start, st.sampled_from([-3600.0, -61.0, -59.0, 0.0, 40.0, 700.0]), st.floats(0, 100), st.just(True)),
)


def read(data: bytes, start: Start, errors: Errors) -> Stored:
    """What a start finds in a file of these bytes; whatever is not taken as it stands is kept aside."""
    counter = itertools.count()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "whitelist.json")
        with open(path, "wb") as file:
            file.write(data)
        found = stored(path, start.now, start.boot_id, KEYRING, FORBIDDEN, lambda: f"fresh-{next(counter):014d}")
        kept = [name for name in os.listdir(folder) if name != "whitelist.json"]
        if found.damage:
            assert any(".corrupt-" in name for name in kept)
            assert found.damage.isprintable()
        for name in kept:
            with open(os.path.join(folder, name), "rb") as file:
                assert file.read() == data
    assert bool(errors.expected()) == bool(found.damage)
    return found


def ends_in(grant: Grant, now: Moment) -> float:
    return min(grant.expires_at - now.wall, grant.boot_ends_at - now.boot)


def within_bounds(grant: Grant, now: Moment) -> None:
    """What any knock could have left by today's settings, whatever stands in a file (contract 3.3 and 3.6)."""
    net = ipaddress.ip_network(str(grant.network))
    own = grant.via.value in ("http", "udp")
    assert not any(net.version == other.version and net.overlaps(other) for other in NEVER)
    assert net.prefixlen >= (16 if net.version == 4 else 48)
    if not (own and net.prefixlen == net.max_prefixlen):
        assert not any(net.version == other.version and net.overlaps(other) for other in EMBEDDING)
    assert grant.key in LONGEST
    assert (grant.key is None) == (grant.via.value == "file")
    if grant.key is not None:
        assert grant.mark == mark_of(grant.key)
    if grant.via.value == "remote":
        assert grant.key == "admin"
    if own:
        assert net.prefixlen >= (32 if net.version == 4 else OWN_PREFIX[str(grant.key)])
    opened, whole = grant.hosts.patterns if grant.hosts is not None else None, HOSTS[grant.key]
    # All that the key opens, or one name that its knock chose.
    assert opened == whole or (opened is not None and len(opened) == 1 and (whole is None or opened[0] in whole))
    assert opened is None or opened == whole or "*" not in opened[0]
    assert ends_in(grant, now) > 0
    assert grant.expires_at <= now.wall + LONGEST[grant.key] + ROUNDING
    assert grant.boot_ends_at <= now.boot + LONGEST[grant.key] + ROUNDING
    if grant.key == "guest":
        assert grant.expires_at <= GUEST_ENDS


def out_of_the_file(grant: Grant, start: Start) -> None:
    """One of the undamaged file's grants, ending no later than there."""
    mine = [
        item
        for item in ENTRIES
        if (item["entry"], item["key"], item["via"]) == (str(grant.network), grant.key, grant.via.value)
        and (item.get("host") is None or (grant.hosts is not None and grant.hosts.patterns == [item["host"]]))
    ]
    assert len(mine) == 1, f"a grant that was never there: {grant}"
    assert ends_in(grant, start.now) <= start.left(mine[0]["expires_at"], mine[0]["boot_ends_at"]) + ROUNDING


def whose(grant: Grant) -> tuple[Any, ...]:
    """All of a grant but its end."""
    return grant.id, grant.network, grant.key, grant.mark, grant.via, grant.hosts, grant.created_at, grant.last_knock_at


def is_sound(found: Stored, start: Start, errors: Errors) -> None:
    """One grant for an owner's network, each within the bounds; and the file that is written next says the same."""
    for grant in found.grants:
        within_bounds(grant, start.now)
    assert len({(grant.key, grant.network, grant.hosts) for grant in found.grants}) == len(found.grants)
    assert len({grant.id for grant in found.grants}) == len(found.grants)
    assert sorted(json.loads(line)["id"] for line in found.pages) == sorted(grant.id for grant in found.grants)
    again = read(
        b"".join(document(found.pages, start.now, start.boot_id)), Start(start.wall, start.boot, start.rebooted), errors
    )
    assert again.damage == ""
    first, second = (sorted(one.grants, key=lambda grant: grant.id) for one in (found, again))
    assert [whose(grant) for grant in second] == [whose(grant) for grant in first]
    for before, after in zip(first, second, strict=True):
        assert after.expires_at == pytest.approx(before.expires_at, abs=ROUNDING)
        assert after.boot_ends_at == pytest.approx(before.boot_ends_at, abs=ROUNDING)


def with_errors(function: Any) -> Any:
    """The errors that a damaged file logs are expected; each example takes its own out."""
    return settings(suppress_health_check=[HealthCheck.function_scoped_fixture])(function)


@with_errors
@given(start=STARTS)
def test_an_undamaged_file_gives_what_its_clocks_leave(start: Start, errors: Errors) -> None:
    found = read(FILE, start, errors)
    is_sound(found, start, errors)
    live = [item for item in ENTRIES if start.left(item["expires_at"], item["boot_ends_at"]) > 0]
    if start.now.wall >= GUEST_ENDS:
        live = [item for item in live if item["key"] != "guest"]
    got = {grant.id: grant for grant in found.grants}
    assert set(got) == {item["id"] for item in live}
    for item in live:
        most = min(start.left(item["expires_at"], item["boot_ends_at"]), LONGEST[item["key"]])
        if item["key"] == "guest":
            most = min(most, GUEST_ENDS - start.now.wall)
        assert ends_in(got[item["id"]], start.now) == pytest.approx(most, abs=ROUNDING)


# Damage that invents nothing: what is left was there before.


def holds_less(data: bytes, start: Start, errors: Errors) -> None:
    found = read(data, start, errors)
    event("damaged" if found.damage else "taken as it is")
    is_sound(found, start, errors)
    for grant in found.grants:
        out_of_the_file(grant, start)


def test_a_file_that_is_cut_short_is_none_or_whole(errors: Errors) -> None:
    for length in range(0, len(FILE) + 1, 1 if LONG else 41):
        found = read(FILE[:length], Start(), errors)
        whole = length >= len(FILE.rstrip())
        assert len(found.grants) == (len(ENTRIES) if whole else 0)
        assert bool(found.damage) == (not whole)
        if whole:
            is_sound(found, Start(), errors)


@st.composite
def shuffled(draw: st.DrawFn) -> bytes:
    """The file without some lines or members, with others twice or elsewhere, and other blanks between."""
    entries: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 10))):
        item = dict(draw(st.sampled_from(ENTRIES)))
        for name in draw(st.lists(st.sampled_from(sorted(item)), max_size=1)) if draw(st.booleans()) else []:
            item.pop(name, None)
        if draw(st.integers(0, 3)) == 0:
            item = dict(draw(st.permutations(list(item.items()))))
        entries.append(item)
    head = dict(HEAD)
    for name in draw(st.lists(st.sampled_from(sorted(HEAD)), max_size=1)) if draw(st.integers(0, 5)) == 0 else []:
        del head[name]
    data = written(head, entries)
    kind = draw(st.integers(0, 6))
    if kind == 0:
        data = json.dumps(json.loads(data), indent=draw(st.sampled_from([None, 0, 1]))).encode()
    elif kind == 1:
        data = data.replace(
            b"\n]}\n",
            draw(
                st.sampled_from(
                    [b"]}\n\n", b"]\n}\n", b"]}", b"\n\n]}", b"]\n\n}", b"]}\n", b"\r\n]}\r\n", b"\n]} \n "]
                )
            ),
        )
    elif kind == 2:
        lines = data.split(b"\n")
        place = draw(st.integers(0, len(lines) - 1))
        lines[place : place + draw(st.integers(0, 2))] = draw(st.sampled_from([[], [b""], [lines[place]] * 2]))
        data = b"\n".join(lines)
    elif kind == 3:
        data = data.replace(
            draw(st.sampled_from([b", ", b": ", b",\n"])),
            draw(st.sampled_from([b",", b",\n", b":", b" , ", b"\n,"])),
            draw(st.integers(1, 5)),
        )
    elif kind == 4:
        start = draw(st.integers(0, len(data)))
        data = data[:start] + data[start + draw(st.integers(0, 400)) :]
    return data


ONE = written(HEAD, ENTRIES[:1])


@with_errors
@given(data=shuffled(), start=STARTS)
@example(data=ONE.replace(b"\n]}\n", b"]}\n\n"), start=Start())
@example(data=ONE.replace(b"\n]}\n", b'], "more": ""}\n\n'), start=Start())
@example(data=written(HEAD, ENTRIES[8:]).replace(b', "host": "a.example.com"', b""), start=Start())
@example(data=FILE.replace(b'"boot_id": "boot-1"', b'"boot_id": ""'), start=Start())
def test_what_was_shuffled_or_lost_adds_nothing(data: bytes, start: Start, errors: Errors) -> None:
    # A hole can join the beginning of one number or address to the end of another: then only the bounds hold.
    try:
        value = json.loads(data)
        items = value["grants"]
        known = all(any(item.items() <= right.items() for right in ENTRIES) for item in items)
        known = known and all(HEAD[name] == value.get(name) for name in ("saved_at", "boot_time"))
    except (ValueError, KeyError, TypeError, AttributeError):
        known = True
    if known:
        holds_less(data, start, errors)
    else:
        is_sound(read(data, start, errors), start, errors)


# Damage that invents.

WORST = [
    "0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/15", "10.0.0.0/16", "10.9.0.5", "10.8.0.0/15",
    "2000::/3", "2001:db8::/47",
    "2001:db8::/48", "::ffff:0:0/96", "::ffff:1.2.3.4/95", "::ffff:1.2.3.4/96", "::ffff:1.2.3.4/112",
    "::ffff:127.0.0.1", "64:ff9b::/96",
    "2002::/16", "2001::1", "::1.2.3.4", "127.0.0.1", "::1", "0.0.0.0", "::", "255.255.255.255", "224.0.0.0/16",
    "ff02::1", "fe80::1",
    "169.254.1.1", SHARED, "198.51.0.0/16", OWN, GATEWAY, "1.2.3.4", "1.2.3.4/31", "1.2.3.4/24", "2001:db8::1",
    "2001:db8:5:6::/64", "2001:db8:5:6::/63",
    "2001:db8:5:6::/65", "1.2.3.4/024", "01.2.3.4", "1.2.3.4/33", " 1.2.3.4", "1.2.3.4\n", "1.2.3.4%lo", "fe80::1%lo",
    "\ud800", "", "x",
    "1.2.3.4/" + "1" * 5000,
]  # fmt: skip
OTHER = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.sampled_from([0, 1, -1, 10**12, 10**13, 10**14, 10**400, WALL, WALL + 10, WALL + 1e6, WALL * 1000, BOOT,
    BOOT + 1e9, -1e13]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(WORST),
    st.sampled_from(["user", "home", "guest", "admin", "nobody", "User", "user\x00", "http", "remote", "udp", "file",
    "HTTP", "boot-1", "boot-2"]),
    st.sampled_from([mark_of(name) for name in ("user", "home", "guest", "admin")]),
    st.sampled_from(["grant-00000000000000", "grant-00000000000001", "../../../../etc/passwd", "a" * 64, "a" * 65,
    'a"' * 10, "a\n" * 10]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["id", "entry"]), st.text(max_size=3), max_size=2),
)  # fmt: skip
FITTING = {
    "entry": st.sampled_from(WORST),
    "key": st.sampled_from(["user", "home", "guest", "admin", None, "nobody"]),
    "via": st.sampled_from(["http", "remote", "udp", "file"]),
    "key_mark": st.sampled_from([mark_of(name) for name in ("user", "home", "guest", "admin")] + [""]),
    "host": st.sampled_from(
        ["a.example.com", "x.b.example.com", "*.b.example.com", "evil.example", "A.example.com", ""]
    ),
    "expires_at": st.sampled_from([WALL + 5, WALL + 1e5, WALL + 1e9, 1e13, 0]) | st.floats(0, 1e13),
    "boot_ends_at": st.sampled_from([BOOT + 5, BOOT + 1e5, BOOT + 1e9, 1e13, 0]) | st.floats(0, 1e13),
}


@st.composite
def planted(draw: st.DrawFn) -> bytes:
    """The file with values of anybody's choice."""
    entries: list[Any] = [dict(item) for item in ENTRIES]
    head: dict[str, Any] = dict(HEAD)
    for _ in range(draw(st.integers(1, 6))):
        item = draw(st.sampled_from([item for item in entries if isinstance(item, dict)] or [{}]))
        kind = draw(st.integers(0, 9))
        if kind < 4:
            name = draw(st.sampled_from(sorted(FITTING)))
            item[name] = draw(FITTING[name])
        elif kind < 7:
            # A whole entry that fits together but for the lie itself.
            name = draw(st.sampled_from(["user", "home", "guest", "admin"]))
            via = "remote" if name == "admin" and draw(st.booleans()) else draw(st.sampled_from(["http", "udp"]))
            lie = entry(
                100 + len(entries),
                draw(st.sampled_from(WORST)),
                name,
                via,
                draw(st.sampled_from([10.0, 1e4, 1e8, 1e12])),
            )
            entries.append(lie)
        elif kind == 7:
            item[draw(st.sampled_from([*sorted(ENTRIES[0]), "hosts", "x"]))] = draw(OTHER)
        elif kind == 8:
            entries[draw(st.integers(0, len(entries) - 1))] = draw(OTHER)
        else:
            head[draw(st.sampled_from(["version", "saved_at", "boot_id", "boot_time", "grants", "x"]))] = draw(OTHER)
    data = written(head, entries)
    return data.replace(b"NaN", b"1e400") if draw(st.booleans()) else data


@with_errors
@given(data=planted(), start=STARTS)
@example(data=written({**HEAD, "version": True}, ENTRIES), start=Start())
@example(data=written(HEAD, [{**ENTRIES[0], "entry": "0.0.0.0/0"}]), start=Start())
@example(data=written(HEAD, [{**ENTRIES[0], "key_mark": ["x"]}]), start=Start())
@example(data=written(HEAD, [{**ENTRIES[0], "via": "remote", "entry": "203.0.112.0/24"}]), start=Start())
@example(data=written(HEAD, [ENTRIES[0], {**ENTRIES[0], "id": "grant-00000000000099"}]), start=Start())
@example(data=written(HEAD, [{**ENTRIES[1], "host": "evil.example"}]), start=Start())
@example(
    data=written(HEAD, [{**ENTRIES[0], "via": ["http"]}, {**ENTRIES[1], "key": {}}, {**ENTRIES[2], "id": 5}]),
    start=Start(),
)
@example(data=written({**HEAD, "boot_time": -1e13}, ENTRIES), start=Start(rebooted=True))
@example(data=written({**HEAD, "saved_at": -1e13}, [{**ENTRIES[0], "boot_ends_at": 1e13}]), start=Start(rebooted=True))
def test_planted_values_open_no_more_than_a_knock_could(data: bytes, start: Start, errors: Errors) -> None:
    found = read(data, start, errors)
    event("damaged" if found.damage else "taken as it is")
    is_sound(found, start, errors)


@st.composite
def flipped(draw: st.DrawFn) -> bytes:
    """The file with some bits flipped, bytes lost or put in."""
    data = bytearray(FILE)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data) - 1))
        kind = draw(st.integers(0, 4))
        if kind < 3:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == 3:
            del data[place : place + draw(st.integers(1, 3))]
        else:
            data[place:place] = draw(
                st.sampled_from(
                    [b"0", b"9", b"1", b"/", b":", b"-", b"e9", b'"', b",", b"{", b"}", b"]", b"\x00", b"\xff", b"\n"]
                )
            )
    return bytes(data)


@with_errors
@given(data=flipped(), start=STARTS)
def test_flipped_bits_open_no_more_than_a_knock_could(data: bytes, start: Start, errors: Errors) -> None:
    found = read(data, start, errors)
    event("unreadable" if found.damage and not found.grants else "damaged" if found.damage else "taken as it is")
    is_sound(found, start, errors)


@with_errors
@given(
    data=st.one_of(st.binary(max_size=100), st.text('{}[]":,0123456789.e-tfn \n', max_size=60).map(str.encode)),
    start=STARTS,
)
@example(data=b"[" * 100000, start=Start())
@example(data=b'{"version": 1, "saved_at": ' + b"9" * 5000 + b"}", start=Start())
@example(data=b'{"version": 1, "saved_at": 1e400, "boot_time": 0, "boot_id": "x", "grants": []}', start=Start())
@example(data=b"\xef\xbb\xbf{}", start=Start())
@example(data=b"", start=Start())
def test_any_bytes_at_all_give_no_grant(data: bytes, start: Start, errors: Errors) -> None:
    found = read(data, start, errors)
    assert found.grants == []


# The older file.


@st.composite
def flat_files(draw: st.DrawFn) -> bytes:
    """Addresses with the time of their end, some of them wrong."""
    texts = st.sampled_from(WORST) | st.ip_addresses().map(str) | st.sampled_from(["saved_at", "grants"])
    ends = st.sampled_from([WALL + 10, int(WALL) + 5000, WALL + 1e6, WALL - 1, 1e13, 10**400]) | OTHER
    pairs = draw(st.lists(st.tuples(texts, ends), max_size=8))
    data = "{" + ", ".join(f"{json.dumps(text)}: {json.dumps(end)}" for text, end in pairs) + "}"
    return data.encode()


@with_errors
@given(data=flat_files(), start=STARTS)
@example(data=b'{"198.51.100.77": 1800000100}', start=Start())
@example(data=b'{"10.9.0.0/24": 1800000100, "203.0.113.250": 1800000100, "203.0.113.0/24": 1800000100}', start=Start())
@example(data=b'{"0.0.0.0/0": 1800000100, "1.2.3.4": 1800000100, "::ffff:1.2.3.4": 1900000000}', start=Start())
def test_an_older_file_opens_what_an_admin_could_and_no_longer_than_the_longest_key(
    data: bytes, start: Start, errors: Errors
) -> None:
    found = read(data, start, errors)
    is_sound(found, start, errors)
    try:
        value = json.loads(data)
    except ValueError:
        value = {}
    for grant in found.grants:
        assert grant.via.value == "file"
        ends = [end for text, end in value.items() if is_same(text, str(grant.network))]
        assert grant.expires_at <= min(end for end in ends if type(end) in (int, float))


def is_same(text: str, network: str) -> bool:
    """Whether a text of the older file means this network."""
    try:
        found: Any = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    inner = found.network_address.ipv4_mapped if found.version == 6 else None
    if inner is not None and found.prefixlen >= 96:
        found = ipaddress.ip_network((inner, found.prefixlen - 96))
    return bool(found == ipaddress.ip_network(network))
