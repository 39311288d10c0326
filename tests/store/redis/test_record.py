"""How a grant stands in the engine: one spelling, and nothing is read that no Knocker wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from knocker.core.addresses import Network
from knocker.core.grant import Via
from knocker.core.keys import Key, Keyring, digest_of
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.store.redis.record import NotHere, Owner, Reading, Record

PHONE = Key("phone", digest_of(b"phone"), ttl=60, max_ttl=600)
ADMIN = Key("admin", digest_of(b"admin"), ttl=60, max_ttl=600, admin=True)
NOW = Moment(5_000.0, 100.0)
ENGINE = 9_000_000.0  # milliseconds by NOW
ID = "an-id-that-is-long-enough"

networks = some.one_of(
    some.ip_addresses().map(lambda address: Network.parse(str(address))),
    some.tuples(some.ip_addresses(v=4), some.integers(0, 32)).map(lambda pair: Network.parse(f"{pair[0]}/{pair[1]}")),
    some.tuples(some.ip_addresses(v=6), some.integers(0, 128)).map(lambda pair: Network.parse(f"{pair[0]}/{pair[1]}")),
)
names = some.text(some.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=64)


def reading(**more: Forbidden) -> Reading:
    return Reading(Keyring((PHONE, ADMIN)), more.get("forbidden", Forbidden()), ENGINE, NOW)


def record(**more: object) -> Record:
    """A record of a knock by PHONE, ten seconds ago and for a minute."""
    members: dict[str, object] = {
        "id": ID,
        "created": int(ENGINE) - 10_000,
        "last": int(ENGINE) - 10_000,
        "ends": int(ENGINE) + 50_000,
        "via": Via.HTTP,
        "mark": PHONE.mark,
        "number": 7,
    }
    return Record(**{**members, **more})  # type: ignore[arg-type]


@given(key=some.none() | names, network=networks, host=some.none() | some.just("app.example.com"))
def test_an_owner_is_read_as_it_was_written(key: str | None, network: Network, host: str | None) -> None:
    owner = Owner(key, network, host)
    assert Owner.parse(owner.text.encode()) == owner
    assert owner.text.isascii()
    assert owner.text.isprintable()


@given(
    created=some.integers(0, 10**13),
    last=some.integers(0, 10**13),
    ends=some.integers(0, 10**13),
    via=some.sampled_from(Via),
    mark=some.sampled_from(["", "0123456789abcdef"]),
    number=some.integers(0, 10**13),
)
def test_a_record_is_read_as_it_was_written(
    created: int, last: int, ends: int, via: Via, mark: str, number: int
) -> None:
    whole = Record(ID, created, last, ends, via, mark, number)
    assert Record.parse(whole.text.encode()) == whole


@given(some.binary(max_size=60) | some.text(max_size=60).map(str.encode))
def test_what_is_no_owner_is_refused_with_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Owner.parse(b"(" + data)


@pytest.mark.parametrize(
    "text",
    [
        b'["phone", "203.0.113.1", null]',
        b'["phone","203.0.113.1/32",null]',
        b'["phone","203.0.113.1"]',
        b'["phone","203.0.113.1",null,1]',
        b'[7,"203.0.113.1",null]',
        b'["phone",7,null]',
        b'["phone","203.0.113.1",7]',
        b'["phone","203.0.113.1","App.example.com"]',
        b'["phone","203.0.113.1","*.example.com"]',
        b'{"phone":1}',
        b'["ph\\u006fne","203.0.113.1",null]',
        b'["phone","nowhere",null]',
    ],
)
def test_another_spelling_of_an_owner_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Owner.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"a b c",
        b"short 1 2 3 http mark 4",
        f"{ID} 1 2 3 ftp mark 4".encode(),
        f"{ID} -1 2 3 http mark 4".encode(),
        f"{ID} 1 2 1e9 http mark 4".encode(),
        f"{ID} 1 2 {10**15} http mark 4".encode(),
        f"{ID} 1 2 3 http mark".encode(),
        f"{ID} 1 2 3 http mark 4 5".encode(),
        f"{ID} 1 2 ٣ http mark 4".encode(),
        f"{ID} 1 2 3 http mark\xff 4".encode("latin-1"),
    ],
)
def test_what_is_no_record_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Record.parse(text)


def test_a_grant_is_on_this_gates_clocks() -> None:
    owner = Owner("phone", Network.parse("203.0.113.1"), None)
    grant = reading().grant(owner, record())
    assert grant is not None
    assert (grant.expires_at, grant.boot_ends_at) == (5_050.0, 150.0)
    assert (grant.created_at, grant.last_knock_at) == (8_990.0, 8_990.0)
    assert (grant.key, grant.network, grant.via, grant.id) == ("phone", owner.network, Via.HTTP, ID)


@pytest.mark.parametrize(
    ("owner", "changed"),
    [
        pytest.param(Owner("phone", Network.parse("203.0.113.1"), None), {"mark": "another"}, id="another secret"),
        pytest.param(Owner("gone", Network.parse("203.0.113.1"), None), {}, id="a key that is not here"),
        pytest.param(Owner("phone", Network.parse("203.0.113.1"), None), {"via": Via.REMOTE}, id="no admin"),
        pytest.param(Owner("phone", Network.parse("2001:db8::/64"), None), {}, id="wider than the key opens"),
        pytest.param(Owner("phone", Network.parse("198.51.100.1"), None), {}, id="a proxy's address"),
    ],
)
def test_what_this_gate_does_not_allow_is_no_grant(owner: Owner, changed: dict[str, object]) -> None:
    from knocker.core.addresses import Networks

    forbidden = Forbidden(trusted=Networks([Network.parse("198.51.100.0/24")]))
    with pytest.raises(NotHere):
        reading(forbidden=forbidden).grant(owner, record(**changed))


def test_what_is_over_is_no_grant() -> None:
    owner = Owner("phone", Network.parse("203.0.113.1"), None)
    assert reading().grant(owner, record(ends=int(ENGINE))) is None
    assert reading().grant(owner, record(last=int(ENGINE) - 601_000)) is None, "longer ago than max_ttl"


@pytest.mark.parametrize(
    ("owner", "changed"),
    [
        pytest.param(Owner("phone", Network.parse("127.0.0.1"), None), {}, id="loopback"),
        pytest.param(Owner("admin", Network.parse("0.0.0.0/1"), None), {"via": Via.REMOTE}, id="too broad"),
        pytest.param(Owner(None, Network.parse("203.0.113.1"), None), {}, id="nobody's"),
        pytest.param(Owner("phone", Network.parse("203.0.113.1"), None), {"via": Via.FILE}, id="a file's with a key"),
        pytest.param(
            Owner("phone", Network.parse("203.0.113.1"), None), {"last": int(ENGINE) + 60_001}, id="of the future"
        ),
    ],
)
def test_what_no_knock_could_leave_is_bad(owner: Owner, changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        reading().grant(owner, record(**changed))


def test_no_grant_is_longer_than_its_key_allows_by_its_knock() -> None:
    """Not by now: reading it again would give it all that time anew."""
    owner = Owner("phone", Network.parse("203.0.113.1"), None)
    grant = reading().grant(owner, record(ends=int(ENGINE) + 10_000_000))
    assert grant is not None
    assert (grant.expires_at, grant.boot_ends_at) == (NOW.wall + 590, NOW.boot + 590)
